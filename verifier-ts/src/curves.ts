/** Section 2: the three groups, over @noble/curves. */

import { type CurvePoint, type CurvePointCons, pippenger } from "@noble/curves/abstract/curve.js";
import { ed25519 } from "@noble/curves/ed25519.js";
import { p256 } from "@noble/curves/nist.js";
import { secp256k1 } from "@noble/curves/secp256k1.js";
import { toInteger } from "./bytes.js";
import { invalid } from "./errors.js";

/** A point of the prime-order group, perhaps the identity. */
export interface Point {
  add(other: Point): Point;
  negate(): Point;
  /** E_ERS_INVALID for the identity: an honest prover never shows it. */
  encode(): Uint8Array;
}

class Element<P extends CurvePoint<bigint, P>> implements Point {
  constructor(readonly inner: P) {}

  add(other: Point): Point {
    return new Element(this.inner.add((other as Element<P>).inner));
  }

  negate(): Point {
    return new Element(this.inner.negate());
  }

  encode(): Uint8Array {
    if (this.inner.is0()) throw invalid("proof", "a point of the proof is the identity");
    return this.inner.toBytes();
  }
}

export interface Group {
  readonly name: string;
  readonly q: bigint;
  readonly pointLength: number;
  /** A valid point: canonical, on the curve, of prime order, not the identity; E_ERS_INVALID. */
  decodePoint(raw: Uint8Array): Point;
  /** A scalar below q of 32 bytes, else undefined. */
  decodeScalar(raw: Uint8Array): bigint | undefined;
  base(scalar: bigint): Point;
  /** `sum k_i P_i`, scalars below q. */
  combine(terms: readonly (readonly [bigint, Point])[]): Point;
}

class NobleGroup<P extends CurvePoint<bigint, P>> implements Group {
  readonly q: bigint;

  constructor(
    readonly name: string,
    private readonly points: CurvePointCons<P>,
    readonly pointLength: number,
    private readonly littleEndian: boolean,
  ) {
    this.q = points.Fn.ORDER;
  }

  decodePoint(raw: Uint8Array): Point {
    let point: P;
    try {
      if (raw.length !== this.pointLength) throw new RangeError("length");
      point = this.points.fromBytes(raw);
      point.assertValidity();
    } catch {
      throw invalid("point", "a point is not canonically encoded, or not on the curve");
    }
    if (point.is0() || !point.isTorsionFree()) {
      throw invalid("point", "a point is the identity, or not in the prime-order group");
    }
    return new Element(point);
  }

  decodeScalar(raw: Uint8Array): bigint | undefined {
    const value = toInteger(this.littleEndian ? Uint8Array.from(raw).reverse() : raw);
    return raw.length === 32 && value < this.q ? value : undefined;
  }

  base(scalar: bigint): Point {
    return new Element(this.points.BASE.multiplyUnsafe(scalar));
  }

  combine(terms: readonly (readonly [bigint, Point])[]): Point {
    const points = terms.map(([, point]) => (point as Element<P>).inner);
    if (points.length < 8) {
      const products = terms.map(([k], i) => (points[i] ?? this.points.ZERO).multiplyUnsafe(k));
      return new Element(products.reduce((sum, p) => sum.add(p), this.points.ZERO));
    }
    return new Element(pippenger(this.points, this.points.Fn, points, terms.map(([k]) => k)));
  }
}

export const GROUPS: ReadonlyMap<string, Group> = new Map<string, Group>([
  ["secp256k1", new NobleGroup("secp256k1", secp256k1.Point, 33, false)],
  ["p256", new NobleGroup("p256", p256.Point, 33, false)],
  ["ed25519", new NobleGroup("ed25519", ed25519.Point, 32, true)],
]);

/** Curves of each version of the format. */
export const CURVES: ReadonlyMap<unknown, readonly string[]> = new Map([
  [1, ["secp256k1", "ed25519"]],
  [2, ["secp256k1", "p256", "ed25519"]],
]);

/** The group of a curve whose name was checked. */
export function group(name: string): Group {
  const found = GROUPS.get(name);
  if (found === undefined) throw invalid("context", "unknown curve");
  return found;
}
