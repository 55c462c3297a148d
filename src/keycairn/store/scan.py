"""The one scan at open, the audit check, and the state digest."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

from sqlalchemy import Table, func, insert, select
from sqlalchemy import delete as sql_delete

from keycairn.encoding import digest, encode, tag
from keycairn.errors import Code, KeycairnError
from keycairn.store import schema
from keycairn.store.integrity import GENESIS, Digest, empty
from keycairn.store.transaction import Reader, Transaction, columns, mappings
from keycairn.vault.ports import DamagedRow

_STATE = tag("store/state")
_STATE_ROW = tag("store/state-row")
_RESTORE = "keycairn node restore BUNDLE --into DIR --identity FILE"

#: Tables of the state digest and the columns that are not state: times of the last check,
#: seals (they are made anew with each write; the record commits to what is in them).
_STATE_COLUMNS: dict[str, tuple[str, ...]] = {
    "batches": ("version",),
    "keys": ("version", "share", "chain_code"),
    "ers_keys": ("version",),
    "documents": ("version", "verified_us"),
    "bundles": ("version", "verified_us"),
}


async def verify_table(reader: Reader, table: Table, expected: Digest) -> list[DamagedRow] | None:
    """Check a table against its digest.

    Returns:
        The damaged rows (none, if all is well); None when the rows are sound and the index is
        not, so that it must be rebuilt.

    Raises:
        KeycairnError: E_STORE_INTEGRITY when neither rows nor index give the digest.
    """
    damaged: list[DamagedRow] = []
    index_total = empty(table.name)
    mine = schema.row_index.c.table_name == table.name
    by_key = [schema.row_index.c.row_key]
    async for entries in reader.pages(schema.row_index, mine, order=by_key):
        weights = [
            reader.macs.weight(table.name, e["row_key"], e["mac"])
            for e in entries
            if isinstance(e["mac"], bytes) and isinstance(e["row_key"], str)
        ]
        index_total = index_total.changed(added=weights)
    rows_total = empty(table.name)
    known = 0
    async for page in reader.pages(table):
        for checked in await reader.check(table, page):
            known += checked.why != "added"
            if checked.why:
                damaged.append(DamagedRow(table.name, checked.key, checked.why))
            if checked.mac is not None:
                weight = reader.macs.weight(table.name, checked.key, checked.mac)
                rows_total = rows_total.changed(added=[weight])
    if index_total == expected:
        if known < expected.count:
            damaged += await _missing(reader, table)
        return damaged
    if rows_total == expected:
        return None
    raise KeycairnError(
        Code.STORE_INTEGRITY,
        f"rows of {table.name} were removed, added or put back to an older state",
        not_lost="Nothing was changed; the other holders still have their shares.",
        next=_RESTORE,
        detail={"table": table.name, "expected": expected.count, "found": rows_total.count},
    )


async def _missing(reader: Reader, table: Table) -> list[DamagedRow]:
    primary = list(table.primary_key.columns)
    rows = await mappings(reader.conn, select(*primary))
    there = {schema.row_key(table, row) for row in rows}
    index = await reader.conn.execute(
        select(schema.row_index.c.row_key).where(schema.row_index.c.table_name == table.name)
    )
    return [DamagedRow(table.name, key, "missing") for (key,) in index if key not in there]


async def rebuild_index(tx: Transaction, table: Table) -> None:
    """Write the index of a table again from its (verified) rows."""
    await tx.conn.execute(
        sql_delete(schema.row_index).where(schema.row_index.c.table_name == table.name)
    )
    rows = await mappings(tx.conn, select(table))
    names = columns(table)
    entries = [
        {
            "table_name": table.name,
            "row_key": schema.row_key(table, row),
            "version": row["version"],
            "mac": tx.macs.row(table.name, names, row),
        }
        for row in rows
    ]
    if entries:
        await tx.conn.execute(insert(schema.row_index), entries)
    tx.audit("store.index_rebuilt", table=table.name, rows=len(entries))


def _broken_audit(position: int, what: str) -> KeycairnError:
    return KeycairnError(
        Code.STORE_INTEGRITY,
        f"the audit log is broken at record {position}: {what}",
        not_lost="Keys, shares and all records before this position are unaffected.",
        next="keep a copy of the data directory as evidence, then look who wrote to it",
        detail={"position": position},
    )


async def verify_audit_head(reader: Reader, head: Digest) -> None:
    """Check that the newest audit record is the one that the digest names."""
    newest = (await reader.conn.execute(select(func.max(schema.audit.c.seq)))).scalar() or 0
    row = (
        await reader.conn.execute(
            select(schema.audit.c.link).where(schema.audit.c.seq == head.count)
        )
    ).scalar()
    found = GENESIS if head.count == 0 else row
    if newest != head.count or found != head.total:
        raise _broken_audit(min(head.count, newest) + 1, "the end does not fit the digest")


async def leads_to(reader: Reader, known: Digest, head: Digest) -> bool:
    """Whether the audit chain goes on from ``known`` to ``head``; only what is between is read."""
    link, seq = known.total, known.count
    async for page in reader.pages(schema.audit, after=[known.count]):
        for row in page:
            seq += 1
            try:
                link = reader.macs.link(link, seq, row["at_us"], row["event"], row["detail"])
            except (TypeError, ValueError):
                return False
            if row["seq"] != seq or link != row["link"]:
                return False
    return seq == head.count and link == head.total


async def check_audit(reader: Reader, head: Digest) -> int:
    """Walk the chain; number of records. E_STORE_INTEGRITY naming the first broken position."""
    link, seq = GENESIS, 0
    async for page in reader.pages(schema.audit):
        for row in page:
            seq += 1
            if row["seq"] != seq:
                raise _broken_audit(seq, "a record is missing or out of order")
            try:
                link = reader.macs.link(link, seq, row["at_us"], row["event"], row["detail"])
                good = hmac.compare_digest(link, row["link"])
            except (TypeError, ValueError):
                good = False
            if not good:
                raise _broken_audit(seq, "it was edited, or the one before it was")
    if seq != head.count or link != head.total:
        raise _broken_audit(min(seq, head.count) + 1, "the end was cut off or added to")
    return seq


def _state_row(table: str, names: list[str], row: Any) -> bytes:
    return hashlib.sha256(encode(_STATE_ROW, table, names, [row[n] for n in names])).digest()


async def state_digest(reader: Reader) -> bytes:
    """SHA-256 over the sorted hashes of all rows that are logical state (32 bytes).

    Sorting hashes instead of rows makes the result independent of a database's collation.
    """
    hashes: list[bytes] = []
    for name, left_out in _STATE_COLUMNS.items():
        table = schema.PROTECTED[name]
        names = [c for c in columns(table) if c not in left_out]
        async for page in reader.pages(table):
            hashes += [_state_row(name, names, row) for row in page]
    return digest(_STATE, b"".join(sorted(hashes)))
