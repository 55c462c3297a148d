/** Section 7, step 4 of section 9: one part's proof. No value is both read and recomputed. */

import { at, bigEndian, concat, equal, toInteger } from "./bytes.js";
import { encode as toCbor } from "./cbor.js";
import { type Bundle, bundles, type Context } from "./context.js";
import { type Point } from "./curves.js";
import type { Part } from "./document.js";
import { invalid } from "./errors.js";
import type { Params } from "./params.js";
import { encrypt, type RsaPublicKey } from "./rsa.js";
import { hash, xof } from "./transcript.js";
import * as tree from "./tree.js";

const MAX_LEDGER = 1 << 20;

/** What the two kinds of leaves give for C, and for A: its scalar per curve. */
interface Leaf {
  readonly ciphertext: Uint8Array;
  /** Pads of an open leaf, masked secrets of a closed one, per curve and secret. */
  readonly values: readonly (readonly bigint[])[];
  readonly closed: boolean;
}

function checkBox(context: Context, length: number): void {
  const codes = 32 * context.keys.filter((key) => key.chainCodeHash !== null).length;
  let good = length === (codes === 0 ? 0 : codes + 16);
  if (context.version > 1) {
    const ledger = length - (12 + codes + 16);
    // The smallest ledger: an empty list of paths for every key.
    good = toCbor(context.keys.map(() => [])).length <= ledger && ledger <= MAX_LEDGER;
  }
  if (!good) throw invalid("length", "the box has the wrong length");
}

/** T: the closed leaves (section 7.4), rising. */
export function closedLeaves(e: Uint8Array, { leaves, closed }: Params): number[] {
  const limit = Math.floor(65536 / leaves) * leaves;
  const chosen = new Set<number>();
  for (let words = 4 * leaves; ; words *= 2) {
    const stream = xof(2 * words, "ers/closed", e);
    chosen.clear();
    for (let i = 0; i < stream.length; i += 2) {
      const word = 256 * at(stream, i) + at(stream, i + 1);
      if (word < limit) chosen.add((word % leaves) + 1);
      if (chosen.size === closed) return Array.from(chosen).sort((a, b) => a - b);
    }
  }
}

function numbered(raw: Uint8Array, nodes: readonly number[], what: string): Map<number, Uint8Array> {
  if (raw.length !== 32 * nodes.length) throw invalid("length", `the ${what} has the wrong length`);
  return new Map(nodes.map((node, i) => [node, raw.subarray(32 * i, 32 * i + 32)]));
}

function chunks(raw: Uint8Array, size: number): Uint8Array[] {
  return Array.from({ length: raw.length / size }, (_, i) => raw.subarray(size * i, size * (i + 1)));
}

function scalars(z: Uint8Array, bundle: Bundle, context: Context): bigint[] {
  const raw = z.subarray(32 * bundle.start, 32 * (bundle.start + bundle.size));
  return chunks(raw, 32).map((bytes, i) => {
    const value = bundle.group.decodeScalar(bytes);
    if (value !== undefined) return value;
    const key = context.keys[bundle.keys[i] ?? -1]?.keyId;
    const message = "a masked secret is not below the group order";
    throw invalid("scalar", message, key === undefined ? {} : { key });
  });
}

function openLeaf(
  k: number,
  seed: Uint8Array,
  ctx: Uint8Array,
  rsa: RsaPublicKey,
  groups: readonly Bundle[],
): Leaf {
  const opened = xof(64, "ers/leaf-seed", ctx, k, seed);
  const [a, coins] = [opened.subarray(0, 32), opened.subarray(32)];
  const ciphertext = encrypt(rsa, concat(ctx, bigEndian(k, 2), a), coins);
  const values = groups.map(({ group, size }) => {
    const stream = xof(48 * size, "ers/pads", ctx, group.name, k, a);
    return chunks(stream, 48).map((pad) => toInteger(pad) % group.q);
  });
  return { ciphertext, values, closed: false };
}

