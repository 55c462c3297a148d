"""Sessions in which player 4 cheats, over the real driver.

A :class:`Stage` is a vault of five nodes that stay up through a whole table of cheats: routers,
mailboxes and the setups between honest nodes are never replaced, so that what one cheat leaves
behind would show in the next row. Only what a ban ends, the setups with player 4, is made anew.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from keycairn.encoding import SecretBytes
from keycairn.ers.rsa import RsaPublicKey, load_rsa_public_key
from keycairn.ers.statement import chain_code_hash
from keycairn.protocols import ers_session, frost, keygen, setup, wire
from keycairn.protocols.dkls23 import session as dkls_session
from keycairn.protocols.dkls23 import sign_full, verify_ecdsa
from keycairn.protocols.form import Party, Protocol, Round
from keycairn.protocols.record import KeyShare
from keycairn.protocols.session import BROADCAST, DIRECT, Frame, SessionSpec
from keycairn.protocols.setup import PairSetup
from protocols.cheating.virtual import Inline
from protocols.lockstep import deal, deal_setups
from protocols.network import VAULT, Copy, Outcome, World

CHEATER = 4
SIGNERS = (1, 3, 4)
HONEST = (1, 2, 3)
EVERYBODY = (1, 2, 3, 4, 5)
DIGEST = hashlib.sha256(b"cheating").digest()

Alter = Callable[[Copy, type, "wire.Message | None"], "list[Frame] | None"]


@dataclass
class Stage:
    """Five nodes, their keys, and the setups between them."""

    world: World
    keys: dict[str, dict[int, KeyShare]]
    setups: dict[int, dict[int, PairSetup]]
    count: int = 0
    lives: int = 0
    #: The round that each player is in, for the man in the middle.
    rounds: dict[int, Round] = field(default_factory=dict)

    @classmethod
    async def open(cls, seed: object = "cheating") -> Stage:
        world = await World.of(5, seed=seed, timeout=60.0)
        for i in world.players:
            world[i].environment = dataclasses.replace(world[i].environment, executor=Inline())
        return cls(world, _keys(), deal_setups(EVERYBODY, seed))

    def name(self) -> str:
        """A session name that was not used before."""
        self.count += 1
        return f"row-{self.count}"

    def renew(self) -> None:
        """What the operators' un-ban gives: other setups with player 4. Nothing else is new."""
        self.lives += 1
        fresh = deal_setups(EVERYBODY, f"life/{self.lives}")
        for i in EVERYBODY:
            if i != CHEATER:
                self.setups[i][CHEATER] = fresh[i][CHEATER]
        self.setups[CHEATER] = fresh[CHEATER]

    def forget(self) -> None:
        """Clear the journals and the log of frames."""
        self.world.log.clear()
        self.rounds.clear()
        for i in self.world.players:
            self.world[i].journal.clear()

    async def run(
        self, spec: SessionSpec, factory: Callable[[int], Callable[[Party], Protocol[Any]]]
    ) -> dict[int, Outcome]:
        """One session among the players of ``spec``."""
        return await self.world.run(
            {i: spec for i in spec.players},
            lambda i: lambda party: self._noted(i, factory(i)(party)),
        )

    def _noted(self, i: int, protocol: Protocol[Any]) -> Protocol[Any]:
        answer = None
        while True:
            try:
                step = protocol.send(answer)
            except StopIteration as stop:
                return stop.value
            if isinstance(step, Round):
                self.rounds[i] = step
            answer = yield step

    def message_of(self, copy: Copy) -> type | None:
        """The class of the round's message that a frame carries, or None for other frames."""
        current = self.rounds.get(copy.sender)
        if current is None:
            return None
        if copy.frame.kind == BROADCAST:
            return type(current.broadcast)
        if copy.frame.kind == DIRECT:
            return type(current.direct[copy.receiver])
        return None


@cache
def _keys() -> dict[str, dict[int, KeyShare]]:
    chained = {}
    for i, share in deal("ed25519", 5, 2, scheme="schnorr", key_id="ers").items():
        record = dataclasses.replace(share.record, chain_code_hash=chain_code_hash(bytes(32)))
        chained[i] = KeyShare(record, i, share.share, SecretBytes(bytes(32)))
    return {
        "ecdsa": deal("secp256k1", 5, 2),
        "ed25519": deal("ed25519", 5, 2, scheme="schnorr"),
        "bip340": deal("secp256k1", 5, 2, scheme="schnorr"),
        "ers": chained,
    }


@cache
def recovery_key() -> RsaPublicKey:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    spki = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return load_rsa_public_key(spki, allow_2048=True)


Scene = Callable[[Stage, tuple[int, ...]], Any]


