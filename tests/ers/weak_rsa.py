"""RSA public keys that must be refused (R-30), one for every reason; the same in every run."""

from __future__ import annotations

import gmpy2

from keycairn.ers import rsa
from keycairn.ports.seeded import SeededRng

BITS = 3072


def prime(bits: int, seed: int = 1) -> int:
    raw = int.from_bytes(SeededRng(seed).bytes(bits // 8), "big") | 0xFF << (bits - 8)
    return int(gmpy2.next_prime(raw))


def _exactly(n: int, bits: int) -> int:
    assert n.bit_length() == bits
    return n


def _roca(bits: int) -> int:
    product = int(gmpy2.primorial(167))

    def half(seed: int) -> int:
        start = pow(65537, seed, product) + (3 << (bits // 2 - 2)) // product * product
        while not gmpy2.is_prime(start):
            start += product
        return start

    return half(5) * half(9)


P, Q = prime(BITS // 2, 1), prime(BITS // 2, 2)
N = P * Q
#: name -> (n, e, the check that fails)
WEAK = {
    "1024 bits": (prime(512, 3) * prime(512, 4), 65537, "size"),
    "2048 bits without the flag": (prime(1024, 3) * prime(1024, 4), 65537, "size"),
    "3071 bits": (N >> 1 | 1, 65537, "size"),
    "16384 bits": ((1 << 16383) + 12345, 65537, "size"),
    "prime": (prime(BITS, 5), 65537, "prime"),
    "square": (_exactly(P * P, BITS), 65537, "power"),
    "fourth power": (_exactly(prime(BITS // 4, 6) ** 4, BITS), 65537, "power"),
    "small factor": (_exactly(1048573 * prime(BITS - 20, 7), BITS), 65537, "small factor"),
    "factor 3": (_exactly(3 * prime(BITS - 2, 12), BITS), 65537, "small factor"),
    "even": (N - 1, 65537, "even"),
    **{f"e={e}": (N, e, "exponent") for e in (1, 2, 3, 4, 2**32 + 1, N - 2)},
    "roca": (_roca(BITS), 65537, "roca"),
}


def weak_spkis() -> dict[str, bytes]:
    """Those that a document could name, by a short name."""
    names = {
        "1024 bits": "1024-bits", "3071 bits": "3071-bits", "prime": "prime", "square": "square",
        "small factor": "small-factor", "even": "even", "e=3": "exponent-3", "roca": "roca",
    }  # fmt: skip
    return {short: rsa.encode_spki(*WEAK[name][:2]) for name, short in names.items()}
