"""Version 4: the history of state changes, witnesses of peers, and what this node is behind.

A database of before begins with an empty history: nobody has heard a word of it yet, neither an
anchor nor a peer, so there is nothing that it must contain. Bans and revocations are not lost with
that: a node's witness takes them from their own tables.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from sqlalchemy import BigInteger, Column, delete, insert, select

from keycairn.errors import Code, KeycairnError
from keycairn.store import schema
from keycairn.store.integrity import AUDIT, SPENT, Macs, empty
from keycairn.store.migrations import to_3
from keycairn.store.transaction import Connection, mappings
from keycairn.store.types import blob, name, text

if TYPE_CHECKING:
    from alembic.operations import Operations

#: Tables of version 3.
BEFORE = to_3.BEFORE
_NEW = ("history", "witnesses", "behind")
_DIGESTS = {
    AUDIT,
    SPENT,
    "incarnations",
    "spends",
    "paths",
    "batches",
    "keys",
    "requests",
    "bans",
    "ers_keys",
    "documents",
    "bundles",
}


def tables(op: Operations, there: Collection[str]) -> None:
    """Three new tables."""
    if "history" not in there:
        op.create_table(
            "history",
            Column("length", BigInteger, primary_key=True, autoincrement=False),
            Column("era", BigInteger, nullable=False),
            Column("hash", name(32), nullable=False),
            Column("kind", text(64), nullable=False),
            Column("detail", blob(), nullable=False),
            Column("at_us", BigInteger, nullable=False),
            Column("version", BigInteger, nullable=False),
            mysql_engine="InnoDB",
            mariadb_engine="InnoDB",
        )
    if "witnesses" not in there:
        op.create_table(
            "witnesses",
            Column("peer", BigInteger, primary_key=True, autoincrement=False),
            Column("era", BigInteger, nullable=False),
            Column("length", BigInteger, nullable=False),
            Column("head", name(32), nullable=False),
            Column("body", blob(), nullable=False),
            Column("version", BigInteger, nullable=False),
            mysql_engine="InnoDB",
            mariadb_engine="InnoDB",
        )
    if "behind" not in there:
        op.create_table(
            "behind",
            Column("batch_id", name(64), primary_key=True),
            Column("body", blob(), nullable=False),
            Column("version", BigInteger, nullable=False),
            mysql_engine="InnoDB",
            mariadb_engine="InnoDB",
        )


async def rows(conn: Connection, macs: Macs) -> None:
    """Their digests: all three are empty."""
    table = schema.digests
    found = await mappings(conn, select(table))
    old = macs.loaded({r["name"]: (r["count"], r["total"], r["mac"]) for r in found})
    if old is None or set(old) != _DIGESTS:
        raise KeycairnError(
            Code.STORE_INTEGRITY,
            "the store's digests are not those of schema version 3, or were edited",
            not_lost="Nothing was changed; the other holders still have their shares.",
            next="check [vault] id, [player] index and [database] url in node.toml; "
            "else keycairn node restore BUNDLE --into DIR --identity FILE",
        )
    new = {**old, **{n: empty(n) for n in _NEW}}
    await conn.execute(delete(table))
    await conn.execute(
        insert(table),
        [
            {"name": n, "count": new[n].count, "total": total, "mac": mac}
            for n, (total, mac) in macs.stored(new).items()
        ],
    )
