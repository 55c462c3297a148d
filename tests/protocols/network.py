"""Players that run the real driver over an in-process network, and a man in the middle.

    world = await World.of(3)
    world.frames(lambda f: [f, f])                  # everything arrives twice
    outcomes = await world.keygen()
    outcomes[1].result, outcomes[2].error, world[3].journal

A :data:`Change` sees every session frame with its sender and receiver and returns the frames to
deliver instead, or None for the frame as it is. It may :meth:`World.sign` for a cheating sender.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keycairn.encoding import SecretBytes
from keycairn.errors import Abort, Code, KeycairnError
from keycairn.links.inprocess import InProcessNetwork
from keycairn.ports.seeded import SeededRng
from keycairn.protocols import frost, keygen, session, wire
from keycairn.protocols.driver import SESSION_FRAME, Environment, run
from keycairn.protocols.form import Durable
from keycairn.protocols.record import KeyShare
from keycairn.protocols.router import Router
from keycairn.protocols.session import Frame, SessionSpec
from keycairn.vault.api import Identity
from keycairn.vault.signer import IdentitySigner
from protocols.lockstep import deal, frost_sign

VAULT = "vault"
#: Frame kinds by name, for tests that speak of them.
HELLO, CONFIRM, BROADCAST, DIRECT, ECHO, ABORT = range(6)
#: Steps of key generation with three or more players.
COMMIT, COMMIT_ECHO, OPEN, OPEN_ECHO, RECORD, RECORD_ECHO, READY = range(2, 9)
#: Steps of a FROST signature.
NONCES, RESPONSES = 2, 3


@dataclass(frozen=True)
class Copy:
    """One session frame on its way."""

    sender: int
    receiver: int
    frame: Frame

    def at(self, step: int, kind: int) -> bool:
        return (self.frame.step, self.frame.kind) == (step, kind)

    def body(self, kind: type[Any]) -> Any:
        return wire.decode(kind, self.frame.body)

    def but(self, **fields: Any) -> Frame:
        """The frame with other fields; a message as ``body`` is encoded."""
        if isinstance(fields.get("body"), wire.Message):
            fields["body"] = wire.encode(fields["body"])
        return msgspec.structs.replace(self.frame, **fields)


Change = Callable[[Copy], "Iterable[Frame] | None"]


@dataclass
class Outcome:
    """What one player got."""

    result: Any = None
    error: BaseException | None = None

    @property
    def code(self) -> Code | None:
        return self.error.code if isinstance(self.error, KeycairnError) else None

    @property
    def abort(self) -> Abort:
        assert isinstance(self.error, Abort), repr(self.error)
        return self.error


@dataclass
class Player:
    """One node of the network, without a vault."""

    index: int
    environment: Environment
    router: Router
    journal: list[Durable] = field(default_factory=list)

    def events(self, what: str) -> list[Any]:
        return [d.record for d in self.journal if d.what == what]


class _Receiver:
    def __init__(self, router: Router) -> None:
        self.router = router

    def frame(self, peer: int, data: bytes) -> None:
        if data[:1] == SESSION_FRAME:
            self.router.deliver(peer, data[1:])

    def up(self, peer: int) -> None:
        pass

    def down(self, peer: int) -> None:
        self.router.lost(peer)


class _Journal:
    def __init__(self, kept: list[Durable]) -> None:
        self.kept = kept

    async def commit(self, what: str, record: Any) -> None:
        self.kept.append(Durable(what, record))


def pack(frame: Frame) -> bytes:
    return SESSION_FRAME + wire.encode(frame)


class World:
    """The players of a vault; :meth:`of` makes one."""

    def __init__(self, n: int, seed: object, timeout: float) -> None:
        self.players = tuple(range(1, n + 1))
        self.network = InProcessNetwork(self.players)
        self.seed = seed
        self.timeout = timeout
        self.log: list[Copy] = []
        keys = {
            i: Ed25519PrivateKey.from_private_bytes(SeededRng(f"id/{i}").bytes(32))
            for i in self.players
        }
        pins = {i: key.public_key().public_bytes_raw() for i, key in keys.items()}
        self.signers = {
            i: IdentitySigner(Identity(SecretBytes(key.private_bytes_raw()), pins[i]), pins)
            for i, key in keys.items()
        }
        self._nodes: dict[int, Player] = {}
        self._change: Change = lambda _: None
        self.network.tamper = self._tamper

    @classmethod
    async def of(cls, n: int = 3, *, seed: object = 0, timeout: float = 20.0) -> World:
        world = cls(n, seed, timeout)
        for i in world.players:
            await world._start(i, 0)
        return world

    def __getitem__(self, index: int) -> Player:
        return self._nodes[index]

    async def _start(self, index: int, life: int) -> None:
        link = self.network.link(index) if life == 0 else self.network.replace(index)
        router = Router()
        link.attach(_Receiver(router))
        kept: list[Durable] = []
        rng = SeededRng(f"{self.seed}/{index}/{life}")
        environment = Environment(
            index, rng.bytes(32), link, router, rng, self.signers[index], _Journal(kept),
            self.timeout,
        )  # fmt: skip
        self._nodes[index] = Player(index, environment, router, kept)
        await link.start()

    async def restart(self, index: int, life: int = 1) -> None:
        """A new process for a player: router, incarnation and randomness are new."""
        await self._start(index, life)

    # -- the man in the middle ---------------------------------------------------------------

    def frames(self, change: Change) -> None:
        """Pass every session frame through ``change`` from now on."""
        self._change = change

    def _tamper(self, sender: int, receiver: int, data: bytes) -> Iterable[bytes] | None:
        copy = Copy(sender, receiver, wire.decode(Frame, data[1:]))
        self.log.append(copy)
        out = self._change(copy)
        return None if out is None else [pack(f) for f in out]

    def inject(self, sender: int, receiver: int, frame: Frame) -> None:
        """A frame over ``sender``'s own channel that the driver did not send."""
        self.network.inject(sender, receiver, pack(frame))

    def sign(self, copy: Copy, body: wire.Message) -> Frame:
        """Another broadcast of the same sender, with the sender's valid signature."""
        frame = copy.but(body=body)
        hashed = session.body_hash(frame.sid, frame.step, copy.sender, frame.body)
        statement = session.broadcast_statement(frame.sid, frame.step, copy.sender, hashed)
        return msgspec.structs.replace(frame, signature=self.signers[copy.sender].sign(statement))

    # -- sessions ----------------------------------------------------------------------------

    async def run(
        self,
        specs: Mapping[int, SessionSpec],
        factory: Callable[[int], Callable[[Any], Any]],
    ) -> dict[int, Outcome]:
        """One session; every player has its own spec, because it was asked on its own."""
        got = await asyncio.gather(
            *[run(spec, factory(i), self[i].environment) for i, spec in specs.items()],
            return_exceptions=True,
        )
        return {
            i: Outcome(error=r) if isinstance(r, BaseException) else Outcome(r)
            for i, r in zip(specs, got, strict=True)
        }

    def keygen_spec(
        self,
        name: str = "k",
        players: tuple[int, ...] | None = None,
        *,
        version: int = keygen.VERSION,
        **params: Any,
    ) -> SessionSpec:
        values = {
            "request_id": "r", "scheme": "schnorr", "curve": "ed25519", "threshold": 1, "count": 1,
        }  # fmt: skip
        made = keygen.KeygenParams(**{**values, **params})
        return SessionSpec(name, keygen.NAME, version, VAULT, players or self.players, made)

    async def keygen(
        self, name: str = "k", players: tuple[int, ...] | None = None, **params: Any
    ) -> dict[int, Outcome]:
        spec = self.keygen_spec(name, players, **params)
        return await self.run(
            {i: spec for i in spec.players},
            lambda _: lambda party: keygen.keygen(party, VAULT, spec.params),  # type: ignore[arg-type]
        )

    def sign_spec(
        self, name: str, players: tuple[int, ...], key: KeyShare, message: bytes
    ) -> SessionSpec:
        params = frost.SignParams(
            "r",
            key.record.key_id,
            key.record.hash,
            (frost.Item(frost.message_hash(message), "m", False),),
        )
        return SessionSpec(name, frost.NAME, frost.VERSION, VAULT, players, params)

    async def frost(
        self,
        message: bytes = b"message",
        players: tuple[int, ...] = (1, 2),
        name: str = "s",
        *,
        keys: Mapping[int, KeyShare] | None = None,
    ) -> dict[int, Outcome]:
        held = keys or frost_key(len(self.players))
        spec = self.sign_spec(name, players, held[players[0]], message)
        return await self.run(
            {i: spec for i in players}, lambda i: lambda party: frost_sign(party, held[i], message)
        )


def frost_key(n: int = 3, t: int = 1, key_id: str = "key") -> dict[int, KeyShare]:
    """A dealt Ed25519 key."""
    return deal("ed25519", n, t, scheme="schnorr", key_id=key_id)
