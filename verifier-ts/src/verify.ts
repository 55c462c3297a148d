/** Section 9: verifying a document with public data. */

import { equal, toHex } from "./bytes.js";
import type { KeyStatement } from "./context.js";
import { type Group, group, type Point } from "./curves.js";
import type { Document } from "./document.js";
import { atNode, invalid, VerifierError } from "./errors.js";
import { checkProof } from "./proof.js";
import { loadRsaPublicKey, type RsaPublicKey } from "./rsa.js";
import { sha256 } from "./transcript.js";

/** What the caller knows of a key, from elsewhere than the document; what is absent is not checked. */
export interface ExpectedKey {
  readonly keyId: string;
  readonly publicKey?: Uint8Array;
  readonly curve?: string;
  readonly generation?: number;
  readonly recordHash?: Uint8Array;
}

export interface Expected {
  readonly rsa?: RsaPublicKey;
  readonly keys?: readonly ExpectedKey[];
  readonly label?: string;
  readonly vault?: string;
}

/** Section 9.1; the names are those of the JSON report. */
export interface Report {
  readonly valid: true;
  readonly sha256: string;
  readonly label: string;
  readonly vault: string;
  readonly params: string;
  readonly rsa_spki_sha256: string;
  readonly rsa_bits: number;
  readonly nodes: readonly number[];
  readonly not_checked: readonly string[];
  readonly keys: readonly KeyReport[];
}

export interface KeyReport {
  readonly key_id: string;
  readonly curve: string;
  readonly scheme: string;
  readonly public_key: string;
  readonly generation: number;
  readonly record_hash: string;
  readonly threshold: number;
  readonly holders: readonly number[];
  readonly status: string;
  readonly parts: readonly number[];
  readonly recoverable: boolean;
}

function modulo(value: bigint, q: bigint): bigint {
  return ((value % q) + q) % q;
}

function inverse(value: bigint, q: bigint): bigint {
  let [a, b, x, y] = [modulo(value, q), q, 1n, 0n];
  while (b !== 0n) {
    const quotient = a / b;
    [a, b] = [b, a - quotient * b];
    [x, y] = [y, x - quotient * y];
  }
  return modulo(x, q);
}

function lagrange(holders: readonly number[], i: number, x: number, q: bigint): bigint {
  let [numerator, denominator] = [1n, 1n];
  for (const j of holders) {
    if (j === i) continue;
    numerator *= BigInt(x - j);
    denominator *= BigInt(i - j);
  }
  return modulo(numerator * inverse(denominator, q), q);
}

/** Step 3 for one key: the share commitments by holder, after the check that they are a sharing. */
function checkSharing(key: KeyStatement): Map<number, Point> {
  const curve: Group = group(key.curve);
  const decode = (raw: Uint8Array): Point => {
    try {
      return curve.decodePoint(raw);
    } catch (error) {
      if (!(error instanceof VerifierError)) throw error;
      throw invalid("point", error.message, { key: key.keyId });
    }
  };
  const publicKey = decode(key.publicKey);
  const points = new Map(key.holders.map((i, place) => {
    return [i, decode(key.shareCommitments[place] ?? new Uint8Array(0))];
  }));
  const basis = key.holders.slice(0, key.threshold + 1);
  const targets: [number, Point][] = [[0, publicKey]];
  for (const j of key.holders.slice(key.threshold + 1)) targets.push([j, points.get(j) as Point]);
  for (const [x, target] of targets) {
    const found = curve.combine(
      basis.map((i) => [lagrange(basis, i, x, curve.q), points.get(i) as Point]),
    );
    let same = false;
    try {
      same = equal(found.encode(), target.encode());
    } catch (error) {
      if (!(error instanceof VerifierError)) throw error;
    }
    if (!same) {
      const message = "share commitments are not on one polynomial with the public key";
      throw invalid("polynomial", message, { key: key.keyId });
    }
  }
  return points;
}

