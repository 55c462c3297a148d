"""T-064: BIP-340 signatures of FROST against BIP-340 and BIP-341 read off the BIPs.

``tests/curves/bip340_reference.py`` shares no code with the product. Keys and nonces of both signs,
with and without a taproot tweak, derived and not; 100 keys in ./test, 1,000 with --full.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest

from curves import bip340_reference as reference
from keycairn.curves import SECP256K1
from keycairn.protocols import frost
from protocols.lockstep import deal, parties, run


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.full)])
def test_t064_keys_and_nonces_of_both_signs_match_the_reference(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rnd, signs = random.Random(64), Counter[tuple[bool, bool, int]]()
    packages: list[frost.SigningPackage] = []
    honest = frost.SigningPackage.build.__func__  # type: ignore[attr-defined]

    def build(cls: type, *args: object) -> frost.SigningPackage:
        packages.append(honest(cls, *args))
        return packages[-1]

    monkeypatch.setattr(frost.SigningPackage, "build", classmethod(build))
    for n in range(count):
        keys = deal("secp256k1", 3, 1, scheme="schnorr", key_id=f"reference/{n}")
        record = keys[1].record
        kind, message = n % 3, rnd.randbytes(n % 70)
        root = (None, b"", rnd.randbytes(32))[kind]
        tweak = rnd.getrandbits(250) if n % 2 else 0
        players = sorted(rnd.sample((1, 2, 3), 2))
        members = parties(players, f"reference/{n}")
        request = frost.Request(message, tweak, root)
        made = run({i: frost.sign_full(members[i], keys[i], [request]) for i in players})
        ((one,), (two,)) = (o.result for o in made.values())
        assert one == two
        child = (
            SECP256K1.add([record.public_point(), SECP256K1.base_mul(tweak)])
            if tweak
            else (record.public_point())
        )
        x_only = child.encode()[1:]
        if root is not None:
            x_only = reference.output_key(x_only, root)
        assert one.public_key[1:] == x_only
        assert reference.verify(x_only, message, one.signature)
        assert not reference.verify(x_only, message + b"\0", one.signature)
        signs[child.encode()[0] == 3, packages[-1].negated, kind] += 1
    assert len(signs) == 12, "both signs of key and nonce, with no tweak, BIP-86's, a tree's"
