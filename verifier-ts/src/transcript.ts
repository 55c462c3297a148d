/** Section 2.1: the one injective encoding under every hash, `Hash` and `Xof`. */

import { sha256 } from "@noble/hashes/sha2.js";
import { shake128 } from "@noble/hashes/sha3.js";
import { bigEndian, concat, concatAll } from "./bytes.js";

export type Field = Uint8Array | string | number | null | readonly Field[];

const utf8 = new TextEncoder();

function minimal(value: number): Uint8Array {
  const hex = value.toString(16);
  return value === 0 ? new Uint8Array(0) : bigEndian(value, Math.ceil(hex.length / 2));
}

function field(value: Field): Uint8Array {
  let type: string;
  let content: Uint8Array;
  if (value === null) {
    [type, content] = ["n", new Uint8Array(0)];
  } else if (value instanceof Uint8Array) {
    [type, content] = ["b", value];
  } else if (typeof value === "string") {
    [type, content] = ["s", utf8.encode(value)];
  } else if (typeof value === "number") {
    [type, content] = ["i", minimal(value)];
  } else {
    [type, content] = ["l", concat(bigEndian(value.length, 8), concatAll(value.map(field)))];
  }
  return concat(utf8.encode(type), bigEndian(content.length, 8), content);
}

/** `enc(tag, f_1, …, f_n)`. */
export function encode(tag: string, ...fields: readonly Field[]): Uint8Array {
  const name = utf8.encode(tag);
  const head = concat(utf8.encode("KCT1"), bigEndian(name.length, 2), name, bigEndian(1, 2));
  return concat(head, bigEndian(fields.length, 8), concatAll(fields.map(field)));
}

/** 32 bytes. */
export function hash(tag: string, ...fields: readonly Field[]): Uint8Array {
  return sha256(encode(tag, ...fields));
}

/** The first `n` bytes of the tagged SHAKE128. */
export function xof(n: number, tag: string, ...fields: readonly Field[]): Uint8Array {
  return shake128(encode(tag, ...fields), { dkLen: n });
}

export { sha256 };
