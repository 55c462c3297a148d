/** Section 8: documents and their two byte forms. Nothing here checks a proof. */

import { compare, equal, fromBase64, fromHex } from "./bytes.js";
import { decode, encode, type Item } from "./cbor.js";
import { type Context, context } from "./context.js";
import { CURVES } from "./curves.js";
import { invalid, VerifierError } from "./errors.js";
import { type Json, parse } from "./json.js";
import { sha256 } from "./transcript.js";

export const MAX_CBOR = 64 << 20;
export const MAX_JSON = 96 << 20;
const MAX_PARTS = 255;
const PROOF_FIELDS = ["e", "box", "copath", "siblings", "leaves"] as const;
const KEY_FIELDS = [
  "key_id", "curve", "scheme", "protocol", "threshold", "holders", "public_key",
  "share_commitments", "generation", "chain_code_hash", "record_hash",
] as const;

export type Proof = { readonly [name in (typeof PROOF_FIELDS)[number]]: Uint8Array };

export interface Part {
  readonly context: Context;
  readonly proof: Proof;
  readonly encoded: Uint8Array;
}

export interface Document {
  readonly parts: readonly [Part, ...Part[]];
  /** Canonical CBOR, whatever the form of the file. */
  readonly encoded: Uint8Array;
}

function exactly(item: unknown, names: readonly string[], what: string): void {
  const found = item instanceof Map ? Array.from(item.keys()) : Object.keys(item as object);
  if (found.length !== names.length || !names.every((name) => found.includes(name))) {
    throw invalid("encoding", `${what} does not have exactly the documented fields`);
  }
}

function part(made: Context, proof: Proof): Part {
  if (proof.e.length !== 32) throw invalid("length", "e must be 32 bytes");
  const item = new Map<string, Item>([["context", made.encoded], ...Object.entries(proof)]);
  return { context: made, proof, encoded: encode(item) };
}

function proofOf(field: (name: string) => Uint8Array): Proof {
  const [e, box, copath, siblings, leaves] = PROOF_FIELDS.map(field) as [
    Uint8Array, Uint8Array, Uint8Array, Uint8Array, Uint8Array,
  ];
  return { e, box, copath, siblings, leaves };
}

function partFromCbor(item: Item): Part {
  if (!(item instanceof Map)) throw invalid("encoding", "a part is a map");
  exactly(item, ["context", ...PROOF_FIELDS], "a part");
  const field = (name: string): Uint8Array => {
    const value = item.get(name);
    if (value instanceof Uint8Array) return value;
    throw invalid("encoding", "the fields of a part are byte strings");
  };
  return part(context(decode(field("context"))), proofOf(field));
}

function object(value: Json | undefined, names: readonly string[], what: string): Map<string, Json> {
  if (value === null || typeof value !== "object" || Array.isArray(value)) {
    throw invalid("encoding", `${what} is an object`);
  }
  exactly(value, names, what);
  return new Map(Object.entries(value));
}

function binary(value: Json | undefined, read: (text: string) => Uint8Array | undefined): Uint8Array {
  const raw = typeof value === "string" ? read(value) : undefined;
  if (raw === undefined) throw invalid("encoding", "a binary field is not in its encoding");
  return raw;
}

function array(value: Json | undefined, what: string): readonly Json[] {
  if (Array.isArray(value)) return value;
  throw invalid("context", `${what} must be a list`);
}

/** Fields that are no byte strings: their types and ranges are the context's business. */
function plain(value: Json | undefined): Item {
  if (typeof value === "string" || typeof value === "number" || value === null) return value;
  if (Array.isArray(value)) return value.map(plain);
  throw invalid("context", "a field of the context has a wrong type");
}

function keyFromJson(value: Json): Item {
  const key = object(value, KEY_FIELDS, "a key");
  return KEY_FIELDS.map((name): Item => {
    const field = key.get(name);
    if (name === "public_key" || name === "record_hash") return binary(field, fromHex);
    if (name === "chain_code_hash") return field === null ? null : binary(field, fromHex);
    if (name === "share_commitments") {
      return array(field, "share commitments").map((raw) => binary(raw, fromHex));
    }
    return plain(field);
  });
}

