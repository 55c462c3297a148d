"""Recovery and wrapping RSA public keys: what is accepted, and why nothing else is (R-30).

A public key from outside is hostile: a modulus that is prime, a square or has a small factor
loads and encrypts in every library, and then anyone can decrypt. The checks here need no private
key and take well under a second each. What they cannot show is that RSA is a permutation for the
key; proof of possession (``possession``) and recovery drills stand beside them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations

import gmpy2  # type: ignore[import-untyped]

from keycairn.errors import Code, KeycairnError, malformed
from keycairn.ers import oaep

EXPONENT = 65537
_SIZES = (3072, 4096)
_LEGACY_SIZE = 2048
_MAX_INPUT = 16384
_SMALL = 1 << 20
_ALGORITHM = bytes.fromhex("300d06092a864886f70d0101010500")  # rsaEncryption, NULL
_PEM = re.compile(
    rb"\s*-----BEGIN PUBLIC KEY-----\s([A-Za-z0-9+/=\s]+)-----END PUBLIC KEY-----\s*\Z"
)
#: Primes of the ROCA fingerprint (CVE-2017-15361): an affected modulus is a power of 65537
#: modulo every one of them.
_ROCA_PRIMES = tuple(p for p in range(3, 168) if gmpy2.is_prime(p))


@dataclass(frozen=True)
class RsaPublicKey:
    """A public key that passed :func:`load_rsa_public_key`.

    Attributes:
        n, e: modulus and exponent (65537).
        bits: 2048, 3072 or 4096.
        spki: canonical SubjectPublicKeyInfo, DER.
    """

    n: int
    e: int
    bits: int
    spki: bytes
    _n: gmpy2.mpz = field(repr=False, compare=False, default=gmpy2.mpz(0))

    @property
    def size(self) -> int:
        """Bytes of the modulus and of every ciphertext."""
        return self.bits // 8

    @property
    def spki_sha256(self) -> str:
        """The key's name on allow-lists: SHA-256 of ``spki``, lower-case hex."""
        return hashlib.sha256(self.spki).hexdigest()

    def encrypt(self, message: bytes, coins: bytes) -> bytes:
        """RSA-OAEP-SHA256-MGF1SHA256 with empty label and the given 32 coins."""
        return oaep.encrypt(self._n or gmpy2.mpz(self.n), self.e, self.size, message, coins)


def _weak(check: str, message: str) -> KeycairnError:
    return KeycairnError(
        Code.WEAK_RSA,
        message,
        not_lost="The key was not registered and nothing was encrypted under it.",
        next="make a key with `keycairn-recover keygen --bits 3072`",
        detail={"check": check},
    )


def _der(kind: int, content: bytes) -> bytes:
    size = len(content)
    if size < 128:
        return bytes([kind, size]) + content
    raw = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([kind, 0x80 | len(raw)]) + raw + content


