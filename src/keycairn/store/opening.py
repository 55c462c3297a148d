"""The store that ``[database] url`` names: open it, read and write its keyring."""

from __future__ import annotations

from pathlib import Path

from keycairn.errors import Code, KeycairnError
from keycairn.ports import Clock, Rng
from keycairn.store import server as servers
from keycairn.store import sqlite
from keycairn.store.database import POSTGRESQL, Database, Server
from keycairn.store.mariadb import MariadbStore
from keycairn.store.postgresql import PostgresqlStore
from keycairn.store.server import ServerStore
from keycairn.store.sql import SqlStore
from keycairn.vault.sealing import Sealer


def adapter(server: Server) -> type[ServerStore]:
    """The store class for a server's kind."""
    return PostgresqlStore if server.kind == POSTGRESQL else MariadbStore


async def open_store(
    database: Database,
    *,
    sealer: Sealer,
    vault: str,
    node: int,
    clock: Clock,
    rng: Rng,
    create: bool = False,
    keep_older: bool = False,
) -> SqlStore:
    """Open a node's store and check it; arguments and errors as in each adapter's ``open``."""
    if isinstance(database, Path):
        return await sqlite.SqliteStore.open(
            database,
            sealer=sealer,
            vault=vault,
            node=node,
            clock=clock,
            rng=rng,
            create=create,
            keep_older=keep_older,
        )
    return await adapter(database).open(
        database, sealer=sealer, vault=vault, node=node, clock=clock, create=create
    )


def read_keyring(database: Database) -> bytes | None:
    """The encryptor's keyring, or None if there is none (or no file). Blocks."""
    if isinstance(database, Path):
        return sqlite.read_keyring(database)
    return servers.read_keyring(adapter(database), database)


def write_keyring(database: Database, keyring: bytes, *, replaces: bytes | None = None) -> None:
    """Put the keyring into the database in one durable transaction; E_CONFLICT when another than
    ``replaces`` stands there. Blocks."""
    if isinstance(database, Path):
        sqlite.write_keyring(database, keyring, replaces=replaces)
    else:
        servers.write_keyring(adapter(database), database, keyring, replaces=replaces)


def mark_restored(database: Database, why: str) -> None:
    """Write into a store that was put here by a restore that its node must rejoin before it acts.

    Needs no key; a mark that stands there is replaced. ``store.restored()`` gives ``why`` back
    until a rejoin clears it. Every restore writes it before it is complete. Blocks.

    Raises:
        KeycairnError: E_NOT_FOUND when there is no store, E_UNAVAILABLE.
    """
    if isinstance(database, Path):
        sqlite.mark_restored(database, why)
    else:
        servers.mark_restored(adapter(database), database, why)


def require_unused(database: Database) -> None:
    """E_CONFLICT if a store, or a part of one, is there. Blocks."""
    if isinstance(database, Path):
        used = database.exists()
    else:
        used = not servers.is_empty(adapter(database), database)
    if used:
        raise KeycairnError(
            Code.CONFLICT, f"{database} exists already", not_lost="It was not touched."
        )
