"""Whole nodes of a vault in one process: real services, real SQLite files, an in-process network.

    async with Vault.of(tmp_path) as vault:
        (key,) = (await vault.create()).result
        signed = await vault.sign(key.key_id, (1, 2))

A request goes to every player, as the client library sends it; :class:`Answers` holds what each
of them said. :attr:`Vault.change` is a man in the middle for session frames, :attr:`Vault.notes`
for control messages.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keycairn.encoding import SecretBytes, canonical_json
from keycairn.errors import Code, KeycairnError
from keycairn.ers.decrypt import SoftwareKey
from keycairn.ers.possession import answer
from keycairn.links.inprocess import InProcessNetwork
from keycairn.ports.system import SystemClock, SystemRng
from keycairn.protocols import wire
from keycairn.protocols.session import Frame, route_of
from keycairn.store.documents import DocumentDirectory
from keycairn.store.sqlite import SqliteStore
from keycairn.vault import control
from keycairn.vault.api import (
    CreateDocument,
    CreateKeys,
    Identity,
    KeyView,
    SessionNames,
    Sign,
    Signature,
    SignItem,
    VaultParameters,
)
from keycairn.vault.fence.anchor import MemoryAnchor, first_anchor
from keycairn.vault.fence.pace import Pace
from keycairn.vault.sealing import Sealer
from keycairn.vault.service import NodeService
from keycairn.vault.signer import IdentitySigner
from protocols.network import ABORT, Copy, pack

ALL = frozenset({"ecdsa.create", "ecdsa.sign", "schnorr.create", "schnorr.sign", "ers.create"})
APP = "app"
VAULT = "vault"
#: Without pools, so that nothing happens but what a test asked for.
_DEFAULTS = {"operations": ALL, "session_seconds": 20.0, "presignature_target": 0}
CURVE = {"ecdsa": "secp256k1", "schnorr": "ed25519"}


class Clock(SystemClock):
    """The system's clock, put forward by hand; ``passed`` are seconds that went by on both."""

    ahead_us = 0
    passed = 0

    def now_us(self) -> int:
        return super().now_us() + self.ahead_us + self.passed * 1_000_000

    def monotonic(self) -> float:
        return super().monotonic() + self.passed


@dataclass(frozen=True)
class Answers:
    """What every asked node answered: a result or an error."""

    by_node: Mapping[int, Any]

    def __getitem__(self, node: int) -> Any:
        return self.by_node[node]

    @property
    def result(self) -> Any:
        """The result of the first node; all of them must have one."""
        for said in self.by_node.values():
            if isinstance(said, BaseException):
                raise said
        return next(iter(self.by_node.values()))

    def error(self, node: int) -> KeycairnError:
        found = self.by_node[node]
        assert isinstance(found, KeycairnError), repr(found)
        return found

    @property
    def codes(self) -> dict[int, Code | None]:
        return {
            i: a.code if isinstance(a, KeycairnError) else None for i, a in self.by_node.items()
        }

    def only(self, code: Code) -> bool:
        return set(self.codes.values()) == {code}