function partFromJson(value: Json): Part {
  const outer = object(value, ["context", "proof"], "a part");
  const fields = [
    "format", "version", "hash", "params", "rsa_spki", "label", "vault", "node", "salt", "k_point",
    "keys",
  ];
  const inner = object(outer.get("context"), fields, "a context");
  const item = new Map<string, Item>();
  for (const [name, field] of inner) {
    if (name === "rsa_spki") item.set(name, binary(field, fromBase64));
    else if (name === "salt" || name === "k_point") item.set(name, binary(field, fromHex));
    else if (name === "keys") item.set(name, array(field, "keys").map(keyFromJson));
    else item.set(name, plain(field));
  }
  const proof = object(outer.get("proof"), PROOF_FIELDS, "a proof");
  return part(context(item), proofOf((name) => binary(proof.get(name), fromBase64)));
}

/** Parts of one batch, in order, no two equal; E_ERS_INVALID. */
function checkParts(parts: readonly Part[], version: number): void {
  const first = parts[0]?.context;
  for (const [i, { context: other, encoded }] of parts.entries()) {
    for (const name of ["version", "label", "vault", "rsa_spki", "params", "keys"]) {
      const what = name === "rsa_spki" ? "rsa" : name;
      const [left, right] = [first?.item.get(name), other.item.get(name)];
      if (!equal(encode(left ?? null), encode(right ?? null))) {
        throw invalid(`mixed ${what}`, `the parts do not have the same ${what}`, { node: other.node });
      }
    }
    const before = parts[i - 1];
    if (before === undefined) continue;
    const order =
      before.context.node - other.node || compare(sha256(before.encoded), sha256(encoded));
    if (order >= 0) throw invalid("encoding", "the parts are not in order, or two are equal");
  }
  if (first?.version !== version) {
    throw invalid("version", "the document and its parts are of different versions");
  }
}

function assemble(
  format: unknown,
  version: unknown,
  parts: unknown,
  read: (item: never) => Part,
): Document {
  if (format !== "keycairn-ers") throw invalid("encoding", "not a keycairn-ers document");
  if (typeof version !== "number" || !CURVES.has(version)) {
    throw invalid("version", "this version of the format is not known here");
  }
  if (!Array.isArray(parts) || parts.length < 1 || parts.length > MAX_PARTS) {
    throw invalid("parts", `a document has 1 to ${MAX_PARTS} parts`);
  }
  const made = parts.map((item) => read(item as never));
  checkParts(made, version);
  const item = new Map<string, Item>([
    ["format", format],
    ["version", version],
    ["parts", made.map((p) => decode(p.encoded))],
  ]);
  return { parts: made as [Part, ...Part[]], encoded: encode(item) };
}

const TOP = ["format", "version", "parts"];

/** A document out of a file in either form; E_ERS_INVALID unless it is canonical. */
export function load(file: Uint8Array): Document {
  // A copy, and never a Buffer: its slices are views, and reversing one would change the document.
  const data = Uint8Array.from(file);
  try {
    if (data[0] === 0x7b) {
      if (data.length > MAX_JSON) throw invalid("encoding", "the file is too large");
      const value = object(parse(data), TOP, "a document");
      return assemble(value.get("format"), value.get("version"), value.get("parts"), partFromJson);
    }
    if (data.length > MAX_CBOR) throw invalid("encoding", "the file is too large");
    const item = decode(data);
    if (!(item instanceof Map)) throw invalid("encoding", "a document is a map");
    exactly(item, TOP, "a document");
    return assemble(item.get("format"), item.get("version"), item.get("parts"), partFromCbor);
  } catch (error) {
    if (error instanceof VerifierError && error.code !== "E_ERS_INVALID") {
      throw invalid("encoding", error.message);
    }
    throw error;
  }
}
