"""A node on disk with a real store, real keys with certificates, and its operator."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pyrage
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from databases import Scratch, scratch
from keycairn.backup import BundleInputs, Opener, SecretSource, create_bundle, opener
from keycairn.curves import group
from keycairn.encoding import SecretBytes, SecretScalar
from keycairn.encryptors import EncryptorConfig, create_keyring, open_keyring
from keycairn.node.files import write_private
from keycairn.ports.seeded import ManualClock, SeededRng
from keycairn.protocols.keygen import ready_statement
from keycairn.protocols.record import KeyRecord
from keycairn.store.database import Database
from keycairn.store.documents import DocumentDirectory
from keycairn.store.opening import open_store, read_keyring, write_keyring
from keycairn.store.sql import SqlStore
from keycairn.vault.api import Identity
from keycairn.vault.ports import Batch, BundleRow, DocumentRow, NewKey
from keycairn.vault.sealing import Sealer

VAULT = "acme"
PLAYERS = (1, 2, 3)


def identity_of(index: int) -> Identity:
    """The same identity key for a player in every run."""
    raw = hashlib.sha256(f"identity {index}".encode()).digest()
    key = Ed25519PrivateKey.from_private_bytes(raw)
    return Identity(SecretBytes(raw), key.public_key().public_bytes_raw())


@dataclass
class DiskNode:
    """One node's directory, its operator's directory, and its open store."""

    home: Path
    operator: Path
    index: int
    age_identity: pyrage.x25519.Identity
    clock: ManualClock = field(default_factory=ManualClock)
    rng: SeededRng = field(default_factory=lambda: SeededRng("node"))
    store: SqlStore | None = None
    scratch: Scratch | None = None  # its database on a server
    shares: dict[str, int] = field(default_factory=dict)

    @property
    def config(self) -> Path:
        return self.home / "node.toml"

    @property
    def targets(self) -> Path:
        return self.operator / "backups"

    @property
    def identity(self) -> Identity:
        return identity_of(self.index)

    @property
    def secret(self) -> SecretBytes:
        """Content of the age identity file."""
        return SecretBytes(f"# made for a test\n{self.age_identity}\n".encode())

    @property
    def recipient(self) -> str:
        return str(self.age_identity.to_public())

    @property
    def database(self) -> Path:
        return self.home / "data" / "node.db"

    async def create(self) -> None:
        """Make the database with a keyring, and open it."""
        config = EncryptorConfig("keyfile", secret_file=self.operator / "master.key")
        keyring = create_keyring(config, vault=VAULT, node=self.index, rng=self.rng).encode()
        where = self.database if self.scratch is None else self.scratch.server
        write_keyring(where, keyring)
        self.store = await self.open(where, create=True)

    async def open(self, where: Database, *, create: bool = False) -> SqlStore:
        """Open a database of this node."""
        config = EncryptorConfig("keyfile", secret_file=self.operator / "master.key")
        keyring = read_keyring(where)
        assert keyring is not None
        key = open_keyring(config, keyring, vault=VAULT, node=self.index, rng=self.rng)
        return await open_store(
            where,
            sealer=Sealer(key, vault=VAULT, node=self.index, rng=self.rng),
            vault=VAULT,
            node=self.index,
            clock=self.clock,
            rng=self.rng,
            create=create,
        )

    @property
    def opener(self) -> Opener:
        """Opens database copies with the master secret."""
        return self.opener_at(self.operator / "master.key")

    def opener_at(self, secret_file: Path) -> Opener:
        """The same with the secret at another place."""
        source = SecretSource(secret_file=secret_file)
        return opener(source, vault=VAULT, node=self.index, clock=self.clock, rng=self.rng)

    async def add_keys(self, count: int = 1, *, active: bool = True) -> list[KeyRecord]:
        """Make keys as a creation session would leave them at this node."""
        curve = group("ed25519")
        made, records = [], []
        batch_id = self.rng.bytes(32)
        for number in range(count):
            a0, a1 = curve.random_scalar(self.rng), curve.random_scalar(self.rng)
            values = [(a0 + a1 * i) % curve.q for i in PLAYERS]
            record = KeyRecord(
                key_id=f"key-{batch_id.hex()[:8]}-{number}",
                vault=VAULT,
                scheme="schnorr",
                curve="ed25519",
                protocol="frost-rfc9591",
                purpose="sign",
                threshold=1,
                holders=PLAYERS,
                public_key=curve.base_mul(a0).encode(),
                share_commitments=tuple(curve.base_mul(v).encode() for v in values),
                chain_code_hash=None,
                generation=1,
            )
            share = values[PLAYERS.index(self.index)]
            self.shares[record.key_id] = share
            made.append(NewKey(record, SecretScalar(share), None))
            records.append(record)
        statement = ready_statement(VAULT, batch_id, 1, [r.hash for r in records])
        ready = {
            i: Ed25519PrivateKey.from_private_bytes(identity_of(i).private.reveal()).sign(statement)
            for i in PLAYERS
        }
        batch = Batch(
            batch_id=batch_id,
            application="app",
            request_id=batch_id.hex()[:16],
            request_hash=bytes(32),
            generation=1,
            record_hashes=tuple(r.hash for r in records),
            key_ids=tuple(r.key_id for r in records),
            holders=PLAYERS,
            ready={self.index: ready[self.index]},
            active=False,
            created_us=self.clock.now_us(),
        )
        assert self.store is not None
        await self.store.put_batch(batch, made)
        if active:
            await self.store.add_ready(batch_id, ready)
        return records

    async def add_document(self, record: KeyRecord) -> DocumentRow:
        """Put something that passes for an ERS document into the ERS store."""
        assert self.store is not None
        data = b"document for " + record.key_id.encode()
        sha256 = hashlib.sha256(data).hexdigest()
        path = DocumentDirectory(self.home / "ers").put(sha256, data)
        row = DocumentRow(
            sha256, str(path), "0" * 64, "", True, {record.key_id: (1, record.hash)}, 1, 2
        )
        await self.store.put_document(row)
        return row

    async def backup(self, target: Path | None = None) -> BundleRow:
        """Make a bundle and store its receipt, as the node does."""
        assert self.store is not None
        row = await create_bundle(
            self.store,
            BundleInputs(self.config),
            target or self.targets,
            identity=self.identity,
            recipients=[self.recipient],
            clock=self.clock,
            rng=self.rng,
        )
        await self.store.put_bundle(row)
        return row


def config_text(
    index: int, operator: Path, ports: tuple[int, int, int], scratch: Scratch | None = None
) -> str:
    """A node.toml that names files inside, beside and outside of the node's directory."""
    peers = "\n".join(
        f'[[peers]]\nindex = {i}\npublic_key = "{identity_of(i).public.hex()}"\n'
        f'address = "wss://127.0.0.1:{ports[1] + 100 + i}"\n'
        for i in PLAYERS
        if i != index
    )
    database = 'url = "sqlite:///data/node.db"'
    if scratch is not None:
        database = f'url = "{scratch.url}"\npassword_file = "{operator}/database.password"'
    return f"""# a comment that a restore keeps in the original copy
[vault]
id = "{VAULT}"
[player]
index = {index}
identity_key_file = "identity.key"
{peers}
[database]
{database}
[anchor]
directory = "anchor"
[encryptor]
kind = "keyfile"
secret_file = "../operator{index}/master.key"
[api]
listen = "127.0.0.1:{ports[0]}"
tls_cert = "{operator}/tls/cert.pem"
tls_key = "{operator}/tls/key.pem"
[links]
listen = "127.0.0.1:{ports[1]}"
[management]
listen = "127.0.0.1:{ports[2]}"
[ers]
store = "ers"
[backup]
targets = ["../operator{index}/backups"]
include = ["{operator}/launch/start.sh", "notes.txt"]
recipients = []
[backup.policy]
require = "ers or node_backup"
gate = ["address", "sign"]
"""