class Vault:
    """Nodes 1..n; use :meth:`of`."""

    def __init__(self, folder: Path, n: int, parameters: Mapping[str, Any]) -> None:
        self.folder = folder
        self.players = tuple(range(1, n + 1))
        self.parameters = dict(parameters)
        self.network = InProcessNetwork(self.players)
        self.network.tamper = self._tamper
        self.change: Callable[[Copy], Iterable[Frame] | None] = lambda _: None
        self.notes: Callable[[int, int, Any], Iterable[Any] | None] = lambda *_: None
        self.clock = Clock()
        self.rng = SystemRng()
        # Tests put the clock forward as they like.
        self.pace = Pace(look=0.05, quiet=0.3, answer=1.0, jump=1e12)
        self.anchors: dict[int, MemoryAnchor] = {}
        self.services: dict[int, NodeService] = {}
        self.stores: dict[int, SqliteStore] = {}
        self._numbers = itertools.count(1)
        self._private = {i: self.rng.bytes(32) for i in self.players}
        self._data_keys = {i: self.rng.bytes(32) for i in self.players}
        self._pins = {
            i: Ed25519PrivateKey.from_private_bytes(p).public_key().public_bytes_raw()
            for i, p in self._private.items()
        }

    @classmethod
    @asynccontextmanager
    async def of(cls, folder: Path, n: int = 3, **parameters: Any) -> AsyncIterator[Vault]:
        vault = cls(folder, n, {**_DEFAULTS, **parameters})
        try:
            for i in vault.players:
                await vault.start(i)
            yield vault
        finally:
            vault.change = lambda _: None
            for i in list(vault.services):
                await vault.stop(i)

    # -- life --------------------------------------------------------------------------------

    def directory(self, node: int) -> Path:
        return self.folder / f"node-{node}"

    def documents(self, node: int) -> Path:
        return self.directory(node) / "ers"

    def anchor(self, node: int, identity: Identity) -> MemoryAnchor:
        """What lies outside of a node's files and outlives its process."""
        if node not in self.anchors:
            signer = IdentitySigner(identity, self._pins)
            first = first_anchor(VAULT, node, signer, self.clock.now_us())
            self.anchors[node] = MemoryAnchor(first)
        return self.anchors[node]

    async def start(self, node: int) -> NodeService:
        """Start a node, or start it again on the same files."""
        home = self.directory(node)
        fresh = not home.exists()
        home.mkdir(exist_ok=True)
        sealer = Sealer(SecretBytes(self._data_keys[node]), vault=VAULT, node=node, rng=self.rng)
        store = await SqliteStore.open(
            home / "node.db", sealer=sealer, vault=VAULT, node=node, clock=self.clock,
            rng=self.rng, create=fresh,
        )  # fmt: skip
        parameters = VaultParameters(VAULT, node, self.players, self._pins, **self.parameters)
        identity = Identity(SecretBytes(self._private[node]), self._pins[node])
        link = self.network.link(node) if fresh else self.network.replace(node)
        service = NodeService(
            parameters, identity, store, DocumentDirectory(self.documents(node)), link, self.clock,
            self.rng, anchor=self.anchor(node, identity), pace=self.pace,
        )  # fmt: skip
        self.services[node], self.stores[node] = service, store
        await service.start()
        return service

    async def stop(self, node: int) -> None:
        await self.services.pop(node).stop(grace=0.2)
        await self.stores.pop(node).close()

    async def restart(self, node: int) -> NodeService:
        await self.stop(node)
        return await self.start(node)

    def reconnect(self, node: int) -> None:
        """The connections of a node break and come back."""
        self.network.take_down(node)
        self.network.bring_up(node)

    # -- the man in the middle -----------------------------------------------------------------

    def _tamper(self, sender: int, receiver: int, data: bytes) -> Iterable[bytes] | None:
        if data[:1] == control.CONTROL_FRAME:
            notes = self.notes(sender, receiver, control.unpack(data))
            return None if notes is None else [control.pack(n) for n in notes]
        frames = self.change(Copy(sender, receiver, wire.decode(Frame, data[1:])))
        return None if frames is None else [pack(f) for f in frames]

    @staticmethod
    def route(session_id: str) -> bytes:
        return route_of(VAULT, session_id)

    @asynccontextmanager
    async def held(self, *sessions: str, step: int = 2, frames: int = 2) -> AsyncIterator[None]:
        """Inside, the sessions are held up: ``frames`` frames of ``step`` of each wait."""
        routes = {self.route(s) for s in sessions}
        waiting: list[Copy] = []
        before = self.change

        def hold(copy: Copy) -> Iterable[Frame] | None:
            here = copy.frame.route in routes and copy.frame.step == step
            if here and copy.frame.kind != ABORT:
                waiting.append(copy)
                return []
            return before(copy)

        async def all_here() -> bool:
            return all(sum(c.frame.route == route for c in waiting) >= frames for route in routes)

        self.change = hold
        await eventually(all_here)
        yield
        self.change = before
        for copy in waiting:
            self.network.inject(copy.sender, copy.receiver, pack(copy.frame))

    # -- requests --------------------------------------------------------------------------------

    def names(
        self, who: Iterable[int] | None = None, session: str = "", request: str = ""
    ) -> SessionNames:
        number = next(self._numbers)
        players = self.players if who is None else tuple(who)
        return SessionNames(session or f"s{number}", request or f"r{number}", players)

    async def ask(
        self, call: Callable[[NodeService], Awaitable[Any]], who: Iterable[int] | None = None
    ) -> Answers:
        """The same call at every player's node, at the same time."""
        nodes = [i for i in (self.players if who is None else who) if i in self.services]
        got = await asyncio.gather(*[call(self.services[i]) for i in nodes], return_exceptions=True)
        return Answers(dict(zip(nodes, got, strict=True)))

    async def create(
        self,
        scheme: str = "schnorr",
        app: str = APP,
        names: SessionNames | None = None,
        **more: Any,
    ) -> Answers:
        request = CreateKeys(
            names or self.names(), scheme, more.pop("curve", CURVE.get(scheme, "")),
            more.pop("threshold", 1), **more,
        )  # fmt: skip
        return await self.ask(lambda s: s.create_keys(app, request))

    async def key(self, scheme: str = "schnorr", **more: Any) -> KeyView:
        """A new active key."""
        view: KeyView = (await self.create(scheme, **more)).result[0]
        assert view.state == "active"
        return view

    async def sign(
        self,
        key: KeyView,
        who: Iterable[int] = (1, 2),
        payload: bytes | None = None,
        app: str = APP,
        names: SessionNames | None = None,
        **more: Any,
    ) -> Answers:
        if key.scheme == "ecdsa":
            more.setdefault("digest", payload if payload is not None else b"\1" * 32)
        else:
            more.setdefault("message", payload if payload is not None else b"message")
        item = SignItem(**{k: more.pop(k) for k in ("digest", "message", "path") if k in more})
        request = Sign(names or self.names(who), key.key_id, (item,), **more)

        async def one(service: NodeService) -> Signature:
            (signature,) = await service.sign(app, request)
            return signature

        return await self.ask(one, who)

    async def allow(
        self, key: RSAPrivateKey, who: Iterable[int] | None = None, **more: Any
    ) -> None:
        """Each node's operator adds a recovery key whose owner answers the challenges."""

        async def add(service: NodeService) -> None:
            challenges = await service.ers_key_add(
                spki_of(key), more.get("expires_us"), more.get("legacy_2048", False)
            )
            await service.ers_key_confirm(answers_of(key, challenges))

        assert (await self.ask(add, who)).result is None

    async def document(
        self,
        keys: Iterable[KeyView],
        rsa: RSAPrivateKey,
        app: str = APP,
        names: SessionNames | None = None,
        **more: Any,
    ) -> Answers:
        ids = tuple(k.key_id for k in keys)
        request = CreateDocument(names or self.names(), ids, spki_of(rsa), **more)
        return await self.ask(lambda s: s.create_document(app, request))

    async def digests(self) -> dict[int, bytes]:
        return {i: await s.state_digest() for i, s in self.services.items()}


def spki_of(key: RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def answers_of(key: RSAPrivateKey, challenges: Mapping[str, Any]) -> dict[str, Any]:
    """What the owner of a recovery key answers to a node's challenges."""
    made = json.loads(answer(canonical_json(dict(challenges)), SoftwareKey(key)))
    assert isinstance(made, dict)
    return made


async def eventually(condition: Callable[[], Awaitable[bool]], seconds: float = 20.0) -> None:
    """Wait until something that happens in the background has happened."""
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.01)


def with_players(names: SessionNames, players: Any) -> SessionNames:
    return replace(names, players=players)