function checkExpected(keys: readonly KeyStatement[], expected: readonly ExpectedKey[]): void {
  for (const want of expected) {
    const place = { key: want.keyId };
    const key = keys.find((candidate) => candidate.keyId === want.keyId);
    if (key === undefined) throw invalid("key id", "the document has no such key", place);
    const differs = (check: string): VerifierError => {
      return invalid(check, `the key has another ${check} than the caller expects`, place);
    };
    const { curve, publicKey, generation, recordHash } = want;
    if (curve !== undefined && curve !== key.curve) throw differs("curve");
    if (publicKey && !equal(publicKey, key.publicKey)) throw differs("public key");
    if (generation !== undefined && generation !== key.generation) throw differs("generation");
    if (recordHash && !equal(recordHash, key.recordHash)) throw differs("record hash");
  }
}

function notChecked(keys: readonly KeyStatement[], expected: Expected): string[] {
  const out: string[] = [];
  if (expected.rsa === undefined) out.push("rsa_public_key: taken from the document");
  if (expected.label === undefined) out.push("label");
  if (expected.vault === undefined) out.push("vault");
  for (const { keyId } of keys) {
    const wants = (expected.keys ?? []).filter((want) => want.keyId === keyId);
    if (!wants.some((want) => want.publicKey)) {
      out.push(`public_key of ${keyId}: taken from the document`);
    }
    if (!wants.some((want) => want.generation !== undefined)) out.push(`generation of ${keyId}`);
    if (!wants.some((want) => want.recordHash)) out.push(`record_hash of ${keyId}`);
  }
  if (keys.some((key) => key.chainCodeHash !== null)) {
    out.push("chain codes: a single node's box may hold a wrong one, t+1 parts may not");
  }
  return out;
}

function rsaOf(spki: Uint8Array, given: RsaPublicKey | undefined): RsaPublicKey {
  let own: RsaPublicKey;
  try {
    own = loadRsaPublicKey(spki);
  } catch (error) {
    if (!(error instanceof VerifierError)) throw error;
    throw invalid("rsa", error.message);
  }
  if (given !== undefined && !equal(given.spki, spki)) {
    throw invalid("rsa", `the document is for the RSA key ${own.sha256}, not for the one given`);
  }
  return own;
}

/**
 * Verify every part of a document.
 *
 * @param expected what the caller knows, from elsewhere than the document
 * @throws E_ERS_INVALID; its detail names check, node and key
 */
export function verify(document: Document, expected: Expected = {}): Report {
  const { context } = document.parts[0];
  const { label, vault } = expected;
  const rsa = rsaOf(context.rsaSpki, expected.rsa);
  if (label !== undefined && label !== context.label) {
    throw invalid("label", "the document has another label", { node: context.node });
  }
  if (vault !== undefined && vault !== context.vault) {
    throw invalid("vault", "the document is of another vault", { node: context.node });
  }
  checkExpected(context.keys, expected.keys ?? []);
  const shares = context.keys.map(checkSharing);
  for (const part of document.parts) {
    const { node } = part.context;
    const own = shares.map((points) => points.get(node) as Point);
    atNode(node, () => checkProof(part, own, rsa));
  }
  const nodes = Array.from(new Set(document.parts.map((part) => part.context.node)));
  return {
    valid: true,
    sha256: toHex(sha256(document.encoded)),
    label: context.label,
    vault: context.vault,
    params: context.paramsName,
    rsa_spki_sha256: rsa.sha256,
    rsa_bits: rsa.bits,
    nodes,
    not_checked: notChecked(context.keys, expected),
    keys: context.keys.map((key) => ({
      key_id: key.keyId,
      curve: key.curve,
      scheme: key.scheme,
      public_key: toHex(key.publicKey),
      generation: key.generation,
      record_hash: toHex(key.recordHash),
      threshold: key.threshold,
      holders: key.holders,
      status: nodes.length === key.holders.length
        ? "COMPLETE"
        : `PARTIAL ${nodes.length}/${key.holders.length}`,
      parts: nodes,
      recoverable: nodes.length > key.threshold,
    })),
  };
}
