"""Cheats by player 4's own programme: its messages fit each other and what they hash.

Nothing on the wire looks wrong, so only a check of the mathematics can find these, and some can be
found by nobody; the findings are those of the design's table of trials (docs/protocols/dkls23.md,
keygen.md, setup.md, frost.md). A patch acts on player 4 alone. Where a cheat passes if some bit of
the victim is guessed, there is a row for each case, and the patch reads the bit.
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Final
from unittest import mock

import numpy as np

from keycairn.curves import SECP256K1
from keycairn.protocols import base_ot, keygen, setup
from keycairn.protocols.dkls23 import ote, u384, vole
from keycairn.protocols.frost import core as frost_core
from protocols.cheating.places import (
    FINAL,
    GAMMA,
    KEY_SUM,
    NOBODY,
    NOTHING,
    OT,
    PROOF,
    SHARES,
    VOLE,
    Finding,
)
from protocols.cheating.scenes import CHEATER as FOUR
from protocols.cheating.scenes import SCENES, Stage
from protocols.cheating.table import VICTIM
from protocols.lockstep import replace
from protocols.network import Outcome

PRESIGN: Final = importlib.import_module("keycairn.protocols.dkls23.presign")
Q: Final = SECP256K1.q

Patch = Callable[[Stage], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Programme:
    """One cheat: player 4 runs another programme in a scene.

    Attributes:
        only: the one honest player whose check can fail; None for all.
    """

    name: str
    scene: str
    patch: Patch
    finding: Finding
    only: int | None = None

    def __str__(self) -> str:
        return f"{self.scene}: {self.name}"

    @property
    def verdicts(self) -> dict[int, Finding]:
        found = self.finding
        if self.only is None or found.joint or found.code is None:
            return dict.fromkeys(SCENES[self.scene].judges, found)
        rest = Finding(found.code, NOBODY, "hears")
        return {i: found if i == self.only else rest for i in SCENES[self.scene].judges}

    @property
    def spent(self) -> dict[int, bool]:
        late = self.finding.code is None or self.finding in (FINAL, SHARES)
        return dict.fromkeys(self.verdicts, late and SCENES[self.scene].books)


# -- key generation, FROST ------------------------------------------------------------------------


@contextmanager
def _garbage_proof(_: Stage) -> Iterator[None]:
    """Committed, and then opened: only the proof of knowledge itself is wrong."""
    honest = keygen.prove_knowledge

    def prove(tag: Any, secret: int, *rest: Any, **named: Any) -> Any:
        if named["prover"] == FOUR:
            secret += 1
        return honest(tag, secret, *rest, **named)

    with mock.patch.object(keygen, "prove_knowledge", prove):
        yield


@contextmanager
def _proof_of_another(_: Stage) -> Iterator[None]:
    honest = keygen.prove_knowledge

    def prove(*args: Any, **named: Any) -> Any:
        if named["prover"] == FOUR:
            named["prover"] = 3
        return honest(*args, **named)

    with mock.patch.object(keygen, "prove_knowledge", prove):
        yield


def _other_frost_share(kind: str) -> Patch:
    @contextmanager
    def patch(stage: Stage) -> Iterator[None]:
        held = stage.keys[kind]
        wrong = dataclasses.replace(held[FOUR], share=held[3].share)
        with mock.patch.dict(held, {FOUR: wrong}):
            yield

    return patch


@contextmanager
def _frost_one_nonce(_: Stage) -> Iterator[None]:
    """Player 4 leaves the binding nonce out of its share: a simplified one-nonce FROST."""
    honest = frost_core.NoncePair.take

    def take(self: Any) -> Any:
        hiding, binding = honest(self)
        return (hiding, type(binding)(0)) if self.commitment.index == FOUR else (hiding, binding)

    with mock.patch.object(frost_core.NoncePair, "take", take):
        yield


# -- pair setup -----------------------------------------------------------------------------------


@contextmanager
def _setup_result(stage: Stage, change: Callable[[Any], dict[str, bytes]]) -> Iterator[None]:
    honest = setup.PairSetup.__init__

    def init(self: Any, index: int, peer: int, setup_id: bytes, state: Any) -> None:
        if index == FOUR:
            state = dataclasses.replace(state, **change(state))
        honest(self, index, peer, setup_id, state)

    with mock.patch.object(setup.PairSetup, "__init__", init):
        yield


def _other_a(stage: Stage) -> AbstractContextManager[None]:
    """As base-OT sender it sends A and derives one row's keys from another a."""

    def change(state: Any) -> dict[str, bytes]:
        keys = bytearray(state.bob_keys)
        keys[0] ^= 1
        keys[base_ot.KEY_LEN] ^= 1
        return {"bob_keys": bytes(keys)}

    return _setup_result(stage, change)


