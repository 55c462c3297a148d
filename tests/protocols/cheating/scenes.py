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
from keycairn.protocols import dkls23, ers_session, frost, keygen, setup, wire
from keycairn.protocols.dkls23 import session as dkls_session
from keycairn.protocols.form import Party, Protocol, Round
from keycairn.protocols.record import KeyRecord, KeyShare
from keycairn.protocols.session import BROADCAST, DIRECT, Frame, SessionSpec
from keycairn.protocols.setup import PairSetup
from protocols.cheating.virtual import Inline
from protocols.lockstep import deal, deal_setups, parties
from protocols.lockstep import run as run_lockstep
from protocols.network import VAULT, Copy, Outcome, World

CHEATER = 4
SIGNERS = (1, 3, 4)
HONEST = (1, 2, 3)
EVERYBODY = (1, 2, 3, 4, 5)
DIGESTS = tuple(hashlib.sha256(text).digest() for text in (b"first", b"second"))
TWEAK = 7  # of the second item: a derived child

Alter = Callable[[Copy, type, "wire.Message | None"], "list[Frame] | None"]


@dataclass
class Stage:
    """Five nodes, their keys, and the setups between them."""

    world: World
    keys: dict[str, dict[int, KeyShare]]
    setups: dict[int, dict[int, PairSetup]]
    count: int = 0
    lives: int = 0
    #: Presignatures and nonce pairs in stock, by kind and signers.
    stock: dict[tuple[str, tuple[int, ...]], dict[int, list[Any]]] = field(default_factory=dict)
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
        self.stock.clear()

    def forget(self) -> None:
        """Clear the journals and the log of frames."""
        self.world.log.clear()
        self.rounds.clear()
        for i in self.world.players:
            self.world[i].journal.clear()

    async def run(
        self,
        specs: SessionSpec | Mapping[int, SessionSpec],
        factory: Callable[[int], Callable[[Party], Protocol[Any]]],
    ) -> dict[int, Outcome]:
        """One session among the players of ``specs``."""
        if isinstance(specs, SessionSpec):
            specs = dict.fromkeys(specs.players, specs)
        return await self.world.run(
            specs, lambda i: lambda party: self._noted(i, factory(i)(party))
        )

    def take(self, kind: str, players: tuple[int, ...], count: int) -> dict[int, list[Any]]:
        """Unused presignatures or nonce pairs of all ``players``; made in batches, without the
        network."""
        place = (kind, players)
        if len(self.stock.get(place, {}).get(players[0], [])) < count:
            self.lives += 1
            members = parties(players, f"stock/{kind}/{self.lives}")
            held = self.keys[kind]
            made = run_lockstep(
                {
                    i: dkls23.presign(members[i], held[i], self.setups[i], 16)
                    if kind == "ecdsa"
                    else frost.presign(members[i], held[i], 16)
                    for i in players
                }
            )
            self.stock[place] = {i: list(made[i].result) for i in players}
        return {i: [self.stock[place][i].pop(0) for _ in range(count)] for i in players}

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
        "p256": deal("p256", 5, 2),
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
    signed: dict[int, Outcome] = await _ecdsa_sign("ecdsa")(stage, players)
    return signed


# -- ECDSA ---

_REQUESTS = (dkls23.Request(DIGESTS[0]), dkls23.Request(DIGESTS[1], TWEAK))
_ITEMS = (dkls23.Item(DIGESTS[0], "m"), dkls23.Item(DIGESTS[1], "m/7"))


def _child(record: KeyRecord, tweak: int) -> bytes:
    group = record.group
    return group.add([record.public_point(), group.base_mul(tweak)]).encode()


def _verified(record: KeyRecord, outcomes: dict[int, Outcome]) -> dict[int, Outcome]:
    """Whatever a player has as its result are two signatures that verify."""
    for outcome in outcomes.values():
        if outcome.result is not None:
            first, second = outcome.result
            dkls23.verify_ecdsa(record.group, record.public_key, DIGESTS[0], first.r, first.s)
            dkls23.verify_ecdsa(record.group, _child(record, TWEAK), DIGESTS[1], second.r, second.s)
    return outcomes


