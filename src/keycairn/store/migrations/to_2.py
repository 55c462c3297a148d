"""Version 2: presignatures, the path ledger, and the spend counter among the digests."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from sqlalchemy import BigInteger, Column, delete, insert, select

from keycairn.errors import Code, KeycairnError
from keycairn.store import schema
from keycairn.store.integrity import AUDIT, SPENT, Macs, empty
from keycairn.store.transaction import Connection, mappings
from keycairn.store.types import blob, name, text

if TYPE_CHECKING:
    from alembic.operations import Operations

#: Tables of version 1.
BEFORE = frozenset(
    (
        "meta",
        "digests",
        "row_index",
        "audit",
        "incarnations",
        "spends",
        "batches",
        "keys",
        "requests",
        "bans",
        "ers_keys",
        "documents",
        "document_keys",
        "bundles",
    )
)
_DIGESTS = {
    AUDIT,
    "incarnations",
    "spends",
    "batches",
    "keys",
    "requests",
    "bans",
    "ers_keys",
    "documents",
    "bundles",
}


def tables(op: Operations, there: Collection[str]) -> None:
    """Two new tables."""
    if "presignatures" not in there:
        op.create_table(
            "presignatures",
            Column("presignature_id", name(64), primary_key=True),
            Column("sealed", blob(), nullable=False),
            mysql_engine="InnoDB",
            mariadb_engine="InnoDB",
        )
    if "paths" not in there:
        op.create_table(
            "paths",
            Column("key_id", text(128), primary_key=True),
            Column("path", text(100), primary_key=True),
            Column("first_us", BigInteger, nullable=False),
            Column("version", BigInteger, nullable=False),
            mysql_engine="InnoDB",
            mariadb_engine="InnoDB",
        )


async def rows(conn: Connection, macs: Macs) -> None:
    """The digest of ``paths``, and the spend counter: nothing is spent until a process starts."""
    table = schema.digests
    found = await mappings(conn, select(table))
    old = macs.loaded({r["name"]: (r["count"], r["total"], r["mac"]) for r in found})
    if old is None or set(old) != _DIGESTS:
        raise KeycairnError(
            Code.STORE_INTEGRITY,
            "the store's digests are not those of schema version 1, or were edited",
            not_lost="Nothing was changed; the other holders still have their shares.",
            next="check [vault] id, [player] index and [database] url in node.toml; "
            "else keycairn node restore BUNDLE --into DIR --identity FILE",
        )
    new = {**old, "paths": empty("paths"), SPENT: empty(SPENT)}
    await conn.execute(delete(table))
    await conn.execute(
        insert(table),
        [
            {"name": n, "count": new[n].count, "total": total, "mac": mac}
            for n, (total, mac) in macs.stored(new).items()
        ],
    )
