"""A second verifier of ERS documents, written from docs/ers-format.md alone.

Python standard library only; shares no code with keycairn. Slow and plain on purpose. Usage::

    python second_verifier.py DOCUMENT [RSA-SPKI-DER]

``verify`` raises Invalid, or returns one trace per part with every value that it recomputed.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import math
import pathlib
import sys

PARAMS = {"fast": (136, 55), "balanced": (256, 30), "compact": (1024, 19)}


class Invalid(Exception):
    """The document is not valid."""


def need(condition, what):
    if not condition:
        raise Invalid(what)


# -- section 2.1: the transcript encoder -------------------------------------------------------


def be(value, size):
    return value.to_bytes(size, "big")


def field(value):
    if value is None:
        return b"n" + be(0, 8)
    if isinstance(value, bytes):
        kind, raw = b"b", value
    elif isinstance(value, str):
        kind, raw = b"s", value.encode()
    elif isinstance(value, int):
        kind, raw = b"i", be(value, (value.bit_length() + 7) // 8)
    else:
        kind, raw = b"l", be(len(value), 8) + b"".join(map(field, value))
    return kind + be(len(raw), 8) + raw


def enc(tag, *fields):
    head = b"KCT1" + be(len(tag), 2) + tag.encode() + be(1, 2)
    return head + be(len(fields), 8) + b"".join(map(field, fields))


def hash_(tag, *fields):
    return hashlib.sha256(enc(tag, *fields)).digest()


def xof(n, tag, *fields):
    return hashlib.shake_128(enc(tag, *fields)).digest(n)


# -- canonical CBOR ----------------------------------------------------------------------------


class Cbor:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        need(self.at + n <= len(self.data), "CBOR cut off")
        self.at += n
        return self.data[self.at - n : self.at]

    def head(self):
        first = self.take(1)[0]
        major, info = first >> 5, first & 31
        if info < 24:
            return major, info, info
        need(info <= 27, "CBOR length")
        size = 1 << (info - 24)
        value = int.from_bytes(self.take(size), "big")
        smallest = {1: 24, 2: 1 << 8, 4: 1 << 16, 8: 1 << 32}[size]
        need(value >= smallest, "CBOR not minimal")
        return major, info, value

    def item(self, depth=0):
        need(depth < 16, "CBOR depth")
        major, info, value = self.head()
        if major == 0:
            return value
        if major == 2:
            return self.take(value)
        if major == 3:
            try:
                return self.take(value).decode("utf-8")
            except UnicodeDecodeError:
                raise Invalid("CBOR text") from None
        if major == 4:
            return [self.item(depth + 1) for _ in range(value)]
        if major == 5:
            out, last = {}, None
            for _ in range(value):
                start = self.at
                key = self.item(depth + 1)
                need(isinstance(key, str), "CBOR key")
                raw = self.data[start : self.at]
                order = (len(raw), raw)
                need(last is None or order > last, "CBOR key order")
                last = order
                out[key] = self.item(depth + 1)
            return out
        need(major == 7 and info == 22, "CBOR item")
        return None


def cbor(data):
    reader = Cbor(data)
    value = reader.item()
    need(reader.at == len(data), "CBOR trailing bytes")
    return value


def cbor_head(major, value):
    if value < 24:
        return bytes([major << 5 | value])
    for info, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if value < 1 << (8 * size):
            return bytes([major << 5 | info]) + be(value, size)
    raise Invalid("too large")


def to_cbor(value):
    if value is None:
        return b"\xf6"
    if isinstance(value, int):
        return cbor_head(0, value)
    if isinstance(value, bytes):
        return cbor_head(2, len(value)) + value
    if isinstance(value, str):
        raw = value.encode()
        return cbor_head(3, len(raw)) + raw
    if isinstance(value, list):
        return cbor_head(4, len(value)) + b"".join(map(to_cbor, value))
    pairs = sorted(
        ((to_cbor(k), to_cbor(v)) for k, v in value.items()), key=lambda p: (len(p[0]), p[0])
    )
    return cbor_head(5, len(value)) + b"".join(k + v for k, v in pairs)


# -- curves ------------------------------------------------------------------------------------


class Curve:
    """Fixed-base and plain multiplication over whatever ``add`` a curve defines."""

    order = "big"

    def tables(self):
        if not hasattr(self, "_tables"):
            self._tables, base = [], self.base
            for _ in range(64):
                row = [self.zero, base]
                for _ in range(14):
                    row.append(self.add(row[-1], base))
                self._tables.append(row)
                base = self.add(row[-1], base)
        return self._tables

    def base_mul(self, k):
        total = self.zero
        for i, row in enumerate(self.tables()):
            digit = k >> (4 * i) & 15
            if digit:
                total = self.add(total, row[digit])
        return total

    def mul(self, point, k):
        total = self.zero
        for bit in bin(k % self.q)[2:]:
            total = self.add(total, total)
            if bit == "1":
                total = self.add(total, point)
        return total

    def scalar(self, raw):
        value = int.from_bytes(raw, self.order)
        need(len(raw) == 32 and value < self.q, "scalar")
        return value

    def nonzero(self, point):
        need(not self.is_zero(point), "identity")
        return point


class Weierstrass(Curve):
    """y^2 = x^3 + a x + b; Jacobian coordinates (X, Y, Z); Z = 0 is the identity."""

    length = 33
    zero = (1, 1, 0)

    def is_zero(self, a):
        return a[2] == 0

    def double(self, a):
        p = self.p
        x, y, z = a
        if z == 0 or y == 0:
            return self.zero
        s = 4 * x * y * y % p
        m = (3 * x * x + self.a * pow(z, 4, p)) % p
        x3 = (m * m - 2 * s) % p
        return x3, (m * (s - x3) - 8 * pow(y, 4, p)) % p, 2 * y * z % p

    def add(self, a, b):
        p = self.p
        if a[2] == 0:
            return b
        if b[2] == 0:
            return a
        z1, z2 = a[2] * a[2] % p, b[2] * b[2] % p
        u1, u2 = a[0] * z2 % p, b[0] * z1 % p
        s1, s2 = a[1] * b[2] * z2 % p, b[1] * a[2] * z1 % p
        if u1 == u2:
            return self.double(a) if s1 == s2 else self.zero
        h, r = (u2 - u1) % p, (s2 - s1) % p
        h2 = h * h % p
        h3 = h * h2 % p
        v = u1 * h2 % p
        x3 = (r * r - h3 - 2 * v) % p
        return x3, (r * (v - x3) - s1 * h3) % p, h * a[2] * b[2] % p

    def neg(self, a):
        return a[0], -a[1] % self.p, a[2]

    def encode(self, a):
        self.nonzero(a)
        inverse = pow(a[2], -1, self.p)
        x = a[0] * inverse * inverse % self.p
        y = a[1] * pow(inverse, 3, self.p) % self.p
        return bytes([2 + (y & 1)]) + be(x, 32)

    def decode(self, raw):
        need(isinstance(raw, bytes) and len(raw) == 33 and raw[0] in (2, 3), "point encoding")
        x = int.from_bytes(raw[1:], "big")
        need(x < self.p, "point coordinate")
        square = (pow(x, 3, self.p) + self.a * x + self.b) % self.p
        y = pow(square, (self.p + 1) // 4, self.p)
        need(y * y % self.p == square, "point not on the curve")
        if y & 1 != raw[0] & 1:
            y = self.p - y
        return x, y, 1


class Secp256k1(Weierstrass):
    name = "secp256k1"
    q = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    p, a, b = 2**256 - 2**32 - 977, 0, 7
    base = (
        0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798,
        0x483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8,
        1,
    )


class P256(Weierstrass):
    name = "p256"
    q = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    p, a = 2**256 - 2**224 + 2**192 + 2**96 - 1, -3
    b = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
    base = (
        0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
        0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
        1,
    )


class Ed25519(Curve):
    """Extended coordinates (X, Y, Z, T), complete addition."""

    name, length, order = "ed25519", 32, "little"
    q = 2**252 + 27742317777372353535851937790883648493
    p = 2**255 - 19
    d = -121665 * pow(121666, -1, p) % p
    zero = (0, 1, 1, 0)

    def __init__(self):
        self.base = self.decompress(
            be(0x6666666666666666666666666666666666666666666666666666666666666658, 32)[::-1]
        )

    def is_zero(self, a):
        return a[0] % self.p == 0 and (a[1] - a[2]) % self.p == 0

    def add(self, a, b):
        p = self.p
        e = (a[1] - a[0]) * (b[1] - b[0]) % p
        f = (a[1] + a[0]) * (b[1] + b[0]) % p
        g = 2 * a[3] * b[3] * self.d % p
        h = 2 * a[2] * b[2] % p
        x, y, z, t = f - e, h - g, h + g, f + e
        return x * y % p, z * t % p, y * z % p, x * t % p

    def neg(self, a):
        return -a[0] % self.p, a[1], a[2], -a[3] % self.p

    def encode(self, a):
        self.nonzero(a)
        inverse = pow(a[2], -1, self.p)
        x, y = a[0] * inverse % self.p, a[1] * inverse % self.p
        return (y | (x & 1) << 255).to_bytes(32, "little")

    def decompress(self, raw):
        p = self.p
        value = int.from_bytes(raw, "little")
        sign, y = value >> 255, value & (1 << 255) - 1
        need(y < p, "point coordinate")
        square = (y * y - 1) * pow(self.d * y * y + 1, -1, p) % p
        x = pow(square, (p + 3) // 8, p)
        if (x * x - square) % p:
            x = x * pow(2, (p - 1) // 4, p) % p
        need((x * x - square) % p == 0, "point not on the curve")
        need(x or not sign, "point sign")
        if x & 1 != sign:
            x = p - x
        return x, y, 1, x * y % p

    def decode(self, raw):
        need(isinstance(raw, bytes) and len(raw) == 32, "point encoding")
        point = self.decompress(raw)
        need(not self.is_zero(point), "identity")
        total = self.zero  # q*P without reducing q
        for bit in bin(self.q)[2:]:
            total = self.add(total, total)
            if bit == "1":
                total = self.add(total, point)
        need(self.is_zero(total), "point not in the prime-order subgroup")
        return point


CURVES = {c.name: c for c in (Secp256k1(), P256(), Ed25519())}
#: Curves of each version of the format.
KNOWN = {1: ("secp256k1", "ed25519"), 2: ("secp256k1", "p256", "ed25519")}
MAX_LEDGER = 1 << 20


# -- section 4: RSA ----------------------------------------------------------------------------


def der(kind, content):
    size = len(content)
    if size < 128:
        return bytes([kind, size]) + content
    raw = be(size, (size.bit_length() + 7) // 8)
    return bytes([kind, 128 | len(raw)]) + raw + content


def spki_of(n, e):
    def integer(v):
        return der(2, be(v, v.bit_length() // 8 + 1))

    algorithm = der(0x30, bytes.fromhex("06092a864886f70d0101010500"))
    return der(0x30, algorithm + der(3, b"\0" + der(0x30, integer(n) + integer(e))))


def spki_numbers(raw):
    # Finds n by its fixed place; the re-encoding decides.
    for bits in (2048, 3072, 4096):
        size = bits // 8 + 1
        probe = spki_of(1 << (bits - 1), 65537)
        if len(probe) == len(raw):
            start = len(raw) - 5 - size
            n = int.from_bytes(raw[start : start + size], "big")
            need(spki_of(n, 65537) == raw and n.bit_length() == bits, "SPKI")
            return n, bits
    raise Invalid("SPKI")


def small_primes(limit):
    sieve = bytearray([1]) * limit
    for i in range(2, math.isqrt(limit) + 1):
        if sieve[i]:
            sieve[i * i :: i] = bytes(len(range(i * i, limit, i)))
    return [i for i in range(2, limit) if sieve[i]]


def root(n, k):
    x = 1 << -(-n.bit_length() // k)
    while True:
        y = ((k - 1) * x + n // x ** (k - 1)) // k
        if y >= x:
            return x
        x = y


_CHECKED = {}


def check_rsa(raw):
    if raw not in _CHECKED:
        n, bits = spki_numbers(raw)
        primes = small_primes(1 << 20)
        product = math.prod(primes)
        need(math.gcd(n, product % n) == 1, "small factor")
        # A k-th power without factors below 2^20 has k < bits/20.
        for k in (p for p in primes if p <= bits // 20):
            need(root(n, k) ** k != n, "perfect power")
        need(pow(3, n - 1, n) != 1 or pow(5, n - 1, n) != 1, "prime")
        for p in primes[1:]:
            if p > 167:
                raise Invalid("ROCA")
            powers = {pow(65537, i, p) for i in range(p)}
            if n % p not in powers:
                break
        _CHECKED[raw] = (n, bits // 8)
    return _CHECKED[raw]


def mgf(seed, n):
    out = b""
    while len(out) < n:
        out += hashlib.sha256(seed + be(len(out) // 32, 4)).digest()
    return out[:n]


def oaep(n, size, message, coins):
    data = hashlib.sha256().digest() + bytes(size - 66 - len(message)) + b"\x01" + message
    masked = bytes(a ^ b for a, b in zip(data, mgf(coins, len(data)), strict=True))
    head = bytes(a ^ b for a, b in zip(coins, mgf(masked, 32), strict=True))
    return be(pow(int.from_bytes(b"\0" + head + masked, "big"), 65537, n), size)


# -- sections 5 and 8: decoding ----------------------------------------------------------------

KEY_FIELDS = (
    "key_id", "curve", "scheme", "protocol", "threshold", "holders", "public_key",
    "share_commitments", "generation", "chain_code_hash", "record_hash",
)  # fmt: skip
PROOF_FIELDS = ("e", "box", "copath", "siblings", "leaves")
LABEL_REFUSED = (
    (0, 0x1F), (0x7F, 0x9F), (0xAD, 0xAD), (0x61C, 0x61C), (0x180E, 0x180E), (0x200B, 0x200F),
    (0x2028, 0x202E), (0x2060, 0x206F), (0xD800, 0xDFFF), (0xFEFF, 0xFEFF), (0xFFF9, 0xFFFB),
    (0xE0000, 0xE007F),
)  # fmt: skip


def is_name(value):
    return isinstance(value, str) and 1 <= len(value) <= 128 and all("!" <= c <= "~" for c in value)


def is_int(value, low, high):
    return type(value) is int and low <= value <= high


def is_bytes(value, length):
    return isinstance(value, bytes) and len(value) == length


def check_key(key, node, version):
    need(isinstance(key, list) and len(key) == 11, "key statement")
    k = dict(zip(KEY_FIELDS, key, strict=True))
    need(all(is_name(k[f]) for f in ("key_id", "scheme", "protocol")), "names")
    need(isinstance(k["curve"], str) and k["curve"] in KNOWN[version], "curve")
    holders, points = k["holders"], k["share_commitments"]
    need(isinstance(holders, list) and all(is_int(h, 1, 255) for h in holders), "holders")
    need(holders == sorted(set(holders)) and node in holders, "holders")
    need(is_int(k["threshold"], 1, len(holders) - 1), "threshold")
    need(isinstance(points, list) and len(points) == len(holders), "commitments")
    length = CURVES[k["curve"]].length
    need(all(is_bytes(p, length) for p in [k["public_key"], *points]), "point length")
    need(is_int(k["generation"], 1, 1 << 53), "generation")
    need(k["chain_code_hash"] is None or is_bytes(k["chain_code_hash"], 32), "chain code hash")
    need(is_bytes(k["record_hash"], 32), "record hash")
    return k


def check_context(c):
    names = {
        "hash",
        "keys",
        "node",
        "salt",
        "label",
        "vault",
        "format",
        "params",
        "k_point",
        "version",
        "rsa_spki",
    }
    need(isinstance(c, dict) and set(c) == names, "context fields")
    need(c["hash"] == "sha256" and c["format"] == "keycairn-ers-part", "format")
    need(type(c["version"]) is int and c["version"] in KNOWN, "version")
    need(isinstance(c["params"], str) and c["params"] in PARAMS, "params")
    need(is_int(c["node"], 1, 255) and is_bytes(c["salt"], 32) and is_name(c["vault"]), "context")
    label = c["label"]
    need(isinstance(label, str), "label")
    need(not any(a <= ord(ch) <= b for ch in label for a, b in LABEL_REFUSED), "label")
    need(len(label.encode()) <= 256, "label")
    need(isinstance(c["rsa_spki"], bytes), "rsa")
    need(isinstance(c["keys"], list) and 1 <= len(c["keys"]) <= 10000, "keys")
    keys = [check_key(key, c["node"], c["version"]) for key in c["keys"]]
    need(len({k["key_id"] for k in keys}) == len(keys), "key ids")
    return keys


def decode_cbor_document(data):
    need(len(data) <= 64 << 20, "size")
    value = cbor(data)
    need(isinstance(value, dict) and set(value) == {"format", "version", "parts"}, "document")
    need(value["format"] == "keycairn-ers", "format")
    need(type(value["version"]) is int and value["version"] in KNOWN, "version")
    need(isinstance(value["parts"], list), "parts")
    for part in value["parts"]:
        need(isinstance(part, dict) and set(part) == {*PROOF_FIELDS, "context"}, "part")
        need(all(isinstance(v, bytes) for v in part.values()), "part")
    return value["version"], value["parts"]


def b64(text):
    need(isinstance(text, str), "base64")
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError:
        raise Invalid("base64") from None
    need(base64.b64encode(raw).decode() == text, "base64: unused bits")
    return raw


def unhex(text):
    need(isinstance(text, str) and all(c in "0123456789abcdef" for c in text), "hex")
    need(len(text) % 2 == 0, "hex")
    return bytes.fromhex(text)


def decode_json_document(data):
    need(len(data) <= 96 << 20, "size")
    try:
        value = json.loads(data.decode("ascii"))
    except (ValueError, RecursionError):
        raise Invalid("JSON") from None
    # One rendering only: this also refuses duplicate keys, floats and odd escapes.
    need((json.dumps(value, sort_keys=True, indent=2) + "\n").encode() == data, "JSON rendering")
    try:
        need(set(value) == {"format", "version", "parts"}, "document")
        need(value["format"] == "keycairn-ers" and value["version"] in KNOWN, "format")
        need(type(value["version"]) is int, "version")
        parts = []
        for part in value["parts"]:
            need(
                set(part) == {"context", "proof"} and set(part["proof"]) == set(PROOF_FIELDS),
                "part",
            )
            context = dict(part["context"])
            context["rsa_spki"] = b64(context["rsa_spki"])
            for name in ("salt", "k_point"):
                context[name] = unhex(context[name])
            keys = []
            for key in context["keys"]:
                need(set(key) == set(KEY_FIELDS), "key")
                key = dict(key)
                for name in ("public_key", "record_hash"):
                    key[name] = unhex(key[name])
                if key["chain_code_hash"] is not None:
                    key["chain_code_hash"] = unhex(key["chain_code_hash"])
                key["share_commitments"] = [unhex(p) for p in key["share_commitments"]]
                keys.append([key[name] for name in KEY_FIELDS])
            context["keys"] = keys
            check_context(context)
            proof = {name: b64(part["proof"][name]) for name in PROOF_FIELDS}
            parts.append({"context": to_cbor(context), **proof})
    except (TypeError, KeyError, AttributeError):
        raise Invalid("JSON structure") from None
    return value["version"], parts


# -- sections 6, 7, 9: the proof ---------------------------------------------------------------


def closed_leaves(e, n, tau):
    words, chosen, at = xof(1 << 14, "ers/closed", e), set(), 0
    while len(chosen) < tau:
        w = int.from_bytes(words[at : at + 2], "big")
        at += 2
        if w < 65536 // n * n:
            chosen.add(w % n + 1)
    return sorted(chosen)


def cover_of(n, closed):
    has = [False] * (2 * n)
    for k in closed:
        has[n + k - 1] = True
    for i in range(n - 1, 0, -1):
        has[i] = has[2 * i] or has[2 * i + 1]
    return [i for i in range(2, 2 * n) if not has[i] and has[i // 2]]


def lagrange(q, xs, i, at):
    num = den = 1
    for j in xs:
        if j != i:
            num, den = num * (at - j) % q, den * (i - j) % q
    return num * pow(den, -1, q) % q


def check_sharing(key):
    curve, t, holders = CURVES[key["curve"]], key["threshold"], key["holders"]
    points = dict(zip(holders, map(curve.decode, key["share_commitments"]), strict=True))
    targets = {0: curve.decode(key["public_key"]), **{j: points[j] for j in holders[t + 1 :]}}
    basis = holders[: t + 1]
    for at, target in targets.items():
        total = curve.zero
        for i in basis:
            total = curve.add(total, curve.mul(points[i], lagrange(curve.q, basis, i, at)))
        need(not curve.is_zero(total) and curve.encode(total) == curve.encode(target), "polynomial")
    return points


def check_part(part, shared):
    context = cbor(part["context"])
    keys = check_context(context)
    need(to_cbor(context) == part["context"], "context encoding")
    ctx = hash_("ers/context", part["context"])
    n_leaves, tau = PARAMS[context["params"]]
    modulus, size = check_rsa(context["rsa_spki"])
    node = context["node"]

    names = list(dict.fromkeys(k["curve"] for k in keys))
    k_curve = "secp256k1" if "secp256k1" in names else names[0]
    groups = []  # (curve, points), secrets in order
    for name in names:
        curve = CURVES[name]
        points = [shared(k)[node] for k in keys if k["curve"] == name]
        if name == k_curve:
            points.append(curve.decode(context["k_point"]))
        groups.append((curve, points))
    secrets = len(keys) + 1

    e = part["e"]
    need(len(e) == 32, "e")
    codes = sum(k["chain_code_hash"] is not None for k in keys)
    if context["version"] == 1:
        need(len(part["box"]) == (32 * codes + 16 if codes else 0), "box")
    else:
        smallest = len(to_cbor([[] for _ in keys]))
        ledger = len(part["box"]) - (12 + 32 * codes + 16)
        need(smallest <= ledger <= MAX_LEDGER, "box")
    closed = closed_leaves(e, n_leaves, tau)
    cover = cover_of(n_leaves, closed)
    need(len(part["copath"]) == len(part["siblings"]) == 32 * len(cover), "co-path")
    step = size + 32 * secrets + 32
    need(len(part["leaves"]) == step * tau, "leaves")

    seeds, merkle = {}, {}
    for i, j in enumerate(cover):
        seeds[j] = part["copath"][32 * i : 32 * i + 32]
        merkle[j] = part["siblings"][32 * i : 32 * i + 32]
    for j in range(2, 2 * n_leaves):
        if j not in seeds and j // 2 in seeds:
            seeds[j] = hash_("ers/tree", ctx, j, seeds[j // 2])

    ciphertexts, values = {}, {}  # values: leaf -> list of scalars per group and secret
    for i, k in enumerate(closed):
        raw = part["leaves"][i * step : (i + 1) * step]
        c, z, salt = raw[:size], raw[size:-32], raw[-32:]
        need(int.from_bytes(c, "big") < modulus, "ciphertext")
        ciphertexts[k], values[k], at = c, [], 0
        for curve, points in groups:
            row = [curve.scalar(z[32 * m : 32 * m + 32]) for m in range(at, at + len(points))]
            values[k].append(row)
            at += len(points)
        merkle[n_leaves + k - 1] = hash_("ers/leaf", ctx, k, z, salt)
    for k in range(1, n_leaves + 1):
        if k in ciphertexts:
            continue
        opened = xof(64, "ers/leaf-seed", ctx, k, seeds[n_leaves + k - 1])
        a, coins = opened[:32], opened[32:]
        ciphertexts[k] = oaep(modulus, size, ctx + be(k, 2) + a, coins)
        values[k] = []
        for curve, points in groups:
            stream = xof(48 * len(points), "ers/pads", ctx, curve.name, k, a)
            pads = [stream[48 * m : 48 * m + 48] for m in range(len(points))]
            values[k].append([int.from_bytes(p, "big") % curve.q for p in pads])
    for i in range(n_leaves - 1, 0, -1):
        if i not in merkle and 2 * i in merkle and 2 * i + 1 in merkle:
            merkle[i] = hash_("ers/merkle", ctx, i, merkle[2 * i], merkle[2 * i + 1])

    order = range(1, n_leaves + 1)
    big_c = hash_("ers/ciphertexts", ctx, [ciphertexts[k] for k in order])
    h_root = merkle[1]
    rhos, targets = [], []
    for curve, points in groups:
        m = len(points)
        stream = xof(16 * m, "ers/rho", ctx, big_c, h_root, curve.name)
        rho = [int.from_bytes(stream[16 * i : 16 * i + 16], "big") for i in range(m)]
        rhos.append([1] if m == 1 else rho)
        total = curve.zero
        for r, point in zip(rhos[-1], points, strict=True):
            total = curve.add(total, curve.mul(point, r))
        targets.append(curve.neg(curve.nonzero(total)))
    announcements = []
    for k in order:
        for (curve, _), rho, target, row in zip(groups, rhos, targets, values[k], strict=True):
            scalar = sum(r * v for r, v in zip(rho, row, strict=True)) % curve.q
            point = curve.nonzero(curve.base_mul(scalar))
            if k in closed:
                point = curve.add(point, target)
            announcements.append(curve.encode(point))
    again = hash_("ers/challenge", ctx, part["box"], big_c, h_root, announcements)
    trace = {
        "ctx": ctx, "closed": closed, "cover": cover, "h_root": h_root, "C": big_c, "rho": rhos,
        "ciphertexts": [ciphertexts[k] for k in order], "A": announcements, "e": again,
    }  # fmt: skip
    need(again == e, "challenge")
    return trace


def verify(data, *, spki=None, expected=None, facts=(), label=None, vault=None):
    """Verify a document in either form.

    ``expected`` maps key ids to (curve, public key); ``facts`` are single expectations, (key id,
    field, value), or (key id,). Returns one trace per part.
    """
    decode = decode_json_document if data[:1] == b"{" else decode_cbor_document
    version, parts = decode(data)
    need(1 <= len(parts) <= 255, "parts")
    contexts = [cbor(part["context"]) for part in parts]
    for context in contexts:
        check_context(context)
        need(context["version"] == version, "mixed versions")
        for name in ("params", "rsa_spki", "label", "vault", "keys"):
            need(context[name] == contexts[0][name], f"mixed {name}")
    order = [
        (c["node"], hashlib.sha256(to_cbor(part)).digest())
        for c, part in zip(contexts, parts, strict=True)
    ]
    need(all(a < b for a, b in itertools.pairwise(order)), "order of parts")
    need(spki is None or contexts[0]["rsa_spki"] == spki, "RSA key")
    need(label is None or contexts[0]["label"] == label, "label")
    found = {key[0]: (key[1], key[6]) for key in contexts[0]["keys"]}
    for key_id, want in (expected or {}).items():
        need(found.get(key_id) == want, "expected key")
    need(vault is None or contexts[0]["vault"] == vault, "vault")
    fields = {key[0]: dict(zip(KEY_FIELDS, key, strict=True)) for key in contexts[0]["keys"]}
    for key_id, *fact in facts:
        need(key_id in fields, "expected key")
        need(not fact or fields[key_id][fact[0]] == fact[1], "expected field")
    cache = {}

    def shared(key):
        if key["key_id"] not in cache:
            cache[key["key_id"]] = check_sharing(key)
        return cache[key["key_id"]]

    return [check_part(part, shared) for part in parts]


def main():
    data = pathlib.Path(sys.argv[1]).read_bytes()
    spki = pathlib.Path(sys.argv[2]).read_bytes() if len(sys.argv) > 2 else None
    try:
        traces = verify(data, spki=spki)
    except Invalid as exc:
        print(f"INVALID: {exc}")
        return 5
    print(f"VALID: {len(traces)} parts" + ("" if spki else "; RSA key not checked"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
