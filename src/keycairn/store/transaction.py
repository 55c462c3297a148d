"""Reading and writing protected rows, so that row, index entry and digest never part.

:class:`Reader` works on any connection; :class:`Transaction` adds writing, and keeps the digests
and the audit head that :meth:`Transaction.finish` writes just before the commit. Both use only
SQL that every supported database has.
"""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

from sqlalchemy import (
    Column,
    ColumnElement,
    CursorResult,
    Executable,
    Select,
    Table,
    and_,
    bindparam,
    delete,
    insert,
    or_,
    select,
    tuple_,
    update,
)

from keycairn.errors import Code, KeycairnError
from keycairn.store import schema
from keycairn.store.codec import pack
from keycairn.store.integrity import AUDIT, SPENT, Digest, Macs, spent
from keycairn.vault.fence.history import Head

Values = dict[str, Any]
#: What a transaction held at some point: digests, number of audit records and of changes, history.
Mark = tuple[dict[str, Digest], int, int, Head | None]
T = TypeVar("T")

#: Values per IN (...) list; every database takes this many bound parameters.
_CHUNK = 500


# Statements of every write, made once: building and hashing them takes as long as running them.
_DIGESTS = select(schema.digests)
_SET_DIGEST = update(schema.digests).where(schema.digests.c.name == bindparam("which"))
_INSERT = {table.name: insert(table) for table in schema.metadata.tables.values()}
_MACS = select(schema.row_index.c.row_key, schema.row_index.c.mac).where(
    schema.row_index.c.table_name == bindparam("table"),
    schema.row_index.c.row_key.in_(bindparam("keys", expanding=True)),
)


class Connection(Protocol):
    """What the shared SQL needs of a connection (:mod:`keycairn.store.engine` has it)."""

    #: SQLAlchemy's name of the database's dialect.
    dialect: str
    #: This is the first transaction of a connection that was just made.
    fresh: bool

    async def execute(self, statement: Executable, parameters: Any = None) -> CursorResult[Any]: ...

    async def run_sync(self, work: Callable[[Any], T]) -> T: ...


def chunks(items: Sequence[T], size: int = _CHUNK) -> Iterator[Sequence[T]]:
    """``items`` in slices of at most ``size``."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def columns(table: Table) -> list[str]:
    """Column names in the table's order."""
    return [c.name for c in table.columns]


async def mappings(conn: Connection, query: Select[Any]) -> list[Mapping[str, Any]]:
    """Rows of a query, each a mapping from column name to value."""
    return cast("list[Mapping[str, Any]]", (await conn.execute(query)).mappings().all())


def damaged_error(table: str, row: str, why: str) -> KeycairnError:
    """The error for a protected row that failed its check."""
    return KeycairnError(
        Code.STORE_INTEGRITY,
        f"row {row} of {table} is {why}: it is not what this node wrote",
        not_lost="Other rows are unaffected; the other holders still have their shares.",
        next="keycairn node restore BUNDLE --into DIR --identity FILE",
        detail={"table": table, "row": row, "why": why},
    )


def _same(entry: object, mac: bytes | None) -> bool:
    """Whether an index entry, which may be anything, is the MAC of a row."""
    return isinstance(entry, bytes) and mac is not None and hmac.compare_digest(entry, mac)


@dataclass(frozen=True)
class Change:
    """One protected row that a transaction wrote: where it is, which weights came and went."""

    table: str
    row_key: str
    primary: tuple[Any, ...]
    added: tuple[bytes, ...] = ()
    removed: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Checked:
    """A row and what its check said: ``why`` is "" or "edited", "missing", "added". ``mac`` is the
    MAC of the row as it was found, None if it can't have one."""

    table: str
    key: str
    values: Mapping[str, Any]
    why: str = ""
    mac: bytes | None = None

    def require(self) -> Mapping[str, Any]:
        """The values; E_STORE_INTEGRITY if the row is damaged."""
        if self.why:
            raise damaged_error(self.table, self.key, self.why)
        return self.values


