"""Fiat-Shamir: the combination coefficients rho, the challenge e and the closed leaves T."""

from __future__ import annotations

from collections.abc import Sequence

from keycairn.encoding import digest, tag, xof
from keycairn.ers.context import Bundle
from keycairn.ers.params import Params

_CIPHERTEXTS = tag("ers/ciphertexts")
_RHO = tag("ers/rho")
_CHALLENGE = tag("ers/challenge")
_CLOSED = tag("ers/closed")

RHO_LEN = 16


def hash_ciphertexts(ctx: bytes, ciphertexts: Sequence[bytes]) -> bytes:
    """One digest that stands for c_1..c_N in everything below."""
    return digest(_CIPHERTEXTS, ctx, list(ciphertexts))


def coefficients(ctx: bytes, c_hash: bytes, h_root: bytes, bundle: Bundle) -> list[int]:
    """rho for every secret of a curve: 128 bits each, or 1 for a single secret.

    They come after the ciphertexts and the masked secrets are fixed: with a coefficient known
    before, errors in two secrets could cancel.
    """
    if bundle.size == 1:
        return [1]
    stream = xof(RHO_LEN * bundle.size, _RHO, ctx, c_hash, h_root, bundle.group.name)
    return [int.from_bytes(stream[i : i + RHO_LEN], "big") for i in range(0, len(stream), RHO_LEN)]


def challenge(
    ctx: bytes, box: bytes, c_hash: bytes, h_root: bytes, announcements: Sequence[bytes]
) -> bytes:
    """e, 32 bytes. ``announcements`` are the encoded A, by leaf, then by curve."""
    return digest(_CHALLENGE, ctx, box, c_hash, h_root, list(announcements))


def closed_leaves(e: bytes, p: Params) -> list[int]:
    """T: the tau leaves (1..N, rising) that stay closed.

    16-bit big-endian words of an XOF; words at or above the largest multiple of N are skipped,
    the others taken mod N, repeats skipped.
    """
    limit = (1 << 16) // p.leaves * p.leaves
    words = 4 * p.leaves
    while True:
        stream = xof(2 * words, _CLOSED, e)
        chosen: set[int] = set()
        for i in range(0, len(stream), 2):
            word = int.from_bytes(stream[i : i + 2], "big")
            if word < limit:
                chosen.add(word % p.leaves + 1)
                if len(chosen) == p.closed:
                    return sorted(chosen)
        words *= 2
