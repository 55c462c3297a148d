"""The check of large tables, in the background of a store that is already open.

A million rows take minutes to check, so a node can't wait for it at its start. What is checked at
once: the digests and the audit head, every table while the rows add up to :data:`AT_ONCE`, and any
single row whenever it is read. What only a walk through a whole table finds, rows that were put
back together with their entries, or removed, is looked for by the patrol, a page at a time.

Writes go on meanwhile. Each page is read between two of them; a write behind the page that was read
last is added to the sums when it commits. If index and rows give the digest at the end, all is
well. If not (damage, or another process that wrote), the table is checked once more on one
consistent state, and that check alone decides (:func:`keycairn.store.scan.verify_table`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from sqlalchemy import Table, select

from keycairn.store import schema
from keycairn.store.integrity import Digest, Macs, empty
from keycairn.store.transaction import Change, Reader, columns, mappings

#: Rows that are checked before a store is open.
AT_ONCE = 20_000
_PAGE = 200
#: Seconds between pages, each of which takes some 4 ms: the node's own work comes first.
_REST = 0.15

Row = Mapping[str, Any]
T = TypeVar("T")


class Ground(Protocol):
    """What the patrol needs of a store."""

    async def read_alone(self, work: Callable[[Reader], Coroutine[Any, Any, T]]) -> T:
        """Run a reading while nothing is written; ``work`` gets a :class:`Reader`."""
        ...

    async def decide(self, table: Table) -> None:
        """Check the table on one consistent state and remember what is found."""
        ...


@dataclass
class _Walk:
    """One pass over the index entries or the rows of a table, and how far it is."""

    table: Table
    of_index: bool
    total: Digest
    last: tuple[Any, ...] = ()
    ended: bool = False
    odd: bool = False

    def passed(self, change: Change) -> bool:
        if change.table != self.table.name or not (self.last or self.ended):
            return False
        if self.ended:
            return True
        return ((change.row_key,) if self.of_index else change.primary) <= self.last


@dataclass
class Patrol:
    """Walks through the tables ``left``, one after the other."""

    ground: Ground
    macs: Macs
    left: list[Table]
    walks: list[_Walk] = field(default_factory=list)

    async def run(self) -> None:
        """Check all; returns when done. Errors are those of the store."""
        while self.left:
            table = self.left[0]
            if not await self._sound(table):
                await self.ground.decide(table)
            self.left.pop(0)

    def committed(self, changes: Sequence[Change]) -> None:
        """A transaction was committed: rows that were passed already count as they are now."""
        for walk in self.walks:
            for change in changes:
                if walk.passed(change):
                    walk.total = walk.total.changed(added=change.added, removed=change.removed)

    def lost_track(self) -> None:
        """The outcome of a commit is not known."""
        for walk in self.walks:
            walk.odd = True

    async def _sound(self, table: Table) -> bool:
        index = _Walk(table, True, empty(table.name))
        rows = _Walk(table, False, empty(table.name))
        self.walks = [index, rows]
        try:
            for walk in (index, rows):
                while await self._page(walk):
                    await asyncio.sleep(_REST)

            async def compare(reader: Reader) -> bool:
                expected = (await reader.digests())[table.name]
                return index.total == rows.total == expected

            return not (index.odd or rows.odd) and await self.ground.read_alone(compare)
        finally:
            self.walks = []

    async def _page(self, walk: _Walk) -> bool:
        """Read and add one page; False after the last."""
        source = schema.row_index if walk.of_index else walk.table
        order = [schema.row_index.c.row_key] if walk.of_index else list(source.primary_key.columns)

        async def read(reader: Reader) -> Sequence[Row]:
            query = select(source).order_by(*order).limit(_PAGE)
            if walk.of_index:
                query = query.where(schema.row_index.c.table_name == walk.table.name)
            if walk.last:
                query = query.where(reader.behind(order, walk.last))
            page = await mappings(reader.conn, query)
            if page:
                walk.last = tuple(page[-1][c.name] for c in order)
            walk.ended = len(page) < _PAGE
            return page

        page = await self.ground.read_alone(read)
        weigh = self._weigh_entries if walk.of_index else self._weigh_rows
        weights = await asyncio.to_thread(weigh, walk.table, page)
        walk.odd |= len(weights) != len(page)
        walk.total = walk.total.changed(added=weights)
        return not walk.ended

    def _weigh_entries(self, table: Table, page: Sequence[Row]) -> list[bytes]:
        return self._weights((table.name, e["row_key"], lambda e=e: e["mac"]) for e in page)

    def _weigh_rows(self, table: Table, page: Sequence[Row]) -> list[bytes]:
        names = columns(table)
        return self._weights(
            (table.name, schema.row_key(table, r), lambda r=r: self.macs.row(table.name, names, r))
            for r in page
        )

    def _weights(self, entries: Any) -> list[bytes]:
        weights = []
        for table, key, mac in entries:
            try:
                weights.append(self.macs.weight(table, key, mac()))
            except (TypeError, ValueError):
                continue  # The walk is odd then.
        return weights
