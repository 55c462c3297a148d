"""Older databases become this version's when they are opened.

One step per schema version, in a file of its own that is never edited again: it names its tables
itself and not those of :mod:`keycairn.store.schema`, which go on changing. A step has two halves:

* ``tables(op, there)`` changes tables with alembic's operations. MariaDB commits each of them by
  itself, so this half must be repeatable: it looks at what is ``there``.
* ``rows(conn, macs)`` changes rows in one transaction with the new version number and an audit
  record. Before it the database is of the old version, after it of the new one.

A process that dies between them finds the old version again and repeats the first half. The number
stands in ``meta``, in the same transaction as the digests, so alembic's own table of versions,
which would be a second one, is not used.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection as SyncConnection
from sqlalchemy import inspect

from keycairn.store.integrity import Macs
from keycairn.store.migrations import to_2, to_3, to_4
from keycairn.store.transaction import Connection

if TYPE_CHECKING:
    from alembic.operations import Operations


@dataclass(frozen=True)
class Step:
    """From the version before to ``version``.

    Attributes:
        version: what the database has afterwards.
    """

    version: int
    tables: Callable[[Operations, Collection[str]], None]
    rows: Callable[[Connection, Macs], Coroutine[Any, Any, None]]

    def change_tables(self, conn: SyncConnection) -> None:
        """The first half, on a connection whose transaction the caller ends."""
        # Here and not above: most starts need no migration, and it takes a while to load.
        from alembic.migration import MigrationContext
        from alembic.operations import Operations

        there = inspect(conn).get_table_names()
        self.tables(Operations(MigrationContext.configure(conn)), there)


STEPS: tuple[Step, ...] = (
    Step(2, to_2.tables, to_2.rows),
    Step(3, to_3.tables, to_3.rows),
    Step(4, to_4.tables, to_4.rows),
)

#: Tables that databases of older versions have.
TABLES: dict[int, frozenset[str]] = {
    1: to_2.BEFORE,
    2: to_3.BEFORE,
    3: to_4.BEFORE,
}


def steps_from(found: int) -> tuple[Step, ...]:
    """What an older database needs, in order."""
    return tuple(step for step in STEPS if step.version > found)
