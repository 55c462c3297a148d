"""The floor of a method: its library calls alone, as counted, at this machine's speed.

A count names how often each primitive is called for one unit (a presignature, a key, a setup) by
one party. What is left of a figure above its floor is arithmetic on arrays and integers, Python
itself, and messages. So the ratio of a figure to its floor says what this program adds, on any
machine.
"""

from __future__ import annotations

from collections.abc import Mapping

from keycairn.protocols import base_ot
from keycairn.protocols.dkls23.parameters import (
    COLUMNS,
    MASK_LEN,
    ROWS,
    XI,
    chunk_sizes,
    row_len,
)

Count = Mapping[str, float]
_KIB = 1024
#: AES calls of the OT hash of one column: one for y', then one a block of the masks.
_HASH_BLOCKS = 1 + COLUMNS * MASK_LEN // 16


def cost_ms(count: Count, microseconds: Mapping[str, float]) -> float:
    """Milliseconds of the calls."""
    return sum(times * microseconds[name] for name, times in count.items()) / 1000


def presign(signers: int, batch: int) -> Count:
    """DKLs23, one presignature: own R and pk; with every peer Γ twice as Alice, d·G and χ·P twice
    as Bob; three streams of rows, four hashes of what Alice sends, OT hashes of both directions."""
    peers = signers - 1
    rows = sum(ROWS * row_len(c) for c in chunk_sizes(batch)) / batch / _KIB
    corrections = COLUMNS * MASK_LEN * XI / _KIB
    return {
        "base_mult": 2 + 4 * peers,
        "constant_time_mult": 2 * peers,
        "decode": 4 * peers,
        "shake128_kib": 3 * rows * peers,
        "sha256_kib": 2 * (rows + corrections) * peers,
        "aes_block": 3 * XI * _HASH_BLOCKS * peers,
    }


def ecdsa_use(signers: int) -> Count:
    """A signature from a presignature: δ·G, R, and the signature verified."""
    del signers  # Peers cost messages, not calls.
    return {"base_mult": 1, "decode": 1, "verify": 1}


def ecdsa_full(signers: int) -> Count:
    """A session that presigns and signs."""
    both = dict(presign(signers, 1))
    for name, times in ecdsa_use(signers).items():
        both[name] = both.get(name, 0) + times
    return both


def frost_use(signers: int) -> Count:
    """RFC 9591 from nonces that were checked: own D + ρ·E as one base multiplication, a
    multiplication for each peer, sums, and the signature verified."""
    return {"base_mult": 1, "public_mult": signers - 1, "add": 2 * (signers - 1), "verify": 1}


def frost_nonces(signers: int) -> Count:
    """A nonce pair: two base multiplications, two points of every peer."""
    return {"base_mult": 2, "decode": 2 * (signers - 1)}


def frost_full(signers: int) -> Count:
    """Nonces and signature in one session."""
    nonces, use = frost_nonces(signers), frost_use(signers)
    return {name: nonces.get(name, 0) + use.get(name, 0) for name in {**nonces, **use}}


def keygen(players: int, threshold: int) -> Count:
    """A key: own commitments and proof, every dealer's proof, share and points, own share."""
    peers = players - 1
    return {
        "base_mult": (threshold + 1) + 1 + 2 * peers + 1,
        "public_mult": peers,
        "decode": peers * (threshold + 2),
    }


def setup() -> Count:
    """A pairwise setup, both directions (secp256k1 whatever is signed)."""
    return {
        "base_mult": base_ot.COUNT + 1,
        "constant_time_mult": 3 * base_ot.COUNT,
        "hash_to_point": 4 * base_ot.COUNT,
        "add": 3 * base_ot.COUNT,
        "decode": 2 * base_ot.COUNT + 1,
    }
