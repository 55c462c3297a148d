"""SQLite: one file, ``node.db``, mode 0600.

Decisions, and why:

* **Transactions.** The driver runs in autocommit and we say ``BEGIN IMMEDIATE`` for writers and
  ``BEGIN`` for readers. With the driver's own transactions a writer reads before it locks; of 400
  concurrent updates 180 arrived.
* **Rollback journal (PERSIST), not WAL.** After a commit everything is in the one file: whoever
  copies or puts back ``node.db`` of a stopped or killed node (with ``node.db-journal`` beside it)
  has all of it. With WAL a copy of the file alone silently lacks the newest commits, and a WAL
  left beside an older file is replayed into it. The price is one more flush per commit, which
  concurrent writes share.
* **synchronous=FULL** (R-22): in PERSIST mode the commit is the overwriting of the journal's
  header, and it is flushed before it returns (in DELETE mode it would not be).
* A live node is copied with :meth:`SqliteStore.snapshot` (SQLite's backup interface), never by
  copying the file.
* At open: ``PRAGMA integrity_check`` for files up to 64 MB (finds damaged indices, which the row
  digests do not), no triggers or views, the schema version, then the row digests.

The file has a ``meta`` place for the encryptor's keyring, readable before the data key is known:
:func:`read_keyring`, :func:`write_keyring`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError, DisconnectionError, SQLAlchemyError

from keycairn.errors import Code, KeycairnError
from keycairn.ports import Clock, Rng
from keycairn.store import schema
from keycairn.store.engine import ThreadedStore
from keycairn.store.files import create_private, fsync_path, unavailable
from keycairn.store.image import create_copy, remove_copy
from keycairn.store.transaction import Connection
from keycairn.vault.sealing import Sealer

_BUSY_MS = 30_000
_READERS = 2
#: Where a driver connection's ``info`` says which file it has open.
_FILE = "keycairn-file"
_MAX_KEYRING = 1 << 20
#: Bytes of a file that SQLite's own check reads through at every start.
_SMALL = 64 << 20
_ERRORS = (SQLAlchemyError, sqlite3.Error, OSError, UnicodeDecodeError)

_PRAGMAS = (
    "PRAGMA journal_mode=PERSIST",
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    "PRAGMA trusted_schema=OFF",
    "PRAGMA secure_delete=ON",  # of a presignature nothing is left in free pages, or in a copy's
    "PRAGMA cell_size_check=ON",
    f"PRAGMA busy_timeout={_BUSY_MS}",
)

#: Primary result codes that mean "not now" rather than "not sound".
_UNAVAILABLE = {
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_ABORT,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_AUTH,
}

_HELP = {
    sqlite3.SQLITE_FULL: ("the disk is full", "free space on the disk; the node goes on by itself"),
    sqlite3.SQLITE_IOERR: ("the disk failed", "look at the kernel log and the disk"),
    sqlite3.SQLITE_READONLY: (
        "the database can't be written",
        "give the keycairn user write access to the data directory",
    ),
    sqlite3.SQLITE_BUSY: (
        "the database is locked by another program",
        "stop the other program that uses node.db, then try again",
    ),
    sqlite3.SQLITE_CANTOPEN: (
        "the database can't be opened",
        "check that the data directory exists and belongs to the keycairn user",
    ),
}


def translate(error: BaseException | None) -> KeycairnError:
    """E_UNAVAILABLE for a disk that says no, E_STORE_INTEGRITY for a file that is not sound."""
    if isinstance(error, DBAPIError):
        error = error.orig
    if isinstance(error, OSError):
        return unavailable("the database file failed", error)
    code = getattr(error, "sqlite_errorcode", None)
    primary = None if code is None else code & 0xFF
    if primary in _UNAVAILABLE or isinstance(error, (SQLAlchemyError, sqlite3.ProgrammingError)):
        what, helps = _HELP.get(
            primary if primary is not None else -1,
            ("the database does not answer", "look at the node's log, then try again"),
        )
        return KeycairnError(
            Code.UNAVAILABLE,
            what,
            not_lost="Nothing of this operation was stored; what was stored before is unchanged. "
            "A presignature that was to be used counts as used.",
            next=helps,
            detail={"sqlite": getattr(error, "sqlite_errorname", type(error).__name__)},
        )
    return KeycairnError(
        Code.STORE_INTEGRITY,
        "the database file is damaged",
        not_lost="The other holders still have their shares.",
        next="keycairn node restore BUNDLE --into DIR --identity FILE",
        detail={"sqlite": getattr(error, "sqlite_errorname", type(error).__name__)},
    )


def _uri(path: Path, mode: str) -> str:
    return f"file:{quote(str(path.absolute()))}?mode={mode}"


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _engine(path: Path, begin: str, size: int) -> Engine:
    engine = create_engine(
        f"sqlite+pysqlite:///{_uri(path, 'rw')}&uri=true",
        pool_size=size,
        max_overflow=0,
        pool_timeout=_BUSY_MS / 1000,
        connect_args={"check_same_thread": False},
    )

    def on_connect(connection: Any, record: Any) -> None:
        record.info[_FILE] = _identity(path)
        connection.isolation_level = None  # driver autocommit: only our BEGIN counts
        cursor = connection.cursor()
        for pragma in _PRAGMAS:
            cursor.execute(pragma)
        cursor.close()

    def on_checkout(_: Any, record: Any, __: Any) -> None:
        # Somebody put another file in this one's place: what is open has lost its name, and SQLite
        # would write to it no more. A new connection looks at what is there now.
        if record.info[_FILE] != _identity(path):
            raise DisconnectionError

    def on_begin(connection: Any) -> None:
        connection.exec_driver_sql(begin)

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "checkout", on_checkout)
    event.listen(engine, "begin", on_begin)
    return engine


class SqliteStore(ThreadedStore):
    """A node's store in one SQLite file. Make one with :meth:`open`."""

    _keeps_older = False
    _thorough = True

    def __init__(self, path: Path, *, sealer: Sealer, vault: str, node: int, clock: Clock) -> None:
        """Use :meth:`open`."""
        super().__init__(
            _engine(path, "BEGIN IMMEDIATE", 1),
            _engine(path, "BEGIN", _READERS),
            _READERS,
            sealer=sealer,
            vault=vault,
            node=node,
            clock=clock,
        )
        self._path = path

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        sealer: Sealer,
        vault: str,
        node: int,
        clock: Clock,
        rng: Rng,
        create: bool = False,
        keep_older: bool = False,
        thorough: bool = False,
    ) -> SqliteStore:
        """Open the store and check all of it.

        Args:
            path: the database file; its directory must exist.
            sealer: made from the data key that the keyring gave.
            vault: vault id. With ``node``, what the sealer was made for.
            node: this node's index.
            clock: stamps audit records.
            rng: not used by this adapter (seals draw their nonces through the sealer).
            create: make the tables if the file is new or holds only a keyring. A running node
                never passes True: a store that vanished must not come back empty.
            keep_older: before a file of an older schema version is changed, copy it to
                ``<name>.schema-<version>`` beside it.
            thorough: check every page and row before it is open, however long that takes; else
                that of large files goes on in the background (:mod:`keycairn.store.patrol`).

        Raises:
            KeycairnError: E_NOT_FOUND (no file and not ``create``), E_POLICY (schema of a newer
                version), E_STORE_INTEGRITY (wrong data key, vault or node; damage that can't be
                laid to single rows), E_UNAVAILABLE. Single damaged rows do not raise:
                see :meth:`damaged`.
        """
        _prepare_file(path, create=create)
        store = cls(path, sealer=sealer, vault=vault, node=node, clock=clock)
        store._keeps_older = keep_older
        store._thorough = thorough or path.stat().st_size <= _SMALL
        try:
            if create and not await store._has_schema():
                await store._initialise()
            else:
                await store._check_schema()
            await store._verify(thorough=thorough)
        except _ERRORS as exc:
            await store.close()
            raise translate(exc) from exc
        except BaseException:
            await store.close()
            raise
        return store

    def _translate(self, error: Exception) -> KeycairnError:
        return translate(error)

    async def _change_tables(self, work: Callable[[Any], None]) -> None:
        await self._in_transaction(lambda conn: conn.run_sync(work))

    async def _has_schema(self) -> bool:
        async def work(conn: Connection) -> bool:
            names = await conn.execute(text("SELECT name FROM sqlite_master"))
            return schema.digests.name in set(names.scalars())

        return await self._in_snapshot(work) and await self._schema_version() is not None

    async def _keep(self, found: int) -> None:
        if not self._keeps_older:
            return
        target = self._path.with_name(f"{self._path.name}.schema-{found}")
        if not target.exists():
            await asyncio.to_thread(_copy_whole, self._path, target)

    async def _check_objects(self, tables: Collection[str]) -> None:
        async def work(conn: Connection) -> tuple[list[Any], Any]:
            rows = list(await conn.execute(text("SELECT type, name FROM sqlite_master")))
            if not self._thorough:
                return rows, "ok"
            return rows, (await conn.execute(text("PRAGMA integrity_check(1)"))).scalar()

        rows, sound = await self._in_snapshot(work)
        found = {name for kind, name in rows if kind == "table"}
        strange = {kind for kind, _ in rows} - {"table", "index"}
        # More than the version's own tables: a migration that did not end.
        if sound != "ok" or strange or not set(tables) <= found <= set(schema.metadata.tables):
            raise translate(None)

    async def snapshot(self, target: Path) -> None:
        """Copy the database to the new file ``target``: consistent, sealed as it is, mode 0600,
        flushed, without the presignatures. On failure there is no file.

        Raises:
            KeycairnError: E_CONFLICT (``target`` exists), E_UNAVAILABLE.
        """
        async with self._lock:
            await asyncio.to_thread(_backup, self._path, target)


