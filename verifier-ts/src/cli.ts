#!/usr/bin/env node
/** The command: options, answers and exit codes of `keycairn ers verify`. */

import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { fromHex } from "./bytes.js";
import { load, MAX_JSON } from "./document.js";
import { malformed, VerifierError } from "./errors.js";
import { loadRsaPublicKey } from "./rsa.js";
import { type Expected, type ExpectedKey, type Report, verify } from "./verify.js";

const HELP = `Usage: node dist/cli.js FILE [OPTIONS]

Verify a keycairn ERS document, JSON or CBOR, with public data. What was not given is listed as
not checked.

  --public-key KEY=[CURVE:]HEX   the key's public key, from elsewhere (again for other keys)
  --record-hash KEY=[CURVE:]HEX  the hash of the key's record
  --label TEXT                   must be the document's label
  --rsa-public-key FILE          RSA public key, PEM or DER
  --json                         one JSON object on standard output
  --help                         this text

Exit codes: 0 valid, 2 wrong use or a file that cannot be read, 5 the document is not valid.`;

function read(path: string, limit: number): Uint8Array {
  let data: Uint8Array;
  try {
    data = readFileSync(path);
  } catch (error) {
    const why = (error as NodeJS.ErrnoException).code ?? "input error";
    throw malformed(`${path} cannot be read: ${why}`);
  }
  if (data.length > limit) {
    throw new VerifierError("E_TOO_LARGE", `${path} is larger than ${limit} bytes`);
  }
  return data;
}

/** `KEY=[CURVE:]HEX`. */
function expectation(text: string, option: string, field: "publicKey" | "recordHash"): ExpectedKey {
  const equals = text.lastIndexOf("=");
  if (equals < 1) throw malformed(`--${option} takes KEY=[CURVE:]HEX`);
  const value = text.slice(equals + 1);
  const colon = value.lastIndexOf(":");
  const raw = fromHex(value.slice(colon + 1));
  if (raw === undefined) throw malformed(`--${option}: not lower-case hex`);
  const curve = colon < 0 ? {} : { curve: value.slice(0, colon) };
  return { keyId: text.slice(0, equals), ...curve, [field]: raw };
}

interface Asked {
  readonly file: string;
  readonly expected: Expected;
}

function asked(words: string[]): Asked | undefined {
  const many = { type: "string", multiple: true } as const;
  const one = { type: "string" } as const;
  const flag = { type: "boolean" } as const;
  let parsed;
  try {
    parsed = parseArgs({
      args: words,
      allowPositionals: true,
      options: {
        "public-key": many, "record-hash": many, label: one, "rsa-public-key": one, json: flag,
        help: flag,
      },
    });
  } catch (error) {
    throw malformed(`wrong use: ${(error as Error).message}`);
  }
  const { values, positionals } = parsed;
  if (values.help) return undefined;
  const [file] = positionals;
  if (file === undefined || positionals.length > 1) throw malformed("wrong use: give one document");
  const { label } = values;
  const rsaFile = values["rsa-public-key"];
  const keys = [
    ...(values["public-key"] ?? []).map((t) => expectation(t, "public-key", "publicKey")),
    ...(values["record-hash"] ?? []).map((t) => expectation(t, "record-hash", "recordHash")),
  ];
  return {
    file,
    expected: {
      keys,
      ...(label === undefined ? {} : { label }),
      ...(rsaFile === undefined ? {} : { rsa: loadRsaPublicKey(read(rsaFile, 1 << 16)) }),
    },
  };
}

function text(report: Report): string {
  const lines = [
    "valid: yes",
    `sha256: ${report.sha256}`,
    `label: ${report.label}`,
    `vault: ${report.vault}`,
    `rsa_spki_sha256: ${report.rsa_spki_sha256} (${report.rsa_bits} bits)`,
    "keys:",
    ...report.keys.map((key) => {
      const place = `${key.curve} ${key.public_key}, generation ${key.generation}`;
      return `  ${key.key_id}: ${place}, ${key.status}`;
    }),
    "not_checked:",
    ...report.not_checked.map((what) => `  ${what}`),
  ];
  return lines.join("\n");
}

function main(words: string[]): number {
  const json = words.includes("--json");
  try {
    const what = asked(words);
    if (what === undefined) {
      console.log(HELP);
      return 0;
    }
    const report = verify(load(read(what.file, MAX_JSON)), what.expected);
    console.log(json ? JSON.stringify(report) : text(report));
    return 0;
  } catch (error) {
    if (!(error instanceof VerifierError)) throw error;
    if (json) console.log(JSON.stringify(error.toJson()));
    else console.error(`keycairn-ers-verify: ${error.message} [${error.code}]`);
    return error.exitCode;
  }
}

process.exitCode = main(process.argv.slice(2));
