/** Sections 5 and 6: the context of a part, its key statements, the order of the secrets. */

import { encode as toCbor, type Item } from "./cbor.js";
import { CURVES, type Group, group } from "./curves.js";
import { invalid } from "./errors.js";
import { type Params, params } from "./params.js";
import { hash } from "./transcript.js";

export interface KeyStatement {
  readonly keyId: string;
  readonly curve: string;
  readonly scheme: string;
  readonly protocol: string;
  readonly threshold: number;
  readonly holders: readonly number[];
  readonly publicKey: Uint8Array;
  readonly shareCommitments: readonly Uint8Array[];
  readonly generation: number;
  readonly chainCodeHash: Uint8Array | null;
  readonly recordHash: Uint8Array;
}

export interface Context {
  readonly item: Map<string, Item>;
  readonly encoded: Uint8Array;
  readonly ctx: Uint8Array;
  readonly keys: readonly KeyStatement[];
  readonly node: number;
  readonly label: string;
  readonly vault: string;
  readonly paramsName: string;
  readonly params: Params;
  readonly kPoint: Uint8Array;
  readonly version: number;
  readonly rsaSpki: Uint8Array;
}

/** The secrets of one curve: the keys' positions, and whether K follows them. */
export interface Bundle {
  readonly group: Group;
  readonly keys: readonly number[];
  readonly hasK: boolean;
  readonly size: number;
  /** How many secrets of other curves come before. */
  readonly start: number;
}

const FIELDS = [
  "hash", "keys", "node", "salt", "label", "vault", "format", "params", "k_point", "version",
  "rsa_spki",
];
const MAX_INDEX = 255;
const MAX_GENERATION = 2 ** 53;
const MAX_KEYS = 10_000;
const MAX_LABEL = 256;
const NAME = /^[!-~]{1,128}$/;
/** Section 5: what a label may not hold. */
const REFUSED =
  /[\u{0}-\u{1F}\u{7F}-\u{9F}\u{AD}\u{61C}\u{180E}\u{200B}-\u{200F}\u{2028}-\u{202E}\u{2060}-\u{206F}\u{D800}-\u{DFFF}\u{FEFF}\u{FFF9}-\u{FFFB}\u{E0000}-\u{E007F}]/u;

function name(item: Item | undefined, what: string): string {
  if (typeof item === "string" && NAME.test(item)) return item;
  throw invalid("context", `${what} must be 1 to 128 printable ASCII characters`);
}

function integer(item: Item | undefined, low: number, high: number, what: string): number {
  if (typeof item === "number" && Number.isInteger(item) && low <= item && item <= high) return item;
  throw invalid("context", `${what} must be an integer in [${low}, ${high}]`);
}

function bytes(item: Item | undefined, length: number, what: string): Uint8Array {
  if (item instanceof Uint8Array && item.length === length) return item;
  throw invalid("context", `${what} must be ${length} bytes`);
}

function list(item: Item | undefined, what: string): readonly Item[] {
  if (Array.isArray(item)) return item;
  throw invalid("context", `${what} must be a list`);
}

function keyStatement(item: Item, node: number, version: number): KeyStatement {
  const row = list(item, "a key statement");
  if (row.length !== 11) throw invalid("context", "a key statement has eleven fields");
  const keyId = name(row[0], "key id");
  const curve = row[1];
  if (typeof curve !== "string" || !CURVES.get(version)?.includes(curve)) {
    throw invalid("context", "this version does not know the curve", { key: keyId });
  }
  const holders = list(row[5], "holders").map((i) => integer(i, 1, MAX_INDEX, "a holder"));
  if (holders.some((holder, i) => i > 0 && holder <= (holders[i - 1] ?? 0))) {
    throw invalid("context", "holders must rise", { key: keyId });
  }
  const length = group(curve).pointLength;
  const commitments = list(row[7], "share commitments");
  if (commitments.length !== holders.length) {
    throw invalid("context", "one share commitment per holder", { key: keyId });
  }
  const statement = {
    keyId,
    curve,
    scheme: name(row[2], "scheme"),
    protocol: name(row[3], "protocol"),
    threshold: integer(row[4], 1, holders.length - 1, "threshold"),
    holders,
    publicKey: bytes(row[6], length, "public key"),
    shareCommitments: commitments.map((raw) => bytes(raw, length, "share commitment")),
    generation: integer(row[8], 1, MAX_GENERATION, "generation"),
    chainCodeHash: row[9] === null ? null : bytes(row[9], 32, "chain code hash"),
    recordHash: bytes(row[10], 32, "record hash"),
  };
  if (!holders.includes(node)) {
    throw invalid("holder", "the node holds no share of this key", { key: keyId });
  }
  return statement;
}

function label(item: Item | undefined): string {
  if (typeof item !== "string" || REFUSED.test(item)) {
    throw invalid("context", "the label must be text without control characters");
  }
  if (new TextEncoder().encode(item).length > MAX_LABEL) {
    throw invalid("context", `the label is longer than ${MAX_LABEL} bytes`);
  }
  return item;
}

/** The context that a decoded item is; E_ERS_INVALID. Points and the RSA key are not looked at. */
export function context(item: Item): Context {
  if (!(item instanceof Map) || item.size !== FIELDS.length || !FIELDS.every((f) => item.has(f))) {
    throw invalid("context", "the context does not have exactly the documented fields");
  }
  if (item.get("format") !== "keycairn-ers-part" || item.get("hash") !== "sha256") {
    throw invalid("context", "not a keycairn-ers part with sha256");
  }
  const version = item.get("version");
  if (typeof version !== "number" || !CURVES.has(version)) {
    throw invalid("version", "this version of the format is not known here");
  }
  const paramsName = item.get("params");
  const row = params(paramsName);
  const node = integer(item.get("node"), 1, MAX_INDEX, "node");
  bytes(item.get("salt"), 32, "salt");
  const statements = list(item.get("keys"), "keys");
  if (statements.length < 1 || statements.length > MAX_KEYS) {
    throw invalid("context", `a batch has 1 to ${MAX_KEYS} keys`);
  }
  const keys = statements.map((key) => keyStatement(key, node, version));
  if (new Set(keys.map((key) => key.keyId)).size !== keys.length) {
    throw invalid("context", "a key id appears twice");
  }
  const rsaSpki = item.get("rsa_spki");
  if (!(rsaSpki instanceof Uint8Array)) throw invalid("context", "rsa_spki must be bytes");
  const encoded = toCbor(item);
  return {
    item,
    encoded,
    ctx: hash("ers/context", encoded),
    keys,
    node,
    label: label(item.get("label")),
    vault: name(item.get("vault"), "vault id"),
    paramsName: String(paramsName),
    params: row,
    kPoint: bytes(item.get("k_point"), group(kCurve(keys)).pointLength, "k_point"),
    version,
    rsaSpki,
  };
}

/** The curve of K: secp256k1 if a key is on it, else the first key's. */
function kCurve(keys: readonly KeyStatement[]): string {
  const curves = keys.map((key) => key.curve);
  return curves.includes("secp256k1") ? "secp256k1" : (curves[0] ?? "");
}

/** Section 6: the secrets, grouped by curve. */
export function bundles(context: Context): Bundle[] {
  const { keys } = context;
  const out: Bundle[] = [];
  let start = 0;
  for (const curve of new Set(keys.map((key) => key.curve))) {
    const members = keys.flatMap((key, i) => (key.curve === curve ? [i] : []));
    const hasK = curve === kCurve(keys);
    const size = members.length + (hasK ? 1 : 0);
    out.push({ group: group(curve), keys: members, hasK, size, start });
    start += size;
  }
  return out;
}