def _ecdsa_spec(
    stage: Stage, i: int, players: tuple[int, ...], name: str, protocol: str, params: wire.Message
) -> SessionSpec:
    bindings = {j: stage.setups[i][j].setup_id for j in players if j != i}
    return SessionSpec(name, protocol, dkls23.VERSION, VAULT, players, params, bindings)


def _ecdsa_sign(kind: str) -> Scene:
    async def scene(stage: Stage, players: tuple[int, ...]) -> dict[int, Outcome]:
        """Presign and sign in one session: two digests, one of them for a derived child."""
        held, name = stage.keys[kind], stage.name()
        record = held[1].record
        params = dkls23.SignParams("r", record.key_id, record.hash, _ITEMS)
        outcomes = await stage.run(
            {i: _ecdsa_spec(stage, i, players, name, dkls23.NAME, params) for i in players},
            lambda i: lambda party: dkls23.sign_full(party, held[i], stage.setups[i], _REQUESTS),
        )
        return _verified(record, outcomes)

    return scene


async def _ecdsa_presign(stage: Stage, players: tuple[int, ...]) -> dict[int, Outcome]:
    """Make two presignatures, and use them if there are any: a wrong ψ shows only then."""
    held, name = stage.keys["ecdsa"], stage.name()
    record = held[1].record
    params = dkls23.PresignParams(record.key_id, record.hash, 2)
    outcomes = await stage.run(
        {i: _ecdsa_spec(stage, i, players, name, dkls23.PRESIGN_NAME, params) for i in players},
        lambda i: lambda party: dkls23.presign(party, held[i], stage.setups[i], 2),
    )
    if any(o.error for o in outcomes.values()):
        return outcomes
    return await _use(stage, players, {i: o.result for i, o in outcomes.items()})


async def _ecdsa_use(stage: Stage, players: tuple[int, ...]) -> dict[int, Outcome]:
    """Sign two digests with presignatures in stock."""
    return await _use(stage, players, stage.take("ecdsa", players, 2))


async def _use(
    stage: Stage, players: tuple[int, ...], presignatures: Mapping[int, list[Any]]
) -> dict[int, Outcome]:
    held, name = stage.keys["ecdsa"], stage.name()
    record = held[1].record
    claims = {
        i: dkls23.claim(held[i], i, players, stage.setups[i], presignatures[i], _REQUESTS)
        for i in players
    }
    ids = tuple(p.id for p in presignatures[players[0]])
    params = dkls23.UseParams("r", record.key_id, record.hash, _ITEMS, ids)
    outcomes = await stage.run(
        {
            i: dataclasses.replace(
                _ecdsa_spec(stage, i, players, name, dkls23.USE_NAME, params),
                opening=claims[i].opening,
            )
            for i in players
        },
        lambda i: lambda party: dkls23.use(party, claims[i]),
    )
    return _verified(record, outcomes)


# -- FROST ---


def _frost_requests(kind: str) -> tuple[frost.Request, ...]:
    # The second one is for a derived child, of a BIP-340 key also for its output key.
    root = b"" if kind == "bip340" else None
    return frost.Request(DIGESTS[0]), frost.Request(DIGESTS[1], TWEAK, root)


def _frost_items(kind: str) -> tuple[frost.Item, ...]:
    first, second = (frost.message_hash(d) for d in DIGESTS)
    return frost.Item(first, "m", False), frost.Item(second, "m/7", kind == "bip340")