def _other_seed(stage: Stage) -> AbstractContextManager[None]:
    return _setup_result(stage, lambda _: {"zeta": bytes(32)})


@contextmanager
def _chosen_seed_part(_: Stage) -> Iterator[None]:
    """Its part of the zero-share seed is zeros, seen alike by both."""
    honest, offers = setup.SetupOffer, itertools.count()

    def offer(point: bytes, r0: bytes, r1: bytes, seed: bytes) -> Any:
        by_four = next(offers) == 1  # player 1 comes first
        return honest(point, r0, r1, bytes(32) if by_four else seed)

    with mock.patch.object(setup, "SetupOffer", offer):
        yield


# -- presigning -----------------------------------------------------------------------------------


def _own(change: Callable[[Any], Any]) -> Patch:
    """Player 4's own values of the session (r, φ, sk, ν and their opening) are changed."""

    @contextmanager
    def patch(_: Stage) -> Iterator[None]:
        honest = PRESIGN._Own.draw.__func__

        def draw(cls: type, party: Any, *rest: Any) -> Any:
            own = honest(cls, party, *rest)
            return change(own) if party.index == FOUR else own

        with mock.patch.object(PRESIGN._Own, "draw", classmethod(draw)):
            yield

    return patch


def _committed_point(name: str) -> Patch:
    point = SECP256K1.base_mul(4711).encode()

    def change(own: Any) -> Any:
        opening = replace(own.opening, **{name: lambda old: point + old[33:]})
        return dataclasses.replace(own, opening=opening)

    return _own(change)


def _another_key_share(own: Any) -> Any:
    sk = [k + 1 for k in own.sk]
    points = b"".join(SECP256K1.base_mul(k).encode() for k in sk)
    return dataclasses.replace(own, sk=sk, opening=replace(own.opening, key_points=points))


def _gamma(w: int) -> Patch:
    """θ covers the wrong Γ, so the VOLE check passes; the product in the exponent does not."""

    @contextmanager
    def patch(_: Stage) -> Iterator[None]:
        honest = vole.Alice.__init__

        def init(self: Any, lane: Any, *rest: Any) -> None:
            honest(self, lane, *rest)
            if lane.alice == FOUR:
                self.outputs = [(c[0] + (w == 0), c[1] + (w == 1)) for c in self.outputs]

        with mock.patch.object(vole.Alice, "__init__", init):
            yield

    return patch


def _inconsistent_row(bit: int) -> Patch:
    """As Bob toward player 1, one row of u has another choice bit, the challenge is honest: it
    passes exactly if that bit of the victim's Δ is 0."""

    @contextmanager
    def patch(stage: Stage) -> Iterator[None]:
        delta = np.frombuffer(stage.setups[VICTIM][FOUR].state().delta, np.uint8)
        row = int(np.flatnonzero(np.unpackbits(delta, bitorder="little") == bit)[0])
        honest, calls = ote._expand, []

        def expand(lane: Any, keys: Any) -> Any:
            out = honest(lane, keys)
            if (lane.bob, lane.alice) == (FOUR, VICTIM):
                calls.append(lane)
                if len(calls) == 2:  # Bob's second expansion, k_{i,1}: it enters u only
                    out = out.copy()
                    out[row, 3] ^= 1
            return out

        with mock.patch.object(ote, "_expand", expand):
            yield

    return patch


