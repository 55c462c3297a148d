/** Section 4: RSA public keys, what is refused, and OAEP encryption with given coins. */

import { bigEndian, concat, equal, fromBase64, toHex, toInteger } from "./bytes.js";
import { malformed, VerifierError } from "./errors.js";
import { sha256 } from "./transcript.js";

const EXPONENT = 65537n;
const SMALL = 1 << 20;
const ALGORITHM = Uint8Array.from([0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 1, 5, 0]);
const PEM = /^\s*-----BEGIN PUBLIC KEY-----\s([A-Za-z0-9+/=\s]+)-----END PUBLIC KEY-----\s*$/;

/** A public key that passed the checks. `size` is the length of the modulus in bytes. */
export interface RsaPublicKey {
  readonly n: bigint;
  readonly bits: number;
  readonly size: number;
  readonly spki: Uint8Array;
  readonly sha256: string;
}

function der(kind: number, content: Uint8Array): Uint8Array {
  if (content.length < 128) return concat(Uint8Array.of(kind, content.length), content);
  const size = content.length < 256 ? 1 : 2;
  return concat(Uint8Array.of(kind, 0x80 | size), bigEndian(content.length, size), content);
}

function derInteger(value: bigint): Uint8Array {
  return der(2, bigEndian(value, Math.floor(value.toString(2).length / 8) + 1));
}

function encodeSpki(n: bigint): Uint8Array {
  const numbers = der(0x30, concat(derInteger(n), derInteger(EXPONENT)));
  return der(0x30, concat(ALGORITHM, der(3, concat(Uint8Array.of(0), numbers))));
}

function weak(check: string, message: string): VerifierError {
  return new VerifierError("E_WEAK_RSA", message, { check });
}

function smallPrimes(): number[] {
  const composite = new Uint8Array(SMALL);
  const primes: number[] = [];
  for (let i = 2; i < SMALL; i++) {
    if (composite[i] === 1) continue;
    primes.push(i);
    for (let j = i * i; j < SMALL; j += i) composite[j] = 1;
  }
  return primes;
}

function power(base: bigint, exponent: bigint, n: bigint): bigint {
  let [result, square] = [1n, base % n];
  for (let rest = exponent; rest > 0n; rest >>= 1n) {
    if ((rest & 1n) === 1n) result = (result * square) % n;
    square = (square * square) % n;
  }
  return result;
}

function root(n: bigint, k: number, bits: number): bigint {
  const [step, less] = [BigInt(k), BigInt(k - 1)];
  let x = 1n << BigInt(Math.ceil(bits / k));
  for (;;) {
    const y = (less * x + n / x ** less) / step;
    if (y >= x) return x;
    x = y;
  }
}

function isRoca(n: bigint, primes: readonly number[]): boolean {
  return primes.filter((p) => p > 2 && p <= 167).every((p) => {
    const powers = new Set<number>();
    for (let x = 1; !powers.has(x); x = (x * 65537) % p) powers.add(x);
    return powers.has(Number(n % BigInt(p)));
  });
}

function checkModulus(n: bigint, bits: number): void {
  if ((n & 1n) === 0n) throw weak("even", "the modulus is even");
  const primes = smallPrimes();
  if (primes.some((p) => n % BigInt(p) === 0n)) {
    throw weak("small factor", "the modulus has a prime factor below 2^20");
  }
  // Without factors below 2^20, a k-th power has k <= bits / 20.
  if (primes.some((k) => k <= bits / 20 && root(n, k, bits) ** BigInt(k) === n)) {
    throw weak("power", "the modulus is a perfect power");
  }
  // Every prime passes Fermat's test, so no prime gets through; of products of two large primes
  // next to none passes, and one that did would only be refused.
  if ([2n, 3n, 5n].every((base) => power(base, n - 1n, n) === 1n)) {
    throw weak("prime", "the modulus is a prime number");
  }
  if (isRoca(n, primes)) throw weak("roca", "the modulus has the ROCA fingerprint");
}

function load(spki: Uint8Array): RsaPublicKey {
  for (const bits of [2048, 3072, 4096]) {
    // n stands at a fixed place before the five bytes of e; encoding it again decides.
    const start = spki.length - 5 - (bits / 8 + 1);
    if (encodeSpki(1n << BigInt(bits - 1)).length !== spki.length) continue;
    const n = toInteger(spki.subarray(start, spki.length - 5));
    if (n >> BigInt(bits - 1) !== 1n || !equal(encodeSpki(n), spki)) break;
    checkModulus(n, bits);
    return { n, bits, size: bits / 8, spki, sha256: toHex(sha256(spki)) };
  }
  throw malformed(
    "not an RSA SubjectPublicKeyInfo in canonical DER with 2048, 3072 or 4096 bits and e = 65537",
  );
}

const loaded = new Map<string, RsaPublicKey>();

/** An RSA public key out of PEM or DER. E_MALFORMED, E_WEAK_RSA. */
export function loadRsaPublicKey(data: Uint8Array): RsaPublicKey {
  let spki: Uint8Array | undefined = Uint8Array.from(data);
  if (data[0] !== 0x30) {
    const match = PEM.exec(Buffer.from(data).toString("latin1"));
    spki = match?.[1] === undefined ? undefined : fromBase64(match[1].replace(/\s/g, ""));
    if (spki === undefined) throw malformed("not an RSA public key in PEM (BEGIN PUBLIC KEY) or DER");
  }
  const name = toHex(spki);
  const key = loaded.get(name) ?? load(spki);
  loaded.set(name, key);
  return key;
}

const LABEL_HASH = sha256(new Uint8Array(0));

function mgf1(seed: Uint8Array, n: number): Uint8Array {
  const blocks: Uint8Array[] = [];
  for (let i = 0; i * 32 < n; i++) blocks.push(sha256(concat(seed, bigEndian(i, 4))));
  return concat(...blocks).subarray(0, n);
}

function xor(a: Uint8Array, b: Uint8Array): Uint8Array {
  return a.map((byte, i) => byte ^ (b[i] ?? 0));
}

/** RSAES-OAEP with SHA-256, MGF1-SHA256, empty label and the given 32 coins. */
export function encrypt(key: RsaPublicKey, message: Uint8Array, coins: Uint8Array): Uint8Array {
  const room = new Uint8Array(key.size - 66 - message.length);
  const data = concat(LABEL_HASH, room, Uint8Array.of(1), message);
  const masked = xor(data, mgf1(coins, data.length));
  const em = toInteger(concat(xor(coins, mgf1(masked, 32)), masked));
  return bigEndian(power(em, EXPONENT, key.n), key.size);
}