def _prepare_file(path: Path, *, create: bool) -> None:
    try:
        if path.is_file():
            path.chmod(0o600)
            return
        if path.exists() or not create:
            raise KeycairnError(
                Code.NOT_FOUND,
                "there is no database file at the configured place",
                not_lost="Nothing was changed.",
                next="check [database] url in node.toml; a new node is made with keycairn init, a "
                "lost one with keycairn node restore",
                detail={"file": path.name},
            )
        os.close(create_private(path))
        fsync_path(path.parent)
    except OSError as exc:
        raise unavailable("the database file can't be made", exc) from exc


def _backup(path: Path, target: Path) -> None:
    try:
        with contextlib.closing(sqlite3.connect(_uri(path, "ro"), uri=True)) as source:
            copy_into(source, target)
    except _ERRORS as exc:
        raise translate(exc) from exc


def _copy_whole(path: Path, target: Path) -> None:
    with contextlib.closing(sqlite3.connect(_uri(path, "ro"), uri=True)) as source:
        copy_into(source, target, presignatures=False)


def copy_into(source: sqlite3.Connection, target: Path, *, presignatures: bool = True) -> None:
    """Copy a database, but the presignatures, to the new file ``target``; flushed, mode 0600.

    Args:
        presignatures: there may be some; False for a database of a version without the table.
    """
    create_copy(target)
    try:
        with contextlib.closing(sqlite3.connect(_uri(target, "rw"), uri=True)) as copy:
            source.backup(copy)
            if presignatures:
                copy.execute("PRAGMA secure_delete=ON")
                copy.execute("DELETE FROM presignatures")
            copy.commit()
        target.with_name(target.name + "-journal").unlink(missing_ok=True)
        fsync_path(target)
        fsync_path(target.parent)
    except BaseException as exc:
        remove_copy(target)
        if isinstance(exc, _ERRORS):
            raise translate(exc) from exc
        raise


