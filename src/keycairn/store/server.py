"""What PostgreSQL and MariaDB have in common: pools, reconnects, creation, keyring, copies.

* **Writers** take turns: each transaction begins by locking the row of the audit head, which every
  transaction changes anyhow, so it sees all that was committed before it. The isolation level is
  READ COMMITTED: under it every statement sees what the lock's last holder left.
* **Readers** read one snapshot.
* **Connections** are made when needed. One that broke before any work was done is replaced and the
  transaction begun again; one that breaks later is an error of that transaction, and after COMMIT
  was sent its outcome is unknown. The first transaction of a new connection finds what this
  process wrote (:mod:`keycairn.store.core`): behind the same address there may be another server.
* **Durability** (R-22) is checked on every new connection, for the same reason.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from sqlalchemy import Connection as SyncConnection
from sqlalchemy import Engine, Table, delete, insert, inspect, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from keycairn.errors import Code, KeycairnError
from keycairn.ports import Clock
from keycairn.store import image, schema
from keycairn.store.database import Server
from keycairn.store.engine import ThreadedStore, Work, run
from keycairn.store.transaction import Connection
from keycairn.vault.sealing import Sealer

T = TypeVar("T")

READERS = 4
#: Seconds: to connect, to wait for another writer, for one statement.
CONNECT_SECONDS, LOCK_SECONDS, STATEMENT_SECONDS = 10, 30, 120
#: Seconds more until the driver gives up a server that does not even say that it took too long.
GRACE_SECONDS = 10

_MAX_KEYRING = 1 << 20
_NOT_LOST = (
    "Nothing of this operation was stored, unless the answer to COMMIT was lost; what was stored "
    "before is unchanged. A presignature that was to be used counts as used."
)

#: The statement that every writer begins with.
LOCK = text("SELECT 1 FROM digests WHERE name = 'audit' FOR UPDATE")


def unavailable(what: str, helps: str, **detail: Any) -> KeycairnError:
    """E_UNAVAILABLE for a server that says no."""
    return KeycairnError(Code.UNAVAILABLE, what, not_lost=_NOT_LOST, next=helps, detail=detail)


def not_durable(server: Server, setting: str, value: str, wanted: str, helps: str) -> KeycairnError:
    """E_POLICY for a server that may forget what it acknowledged."""
    return KeycairnError(
        Code.POLICY,
        f"{server} has {setting} = {value}: after a power failure it could forget a presignature's "
        f"use, and a nonce would be used twice; it must be {wanted}",
        not_lost="Nothing was changed.",
        next=helps,
        detail={"setting": setting, "value": value},
    )


def too_old(server: Server, found: str, wanted: str) -> KeycairnError:
    """E_POLICY for a server of an unknown kind or an old version."""
    return KeycairnError(
        Code.POLICY,
        f"{server} is {found}; this program needs {wanted}",
        not_lost="Nothing was changed.",
        next="upgrade the database server, or use another one",
        detail={"found": found},
    )


class ServerStore(ThreadedStore):
    """A store on a database server. Make one with :meth:`open`."""

    def __init__(
        self, server: Server, *, sealer: Sealer, vault: str, node: int, clock: Clock
    ) -> None:
        """Use :meth:`open`."""
        super().__init__(
            self.engine(server, 1, writes=True),
            self.engine(server, READERS, writes=False),
            READERS,
            sealer=sealer,
            vault=vault,
            node=node,
            clock=clock,
        )
        self._server = server

    # -- what a database supplies --------------------------------------------------------------

    @classmethod
    @abstractmethod
    def engine(cls, server: Server, size: int, *, writes: bool) -> Engine:
        """A pool of at most ``size`` connections whose transactions write, or read one snapshot."""

    @staticmethod
    @abstractmethod
    def explain(error: BaseException | None, server: Server) -> KeycairnError:
        """A driver's error in the operator's words."""

    @staticmethod
    @abstractmethod
    def away(error: BaseException | None) -> bool:
        """Whether a driver's error says that there is no connection to the server."""

    @staticmethod
    def insert_many(conn: SyncConnection, table: Table, rows: Sequence[dict[str, Any]]) -> None:
        """Add rows that have every column, as a restore does: many, and nothing reads them yet."""
        conn.execute(insert(table), rows)

    #: Rows of triggers, rules and the like on our tables, which must not be there.
    strange_objects: str

    # -- opening -------------------------------------------------------------------------------

    @classmethod
    async def open(
        cls,
        server: Server,
        *,
        sealer: Sealer,
        vault: str,
        node: int,
        clock: Clock,
        create: bool = False,
    ) -> Self:
        """Open the store and check it.

        Args:
            server: the database, which exists; its user owns the tables.
            sealer: made from the data key that the keyring gave.
            vault: vault id. With ``node``, what the sealer was made for.
            node: this node's index.
            clock: stamps audit records.
            create: make the tables if there are none. A running node never passes True.

        Raises:
            KeycairnError: E_NOT_FOUND (no such database), E_POLICY (version or durability of the
                server, schema of a newer version), E_STORE_INTEGRITY, E_UNAVAILABLE.
        """
        store = cls(server, sealer=sealer, vault=vault, node=node, clock=clock)
        try:
            if create and not await store._has_schema():
                await store._initialise()
            else:
                await store._require_store()
                await store._check_schema()
            await store._verify()
        except SQLAlchemyError as exc:
            await store.close()
            raise store._translate(exc) from exc
        except BaseException:
            await store.close()
            raise
        return store

    def _translate(self, error: Exception) -> KeycairnError:
        orig = error.orig if isinstance(error, DBAPIError) else error
        return self.explain(orig, self._server)

    def _is_down(self, error: Exception) -> bool:
        if isinstance(error, KeycairnError):
            return True  # The server was refused when the connection was made.
        return isinstance(error, DBAPIError) and self.away(error.orig)

    def _run_write(self, work: Work[T]) -> T:
        return _again(self._writer, work, reads=False)

    def _run_read(self, work: Work[T]) -> T:
        return _again(self._reader, work, reads=True)

    async def _change_tables(self, work: Callable[[Any], None]) -> None:
        await asyncio.to_thread(_bare, self._writer, work)

    async def _has_schema(self) -> bool:
        async def work(conn: Connection) -> bool:
            names = await conn.run_sync(lambda c: inspect(c).get_table_names())
            return schema.digests.name in names

        return await self._in_snapshot(work) and await self._schema_version() is not None

    async def _require_store(self) -> None:
        names = await self._in_snapshot(
            lambda conn: conn.run_sync(lambda c: inspect(c).get_table_names())
        )
        if schema.meta.name not in names:
            raise _no_store(self._server)

    async def _check_objects(self, tables: Collection[str]) -> None:
        async def work(conn: Connection) -> tuple[set[str], list[Any]]:
            names = set(await conn.run_sync(lambda c: inspect(c).get_table_names()))
            return names, list(await conn.execute(text(self.strange_objects)))

        names, strange = await self._in_snapshot(work)
        if strange or not set(tables) <= names:
            raise KeycairnError(
                Code.STORE_INTEGRITY,
                f"{self._server} holds triggers, rules or views, or lacks tables of the store"
                + (f": {strange[0][0]}" if strange else ""),
                not_lost="Nothing was changed; the other holders still have their shares.",
                next="remove what was added; give the node a database of its own",
            )

    async def snapshot(self, target: Path) -> None:
        """Copy the store to the new SQLite file ``target``: consistent, sealed as it is, mode
        0600, flushed, without the presignatures. On failure there is no file.

        Raises:
            KeycairnError: E_CONFLICT (``target`` exists), E_UNAVAILABLE.
        """
        await self._read(lambda reader: image.write(reader, target))