def _keygen(curve: str, scheme: str) -> Scene:
    async def scene(stage: Stage, players: tuple[int, ...]) -> dict[int, Outcome]:
        params = keygen.KeygenParams("r", scheme, curve, 2, 1)
        spec = SessionSpec(stage.name(), keygen.NAME, keygen.VERSION, VAULT, players, params)
        return await stage.run(spec, lambda _: lambda party: keygen.keygen(party, VAULT, params))

    return scene


async def _pair_setup(stage: Stage, players: tuple[int, ...]) -> dict[int, Outcome]:
    """A setup of players 1 and 4, and if both have one, the first signature on it."""
    first, last = players[0], players[-1]
    spec = SessionSpec(
        stage.name(),
        dkls_session.SETUP_NAME,
        dkls_session.SETUP_VERSION,
        VAULT,
        (first, last),
        dkls_session.SetupParams("sign"),
    )
    made = await stage.run(spec, lambda _: lambda party: setup.pair_setup(party))
    if any(o.error for o in made.values()):
        return made
    stage.setups[first][last] = made[first].result
    stage.setups[last][first] = made[last].result
    return await ecdsa(stage, players)


async def ecdsa(stage: Stage, players: tuple[int, ...]) -> dict[int, Outcome]:
    """Presign and sign in one session."""
    held = stage.keys["ecdsa"]
    record = held[1].record
    params = dkls_session.SignParams("r", record.key_id, record.hash, DIGEST, bytes(32))
    outcomes = await stage.world.run(
        {
            i: SessionSpec(
                f"row-{stage.count}/ecdsa",
                dkls_session.NAME,
                dkls_session.VERSION,
                VAULT,
                players,
                params,
                {j: stage.setups[i][j].setup_id for j in players if j != i},
            )
            for i in players
        },
        lambda i: lambda party: stage._noted(i, sign_full(party, held[i], stage.setups[i], DIGEST)),
    )
    stage.name()
    for outcome in outcomes.values():
        if outcome.result is not None:
            r, s = outcome.result.r, outcome.result.s
            verify_ecdsa(record.group, record.public_key, DIGEST, r, s)
    return outcomes


def _frost(kind: str) -> Scene:
    async def scene(stage: Stage, players: tuple[int, ...]) -> dict[int, Outcome]:
        held = stage.keys[kind]
        record = held[1].record
        params = frost.SignParams("r", record.key_id, record.hash, DIGEST)
        spec = SessionSpec(stage.name(), frost.NAME, frost.VERSION, VAULT, players, params)
        outcomes = await stage.run(spec, lambda i: lambda party: frost.sign(party, held[i], DIGEST))
        suite = frost.ED25519_SHA512 if kind == "ed25519" else frost.BIP340
        for outcome in outcomes.values():
            if outcome.result is not None:
                suite.verify(record.public_key, DIGEST, outcome.result.signature)
        return outcomes

    return scene


async def _document(stage: Stage, players: tuple[int, ...]) -> dict[int, Outcome]:
    held, rsa_key = stage.keys["ers"], recovery_key()
    record = held[1].record
    params = ers_session.ErsParams(
        "r", (record.key_id,), (record.hash,), rsa_key.spki_sha256, "fast", "label"
    )
    spec = SessionSpec(stage.name(), ers_session.NAME, ers_session.VERSION, VAULT, players, params)
    return await stage.run(
        spec,
        lambda i: lambda party: ers_session.make_document(party, VAULT, params, rsa_key, [held[i]]),
    )


@dataclass(frozen=True)
class Setting:
    """How a scene is played: with the cheater, and afterwards without."""

    scene: Scene
    players: tuple[int, ...]
    honest: tuple[int, ...]
    judges: tuple[int, ...]  # the honest players that meet the cheater's messages
    books: bool = True  # whether it uses a presignature


_HOLDERS = (1, 2, 3, 5)
SCENES: Mapping[str, Setting] = {
    "keygen ed25519": Setting(
        _keygen("ed25519", "schnorr"), EVERYBODY, _HOLDERS, _HOLDERS, books=False
    ),
    "keygen secp256k1": Setting(
        _keygen("secp256k1", "ecdsa"), EVERYBODY, _HOLDERS, _HOLDERS, books=False
    ),
    "pair-setup": Setting(_pair_setup, SIGNERS, HONEST, (1,)),
    "dkls23/sign": Setting(ecdsa, SIGNERS, HONEST, (1, 3)),
    "frost/sign ed25519": Setting(_frost("ed25519"), SIGNERS, HONEST, (1, 3)),
    "frost/sign bip340": Setting(_frost("bip340"), SIGNERS, HONEST, (1, 3)),
    "ers/document": Setting(_document, EVERYBODY, EVERYBODY, _HOLDERS, books=False),
}