def _der_integer(value: int) -> bytes:
    return _der(2, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def encode_spki(n: int, e: int) -> bytes:
    """Canonical SubjectPublicKeyInfo (RFC 5280, RFC 8017 A.1.1) of an RSA key, DER."""
    numbers = _der(0x30, _der_integer(n) + _der_integer(e))
    return _der(0x30, _ALGORITHM + _der(3, b"\x00" + numbers))


def _take(data: bytes, kind: int) -> tuple[bytes, bytes]:
    # One DER element and what follows. Leniency is harmless: the caller re-encodes and compares.
    if len(data) < 2 or data[0] != kind:
        raise malformed("not an RSA SubjectPublicKeyInfo in DER")
    size, start = data[1], 2
    if size & 0x80:
        start += size & 0x7F
        size = int.from_bytes(data[2:start], "big")
    if len(data) < start + size:
        raise malformed("the DER encoding is cut off")
    return data[start : start + size], data[start + size :]


def parse_spki(der: bytes) -> tuple[int, int]:
    """``(n, e)`` of a canonical RSA SubjectPublicKeyInfo; no strength check.

    Raises:
        KeycairnError: E_MALFORMED unless ``der`` is byte-equal to the re-encoding of what it
            holds (PKCS#1 form, other algorithms, trailing bytes, long forms).
    """
    outer, _ = _take(der, 0x30)
    if not outer.startswith(_ALGORITHM):
        raise malformed("not an rsaEncryption SubjectPublicKeyInfo")
    bits, _ = _take(outer[len(_ALGORITHM) :], 3)
    numbers, _ = _take(bits[1:], 0x30)
    raw_n, rest = _take(numbers, 2)
    raw_e, _ = _take(rest, 2)
    n, e = (int.from_bytes(raw, "big", signed=True) for raw in (raw_n, raw_e))
    if n < 0 or e < 0 or encode_spki(n, e) != der:
        raise malformed("the RSA key is not in canonical DER")
    return n, e


def to_pem(spki: bytes) -> bytes:
    """The PEM form of a DER SubjectPublicKeyInfo."""
    text = base64.b64encode(spki)
    lines = b"\n".join(text[i : i + 64] for i in range(0, len(text), 64))
    return b"-----BEGIN PUBLIC KEY-----\n" + lines + b"\n-----END PUBLIC KEY-----\n"


def _to_der(data: bytes) -> bytes:
    if len(data) > _MAX_INPUT:
        raise KeycairnError(Code.TOO_LARGE, f"an RSA public key of over {_MAX_INPUT} bytes")
    if data[:1] == b"\x30":
        return data
    match = _PEM.match(data)
    if not match:
        raise malformed(
            "not an RSA public key: give SubjectPublicKeyInfo as PEM (BEGIN PUBLIC KEY) or DER"
        )
    try:
        return base64.b64decode(b"".join(match[1].split()), validate=True)
    except binascii.Error as exc:
        raise malformed("the PEM text is not valid base64") from exc


@lru_cache(maxsize=1)
def _primorial() -> gmpy2.mpz:
    return gmpy2.primorial(_SMALL)


@lru_cache(maxsize=1)
def _roca_groups() -> tuple[tuple[int, frozenset[int]], ...]:
    groups = []
    for p in _ROCA_PRIMES:
        powers, x = set(), 1
        while x not in powers:
            powers.add(x)
            x = x * EXPONENT % p
        groups.append((p, frozenset(powers)))
    return tuple(groups)


def _is_roca(n: int) -> bool:
    return all(n % p in powers for p, powers in _roca_groups())


@lru_cache(maxsize=256)
def _load(der: bytes, allow_2048: bool) -> RsaPublicKey:
    number, e = parse_spki(der)
    bits = number.bit_length()  # exact, so the top bit of the modulus is set
    if bits == _LEGACY_SIZE and not allow_2048:
        raise _weak("size", "RSA-2048 is accepted only with the explicit legacy flag")
    if bits not in (*_SIZES, _LEGACY_SIZE):
        raise _weak("size", f"the modulus has {bits} bits; 3072 or 4096 are accepted")
    if e != EXPONENT:
        raise _weak("exponent", f"the public exponent must be {EXPONENT}")
    n = gmpy2.mpz(number)
    if not n & 1:
        raise _weak("even", "the modulus is even")
    if gmpy2.gcd(n, _primorial()) != 1:
        raise _weak("small factor", "the modulus has a prime factor below 2^20")
    if gmpy2.is_power(n):
        raise _weak("power", "the modulus is a perfect power")
    if gmpy2.is_prime(n, 25):
        raise _weak("prime", "the modulus is a prime number")
    if _is_roca(number):
        raise _weak("roca", "the modulus has the ROCA fingerprint (CVE-2017-15361)")
    return RsaPublicKey(number, e, bits, der, n)


def load_rsa_public_key(data: bytes, *, allow_2048: bool = False) -> RsaPublicKey:
    """Load and check an RSA public key (R-30).

    Args:
        data: SubjectPublicKeyInfo, as PEM (one block, nothing else) or canonical DER.
        allow_2048: accept exactly 2048 bits too: the legacy flag.

    Raises:
        KeycairnError: E_WEAK_RSA with ``detail["check"]`` for size, exponent, even, small
            factor, power, prime or roca; E_MALFORMED or E_TOO_LARGE for anything that is not
            such an encoding.
    """
    return _load(_to_der(bytes(data)), allow_2048)


def check_distinct(keys: Iterable[RsaPublicKey]) -> None:
    """Check that no two of the keys share a factor (pairwise gcd is 1).

    Raises:
        KeycairnError: E_WEAK_RSA naming both keys. Equal moduli share all factors: leave a key
            that is already registered out before calling.
    """
    for a, b in combinations(list(keys), 2):
        if gmpy2.gcd(a.n, b.n) != 1:
            raise KeycairnError(
                Code.WEAK_RSA,
                "two RSA keys share a prime factor, so both can be broken",
                not_lost="The key was not registered and nothing was encrypted under it.",
                next="replace both RSA keys",
                detail={"check": "shared factor", "keys": [a.spki_sha256, b.spki_sha256]},
            )
