"""The node's durable side, opened in one place: lock, secret, keyring, database.

Used by the daemon, and by commands that look at a node while it is stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from keycairn.encryptors import create_keyring, open_keyring
from keycairn.errors import Code, KeycairnError
from keycairn.node.brake import braked
from keycairn.node.config import NodeConfig
from keycairn.node.encryptor import check_node, settle
from keycairn.ports import Clock, Rng
from keycairn.store.lock import DirectoryLock
from keycairn.store.sqlite import SqliteStore, read_keyring, write_keyring
from keycairn.vault.sealing import Sealer


@asynccontextmanager
async def open_node(
    config: NodeConfig, clock: Clock, rng: Rng
) -> AsyncIterator[tuple[NodeConfig, SqliteStore]]:
    """The open store of a node, locked against a second process, and the configuration with the
    encryptor that opened it: a rotation that was interrupted is finished first.

    Raises:
        KeycairnError: E_CONFLICT (another process has the data directory; another kind of
            encryptor), E_NOT_FOUND (no database, no secret), E_STORE_INTEGRITY (wrong secret,
            damage), E_RATE_LIMIT (too many wrong secrets), E_UNAVAILABLE (disk full or not
            writable, service away), and what else the encryptor raises.
    """
    with DirectoryLock(config.data_directory):
        keyring = read_keyring(config.database)
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
        store = await SqliteStore.open(
            config.database,
            sealer=sealer,
            vault=config.vault_id,
            node=config.index,
            clock=clock,
            rng=rng,
        )
        try:
            yield config, store
        finally:
            await store.close()


@asynccontextmanager
async def open_storage(config: NodeConfig, clock: Clock, rng: Rng) -> AsyncIterator[SqliteStore]:
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
        keyring = read_keyring(config.database)
        if keyring is not None:
            config = settle(config, keyring)
        return check_node(config, keyring, clock, rng)


async def create_storage(config: NodeConfig, clock: Clock, rng: Rng) -> None:
    """Make the database of a new node: fresh data key, keyring, empty tables.

    Raises:
        KeycairnError: E_CONFLICT when one is there already, E_UNAVAILABLE.
    """
    with DirectoryLock(config.data_directory):
        if config.database.exists():
            raise KeycairnError(
                Code.CONFLICT,
                f"{config.database} exists already",
                not_lost="It was not touched.",
                node=config.index,
            )
        keyring = create_keyring(
            config.encryptor, vault=config.vault_id, node=config.index, rng=rng
        ).encode()
        write_keyring(config.database, keyring)
        store = await SqliteStore.open(
            config.database,
            sealer=_sealer(config, keyring, rng),
            vault=config.vault_id,
            node=config.index,
            clock=clock,
            rng=rng,
            create=True,
        )
        await store.close()


def _braked_sealer(config: NodeConfig, keyring: bytes, clock: Clock, rng: Rng) -> Sealer:
    with braked(config, clock):
        return _sealer(config, keyring, rng)


def _sealer(config: NodeConfig, keyring: bytes, rng: Rng) -> Sealer:
    data_keys = open_keyring(
        config.encryptor, keyring, vault=config.vault_id, node=config.index, rng=rng
    )
    return Sealer(data_keys, vault=config.vault_id, node=config.index, rng=rng)
