"""Stores for nodes without a database: in memory, and in one sealed file.

Both are the SQLite store over a database in memory with a single connection.

:class:`SealedFileStore` writes the whole database after each transaction that changed it: sealed as
one value, to a temporary file that is flushed and renamed. So the file is always one whole state,
and tells nothing but its size, not even the names of keys. A commit costs as much as the file is
large; for more than some thousand keys use SQLite. Layout::

    "keycairn sealed store 1\\n" | length of the keyring (4 bytes) | keyring | sealed database

The keyring is what the encryptor made (it is wrapped itself). One process at a time: a lock beside
the file is held while the store is open, since two would each write their own memory over it.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Engine, StaticPool, create_engine, event
from sqlalchemy.exc import SQLAlchemyError

from keycairn.encoding import SecretBytes
from keycairn.errors import Code, KeycairnError
from keycairn.ports import Clock
from keycairn.store.core import UnknownCommit
from keycairn.store.engine import ThreadedStore, Work, run
from keycairn.store.files import unavailable, write_durably
from keycairn.store.sqlite import copy_into, translate
from keycairn.vault.sealing import Place, Sealer

T = TypeVar("T")

_MAGIC = b"keycairn sealed store 1\n"
_PLACE = Place("store", "image", "", 1, 0)
_MAX_KEYRING = 1 << 20


def _engine(connection: sqlite3.Connection) -> Engine:
    engine = create_engine("sqlite://", creator=lambda: connection, poolclass=StaticPool)

    def on_begin(conn: Any) -> None:
        conn.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(engine, "begin", on_begin)
    return engine


class MemoryStore(ThreadedStore):
    """A store that ends with its process. Make one with :meth:`open`."""

    def __init__(self, *, sealer: Sealer, vault: str, node: int, clock: Clock) -> None:
        """Use :meth:`open`."""
        self._memory = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        self._memory.execute("PRAGMA foreign_keys=ON")
        self._memory.execute("PRAGMA user_version=1")  # a database without pages has no image
        engine = _engine(self._memory)
        super().__init__(engine, engine, 1, sealer=sealer, vault=vault, node=node, clock=clock)
        # One connection, so one thread for all.
        self._read_threads.shutdown()
        self._read_threads = self._write_thread

    @classmethod
    async def open(cls, *, sealer: Sealer, vault: str, node: int, clock: Clock) -> MemoryStore:
        """A new, empty store."""
        store = cls(sealer=sealer, vault=vault, node=node, clock=clock)
        await store._initialise()
        return store

    def _translate(self, error: Exception) -> KeycairnError:
        return translate(error)

    async def _change_tables(self, work: Callable[[Any], None]) -> None:
        await self._in_transaction(lambda conn: conn.run_sync(work))

    def _stop(self) -> None:
        super()._stop()
        self._memory.close()

    async def snapshot(self, target: Path) -> None:
        loop = asyncio.get_running_loop()
        async with self._lock:
            await loop.run_in_executor(self._write_thread, copy_into, self._memory, target)


class SealedFileStore(MemoryStore):
    """A store in one sealed file. Make one with :meth:`open_file`."""

    _path: Path
    _keyring: bytes
    _fd: int | None = None

    @classmethod
    async def open_file(
        cls,
        path: Path,
        *,
        sealer: Sealer,
        vault: str,
        node: int,
        clock: Clock,
        keyring: bytes = b"",
        create: bool = False,
    ) -> SealedFileStore:
        """Open the store in ``path`` and check all of it.

        Args:
            path: the file; its directory must exist.
            sealer: made from the data key that the keyring gave.
            vault: vault id.
            node: this node's index.
            clock: stamps audit records.
            keyring: put into a new file.
            create: make the file if it is missing.

        Raises:
            KeycairnError: E_CONFLICT (another process has it open), E_NOT_FOUND, E_POLICY (schema
                of another version), E_STORE_INTEGRITY (wrong data key, damage), E_UNAVAILABLE.
        """
        store = cls(sealer=sealer, vault=vault, node=node, clock=clock)
        store._path = path
        store._keyring = keyring
        try:
            store._fd = _lock(path)
            if path.exists() or not create:
                store._load()
                await store._check_schema()
            else:
                await store._initialise()
            await store._verify()
        except (SQLAlchemyError, sqlite3.Error) as exc:
            await store.close()
            raise translate(exc) from exc
        except BaseException:
            await store.close()
            raise
        return store

    def _load(self) -> None:
        self._keyring, sealed = _read(self._path)
        self._memory.deserialize(self._sealer.open(sealed, _PLACE).reveal())

    def _run_write(self, work: Work[T]) -> T:
        before, changes = self._memory.serialize(), self._memory.total_changes
        result = run(self._writer, work)
        if self._memory.total_changes == changes:
            return result
        image = SecretBytes(self._memory.serialize())
        head = _MAGIC + len(self._keyring).to_bytes(4, "big") + self._keyring
        try:
            write_durably(self._path, head + self._sealer.seal(image, _PLACE))
        except OSError as exc:
            # In memory as before; whether the new file took the old one's place is not known.
            self._memory.deserialize(before)
            raise UnknownCommit(exc) from exc
        return result

    def _stop(self) -> None:
        super()._stop()
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _lock(path: Path) -> int:
    try:
        fd = os.open(
            path.with_name(path.name + ".lock"),
            os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC,
            0o600,
        )
    except OSError as exc:
        raise unavailable("the store's file can't be locked", exc) from exc
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(fd)
        raise KeycairnError(
            Code.CONFLICT,
            "another process has this store open",
            not_lost="Nothing was changed.",
            next="stop that process first: each would write over what the other stored",
        ) from exc
    return fd


def _read(path: Path) -> tuple[bytes, bytes]:
    """Keyring and sealed database of a file."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as exc:
        raise KeycairnError(
            Code.NOT_FOUND,
            "there is no store's file at the given place",
            not_lost="Nothing was changed.",
            next="check the path, or restore the node",
            detail={"file": path.name},
        ) from exc
    except OSError as exc:
        raise unavailable("the store's file can't be read", exc) from exc
    start = len(_MAGIC) + 4
    size = int.from_bytes(data[len(_MAGIC) : start], "big")
    if not data.startswith(_MAGIC) or size > _MAX_KEYRING or len(data) < start + size:
        raise translate(None)
    return data[start : start + size], data[start + size :]


def read_sealed_keyring(path: Path) -> bytes:
    """The encryptor's keyring in a sealed file.

    Raises:
        KeycairnError: E_NOT_FOUND, E_STORE_INTEGRITY (not such a file), E_UNAVAILABLE.
    """
    return _read(path)[0]
