"""The tables, in types that every supported database has.

Times are BIGINT microseconds since the epoch, UTC (date types come back without a zone on some
databases). Structured values are canonical CBOR. ``version`` counts the writes of a row and
stands in its MAC and, for sealed columns, in the associated data of the seal.

Text compares by code points and without padding everywhere (``C``, ``utf8mb4_nopad_bin``): pages
in the order of a key, and names that differ in case or in a blank at the end, mean the same on each
database.

Three kinds of tables:

* **protected** tables (:data:`PROTECTED`): every row has an entry in ``row_index`` and is part of
  its table's digest (:mod:`keycairn.store.integrity`);
* the integrity tables themselves: ``row_index``, ``digests``, ``audit``;
* ``document_keys``: a look-up aid that is never trusted (what it finds is checked against the
  protected document row), and ``meta``: schema version, keyring;
* ``presignatures``: secrets under a key that only the running process has. They come and go with
  every signature, their seal is their check, and no copy of the store has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeEngine

from keycairn.encoding import digest, tag

#: Raised by one with every change of the tables below, together with a migration.
SCHEMA_VERSION = 2

_REQUEST = tag("store/request-row")
_MARIADB = ("mysql", "mariadb")


metadata = MetaData()


def _text(length: int) -> TypeEngine[str]:
    on_mariadb = mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_nopad_bin")
    on_postgresql = String(length, collation="C")
    return (
        String(length).with_variant(on_postgresql, "postgresql").with_variant(on_mariadb, *_MARIADB)
    )


def _name(length: int) -> TypeEngine[bytes]:
    """Bytes that stand in a key: MariaDB has no index over a BLOB."""
    return LargeBinary(length).with_variant(mysql.VARBINARY(length), *_MARIADB)


def _bytes() -> TypeEngine[bytes]:
    return LargeBinary().with_variant(mysql.LONGBLOB(), *_MARIADB)


#: Names and opaque values: "schema" (decimal text), "keyring" (belongs to the encryptor).
meta = Table(
    "meta",
    metadata,
    Column("name", _text(64), primary_key=True),
    Column("value", _bytes(), nullable=False),
)

digests = Table(
    "digests",
    metadata,
    Column("name", _text(64), primary_key=True),
    Column("count", BigInteger, nullable=False),
    Column("total", _name(32), nullable=False),
    Column("mac", _name(32), nullable=False),
)

row_index = Table(
    "row_index",
    metadata,
    Column("table_name", _text(64), primary_key=True),
    Column("row_key", _text(255), primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("mac", _name(32), nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("at_us", BigInteger, nullable=False),
    Column("event", _text(64), nullable=False),
    Column("detail", _bytes(), nullable=False),  # canonical CBOR
    Column("link", _name(32), nullable=False),
)

incarnations = Table(
    "incarnations",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("incarnation", _name(64), nullable=False, unique=True),
    Column("at_us", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
)

spends = Table(
    "spends",
    metadata,
    Column("presignature_id", _name(64), primary_key=True),
    Column("incarnation", _name(64), nullable=False),
    Column("key_id", _text(128), nullable=False, index=True),
    # Unique, because a second presignature with the same base nonce is the same secret (INV-2).
    # NULL for a spend whose protocol names no base nonce.
    Column("base_r", _name(128), nullable=True, unique=True),
    Column("digest", _name(64), nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
)

presignatures = Table(
    "presignatures",
    metadata,
    Column("presignature_id", _name(64), primary_key=True),
    Column("sealed", _bytes(), nullable=False),  # keycairn.vault.shelf
)

#: Which paths of a key were ever used for an address or a signature.
paths = Table(
    "paths",
    metadata,
    Column("key_id", _text(128), primary_key=True),
    Column("path", _text(100), primary_key=True),
    Column("first_us", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
)

batches = Table(
    "batches",
    metadata,
    Column("batch_id", _name(64), primary_key=True),
    Column("application", _text(128), nullable=False),
    Column("request_id", _text(128), nullable=False),
    Column("active", Boolean(create_constraint=False), nullable=False),
    Column("body", _bytes(), nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
    UniqueConstraint("application", "request_id"),
)

keys = Table(
    "keys",
    metadata,
    Column("key_id", _text(128), primary_key=True),
    Column("application", _text(128), nullable=False),
    Column("batch_id", _name(64), ForeignKey("batches.batch_id"), nullable=False, index=True),
    Column("generation", BigInteger, nullable=False),
    Column("record", _bytes(), nullable=False),
    Column("record_hash", _name(32), nullable=False),
    Column("share", _bytes(), nullable=False),  # sealed, keycairn.vault.sealing
    Column("chain_code", _bytes(), nullable=True),  # sealed
    Column("created_us", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
    Index("ix_keys_application", "application", "key_id"),
)

requests = Table(
    "requests",
    metadata,
    Column("application", _text(128), primary_key=True),
    Column("request_id", _text(128), primary_key=True),
    Column("request_hash", _name(64), nullable=False),
    Column("result", _bytes(), nullable=False),
    Column("version", BigInteger, nullable=False),
)

bans = Table(
    "bans",
    metadata,
    Column("ban_id", _text(128), primary_key=True),
    Column("peer", BigInteger, nullable=False),
    Column("reason", _bytes(), nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Column("lifted_us", BigInteger, nullable=True),
    Column("version", BigInteger, nullable=False),
)

ers_keys = Table(
    "ers_keys",
    metadata,
    Column("spki_sha256", _text(64), primary_key=True),
    Column("body", _bytes(), nullable=False),
    Column("version", BigInteger, nullable=False),
)

documents = Table(
    "documents",
    metadata,
    Column("sha256", _text(64), primary_key=True),
    Column("body", _bytes(), nullable=False),
    Column("verified_us", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
)

document_keys = Table(
    "document_keys",
    metadata,
    Column("key_id", _text(128), primary_key=True),
    Column("sha256", _text(64), primary_key=True),
)

bundles = Table(
    "bundles",
    metadata,
    Column("sha256", _text(64), primary_key=True),
    Column("body", _bytes(), nullable=False),
    Column("verified_us", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
)

#: Tables whose rows are indexed and digested, by name.
PROTECTED: dict[str, Table] = {
    t.name: t
    for t in (
        incarnations,
        spends,
        paths,
        batches,
        keys,
        requests,
        bans,
        ers_keys,
        documents,
        bundles,
    )
}

for _table in metadata.tables.values():
    # The engine of MariaDB that has transactions, whatever the server's default is.
    _table.dialect_kwargs.update({f"{name}_engine": "InnoDB" for name in _MARIADB})


def row_key(table: Table, row: Mapping[str, Any]) -> str:
    """Name of a row in ``row_index``: its primary key, as text of at most 255 characters."""
    if table is requests:
        return digest(_REQUEST, row["application"], row["request_id"]).hex()
    if table is paths:
        return path_key(row["key_id"], row["path"])
    (column,) = table.primary_key.columns
    value = row[column.name]
    return value.hex() if isinstance(value, bytes) else str(value)


def path_key(key_id: str, path: str) -> str:
    """Name of a ledger row: unlike a hash it still tells, when the row is gone, whose it was."""
    return f"{key_id} {path}"
