"""The RSA key: what is accepted (section 4 of the format), OAEP (RFC 8017, 7.1), decryption.

OAEP is with SHA-256, MGF1-SHA256 and the empty label. Not constant time.
"""

from __future__ import annotations

import hashlib
import math
from typing import Dict, List, Optional

from .encoding import big
from .errors import ToolError, malformed

E = 65537
SIZES = (2048, 3072, 4096)
_LABEL = hashlib.sha256(b"").digest()
_ALGORITHM = bytes.fromhex("300d06092a864886f70d0101010500")  # rsaEncryption, NULL


def der(kind: int, content: bytes) -> bytes:
    """One DER element."""
    size = len(content)
    if size < 128:
        return bytes([kind, size]) + content
    raw = big(size, (size.bit_length() + 7) // 8)
    return bytes([kind, 128 | len(raw)]) + raw + content


def der_integer(value: int) -> bytes:
    return der(2, big(value, value.bit_length() // 8 + 1))


def spki(n: int) -> bytes:
    """Canonical SubjectPublicKeyInfo of (n, 65537)."""
    numbers = der(0x30, der_integer(n) + der_integer(E))
    return der(0x30, _ALGORITHM + der(3, b"\0" + numbers))


class PublicKey:
    """A checked public key: ``n``, ``size`` in bytes, ``spki``, ``name`` (SHA-256 of it, hex)."""

    def __init__(self, n: int, raw: bytes) -> None:
        self.n, self.size, self.spki = n, n.bit_length() // 8, raw
        self.name = hashlib.sha256(raw).hexdigest()

    def encrypt(self, message: bytes, coins: bytes) -> bytes:
        """OAEP with the given coins."""
        data = _LABEL + bytes(self.size - 66 - len(message)) + b"\x01" + message
        masked = _xor(data, mgf1(coins, len(data)))
        padded = _xor(coins, mgf1(masked, 32)) + masked
        return big(pow(int.from_bytes(padded, "big"), E, self.n), self.size)


class PrivateKey:
    """n and d, and the public key."""

    def __init__(self, n: int, d: int) -> None:
        self.public = load(spki(n))
        self._d = d
        if pow(pow(2, E, n), d, n) != 2:
            raise malformed("the RSA private key does not fit its public key")

    def decrypt(self, ciphertext: bytes) -> Optional[bytes]:
        """The plaintext, or None if the padding is wrong."""
        m = pow(int.from_bytes(ciphertext, "big"), self._d, self.public.n)
        return oaep_decode(big(m, self.public.size))


def mgf1(seed: bytes, n: int) -> bytes:
    """RFC 8017, B.2.1."""
    out = b""
    while len(out) < n:
        out += hashlib.sha256(seed + big(len(out) // 32, 4)).digest()
    return out[:n]


def _xor(a: bytes, b: bytes) -> bytes:
    return bytes(x ^ y for x, y in zip(a, b))


def oaep_decode(padded: bytes) -> Optional[bytes]:
    """The message in a padded block as long as the modulus; None if the padding is wrong."""
    masked = padded[33:]
    coins = _xor(padded[1:33], mgf1(masked, 32))
    data = _xor(masked, mgf1(coins, len(masked)))
    rest = data[32:].lstrip(b"\0")
    if len(padded) < 66 or padded[0] or data[:32] != _LABEL or rest[:1] != b"\x01":
        return None
    return rest[1:]


# -- what is accepted


def _weak(message: str) -> ToolError:
    return ToolError("E_WEAK_RSA", message)


def modulus(raw: bytes) -> int:
    """n of a canonical SubjectPublicKeyInfo of an accepted size; E_WEAK_RSA, E_MALFORMED."""
    for bits in SIZES:
        # With the size known, the place of n is known; encoding again decides.
        start = len(spki(1 << (bits - 1))) - 5 - bits // 8
        n = int.from_bytes(raw[start : start + bits // 8], "big")
        if n.bit_length() == bits and spki(n) == raw:
            return n
    if raw[:1] != b"\x30":
        raise malformed("not an RSA public key: give SubjectPublicKeyInfo")
    raise _weak("an RSA key in canonical DER with 2048, 3072 or 4096 bits and e = 65537 is needed")


_LOADED: Dict[bytes, PublicKey] = {}


def load(raw: bytes) -> PublicKey:
    """Check a SubjectPublicKeyInfo (DER); E_WEAK_RSA, E_MALFORMED."""
    if raw not in _LOADED:
        n = modulus(raw)
        if n % 2 == 0:
            raise _weak("the modulus is even")
        primes = _primes(1 << 20)
        if math.gcd(n, _product(primes[1:]) % n) != 1:
            raise _weak("the modulus has a prime factor below 2^20")
        # A k-th power without such factors has k < bits/20.
        for k in (p for p in primes if p <= n.bit_length() // 20):
            if _root(n, k) ** k == n:
                raise _weak("the modulus is a perfect power")
        if all(pow(base, n - 1, n) == 1 for base in (3, 5, 7)):
            raise _weak("the modulus is a prime number")
        if all(n % p in {pow(E, i, p) for i in range(p)} for p in primes[1:] if p <= 167):
            raise _weak("the modulus has the ROCA fingerprint (CVE-2017-15361)")
        _LOADED[raw] = PublicKey(n, raw)
    return _LOADED[raw]


def _primes(limit: int) -> List[int]:
    sieve = bytearray([1]) * limit
    for i in range(2, math.isqrt(limit) + 1):
        if sieve[i]:
            sieve[i * i :: i] = bytes(len(range(i * i, limit, i)))
    return [i for i in range(2, limit) if sieve[i]]


def _product(numbers: List[int]) -> int:
    while len(numbers) > 1:  # in pairs: numbers of equal size multiply fastest
        numbers = [math.prod(numbers[i : i + 2]) for i in range(0, len(numbers), 2)]
    return numbers[0]


def _root(n: int, k: int) -> int:
    """The largest r with r^k <= n."""
    low, high = 1, 1 << (n.bit_length() // k + 1)
    while high - low > 1:
        middle = (low + high) // 2
        if middle**k <= n:
            low = middle
        else:
            high = middle
    return low