class Reader:
    """Reads protected rows and checks each against its index entry."""

    def __init__(self, conn: Connection, macs: Macs) -> None:
        self.conn = conn
        self.macs = macs

    async def pages(
        self,
        table: Table,
        *where: ColumnElement[bool],
        order: Sequence[Column[Any]] = (),
        after: Sequence[Any] = (),
        size: int = 1000,
    ) -> AsyncIterator[Sequence[Mapping[str, Any]]]:
        """All rows that match, ``size`` at a time, in order of columns that name one row each
        (the primary key, if not given), beginning behind the values ``after``.

        Each page is a query of its own: open cursors across other queries are not possible with
        every driver.
        """
        primary = list(order) or list(table.primary_key.columns)
        last = list(after)
        while True:
            behind = [self.behind(primary, last)] if last else []
            query = select(table).where(*where, *behind).order_by(*primary).limit(size)
            page = await mappings(self.conn, query)
            if page:
                yield page
            if len(page) < size:
                return
            last = [page[-1][c.name] for c in primary]

    def behind(self, order: Sequence[Column[Any]], last: Sequence[Any]) -> ColumnElement[bool]:
        """The condition for rows behind the one with these values."""
        first, *rest = order
        if not rest:
            return cast("ColumnElement[bool]", first > last[0])
        if self.conn.dialect in ("mysql", "mariadb"):
            # These use no index for a comparison of tuples, the others none for this one.
            return or_(first > last[0], and_(first == last[0], self.behind(rest, last[1:])))
        return tuple_(*order) > last

    async def index(self, table: Table, keys: Sequence[str]) -> dict[str, bytes]:
        """MACs of the index entries that exist among ``keys``."""
        found: dict[str, bytes] = {}
        for part in chunks(keys):
            rows = await self.conn.execute(_MACS, {"table": table.name, "keys": list(part)})
            found.update({row.row_key: row.mac for row in rows})
        return found

    async def check(self, table: Table, rows: Sequence[Mapping[str, Any]]) -> list[Checked]:
        """Compare rows with their index entries."""
        keyed = [(schema.row_key(table, row), row) for row in rows]
        macs = await self.index(table, [key for key, _ in keyed])
        names = columns(table)
        out = []
        for key, row in keyed:
            mac = self.macs.row_if_any(table.name, names, row)
            if key not in macs:
                why = "added"
            elif not _same(macs[key], mac):
                why = "edited"
            else:
                why = ""
            out.append(Checked(table.name, key, row, why, mac))
        return out

    async def find(
        self,
        table: Table,
        *where: ColumnElement[bool],
        order: Sequence[Any] = (),
        limit: int | None = None,
    ) -> list[Checked]:
        """Checked rows that match."""
        query = select(table).where(*where).order_by(*order).limit(limit)
        rows = await mappings(self.conn, query)
        return await self.check(table, rows)

    async def find_in(
        self, table: Table, column: ColumnElement[Any], values: Sequence[Any]
    ) -> list[Checked]:
        """Checked rows whose ``column`` is among ``values``."""
        out: list[Checked] = []
        for part in chunks(values):
            out += await self.find(table, column.in_(part))
        return out

    async def get(self, table: Table, **key: Any) -> Checked | None:
        """The row with this primary key. A row that the index knows and the table lacks comes
        back as "missing"; None means that it never was, or was deleted by us."""
        where = [table.c[name] == value for name, value in key.items()]
        found = await self.find(table, *where)
        if found:
            return found[0]
        name = schema.row_key(table, key)
        if await self.index(table, [name]):
            return Checked(table.name, name, {}, "missing")
        return None

    async def digests(self) -> dict[str, Digest]:
        """All digests, their MACs checked. E_STORE_INTEGRITY."""
        rows = await mappings(self.conn, _DIGESTS)
        try:
            out = self.macs.loaded({r["name"]: (r["count"], r["total"], r["mac"]) for r in rows})
        except (TypeError, ValueError):
            out = None
        if out is None or set(out) != {*schema.PROTECTED, AUDIT, SPENT}:
            raise KeycairnError(
                Code.STORE_INTEGRITY,
                "the store's digests don't belong to this data key, vault and node, or were edited",
                not_lost="Nothing was changed; the other holders still have their shares.",
                next="check [vault] id, [player] index and [database] url in node.toml; "
                "else keycairn node restore BUNDLE --into DIR --identity FILE",
            )
        return out


