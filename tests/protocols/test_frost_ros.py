"""Many sessions at once, and what a signer is told to sign for (T-061, T-063).

The ROS attack (Benhamouda, Lepoint, Loss, Orrù, Raykova, eprint 2020/945) is carried out in full:
player 2 opens as many sessions with player 1 as the group order has bits, chooses last in all of
them, and makes a signature that player 1 never took part in. It works against a FROST without
binding factors, and not against FROST.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import pytest

from keycairn.curves import Point
from keycairn.curves.polynomial import lagrange
from keycairn.encoding import SecretScalar
from keycairn.errors import Code, KeycairnError
from keycairn.ports.seeded import SeededRng
from keycairn.protocols import frost
from keycairn.protocols.frost import core
from protocols.lockstep import deal

FORGED = b"a message that player 1 never saw"


@dataclass(frozen=True)
class Choice:
    """One way in which the attacker can complete a session: the package, and player 1's nonce."""

    package: frost.SigningPackage
    nonce: Point


class Attack:
    """Player 2 against player 1, who serves any number of sessions honestly."""

    def __init__(self, curve: str, sessions: int | None = None) -> None:
        self.keys = deal(curve, 3, 1, scheme="schnorr")
        self.key = frost.signing_key(self.keys[1].record)
        self.suite = self.key.suite
        self.group = self.suite.group
        self.q = self.group.q
        count = sessions or self.q.bit_length()
        self.opened = [
            frost.commit(1, self.keys[1].share, SeededRng(f"ros/{k}"), self.suite)
            for k in range(count)
        ]

    def choices(self, k: int) -> tuple[Choice, Choice]:
        """Two completions of session k, which differ in the message."""
        mine = frost.commit(2, self.keys[2].share, SeededRng(f"mine/{k}"), self.suite).commitment
        pair = self.opened[k]
        made = []
        for text in (f"harmless {k}", f"just as harmless {k}"):
            listed = [pair.commitment, mine]
            package = frost.SigningPackage.build(listed, text.encode(), self.key)
            made.append(Choice(package, pair.bound(package.factors[1])))
        return made[0], made[1]

    def forge(self) -> bytes:
        """The signature of FORGED, if player 1's part of R does not depend on the choices."""
        q, group = self.q, self.group
        pairs = [self.choices(k) for k in range(len(self.opened))]
        # Player 1 answers z = ±(d + ρ·e) + c·λ·x. The challenges that count carry the sign of R.
        seen = [[self._challenge(c) for c in pair] for pair in pairs]
        factors = [
            pow(2, k, q) * pow(second - first, -1, q) % q for k, (first, second) in enumerate(seen)
        ]
        shift = sum(f * first for f, (first, _) in zip(factors, seen, strict=True))
        nonce = group.combine([(f, pair[0].nonce) for f, pair in zip(factors, pairs, strict=True)])
        negated, r = self.suite.normal(nonce)
        wanted = self.suite.challenge(r, self.key.public_key, FORGED)
        signed = -wanted if negated else wanted
        bits = (signed - shift) % q
        total = 0
        for k, (factor, pair) in enumerate(zip(factors, pairs, strict=True)):
            choice = pair[bits >> k & 1]
            z = frost.sign_share(choice.package, self.opened[k], self.keys[1].share, 1)
            total += factor * (-z if choice.package.negated else z)
        own = self.key.share(self.keys[2].share.reveal()) * lagrange(group, (1, 2), 2)
        response = (total + signed * own) % q
        return self.suite.encode_signature(r, (-response if negated else response) % q)

    def _challenge(self, choice: Choice) -> int:
        package = choice.package
        return -package.challenge if package.negated else package.challenge


@pytest.mark.parametrize("curve", ["ed25519", "secp256k1"])
def test_t063_256_sessions_at_once_give_no_forgery(curve: str) -> None:
    attack = Attack(curve, 256)
    forged = attack.forge()
    with pytest.raises(KeycairnError) as caught:
        attack.suite.verify(attack.key.public_key.encode(), FORGED, forged)
    assert caught.value.code is Code.SIG_INVALID


