"""The node's durable side, opened in one place: lock, secret, keyring, database.

Used by the daemon, and by commands that look at a node while it is stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from keycairn.encryptors import create_keyring, open_keyring, read_secret
from keycairn.errors import Code, KeycairnError
from keycairn.node.brake import braked
from keycairn.node.config import NodeConfig
from keycairn.node.encryptor import check_node, settle
from keycairn.ports import Clock, Rng
from keycairn.store.database import Database
from keycairn.store.lock import DirectoryLock
from keycairn.store.opening import open_store, read_keyring, require_unused, write_keyring
from keycairn.store.sql import SqlStore
from keycairn.vault.sealing import Sealer


@asynccontextmanager
async def open_node(
    config: NodeConfig, clock: Clock, rng: Rng
) -> AsyncIterator[tuple[NodeConfig, SqlStore]]:
    """The open store of a node, locked against a second process, and the configuration with the
    encryptor that opened it: a rotation that was interrupted is finished first.

    Raises:
        KeycairnError: E_CONFLICT (another process has the data directory; another kind of
            encryptor), E_NOT_FOUND (no database, no secret), E_STORE_INTEGRITY (wrong secret,
            damage), E_RATE_LIMIT (too many wrong secrets), E_UNAVAILABLE (disk full or not
            writable, service away), and what else the encryptor raises.
    """
    with DirectoryLock(config.data_directory):
        database = await asyncio.to_thread(database_of, config)
        keyring = await asyncio.to_thread(read_keyring, database)
        if keyring is None:
            raise KeycairnError(
                Code.NOT_FOUND,
                f"there is no database of a node at {config.database}",
                not_lost="Nothing was changed, and nothing was made in its place.",
                next="keycairn node restore BUNDLE --into DIR --identity FILE, "
                "or correct [database] url",
                node=config.index,
            )
        config = settle(config, keyring)
        # Argon2id, or a service that may be slow: not on the event loop.
        sealer = await asyncio.to_thread(_braked_sealer, config, keyring, clock, rng)
        store = await open_store(
            database,
            sealer=sealer,
            vault=config.vault_id,
            node=config.index,
            clock=clock,
            rng=rng,
            keep_older=True,
        )
        try:
            yield config, store
        finally:
            await store.close()


@asynccontextmanager
async def open_storage(config: NodeConfig, clock: Clock, rng: Rng) -> AsyncIterator[SqlStore]:
    """As :func:`open_node`, without the configuration."""
    async with open_node(config, clock, rng) as (_, store):
        yield store


def check_stopped(config: NodeConfig, clock: Clock, rng: Rng) -> dict[str, Any]:
    """``encryptor check`` of a node that does not run, or is not there yet. Blocks; changes
    nothing.

    Raises:
        KeycairnError: E_CONFLICT when a process has the data directory; the encryptor's.
    """
    if not config.data_directory.is_dir():
        return check_node(config, None, clock, rng)
    with DirectoryLock(config.data_directory):
        keyring = read_keyring(database_of(config))
        if keyring is not None:
            config = settle(config, keyring)
        return check_node(config, keyring, clock, rng)


async def create_storage(config: NodeConfig, clock: Clock, rng: Rng) -> None:
    """Make the database of a new node: fresh data key, keyring, empty tables.

    Raises:
        KeycairnError: E_CONFLICT when one is there already, E_UNAVAILABLE.
    """
    with DirectoryLock(config.data_directory):
        database = await asyncio.to_thread(database_of, config)
        await asyncio.to_thread(require_unused, database)
        keyring = create_keyring(
            config.encryptor, vault=config.vault_id, node=config.index, rng=rng
        ).encode()
        await asyncio.to_thread(write_keyring, database, keyring)
        store = await open_store(
            database,
            sealer=_sealer(config, keyring, rng),
            vault=config.vault_id,
            node=config.index,
            clock=clock,
            rng=rng,
            create=True,
        )
        await store.close()


def database_of(config: NodeConfig) -> Database:
    """The configured database, with its password.

    Raises:
        KeycairnError: what reading the password's source raises: E_NOT_FOUND, E_POLICY (others
            can read it), E_MALFORMED, E_UNAVAILABLE.
    """
    if isinstance(config.database, Path) or config.database_password is None:
        return config.database
    try:
        return replace(config.database, password=read_secret(config.database_password))
    except KeycairnError as exc:
        raise KeycairnError(
            exc.code,
            f"the password of the database: {exc.message}",
            not_lost="Nothing was changed.",
            next="correct password_file, password_env or password_credential of [database]",
            node=config.index,
        ) from exc


def _braked_sealer(config: NodeConfig, keyring: bytes, clock: Clock, rng: Rng) -> Sealer:
    with braked(config, clock):
        return _sealer(config, keyring, rng)


def _sealer(config: NodeConfig, keyring: bytes, rng: Rng) -> Sealer:
    data_keys = open_keyring(
        config.encryptor, keyring, vault=config.vault_id, node=config.index, rng=rng
    )
    return Sealer(data_keys, vault=config.vault_id, node=config.index, rng=rng)
