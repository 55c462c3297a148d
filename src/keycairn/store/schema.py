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
  protected document row), and ``meta``: schema version, keyring, restore mark;
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
    MetaData,
    Table,
    UniqueConstraint,
)

from keycairn.encoding import digest, tag
from keycairn.store.types import INNODB, blob, name, text

#: Raised by one with every change of the tables below, together with a step in
#: :mod:`keycairn.store.migrations` and a fixture in tests/store/fixtures.
SCHEMA_VERSION = 4

_REQUEST = tag("store/request-row")

#: Name in ``meta`` of the restore mark.
RESTORED = "restored"

metadata = MetaData()

#: Names and opaque values: "schema" (decimal text), "keyring" (belongs to the encryptor),
#: "restored" (why; the node must rejoin before it acts).
meta = Table(
    "meta",
    metadata,
    Column("name", text(64), primary_key=True),
    Column("value", blob(), nullable=False),
)

digests = Table(
    "digests",
    metadata,
    Column("name", text(64), primary_key=True),
    Column("count", BigInteger, nullable=False),
    Column("total", name(32), nullable=False),
    Column("mac", name(32), nullable=False),
)

row_index = Table(
    "row_index",
    metadata,
    Column("table_name", text(64), primary_key=True),
    Column("row_key", text(255), primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("mac", name(32), nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("at_us", BigInteger, nullable=False),
    Column("event", text(64), nullable=False),
    Column("detail", blob(), nullable=False),  # canonical CBOR
    Column("link", name(32), nullable=False),
)

incarnations = Table(
    "incarnations",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("incarnation", name(64), nullable=False, unique=True),
    Column("at_us", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
)

spends = Table(
    "spends",
    metadata,
    Column("presignature_id", name(64), primary_key=True),
    Column("incarnation", name(64), nullable=False),
    Column("key_id", text(128), nullable=False, index=True),
    # Unique, because a second presignature with the same base nonce is the same secret (INV-2).
    # NULL for a spend whose protocol names no base nonce.
    Column("base_r", name(128), nullable=True, unique=True),
    Column("digest", name(64), nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
)

presignatures = Table(
    "presignatures",
    metadata,
    Column("presignature_id", name(64), primary_key=True),
    Column("sealed", blob(), nullable=False),  # keycairn.vault.shelf
)

#: Which paths of a key were ever used for an address or a signature.
paths = Table(
    "paths",
    metadata,
    Column("key_id", text(128), primary_key=True),
    Column("path", text(100), primary_key=True),
    Column("first_us", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
)

batches = Table(
    "batches",
    metadata,
    Column("batch_id", name(64), primary_key=True),
    Column("application", text(128), nullable=False),
    Column("request_id", text(128), nullable=False),
    Column("active", Boolean(create_constraint=False), nullable=False),
    Column("body", blob(), nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
    UniqueConstraint("application", "request_id"),
    Index("ix_batches_active", "active"),
)

keys = Table(
    "keys",
    metadata,
    Column("key_id", text(128), primary_key=True),
    Column("application", text(128), nullable=False),
    Column("batch_id", name(64), ForeignKey("batches.batch_id"), nullable=False, index=True),
    Column("generation", BigInteger, nullable=False),
    Column("record", blob(), nullable=False),
    Column("record_hash", name(32), nullable=False),
    Column("share", blob(), nullable=False),  # sealed, keycairn.vault.sealing
    Column("chain_code", blob(), nullable=True),  # sealed
    Column("created_us", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
    Index("ix_keys_application", "application", "key_id"),
)

requests = Table(
    "requests",
    metadata,
    Column("application", text(128), primary_key=True),
    Column("request_id", text(128), primary_key=True),
    Column("request_hash", name(64), nullable=False),
    Column("result", blob(), nullable=False),
    Column("version", BigInteger, nullable=False),
)

bans = Table(
    "bans",
    metadata,
    Column("ban_id", text(128), primary_key=True),
    Column("peer", BigInteger, nullable=False),
    Column("reason", blob(), nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Column("lifted_us", BigInteger, nullable=True),
    Column("version", BigInteger, nullable=False),
)

ers_keys = Table(
    "ers_keys",
    metadata,
    Column("spki_sha256", text(64), primary_key=True),
    Column("body", blob(), nullable=False),
    Column("version", BigInteger, nullable=False),
)

documents = Table(
    "documents",
    metadata,
    Column("sha256", text(64), primary_key=True),
    Column("body", blob(), nullable=False),
    Column("verified_us", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
)

document_keys = Table(
    "document_keys",
    metadata,
    Column("key_id", text(128), primary_key=True),
    Column("sha256", text(64), primary_key=True),
)

bundles = Table(
    "bundles",
    metadata,
    Column("sha256", text(64), primary_key=True),
    Column("body", blob(), nullable=False),
    Column("verified_us", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
)

#: The chain of state changes (keycairn.vault.fence.history); ``detail`` is canonical CBOR.
history = Table(
    "history",
    metadata,
    Column("length", BigInteger, primary_key=True, autoincrement=False),
    Column("era", BigInteger, nullable=False),
    Column("hash", name(32), nullable=False),
    Column("kind", text(64), nullable=False),
    Column("detail", blob(), nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
)

#: The newest word of each peer about itself, and the head that it names.
witnesses = Table(
    "witnesses",
    metadata,
    Column("peer", BigInteger, primary_key=True, autoincrement=False),
    Column("era", BigInteger, nullable=False),
    Column("length", BigInteger, nullable=False),
    Column("head", name(32), nullable=False),
    Column("body", blob(), nullable=False),
    Column("version", BigInteger, nullable=False),
)

#: Batches that peers prove and this node lacks.
behind = Table(
    "behind",
    metadata,
    Column("batch_id", name(64), primary_key=True),
    Column("body", blob(), nullable=False),
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
        history,
        witnesses,
        behind,
    )
}

for _table in metadata.tables.values():
    # The engine of MariaDB that has transactions, whatever the server's default is.
    _table.dialect_kwargs.update(INNODB)


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
