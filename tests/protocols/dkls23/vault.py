"""A dealt key with setups, and shorthands to presign and sign in lockstep."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from keycairn.protocols import dkls23
from keycairn.protocols.dkls23 import EcdsaSignature, Presignature, Request, presign
from keycairn.protocols.form import Party, Protocol
from keycairn.protocols.record import KeyShare
from keycairn.protocols.setup import PairSetup
from protocols.lockstep import Hook, Outcome, deal, deal_setups, parties, run


def sha(text: object) -> bytes:
    return hashlib.sha256(str(text).encode()).digest()


def sign(
    party: Party,
    key: KeyShare,
    setups: dict[int, PairSetup],
    presignature: Presignature,
    digest: bytes,
    tweak: int = 0,
) -> Protocol[EcdsaSignature]:
    """One signature from one presignature, in a confirmed session."""
    taken = dkls23.claim(
        key, party.index, party.players, setups, [presignature], [Request(digest, tweak)]
    )
    (signature,) = yield from dkls23.sign(party, taken)
    return signature


def sign_full(
    party: Party, key: KeyShare, setups: dict[int, PairSetup], digest: bytes, tweak: int = 0
) -> Protocol[EcdsaSignature]:
    """One signature in a session that makes its own presignature."""
    (signature,) = yield from dkls23.sign_full(party, key, setups, [Request(digest, tweak)])
    return signature


class Vault:
    """A t-of-n key at all its holders, and live setups of all pairs of ``signers``."""

    def __init__(
        self,
        n: int,
        t: int,
        signers: tuple[int, ...],
        seed: object = 0,
        curve: str = "secp256k1",
    ) -> None:
        self.signers = signers
        self.keys = deal(curve, n=n, t=t, key_id=f"key-{seed}")
        self.setups = deal_setups(signers, seed)
        self.record = self.keys[1].record
        self.group = self.record.group
        self._seed = seed
        self._sessions = 0

    def parties(self, name: str = "") -> dict[int, Any]:
        self._sessions += 1
        return parties(self.signers, f"{name}/{self._sessions}", self._seed)

    def presign(self, count: int = 1, hook: Hook | None = None) -> dict[int, Outcome]:
        members = self.parties("presign")
        return run(
            {i: presign(members[i], self.keys[i], self.setups[i], count) for i in self.signers},
            hook,
        )

    def presignatures(
        self, count: int = 1, hook: Hook | None = None
    ) -> dict[int, list[Presignature]]:
        outcomes = self.presign(count, hook)
        for outcome in outcomes.values():
            if outcome.error:
                raise outcome.error
        return {i: o.result for i, o in outcomes.items()}

    def sign(
        self,
        presignatures: dict[int, Presignature],
        digest: bytes | dict[int, bytes],
        tweak: int | dict[int, int] = 0,
        hook: Hook | None = None,
    ) -> dict[int, Outcome]:
        members = self.parties("sign")
        return run(
            {
                i: sign(
                    members[i],
                    self.keys[i],
                    self.setups[i],
                    presignatures[i],
                    digest[i] if isinstance(digest, dict) else digest,
                    tweak[i] if isinstance(tweak, dict) else tweak,
                )
                for i in self.signers
            },
            hook,
        )

    def sign_full(
        self, digest: bytes, tweak: int = 0, hook: Hook | None = None
    ) -> dict[int, Outcome]:
        members = self.parties("full")
        return run(
            {
                i: sign_full(members[i], self.keys[i], self.setups[i], digest, tweak)
                for i in self.signers
            },
            hook,
        )

    def public_key(self, tweak: int = 0) -> bytes:
        point = self.record.public_point()
        return (self.group.add([point, self.group.base_mul(tweak)]) if tweak else point).encode()


def signature_of(outcomes: dict[int, Outcome]) -> EcdsaSignature:
    """The one signature that all signers have; fails the test if any has none."""
    for i, outcome in outcomes.items():
        if outcome.error:
            pytest.fail(f"player {i}: {outcome.error}")
    first, *others = (o.result for o in outcomes.values())
    assert all(other == first for other in others)
    assert isinstance(first, EcdsaSignature)
    return first