def _no_store(server: Server) -> KeycairnError:
    return KeycairnError(
        Code.NOT_FOUND,
        f"there is no store of a node in {server}",
        not_lost="Nothing was changed.",
        next="check [database] url in node.toml; a new node is made with keycairn init, a "
        "lost one with keycairn node restore",
    )


def _again(engine: Engine, work: Work[T], *, reads: bool) -> T:
    """:func:`run`, once more on a new connection if the first was dead: before the work began, or
    at any time if it only reads."""
    begun = False

    async def noticing(conn: Connection) -> T:
        nonlocal begun
        begun = True
        return await work(conn)

    try:
        return run(engine, noticing)
    except DBAPIError as exc:
        if not exc.connection_invalidated or (begun and not reads):
            raise
    return run(engine, noticing)


# -- before the data key is known --------------------------------------------------------------


def _bare(engine: Engine, work: Callable[[Any], None]) -> None:
    with engine.connect().execution_options(keycairn_bare=True) as conn, conn.begin():
        work(conn)


def read_keyring(adapter: type[ServerStore], server: Server) -> bytes | None:
    """The encryptor's keyring in the database, or None if there is none.

    Raises:
        KeycairnError: E_NOT_FOUND (no such database), E_POLICY, E_STORE_INTEGRITY, E_UNAVAILABLE.
    """
    engine = adapter.engine(server, 1, writes=False)
    try:
        with engine.connect() as conn:
            if schema.meta.name not in inspect(conn).get_table_names():
                return None
            query = select(schema.meta.c.value).where(schema.meta.c.name == "keyring")
            value = conn.execute(query).scalar()
    except SQLAlchemyError as exc:
        raise _explained(adapter, server, exc) from exc
    finally:
        engine.dispose()
    if value is not None and (not isinstance(value, bytes) or len(value) > _MAX_KEYRING):
        raise KeycairnError(
            Code.STORE_INTEGRITY,
            "the keyring in the database is damaged",
            not_lost="The other holders still have their shares.",
            next="keycairn node restore BUNDLE --into DIR --identity FILE",
        )
    return value


