"""What the store tests build with: real keys, batches, and a store factory per adapter."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from databases import SERVERS, scratch
from keycairn.curves import group
from keycairn.encoding import SecretBytes, SecretScalar
from keycairn.ports.seeded import ManualClock, SeededRng
from keycairn.ports.system import SystemRng
from keycairn.protocols.record import KeyRecord
from keycairn.store.embedded import MemoryStore, SealedFileStore
from keycairn.store.opening import open_store
from keycairn.store.sql import SqlStore
from keycairn.store.sqlite import SqliteStore
from keycairn.vault.ports import Batch, NewKey, SpendRow, Store
from keycairn.vault.sealing import Sealer

VAULT = "vault-of-the-store-tests"
DATA_KEY = SecretBytes(bytes(range(32)))
_serial = itertools.count(1)


@dataclass
class World:
    """One node's surroundings; ``open()`` opens its store, as often as asked."""

    path: Path
    node: int = 1
    vault: str = VAULT
    data_key: SecretBytes = field(default_factory=lambda: DATA_KEY)
    clock: ManualClock = field(default_factory=ManualClock)
    seed: int = field(default_factory=lambda: next(_serial))

    def sealer(self) -> Sealer:
        return Sealer(self.data_key, vault=self.vault, node=self.node, rng=SeededRng(self.seed))

    async def open(self, *, create: bool = False) -> SqliteStore:
        return await SqliteStore.open(
            self.path,
            sealer=self.sealer(),
            vault=self.vault,
            node=self.node,
            clock=self.clock,
            rng=SeededRng(self.seed),
            create=create,
        )


@dataclass
class Home:
    """Where a store of one adapter lives; ``open()`` opens it, as often as asked.

    ``durable``: what was written is there when it is opened again. ``shared``: it can be open
    several times at once.
    """

    kind: str
    place: Any
    durable: bool = True
    shared: bool = True
    clock: ManualClock = field(default_factory=ManualClock)
    vault: str = VAULT
    node: int = 1
    data_key: SecretBytes = field(default_factory=lambda: DATA_KEY)

    async def open(self, *, create: bool = False) -> SqlStore:
        own: dict[str, Any] = {
            "sealer": Sealer(self.data_key, vault=self.vault, node=self.node, rng=SystemRng()),
            "vault": self.vault,
            "node": self.node,
            "clock": self.clock,
        }
        if self.kind == "memory":
            return await MemoryStore.open(**own)
        if self.kind == "sealed-file":
            return await SealedFileStore.open_file(
                self.place, keyring=b"ring", create=create, **own
            )
        return await open_store(self.place, rng=SystemRng(), create=create, **own)


KINDS = ("memory", "sealed-file", "sqlite", *SERVERS)


@contextmanager
def home(kind: str, directory: Path) -> Iterator[Home]:
    """A place for a store of this kind, empty at first and gone at the end."""
    if kind in SERVERS:
        with scratch(kind) as made:
            yield Home(kind, made.server)
    elif kind == "memory":
        yield Home(kind, None, durable=False, shared=False)
    elif kind == "sealed-file":
        yield Home(kind, directory / "node.sealed", shared=False)
    else:
        yield Home(kind, directory / "node.db")


def new_key(key_id: str, *, node: int = 1, curve: str = "secp256k1", vault: str = VAULT) -> NewKey:
    """A 2-of-3 key whose shares lie on a line; ``node``'s share of it."""
    g = group(curve)
    rng = SeededRng(f"{key_id}/{curve}")
    secret, slope = g.random_scalar(rng), g.random_scalar(rng)
    shares = {i: (secret + slope * i) % g.q for i in (1, 2, 3)}
    ed = curve == "ed25519"
    record = KeyRecord(
        key_id=key_id,
        vault=vault,
        scheme="schnorr" if ed else "ecdsa",
        curve=curve,
        protocol="frost-rfc9591" if ed else "dkls23",
        purpose="sign",
        threshold=1,
        holders=(1, 2, 3),
        public_key=g.base_mul(secret).encode(),
        share_commitments=tuple(g.base_mul(shares[i]).encode() for i in (1, 2, 3)),
        chain_code_hash=None if ed else bytes(32),
        generation=1,
    )
    chain_code = None if ed else SecretBytes(key_id.encode().ljust(32, b"."))
    return NewKey(record, SecretScalar(shares[node]), chain_code)


def new_batch(
    keys: Sequence[NewKey],
    *,
    application: str = "shop",
    request_id: str = "r-1",
    ready: Sequence[int] = (1,),
) -> Batch:
    """The batch of ``keys``; READY signatures are stand-ins."""
    return Batch(
        batch_id=SeededRng(f"{application}/{request_id}").bytes(32),
        application=application,
        request_id=request_id,
        request_hash=bytes(32),
        generation=1,
        record_hashes=tuple(k.record.hash for k in keys),
        key_ids=tuple(k.record.key_id for k in keys),
        holders=(1, 2, 3),
        ready={i: bytes([i]) * 64 for i in ready},
        active=False,
        created_us=1_700_000_000_000_000,
    )


async def add_keys(
    store: Store,
    names: Sequence[str],
    *,
    application: str = "shop",
    request_id: str = "r-1",
    active: bool = True,
) -> list[NewKey]:
    """Make keys in one batch and activate it."""
    keys = [new_key(n, curve=("secp256k1", "ed25519")[i % 2]) for i, n in enumerate(names)]
    batch = new_batch(keys, application=application, request_id=request_id)
    await store.put_batch(batch, keys)
    if active:
        await store.add_ready(batch.batch_id, {i: bytes([i]) * 64 for i in (2, 3)})
    return keys


def spend(n: int, *, incarnation: bytes = b"inc-1", base_r: bytes | None = None) -> SpendRow:
    return SpendRow(
        presignature_id=n.to_bytes(32, "big"),
        incarnation=incarnation,
        key_id="key-a",
        base_r=b"R%d" % n if base_r is None else base_r,
        digest=bytes(32),
        at_us=n,
    )