def _other_input(count: int, guessed: bool, *, w: int = 0, error: int = 1) -> Patch:
    """As Alice toward player 1 it uses another input at ``count`` OTs: passes exactly if the
    victim's choice bits there are 0."""

    @contextmanager
    def patch(_: Stage) -> Iterator[None]:
        seen: list[Any] = []
        honest_extend, honest_correct = ote.extend_bob, vole.Alice._correct

        def extend(lane: Any, *rest: Any) -> Any:
            message, rows = honest_extend(lane, *rest)
            if (lane.bob, lane.alice) == (VICTIM, FOUR):
                seen.append(rows.choices)
            return message, rows

        def correct(self: Any, *rest: Any) -> Any:
            out = honest_correct(self, *rest)
            if (self._lane.alice, self._lane.bob) == (FOUR, VICTIM):
                columns = list(np.flatnonzero(seen[-1] == 0)[:count])
                if not guessed:
                    columns[-1] = int(np.flatnonzero(seen[-1])[0])
                for column in columns:
                    entry = out[0, column, w][None]
                    out[0, column, w] = u384.add(entry, u384.from_ints([error]))[0]
            return out

        with (
            mock.patch.object(ote, "extend_bob", extend),
            mock.patch.object(vole.Alice, "_correct", correct),
        ):
            yield

    return patch


def _shifted_phi(own: Any) -> Any:
    return dataclasses.replace(own, phi=[(p + 5) % Q for p in own.phi])


SIGN: Final = "dkls23/sign"

PROGRAMMES: Final = (
    Programme("proof of knowledge of another secret", "keygen ed25519", _garbage_proof, PROOF),
    Programme("proof of knowledge of another secret", "keygen secp256k1", _garbage_proof, PROOF),
    Programme("proof made out for another player", "keygen ed25519", _proof_of_another, PROOF),
    Programme("proof made out for another player", "keygen secp256k1", _proof_of_another, PROOF),
    Programme("A sent, keys from another a", "pair-setup", _other_a, OT, VICTIM),
    Programme("another zero-share seed", "pair-setup", _other_seed, KEY_SUM),
    Programme("seed part chosen, seen alike by both", "pair-setup", _chosen_seed_part, NOTHING),
    Programme("u: row inconsistent, bit of Δ not guessed", SIGN, _inconsistent_row(1), OT, VICTIM),
    Programme("u: row inconsistent, bit of Δ guessed", SIGN, _inconsistent_row(0), NOTHING),
    Programme("another r at one OT, β not guessed", SIGN, _other_input(1, False), VOLE, VICTIM),
    Programme("another r at one OT, β guessed", SIGN, _other_input(1, True), NOTHING),
    Programme("another r at three OTs, one β wrong", SIGN, _other_input(3, False), VOLE, VICTIM),
    Programme("another r at three OTs, all β guessed", SIGN, _other_input(3, True), NOTHING),
    Programme(
        "another sk at one OT, β not guessed", SIGN, _other_input(1, False, w=1), VOLE, VICTIM
    ),
    Programme("another check input at one OT", SIGN, _other_input(1, False, w=2), VOLE, VICTIM),
    Programme("an input off by 2^383", SIGN, _other_input(1, False, error=2**383), VOLE, VICTIM),
    Programme("Γu not of the output, θ fits", SIGN, _gamma(0), GAMMA),
    Programme("Γv not of the output, θ fits", SIGN, _gamma(1), GAMMA),
    Programme("committed R is not r·G", SIGN, _committed_point("nonce_points"), GAMMA),
    Programme("committed pk is not sk·G", SIGN, _committed_point("key_points"), GAMMA),
    Programme("sk + 1 used everywhere", SIGN, _own(_another_key_share), KEY_SUM),
    Programme("ψ + 5 to all, with φ + 5", SIGN, _own(_shifted_phi), NOTHING),
    Programme("share of another", "frost/sign ed25519", _other_frost_share("ed25519"), SHARES),
    Programme("share of another", "frost/sign bip340", _other_frost_share("bip340"), SHARES),
    Programme("binding nonce left out", "frost/sign ed25519", _frost_one_nonce, SHARES),
    Programme("binding nonce left out", "frost/sign bip340", _frost_one_nonce, SHARES),
)


async def run_programme(stage: Stage, programme: Programme) -> dict[int, Outcome]:
    stage.forget()
    with programme.patch(stage):
        outcomes: dict[int, Outcome] = await SCENES[programme.scene].scene(
            stage, SCENES[programme.scene].players
        )
    return outcomes