MASTER = b"canary-master-secret-01234567890"

MakeNode = Callable[..., Awaitable[DiskNode]]


@pytest.fixture
async def make_node(tmp_path: Path, free_ports: Callable[..., int]) -> MakeNode:
    """``await make_node(2)`` gives an initialised node with an open store."""
    made: list[DiskNode] = []

    async def make(index: int = 2, root: Path | None = None, on: str = "sqlite") -> DiskNode:
        base = root or tmp_path
        home, operator = base / f"node{index}", base / f"operator{index}"
        for directory in (home / "data", home / "anchor", home / "ers"):
            directory.mkdir(parents=True, mode=0o700)
        for directory in (operator / "backups", operator / "tls", operator / "launch"):
            directory.mkdir(parents=True)
        port = free_ports(3)
        ports = (port, port + 1, port + 2)
        base_there = None
        if on != "sqlite":
            base_there = databases.enter_context(scratch(on))
            write_private(operator / "database.password", base_there.password.encode() + b"\n")
        (home / "node.toml").write_text(config_text(index, operator, ports, base_there))
        (home / "notes.txt").write_text("call Ada")
        key = Ed25519PrivateKey.from_private_bytes(identity_of(index).private.reveal())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (home / "identity.key").write_bytes(pem)
        (operator / "tls" / "cert.pem").write_text("certificate")
        (operator / "tls" / "key.pem").write_text("private key of TLS")
        (operator / "launch" / "start.sh").write_text("#!/bin/sh\nexec keycairn node run\n")
        (operator / "launch" / "start.sh").chmod(0o755)
        (operator / "master.key").write_bytes(MASTER)
        (operator / "master.key").chmod(0o600)
        node = DiskNode(
            home,
            operator,
            index,
            pyrage.x25519.Identity.generate(),
            scratch=base_there,
        )
        await node.create()
        made.append(node)
        return node

    with ExitStack() as databases:
        yield make  # type: ignore[misc]
        for node in made:
            if node.store is not None:
                await node.store.close()


@pytest.fixture
async def node(make_node: MakeNode) -> DiskNode:
    """Node 2 with two active keys, one pending key, and a document."""
    made = await make_node(2)
    records = await made.add_keys(2)
    await made.add_keys(1, active=False)
    await made.add_document(records[0])
    return made
