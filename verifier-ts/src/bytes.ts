/** Byte strings: joining, comparing, hex, base64, integers. */

export function concat(...parts: readonly Uint8Array[]): Uint8Array {
  return concatAll(parts);
}

export function concatAll(parts: readonly Uint8Array[]): Uint8Array {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

/** Negative, 0 or positive, as `a` comes before, with or after `b`, bytewise. */
export function compare(a: Uint8Array, b: Uint8Array): number {
  for (let i = 0; i < a.length && i < b.length; i++) {
    const difference = at(a, i) - at(b, i);
    if (difference !== 0) return difference;
  }
  return a.length - b.length;
}

export function equal(a: Uint8Array, b: Uint8Array): boolean {
  return compare(a, b) === 0;
}

/** Byte `i`; there is one. */
export function at(data: Uint8Array, i: number): number {
  const value = data[i];
  if (value === undefined) throw new RangeError("internal error: no such byte");
  return value;
}

export function toHex(data: Uint8Array): string {
  return Array.from(data, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Lower-case hex of whole bytes; undefined for anything else. */
export function fromHex(text: string): Uint8Array | undefined {
  if (!/^(?:[0-9a-f]{2})*$/.test(text)) return undefined;
  return Uint8Array.from(text.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16));
}

const BASE64 = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/;

/** RFC 4648 base64 with padding, unused bits zero; undefined for anything else. */
export function fromBase64(text: string): Uint8Array | undefined {
  if (!BASE64.test(text)) return undefined;
  const data = Buffer.from(text, "base64");
  return data.toString("base64") === text ? new Uint8Array(data) : undefined;
}

/** `size` bytes, big-endian. */
export function bigEndian(value: number | bigint, size: number): Uint8Array {
  const out = new Uint8Array(size);
  let rest = BigInt(value);
  for (let i = size - 1; i >= 0; i--) {
    out[i] = Number(rest & 255n);
    rest >>= 8n;
  }
  if (rest !== 0n) throw new RangeError("internal error: the integer does not fit");
  return out;
}

/** The unsigned big-endian integer of any number of bytes. */
export function toInteger(data: Uint8Array): bigint {
  return data.length === 0 ? 0n : BigInt(`0x${toHex(data)}`);
}
