"""A store's rows as one SQLite file, whatever database they are in: its copies look like that.

Row MACs, digests and audit chain are over values, not over pages: they hold in the copy as they
do in the database. So a bundle is checked in the same way for every database, and a node can move
from one to another. Presignatures are in no copy.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Table, create_engine, insert, select
from sqlalchemy.exc import SQLAlchemyError

from keycairn.errors import Code, KeycairnError
from keycairn.store import schema
from keycairn.store.files import create_private, fsync_path, unavailable
from keycairn.store.transaction import Reader

#: Rows that are read at a time, of tables whose rows may be large and of all others.
_FEW, _MANY = 20, 2000
_LARGE = {"documents", "bundles", "batches", "audit", "requests", "witnesses"}


async def write(reader: Reader, target: Path) -> None:
    """Copy all that ``reader`` sees to the new file ``target``: mode 0600, flushed. On failure
    there is no file.

    Raises:
        KeycairnError: E_CONFLICT (``target`` exists), E_UNAVAILABLE (disk).
    """
    create_copy(target)
    try:
        engine = create_engine(f"sqlite+pysqlite:///file:{quote(str(target.absolute()))}?uri=true")
        try:
            with engine.begin() as copy:
                schema.metadata.create_all(copy)
                for table in _tables():
                    size = _FEW if table.name in _LARGE else _MANY
                    async for page in reader.pages(table, size=size):
                        copy.execute(insert(table), [dict(row) for row in page])
        except (sqlite3.Error, SQLAlchemyError) as exc:
            # Only the copy's errors: those of the reader's database say more themselves.
            if _is_sqlite(exc):
                raise KeycairnError(
                    Code.UNAVAILABLE,
                    "the copy of the database can't be written",
                    not_lost="The database is unchanged.",
                    next="free space on the disk of the copy, then try again",
                ) from exc
            raise
        finally:
            engine.dispose()
        fsync_path(target)
        fsync_path(target.parent)
    except OSError as exc:
        remove_copy(target)
        raise unavailable("the copy of the database can't be written", exc) from exc
    except BaseException:
        remove_copy(target)
        raise


def _is_sqlite(error: Exception) -> bool:
    return isinstance(getattr(error, "orig", error), sqlite3.Error)


def _tables() -> list[Table]:
    return [t for t in schema.metadata.sorted_tables if t is not schema.presignatures]


def read(source: Path, insert_many: Callable[[Table, Sequence[dict[str, Any]]], None]) -> None:
    """Put the rows of the copy ``source`` into a database whose tables are there and empty.

    Args:
        source: the copy.
        insert_many: adds rows to a table.

    Raises:
        KeycairnError: E_STORE_INTEGRITY when ``source`` is no such copy.
    """
    uri = f"sqlite+pysqlite:///file:{quote(str(source.absolute()))}?mode=ro&uri=true"
    engine = create_engine(uri)
    try:
        with engine.connect() as copy:
            for table in _tables():
                primary = list(table.primary_key.columns)
                size = _FEW if table.name in _LARGE else _MANY
                rows = copy.execution_options(yield_per=size).execute(
                    select(table).order_by(*primary)
                )
                for part in rows.mappings().partitions(size):
                    insert_many(table, [dict(row) for row in part])
    except (sqlite3.Error, SQLAlchemyError) as exc:
        if not _is_sqlite(exc):
            raise
        raise KeycairnError(
            Code.STORE_INTEGRITY,
            "the copy of the database can't be read",
            not_lost="Nothing was changed.",
            next="use an older bundle of this node",
        ) from exc
    finally:
        engine.dispose()


def create_copy(target: Path) -> None:
    """Make the empty private file of a copy; E_CONFLICT if it is there, E_UNAVAILABLE."""
    try:
        os.close(create_private(target))
    except FileExistsError as exc:
        raise KeycairnError(
            Code.CONFLICT, "the snapshot's target exists", not_lost="It was not touched."
        ) from exc
    except OSError as exc:
        raise unavailable("the snapshot can't be written", exc) from exc


def remove_copy(target: Path) -> None:
    """Take back an unfinished copy."""
    with contextlib.suppress(OSError):
        target.unlink(missing_ok=True)
        target.with_name(target.name + "-journal").unlink(missing_ok=True)
