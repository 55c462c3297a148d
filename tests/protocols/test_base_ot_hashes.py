"""The base OTs: their hashes against the transcript's encoder, and fixed values."""

from __future__ import annotations

import hashlib

import pytest

from keycairn.curves import SECP256K1
from keycairn.encoding import xof
from keycairn.encoding.transcript import registered_tags
from keycairn.ports.seeded import SeededRng
from keycairn.protocols import base_ot

PSID = base_ot.pair_id(b"s" * 32, 1, 2)


@pytest.mark.parametrize("i", [0, 1, 127])
@pytest.mark.parametrize("b", [0, 1])
def test_hashes_are_those_of_the_transcript(i: int, b: int) -> None:
    tags = registered_tags()
    point = SECP256K1.base_mul(4711 + i)
    uniform = xof(64, tags["baseot/h"], PSID, i, bytes([b]), point.encode())
    hashed = base_ot._hash_to_point(base_ot._hash_head(PSID), i, b, point.encode())
    assert hashed == SECP256K1.hash_to_point(uniform)
    key = xof(16, tags["baseot/k"], PSID, b"d" * 32, i, bytes([b]), point.encode())
    assert base_ot._derive(base_ot._key_head(PSID, b"d" * 32), i, b, point) == key


def test_keys_are_those_of_the_formulas() -> None:
    """The sender's keys once more from the transcript's functions and public multiplications."""
    rng, tags, setup_id = SeededRng("formulas"), registered_tags(), b"i" * 32
    receiver, sender = base_ot.Receiver(PSID, rng), base_ot.Sender(PSID, rng)
    r0, r1 = (base_ot.decode_column(column) for column in (receiver.r0, receiver.r1))
    keys = sender.keys(setup_id, r0, r1)
    for i in (0, 63, 127):
        for b, (mine, other) in enumerate([(r0[i], r1[i]), (r1[i], r0[i])]):
            uniform = xof(64, tags["baseot/h"], PSID, i, bytes([b]), other.encode())
            total = SECP256K1.add([mine, SECP256K1.hash_to_point(uniform)])
            shared = SECP256K1.mul_public(total, sender._a)
            expected = xof(16, tags["baseot/k"], PSID, setup_id, i, bytes([b]), shared.encode())
            assert keys[32 * i + 16 * b :][:16] == expected


def test_the_messages_of_a_seed_never_change() -> None:
    """What goes over the wire, from fixed randomness: made once with the transcript's functions
    and public multiplications."""
    receiver = base_ot.Receiver(PSID, SeededRng("fixed"))
    digest = hashlib.sha256(receiver.r0 + receiver.r1).hexdigest()
    assert digest == "defcd3db4f7fa6f8ba4b2b281cf952e4a3c193fe80599cfed24e689a3d23a500"
