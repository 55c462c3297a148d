/** Canonical CBOR (section 5): unsigned integers, byte and text strings, arrays, maps, null. */

import { bigEndian, compare, concat, concatAll, toInteger } from "./bytes.js";
import { invalid } from "./errors.js";

export type Item = number | string | Uint8Array | null | Item[] | Map<string, Item>;

const MAX_DEPTH = 16;
/** Larger integers stand nowhere in the format, and `number` holds no larger ones exactly. */
const MAX_INTEGER = 2n ** 53n;
const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const toUtf8 = new TextEncoder();

class Reader {
  private at = 0;

  constructor(private readonly data: Uint8Array) {}

  get done(): boolean {
    return this.at === this.data.length;
  }

  private take(n: bigint): Uint8Array {
    if (n > BigInt(this.data.length - this.at)) throw invalid("encoding", "the CBOR is cut off");
    const start = this.at;
    this.at += Number(n);
    return this.data.subarray(start, this.at);
  }

  private head(): { major: number; info: number; value: bigint } {
    const [first = 0] = this.take(1n);
    const [major, info] = [first >> 5, first & 31];
    if (info < 24) return { major, info, value: BigInt(info) };
    if (info > 27) throw invalid("encoding", "CBOR lengths are definite");
    const value = toInteger(this.take(1n << BigInt(info - 24)));
    const least = [24n, 1n << 8n, 1n << 16n, 1n << 32n][info - 24] ?? 0n;
    if (value < least) throw invalid("encoding", "CBOR integers are the shortest");
    return { major, info, value };
  }

  item(depth: number): Item {
    if (depth > MAX_DEPTH) throw invalid("encoding", "the CBOR is nested too deep");
    const { major, info, value } = this.head();
    switch (major) {
      case 0:
        if (value > MAX_INTEGER) throw invalid("encoding", "an integer is too large");
        return Number(value);
      case 2:
        return this.take(value).slice();
      case 3:
        return this.text(value);
      case 4: {
        const out: Item[] = [];
        for (let i = 0n; i < value; i++) out.push(this.item(depth + 1));
        return out;
      }
      case 5:
        return this.map(value, depth);
      default:
        if (major === 7 && info === 22) return null;
        throw invalid("encoding", "a CBOR item of a kind that the format does not use");
    }
  }

  private text(length: bigint): string {
    try {
      return utf8.decode(this.take(length));
    } catch (error) {
      if (error instanceof TypeError) throw invalid("encoding", "a CBOR text is not UTF-8");
      throw error;
    }
  }

  private map(count: bigint, depth: number): Map<string, Item> {
    const out = new Map<string, Item>();
    let last: Uint8Array | undefined;
    for (let i = 0n; i < count; i++) {
      const start = this.at;
      const key = this.item(depth + 1);
      if (typeof key !== "string") throw invalid("encoding", "CBOR map keys are text");
      const raw = this.data.subarray(start, this.at);
      if (last !== undefined && byLengthThenBytes(last, raw) >= 0) {
        throw invalid("encoding", "CBOR map keys rise and are distinct");
      }
      last = raw;
      out.set(key, this.item(depth + 1));
    }
    return out;
  }
}

function byLengthThenBytes(a: Uint8Array, b: Uint8Array): number {
  return a.length - b.length || compare(a, b);
}

/** The one item that `data` is; E_ERS_INVALID unless it is canonical and complete. */
export function decode(data: Uint8Array): Item {
  const reader = new Reader(data);
  const item = reader.item(0);
  if (!reader.done) throw invalid("encoding", "bytes follow the CBOR item");
  return item;
}

function head(major: number, value: number): Uint8Array {
  if (value < 24) return Uint8Array.of((major << 5) | value);
  const sizes: readonly [number, number][] = [[24, 1], [25, 2], [26, 4], [27, 8]];
  for (const [info, size] of sizes) {
    if (value < 2 ** (8 * size)) {
      return concat(Uint8Array.of((major << 5) | info), bigEndian(value, size));
    }
  }
  throw new RangeError("internal error: the integer does not fit");
}

/** Canonical CBOR of an item. */
export function encode(item: Item): Uint8Array {
  if (item === null) return Uint8Array.of(0xf6);
  if (typeof item === "number") return head(0, item);
  if (item instanceof Uint8Array) return concat(head(2, item.length), item);
  if (typeof item === "string") {
    const raw = toUtf8.encode(item);
    return concat(head(3, raw.length), raw);
  }
  if (Array.isArray(item)) return concat(head(4, item.length), concatAll(item.map(encode)));
  const pairs = Array.from(item, ([key, value]) => [encode(key), encode(value)] as const);
  pairs.sort(([a], [b]) => byLengthThenBytes(a, b));
  return concat(head(5, pairs.length), concatAll(pairs.flat()));
}