def read_keyring(path: Path) -> bytes | None:
    """The encryptor's keyring in the store at ``path``, or None if there is none (or no file).

    Raises:
        KeycairnError: E_STORE_INTEGRITY (not a database, or the value is absurd), E_UNAVAILABLE.
    """
    if not path.is_file() or path.stat().st_size == 0:
        return None
    try:
        with contextlib.closing(sqlite3.connect(_uri(path, "rw"), uri=True)) as db:
            there = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone()
            if there is None:
                return None
            row = db.execute("SELECT value FROM meta WHERE name = 'keyring'").fetchone()
    except _ERRORS as exc:
        raise translate(exc) from exc
    if row is None:
        return None
    if not isinstance(row[0], bytes) or len(row[0]) > _MAX_KEYRING:
        raise translate(None)
    return row[0]


def write_keyring(path: Path, keyring: bytes, *, replaces: bytes | None = None) -> None:
    """Put the keyring into the store at ``path`` in one durable transaction, making the file
    (mode 0600) if it is missing.

    Args:
        path: the database file.
        keyring: what the encryptor made; opaque here.
        replaces: the keyring that must stand there now; None: there must be none.

    Raises:
        KeycairnError: E_CONFLICT when another keyring stands there (nothing is overwritten by
            mistake: without its keyring a store can't be opened), E_UNAVAILABLE.
    """
    _prepare_file(path, create=True)
    try:
        with contextlib.closing(
            sqlite3.connect(_uri(path, "rw"), uri=True, isolation_level=None)
        ) as db:
            for pragma in _PRAGMAS:
                db.execute(pragma)
            db.execute("BEGIN IMMEDIATE")
            db.execute(
                "CREATE TABLE IF NOT EXISTS meta "
                "(name VARCHAR(64) NOT NULL, value BLOB NOT NULL, PRIMARY KEY (name))"
            )
            row = db.execute("SELECT value FROM meta WHERE name = 'keyring'").fetchone()
            if (row[0] if row else None) != replaces:
                db.execute("ROLLBACK")
                raise KeycairnError(
                    Code.CONFLICT,
                    "the store has another keyring than was expected",
                    not_lost="The keyring that stands there is unchanged.",
                )
            db.execute("DELETE FROM meta WHERE name = 'keyring'")
            db.execute("INSERT INTO meta (name, value) VALUES ('keyring', ?)", (keyring,))
            db.execute("COMMIT")
    except _ERRORS as exc:
        raise translate(exc) from exc


def mark_restored(path: Path, why: str) -> None:
    """Write the restore mark into the store at ``path``; E_NOT_FOUND, E_UNAVAILABLE."""
    _prepare_file(path, create=False)
    try:
        with contextlib.closing(
            sqlite3.connect(_uri(path, "rw"), uri=True, isolation_level=None)
        ) as db:
            for pragma in _PRAGMAS:
                db.execute(pragma)
            db.execute(
                "INSERT INTO meta (name, value) VALUES (?, ?) "
                "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                (schema.RESTORED, why.encode()),
            )
    except _ERRORS as exc:
        raise translate(exc) from exc