def write_keyring(
    adapter: type[ServerStore], server: Server, keyring: bytes, *, replaces: bytes | None = None
) -> None:
    """Put the keyring into the database in one durable transaction.

    Args:
        adapter: of the database's kind.
        server: the database.
        keyring: what the encryptor made; opaque here.
        replaces: the keyring that must stand there now; None: there must be none.

    Raises:
        KeycairnError: E_CONFLICT when another keyring stands there, E_UNAVAILABLE.
    """
    engine = adapter.engine(server, 1, writes=True)
    meta = schema.meta
    mine = meta.c.name == "keyring"
    conflict = KeycairnError(
        Code.CONFLICT,
        "the store has another keyring than was expected",
        not_lost="The keyring that stands there is unchanged.",
    )
    try:
        with engine.connect().execution_options(keycairn_bare=True) as conn:
            with conn.begin():
                meta.create(conn, checkfirst=True)
            with conn.begin():
                found = conn.execute(select(meta.c.value).where(mine).with_for_update()).scalar()
                if found != replaces:
                    raise conflict
                conn.execute(delete(meta).where(mine))
                conn.execute(insert(meta).values(name="keyring", value=keyring))
    except IntegrityError as exc:
        raise conflict from exc
    except SQLAlchemyError as exc:
        raise _explained(adapter, server, exc) from exc
    finally:
        engine.dispose()


def _explained(adapter: type[ServerStore], server: Server, error: SQLAlchemyError) -> KeycairnError:
    return adapter.explain(error.orig if isinstance(error, DBAPIError) else error, server)


def is_empty(adapter: type[ServerStore], server: Server) -> bool:
    """Whether the database has no store in it, nor part of one."""
    engine = adapter.engine(server, 1, writes=False)
    try:
        with engine.connect() as conn:
            return not set(inspect(conn).get_table_names()) & set(schema.metadata.tables)
    except SQLAlchemyError as exc:
        raise _explained(adapter, server, exc) from exc
    finally:
        engine.dispose()


def mark_restored(adapter: type[ServerStore], server: Server, why: str) -> None:
    """Write the restore mark into the store in ``server``; E_NOT_FOUND, E_UNAVAILABLE."""
    engine = adapter.engine(server, 1, writes=True)
    meta = schema.meta
    try:
        with engine.connect().execution_options(keycairn_bare=True) as conn:
            with conn.begin():
                there = meta.name in inspect(conn).get_table_names()
            if not there:
                raise _no_store(server)
            with conn.begin():
                conn.execute(delete(meta).where(meta.c.name == schema.RESTORED))
                conn.execute(insert(meta).values(name=schema.RESTORED, value=why.encode()))
    except SQLAlchemyError as exc:
        raise _explained(adapter, server, exc) from exc
    finally:
        engine.dispose()