class Transaction(Reader):
    """One write transaction. Begin with :meth:`load`, end with :meth:`finish`."""

    def __init__(self, conn: Connection, macs: Macs, now_us: int) -> None:
        super().__init__(conn, macs)
        self.now_us = now_us
        self._digests: dict[str, Digest] = {}
        self._before: dict[str, Digest] = {}
        self._audit: list[Values] = []
        #: Every protected row that was written so far.
        self.changes: list[Change] = []
        #: Head of the node's history, once it was asked for (:mod:`keycairn.store.history`).
        self.history: Head | None = None
        #: Number of the incarnation that this transaction begins, 0 for none.
        self.begins = 0

    async def load(self) -> None:
        """Read the digests (inside the transaction, so that no other writer changes them)."""
        self._digests = await self.digests()
        self._before = dict(self._digests)

    def mark(self) -> Mark:
        """A point to :meth:`reset` to, beside a savepoint of the database."""
        return dict(self._digests), len(self._audit), len(self.changes), self.history

    def reset(self, mark: Mark) -> None:
        """Forget what came after ``mark``."""
        digests, records, changes, self.history = mark
        self._digests = dict(digests)
        del self._audit[records:]
        del self.changes[changes:]

    async def finish(self) -> None:
        """Write audit records and changed digests."""
        if self._audit:
            await self.conn.execute(_INSERT[schema.audit.name], self._audit)
        if self._digests != self._before:
            # The audit row's MAC is over all of them, so it changes with each.
            stored = self.macs.stored(self._digests)
            changed = [n for n, d in self._digests.items() if n == AUDIT or self._before[n] != d]
            await self.conn.execute(
                _SET_DIGEST,
                [
                    {
                        "which": name,
                        "count": self._digests[name].count,
                        "total": stored[name][0],
                        "mac": stored[name][1],
                    }
                    for name in changed
                ],
            )

    @property
    def head(self) -> Digest:
        """The audit head: as found, and with what was appended since."""
        return self._digests[AUDIT]

    @property
    def spent_before(self) -> Digest:
        """The spend counter that this transaction found."""
        return self._before[SPENT]

    @property
    def spent(self) -> Digest:
        """The spend counter that this transaction will leave."""
        return self._digests[SPENT]

    def begin_spends(self, incarnation: bytes) -> None:
        """From here on only ``incarnation`` spends."""
        self._digests[SPENT] = spent(incarnation)

    def count_spends(self, more: int) -> None:
        """Advance the spend counter."""
        d = self._digests[SPENT]
        self._digests[SPENT] = Digest(SPENT, d.count + more, d.total)

    def count(self, table: Table) -> int:
        """Number of rows, by the digest."""
        return self._digests[table.name].count

    def audit(self, event: str, **detail: Any) -> None:
        """Append to the audit chain."""
        head = self._digests[AUDIT]
        seq = head.count + 1
        packed = pack(detail, "an audit record")
        link = self.macs.link(head.total, seq, self.now_us, event, packed)
        self._audit.append(
            {"seq": seq, "at_us": self.now_us, "event": event, "detail": packed, "link": link}
        )
        self._digests[AUDIT] = Digest(AUDIT, seq, link)

    async def insert(self, table: Table, rows: Iterable[Values]) -> None:
        """Add rows at version 1. IntegrityError when one exists."""
        full = [{**row, "version": 1} for row in rows]
        if not full:
            return
        entries = [self._entry(table, row) for row in full]
        await self.conn.execute(_INSERT[table.name], full)
        await self.conn.execute(_INSERT[schema.row_index.name], entries)
        weights = [self._weight(e) for e in entries]
        self._account(table, added=weights)
        for row, entry, weight in zip(full, entries, weights, strict=True):
            self._changed(table, entry["row_key"], row, added=(weight,))

    async def replace(self, table: Table, row: Values) -> Mapping[str, Any] | None:
        """Insert a row or replace that with its primary key, which is returned."""
        self._mac(table, {**row, "version": 0})  # TypeError for values that no row can hold
        key = {c.name: row[c.name] for c in table.primary_key.columns}
        old = await self.get(table, **key)
        if old is None:
            await self.insert(table, [row])
            return None
        was = old.require()
        new = {**row, "version": was["version"] + 1}
        entry = self._entry(table, new)
        where = [table.c[name] == value for name, value in key.items()]
        await self.conn.execute(update(table).where(*where).values(new))
        await self.conn.execute(
            update(schema.row_index)
            .where(
                schema.row_index.c.table_name == table.name,
                schema.row_index.c.row_key == old.key,
            )
            .values(version=entry["version"], mac=entry["mac"])
        )
        was_there = {**entry, "mac": self._mac(table, was)}
        came, went = (self._weight(entry),), (self._weight(was_there),)
        self._account(table, added=came, removed=went)
        self._changed(table, old.key, row, added=came, removed=went)
        return was

    async def remove(self, table: Table, **key: Any) -> bool:
        """Delete a row; False if it is not there. A damaged one is removed as well, if its index
        entry stands (the digest is over the entries)."""
        old = await self.get(table, **key)
        if old is None:
            return False
        macs = await self.index(table, [old.key])
        where = [table.c[name] == value for name, value in key.items()]
        await self.conn.execute(delete(table).where(*where))
        await self.conn.execute(
            delete(schema.row_index).where(
                schema.row_index.c.table_name == table.name,
                schema.row_index.c.row_key == old.key,
            )
        )
        gone = [self.macs.weight(table.name, key, mac) for key, mac in macs.items()]
        self._account(table, removed=gone)
        self._changed(table, old.key, key, removed=tuple(gone))
        return True

    def _changed(
        self,
        table: Table,
        row_key: str,
        row: Mapping[str, Any],
        *,
        added: tuple[bytes, ...] = (),
        removed: tuple[bytes, ...] = (),
    ) -> None:
        primary = tuple(row[c.name] for c in table.primary_key.columns)
        self.changes.append(Change(table.name, row_key, primary, added, removed))

    def _mac(self, table: Table, row: Mapping[str, Any]) -> bytes:
        return self.macs.row(table.name, columns(table), row)

    def _entry(self, table: Table, row: Values) -> Values:
        return {
            "table_name": table.name,
            "row_key": schema.row_key(table, row),
            "version": row["version"],
            "mac": self._mac(table, row),
        }

    def _weight(self, entry: Values) -> bytes:
        return self.macs.weight(entry["table_name"], entry["row_key"], entry["mac"])

    def _account(
        self, table: Table, *, added: Sequence[bytes] = (), removed: Sequence[bytes] = ()
    ) -> None:
        d = self._digests[table.name]
        self._digests[table.name] = d.changed(added=added, removed=removed)
