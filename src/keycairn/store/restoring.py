"""A copy (:mod:`keycairn.store.image`) into an empty database of a server, by ``node restore``.

The database gets all rows in one transaction, together with the row "restoring" in ``meta``: which
restore it was, and the head of the audit chain that it left. So after any interruption the database
holds nothing, or all. The same restore, repeated, finds the row and begins again, as long as the
head is the same: whatever happens in a store moves it, so a database that a node has been started
on is never replaced.

Tables are another matter: MariaDB makes each of them for good at once. Empty tables count as
nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, delete, insert, inspect, literal, select, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from keycairn.errors import Code, KeycairnError
from keycairn.store import image, schema
from keycairn.store.database import POSTGRESQL, Server
from keycairn.store.integrity import AUDIT
from keycairn.store.opening import adapter
from keycairn.store.server import LOCK_SECONDS

_MARK = "restoring"
_NAMES = frozenset(schema.metadata.tables)


def require_free(server: Server, restore: bytes) -> None:
    """Check that a copy may be put into ``server``; nothing is changed. Blocks.

    Args:
        server: the database, with its password. It is asked for its version and its durability.
        restore: names the restore, any bytes; the same for the same command.

    Raises:
        KeycairnError: E_CONFLICT (a store is in it), E_NOT_FOUND (no such database), E_POLICY
            (version, durability), E_UNAVAILABLE.
    """
    with _connected(server) as conn, conn.begin():
        _look(conn, server, restore)


def put(source: Path, server: Server, restore: bytes) -> None:
    """Put the copy ``source`` into the empty database ``server``. Blocks.

    Args:
        source: a copy of this schema version.
        server: the database, with its password.
        restore: as for :func:`require_free`.

    Raises:
        KeycairnError: as :func:`require_free`; E_STORE_INTEGRITY when ``source`` is no copy. The
            database then holds nothing, or (if the answer to COMMIT was lost) all.
    """
    with _connected(server) as conn, _alone(conn, server):
        with conn.begin():
            there = _look(conn, server, restore)
            for table in reversed(schema.metadata.sorted_tables):
                if table.name in there:
                    conn.execute(delete(table))
        with conn.begin():
            # Empty by now: they may be of an interrupted restore by an older version.
            schema.metadata.drop_all(conn)
            schema.metadata.create_all(conn)
            image.read(source, partial(adapter(server).insert_many, conn))
            value = _value(conn, restore)
            conn.execute(insert(schema.meta).values(name=_MARK, value=value))


def settled(server: Server) -> None:
    """Take the mark back: the restore is complete. Blocks; E_UNAVAILABLE."""
    with _connected(server) as conn, conn.begin():
        conn.execute(delete(schema.meta).where(schema.meta.c.name == _MARK))


@contextmanager
def _connected(server: Server) -> Iterator[Connection]:
    store = adapter(server)
    engine = store.engine(server, 1, writes=True)
    try:
        with engine.connect().execution_options(keycairn_bare=True) as conn:
            yield conn
    except SQLAlchemyError as exc:
        orig = exc.orig if isinstance(exc, DBAPIError) else exc
        raise store.explain(orig, server) from exc
    finally:
        engine.dispose()


@contextmanager
def _alone(conn: Connection, server: Server) -> Iterator[None]:
    """Hold a lock that every restore into this database takes; it ends with the connection."""
    name = f"keycairn restore {server.name}"
    if server.kind == POSTGRESQL:
        # Waits for as long as any statement waits for a lock: a killed one's may be held still.
        key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
        conn.execute(text("SELECT pg_advisory_lock(:key)"), {"key": key})
    else:
        short = f"keycairn {hashlib.sha256(name.encode()).hexdigest()[:32]}"
        words = {"name": short, "seconds": LOCK_SECONDS}
        if conn.execute(text("SELECT GET_LOCK(:name, :seconds)"), words).scalar() != 1:
            raise KeycairnError(
                Code.CONFLICT,
                f"another restore into {server} is running",
                not_lost="Nothing was written.",
                next="wait until it has ended",
            )
    conn.commit()
    yield


def _look(conn: Connection, server: Server, restore: bytes) -> set[str]:
    """The tables that are there; E_CONFLICT unless they are empty, or this restore's."""
    there = set(inspect(conn).get_table_names()) & _NAMES
    used = [name for name in sorted(there) if _has_rows(conn, name)]
    ours = {"meta", "digests"} <= there and _mark(conn) == _value(conn, restore)
    if used and not ours:
        raise KeycairnError(
            Code.CONFLICT,
            f"{server} is not empty: a node's store is in it, and a restore never touches one",
            not_lost="Nothing was written; what stands there is unchanged.",
            next="make a new, empty database and name it with --map (database.url). If the node "
            "of this database still runs, stop it and keep it: its database is newer than any "
            "bundle",
            detail={"database": str(server)},
        )
    return there


def _has_rows(conn: Connection, name: str) -> bool:
    table = schema.metadata.tables[name]
    return conn.execute(select(literal(1)).select_from(table).limit(1)).scalar() is not None


def _mark(conn: Connection) -> Any:
    return conn.execute(select(schema.meta.c.value).where(schema.meta.c.name == _MARK)).scalar()


def _value(conn: Connection, restore: bytes) -> bytes:
    head = select(schema.digests.c.mac).where(schema.digests.c.name == AUDIT)
    return hashlib.sha256(restore).digest() + bytes(conn.execute(head).scalar() or b"")