function coefficients(
  ctx: Uint8Array,
  big: Uint8Array,
  hRoot: Uint8Array,
  { group, size }: Bundle,
): bigint[] {
  if (size === 1) return [1n];
  return chunks(xof(16 * size, "ers/rho", ctx, big, hRoot, group.name), 16).map(toInteger);
}

/**
 * Check the proof of a part.
 *
 * @param part its context was checked by `context`
 * @param commitments X_m of the part's node for every key, in the context's order
 * @param rsa the RSA key, equal to the context's
 * @throws E_ERS_INVALID
 */
export function checkProof(part: Part, commitments: readonly Point[], rsa: RsaPublicKey): void {
  const { context, proof } = part;
  const { ctx, params } = context;
  const groups = bundles(context);
  checkBox(context, proof.box.length);
  const kGroup = groups.find((bundle) => bundle.hasK)?.group;
  if (kGroup === undefined) throw new Error("internal error: no curve has K");
  const kPoint = kGroup.decodePoint(context.kPoint);

  const closed = closedLeaves(proof.e, params);
  const nodes = tree.cover(params.leaves, closed);
  const seeds = numbered(proof.copath, nodes, "co-path");
  const merkle = numbered(proof.siblings, nodes, "list of Merkle siblings");
  const zLength = 32 * (context.keys.length + 1);
  const step = rsa.size + zLength + 32;
  if (proof.leaves.length !== step * closed.length) {
    throw invalid("length", "the closed leaves have the wrong length");
  }

  const leaves = new Map<number, Leaf>();
  for (const [i, raw] of chunks(proof.leaves, step).entries()) {
    const k = closed[i] ?? 0;
    const ciphertext = raw.subarray(0, rsa.size);
    const z = raw.subarray(rsa.size, rsa.size + zLength);
    if (toInteger(ciphertext) >= rsa.n) {
      throw invalid("ciphertext", `c of leaf ${k} is not below the modulus`);
    }
    const values = groups.map((bundle) => scalars(z, bundle, context));
    leaves.set(k, { ciphertext, values, closed: true });
    const salt = raw.subarray(rsa.size + zLength);
    merkle.set(params.leaves + k - 1, hash("ers/leaf", ctx, k, z, salt));
  }
  tree.grow(ctx, params.leaves, seeds);
  const all = Array.from({ length: params.leaves }, (_, i): Leaf => {
    const seed = seeds.get(params.leaves + i);
    const leaf = leaves.get(i + 1) ?? (seed && openLeaf(i + 1, seed, ctx, rsa, groups));
    if (leaf === undefined) throw new Error("internal error: a leaf is neither open nor closed");
    return leaf;
  });

  const hRoot = tree.merkleRoot(ctx, params.leaves, merkle);
  const big = hash("ers/ciphertexts", ctx, all.map((leaf) => leaf.ciphertext));
  const sides = groups.map((bundle) => {
    const rho = coefficients(ctx, big, hRoot, bundle);
    const points = bundle.keys.map((i) => commitments[i] as Point);
    if (bundle.hasK) points.push(kPoint);
    const total = bundle.group.combine(points.map((point, i) => [rho[i] ?? 0n, point]));
    total.encode(); // the identity is refused
    return { group: bundle.group, rho, target: total.negate() };
  });
  const announcements = all.flatMap((leaf) => {
    return sides.map(({ group, rho, target }, g) => {
      const sum = (leaf.values[g] ?? []).reduce((s, v, i) => s + (rho[i] ?? 0n) * v, 0n);
      const point = group.base(sum % group.q);
      const own = point.encode(); // the identity is refused, here and in the sum
      return leaf.closed ? point.add(target).encode() : own;
    });
  });
  const e = hash("ers/challenge", ctx, proof.box, big, hRoot, announcements);
  if (!equal(e, proof.e)) throw invalid("challenge", "the proof does not verify");
}