@pytest.mark.parametrize("curve", ["ed25519", "secp256k1"])
def test_t063_control_without_binding_factors_the_same_attack_forges(
    curve: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What "simplified" FROST with one effective nonce comes to."""
    monkeypatch.setattr(
        core, "compute_binding_factors", lambda _key, listed, *_: {c.index: 1 for c in listed}
    )
    attack = Attack(curve, 256)
    attack.suite.verify(attack.key.public_key.encode(), FORGED, attack.forge())


def changed(rnd: random.Random, listed: list[Any], message: bytes) -> tuple[list[Any], bytes]:
    """One change of a list of commitments or of a message."""
    out, at = list(listed), rnd.randrange(len(listed))
    one = out[at]
    point = one.hiding.group.base_mul(rnd.getrandbits(200))
    kind = rnd.randrange(6)
    if kind == 0:
        return out, rnd.randbytes(rnd.randrange(40)) or b"\0"
    if kind == 1 and message:
        k = rnd.randrange(len(message))
        return out, message[:k] + bytes([message[k] ^ 1 << rnd.randrange(8)]) + message[k + 1 :]
    if kind == 2 and len(out) > 1:
        del out[at]
    elif kind == 3:
        out[at] = frost.NonceCommitment(one.index, one.binding, one.hiding)
    elif kind == 4:
        out[at] = frost.NonceCommitment(one.index, point, one.binding)
    else:
        out[at] = frost.NonceCommitment(one.index, one.hiding, point)
    return out, message


@pytest.mark.parametrize("kind", ["ed25519", "bip340"])
def test_t063_any_change_of_list_or_message_changes_all_factors(kind: str) -> None:
    suite = frost.ED25519_SHA512 if kind == "ed25519" else frost.BIP340
    rnd = random.Random(63)
    share = SecretScalar(7)
    public = suite.group.base_mul(99)
    seen: dict[int, set[int]] = {}
    total = 0
    for number in range(60):
        players = rnd.sample(range(1, 9), rnd.randrange(2, 6))
        listed = [
            frost.commit(i, share, SeededRng(f"{number}/{i}"), suite).commitment
            for i in sorted(players)
        ]
        message = rnd.randbytes(rnd.randrange(50))
        base = frost.compute_binding_factors(public, listed, message, suite)
        for _ in range(5):
            other = frost.compute_binding_factors(public, *changed(rnd, listed, message), suite)
            for i in set(base) & set(other):
                assert base[i] != other[i]
                total += 1
        for i, factor in base.items():
            assert factor not in seen.setdefault(i, set())
            seen[i].add(factor)
        assert len(set(base.values())) == len(base), "two signers share a factor"
    assert total > 500


def test_t061_a_message_that_goes_on_as_the_list_does_is_another_message() -> None:
    """Hashing message ‖ list would not tell where one ends (Zcash Foundation's audit, 2021)."""
    suite, share = frost.ED25519_SHA512, SecretScalar(7)
    public = suite.group.base_mul(99)
    listed = [frost.commit(i, share, SeededRng(f"{i}"), suite).commitment for i in (1, 2, 3)]
    raw = frost.encode_commitment_list(listed)
    size = len(raw) // 3
    # The same bytes, cut at another place: three commitments, or two and a longer message.
    one, other = (b"pay", listed), (b"pay" + raw[:size], listed[1:])
    assert one[0] + raw == other[0] + frost.encode_commitment_list(other[1])
    first, second = (
        frost.compute_binding_factors(public, commitments, message, suite)
        for message, commitments in (one, other)
    )
    assert first[2] != second[2]
    assert first[3] != second[3]
    packages = [
        frost.SigningPackage.build(commitments, message, frost.SigningKey(suite, public)).hash
        for message, commitments in (one, other)
    ]
    assert packages[0] != packages[1]


@pytest.mark.parametrize("what", ["hiding", "binding", "both", "a negative"])
def test_t061_a_signer_finds_its_own_pair_byte_for_byte_or_refuses_and_spends(what: str) -> None:
    suite, keys = frost.ED25519_SHA512, deal("ed25519", 3, 1, scheme="schnorr")
    pair = frost.commit(1, keys[1].share, SeededRng("own"), suite)
    peer = frost.commit(2, keys[2].share, SeededRng("peer"), suite)
    own, other = pair.commitment, suite.group.base_mul(5)
    swapped = {
        "hiding": frost.NonceCommitment(1, other, own.binding),
        "binding": frost.NonceCommitment(1, own.hiding, other),
        "both": frost.NonceCommitment(1, peer.commitment.hiding, peer.commitment.binding),
        "a negative": frost.NonceCommitment(1, suite.group.neg(own.hiding), own.binding),
    }[what]
    key = frost.signing_key(keys[1].record)
    bad = frost.SigningPackage.build([swapped, peer.commitment], b"m", key)
    good = frost.SigningPackage.build([own, peer.commitment], b"m", key)
    for package, code in ((bad, Code.MALFORMED), (good, Code.PRESIG_SPENT)):
        with pytest.raises(KeycairnError) as caught:
            frost.sign_share(package, pair, keys[1].share, 1)
        assert caught.value.code is code
