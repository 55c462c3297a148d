"""The keyring of an open store: read it, replace it. Its content belongs to the encryptor."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from typing import Any

from sqlalchemy import Engine, select, update
from sqlalchemy.exc import SQLAlchemyError

from keycairn.errors import Code, KeycairnError
from keycairn.store import schema
from keycairn.store.core import SqlCore
from keycairn.store.sqlite import SqliteStore
from keycairn.store.transaction import Reader, Transaction

_MINE = schema.meta.c.name == "keyring"


async def current_keyring(store: SqlCore) -> bytes:
    """The keyring that stands in the database of an open store.

    Raises:
        KeycairnError: E_STORE_INTEGRITY when it is gone, E_UNAVAILABLE.
    """

    async def work(reader: Reader) -> Any:
        return (await reader.conn.execute(select(schema.meta.c.value).where(_MINE))).scalar()

    value = await store._read(work)
    if not isinstance(value, bytes):
        raise KeycairnError(
            Code.STORE_INTEGRITY,
            "the keyring is gone from the database",
            not_lost="The running process still has the keys: do not stop it before all keys have "
            "a recovery document.",
            next="keycairn ers create, then keycairn node restore BUNDLE --into DIR "
            "--identity FILE",
        )
    return value


async def replace_keyring(store: SqlCore, old: bytes, new: bytes, **facts: str) -> None:
    """Put ``new`` in the place of ``old``, in one transaction with its audit record.

    Args:
        store: open.
        old: what must stand there.
        new: wraps the same data keys.
        facts: for the audit record; not secret.

    Raises:
        KeycairnError: E_CONFLICT when another keyring stands there; E_UNAVAILABLE, after which
            the one or the other stands there.
    """

    async def work(tx: Transaction) -> None:
        statement = update(schema.meta).where(_MINE, schema.meta.c.value == old)
        done = await tx.conn.execute(statement.values(value=new))
        if done.rowcount != 1:
            raise KeycairnError(
                Code.CONFLICT,
                "the store has another keyring than was expected",
                not_lost="The keyring that stands there is unchanged.",
                next="run the command again",
            )
        tx.audit("encryptor.rotate", **facts)

    await store._write(work)
    if isinstance(store, SqliteStore):
        # The rollback journal is kept between transactions, and holds the page that was replaced.
        async with store._lock:
            await asyncio.to_thread(_drop_journal, store._writer)


def _drop_journal(engine: Engine) -> None:
    # At the driver: SQLAlchemy would begin a transaction, in which the mode can't change. If it
    # can't now, later transactions write over the old page.
    with contextlib.suppress(SQLAlchemyError, sqlite3.Error):
        raw = engine.raw_connection()
        try:
            cursor = raw.cursor()
            cursor.execute("PRAGMA journal_mode=DELETE")
            cursor.execute("PRAGMA journal_mode=PERSIST")
            cursor.close()
        finally:
            raw.close()