def _checked(kind: str, record: KeyRecord, outcomes: dict[int, Outcome]) -> dict[int, Outcome]:
    """Whatever a player has as its result are two signatures that verify."""
    suite = frost.suite_of(record)
    output = frost.signing_key(
        record, derivation=TWEAK, merkle_root=_frost_requests(kind)[1].merkle_root
    )
    for outcome in outcomes.values():
        if outcome.result is not None:
            first, second = outcome.result
            suite.verify(record.public_key, DIGESTS[0], first.signature)
            suite.verify(output.public_key.encode(), DIGESTS[1], second.signature)
    return outcomes


def _frost_sign(kind: str) -> Scene:
    async def scene(stage: Stage, players: tuple[int, ...]) -> dict[int, Outcome]:
        held = stage.keys[kind]
        record = held[1].record
        params = frost.SignParams("r", record.key_id, record.hash, _frost_items(kind))
        spec = SessionSpec(stage.name(), frost.NAME, frost.VERSION, VAULT, players, params)
        requests = _frost_requests(kind)
        return _checked(
            kind,
            record,
            await stage.run(
                spec, lambda i: lambda party: frost.sign_full(party, held[i], requests)
            ),
        )

    return scene


def _frost_nonces(kind: str) -> Scene:
    async def scene(stage: Stage, players: tuple[int, ...]) -> dict[int, Outcome]:
        """Two nonce pairs of every signer."""
        held = stage.keys[kind]
        record = held[1].record
        params = frost.PresignParams(record.key_id, record.hash, 2)
        spec = SessionSpec(stage.name(), frost.PRESIGN_NAME, frost.VERSION, VAULT, players, params)
        return await stage.run(spec, lambda i: lambda party: frost.presign(party, held[i], 2))

    return scene


def _frost_use(kind: str) -> Scene:
    async def scene(stage: Stage, players: tuple[int, ...]) -> dict[int, Outcome]:
        held, name = stage.keys[kind], stage.name()
        record, pairs = held[1].record, stage.take(kind, players, 2)
        claims = {
            i: frost.claim(
                held[i], i, players, pairs[i], _frost_requests(kind),
                stage.world[i].environment.rng.bytes(32),
            )
            for i in players
        }  # fmt: skip
        ids = tuple(p.id for p in pairs[players[0]])
        params = frost.UseParams("r", record.key_id, record.hash, _frost_items(kind), ids)
        outcomes = await stage.run(
            {
                i: SessionSpec(
                    name, frost.USE_NAME, frost.VERSION, VAULT, players, params,
                    opening=claims[i].opening,
                )
                for i in players
            },
            lambda i: lambda party: frost.use(party, claims[i]),
        )  # fmt: skip
        return _checked(kind, record, outcomes)

    return scene


# -- recovery documents ---


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
    "dkls23/sign": Setting(_ecdsa_sign("ecdsa"), SIGNERS, HONEST, (1, 3)),
    "dkls23/sign p256": Setting(_ecdsa_sign("p256"), SIGNERS, HONEST, (1, 3)),
    "dkls23/presign": Setting(_ecdsa_presign, SIGNERS, HONEST, (1, 3)),
    "dkls23/use": Setting(_ecdsa_use, SIGNERS, HONEST, (1, 3)),
    "frost/sign ed25519": Setting(_frost_sign("ed25519"), SIGNERS, HONEST, (1, 3)),
    "frost/sign bip340": Setting(_frost_sign("bip340"), SIGNERS, HONEST, (1, 3)),
    "frost/nonces ed25519": Setting(_frost_nonces("ed25519"), SIGNERS, HONEST, (1, 3), books=False),
    "frost/nonces bip340": Setting(_frost_nonces("bip340"), SIGNERS, HONEST, (1, 3), books=False),
    "frost/use ed25519": Setting(_frost_use("ed25519"), SIGNERS, HONEST, (1, 3)),
    "frost/use bip340": Setting(_frost_use("bip340"), SIGNERS, HONEST, (1, 3)),
    "ers/document": Setting(_document, EVERYBODY, EVERYBODY, _HOLDERS, books=False),
}
