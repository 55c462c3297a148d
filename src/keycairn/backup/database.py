"""Looking into the database copy of a bundle: what can be told with and without the master secret.

Without it the rows can't be authenticated or unsealed; but certificates can be checked, since
READY is signed, and records must have the hashes that the signed manifest lists. With it, every
row digest and the audit chain are checked, and every share is unsealed and compared with X_i.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from keycairn.backup.manifest import Manifest
from keycairn.errors import Code, KeycairnError
from keycairn.protocols.keygen import ready_statement
from keycairn.store import codec, schema
from keycairn.store.core import other_version
from keycairn.store.migrations import TABLES
from keycairn.vault.policy import Answer
from keycairn.vault.ports import Batch, DocumentRow, Store

#: Opens the database copy at a path with the master secret; E_STORE_INTEGRITY for a wrong one.
Opener = Callable[[Path], Awaitable[Store]]

_PAGE = 500


@dataclass(frozen=True)
class Finding:
    """Something that the operator should know, and the command that helps."""

    what: str
    words: str
    next: str = ""

    def to_json(self) -> dict[str, str]:
        """``{what, words, next}``."""
        return {"what": self.what, "words": self.words, "next": self.next}


@dataclass
class DatabaseReport:
    """What a look into a database copy found.

    Attributes:
        version: of its schema.
        key_ids: the keys in it.
        uncertified: active batches whose certificate doesn't verify, by id in hex.
        pending: batches that wait for READY of somebody.
        documents: rows of ERS documents (as written; only trusted when ``sealed`` is yes).
        sealed: whether row digests and audit chain are sound; cant_tell without the secret.
        proofs: whether every share fits its certified record; cant_tell without the secret.
    """

    version: int = 0
    key_ids: list[str] = field(default_factory=list)
    uncertified: list[str] = field(default_factory=list)
    pending: list[Batch] = field(default_factory=list)
    documents: list[DocumentRow] = field(default_factory=list)
    sealed: Answer = Answer.CANT_TELL
    proofs: Answer = Answer.CANT_TELL
    findings: list[Finding] = field(default_factory=list)

    @property
    def keys(self) -> int:
        """Number of keys in it."""
        return len(self.key_ids)


def check_plain(path: Path, manifest: Manifest, pins: Mapping[int, bytes]) -> DatabaseReport:
    """Check all that needs no secret. Blocks.

    Args:
        path: the database copy; it is opened read-only.
        manifest: of the bundle, whose every key must be there as listed.
        pins: public identity keys of all players, for the certificates.

    Raises:
        KeycairnError: E_STORE_INTEGRITY when it is no sound database, holds other tables than
            this version's (where a presignature could hide), or lacks a listed key; E_POLICY when
            a newer version wrote it.
    """
    report = DatabaseReport()
    try:
        with contextlib.closing(
            sqlite3.connect(f"file:{quote(str(path))}?mode=ro&immutable=1", uri=True)
        ) as db:
            db.row_factory = sqlite3.Row
            report.version = _check_shape(db)
            _check_history(db, manifest)
            vaults = _check_keys(db, manifest, report)
            _check_batches(db, pins, report, vaults)
            rows = db.execute("SELECT * FROM documents ORDER BY sha256")
            report.documents = [codec.document_from_row(dict(row)) for row in rows]
    except (sqlite3.Error, TypeError, ValueError, KeyError) as exc:
        raise _unsound("it can't be read") from exc
    except KeycairnError as exc:
        if exc.code is Code.MALFORMED:
            raise _unsound("a row can't be read") from exc
        raise
    return report


def _unsound(why: str) -> KeycairnError:
    return KeycairnError(
        Code.STORE_INTEGRITY,
        f"the database in the bundle is not sound: {why}",
        not_lost="Nothing was written. Other bundles are unaffected.",
        next="use an older bundle of this node",
    )


def _check_shape(db: sqlite3.Connection) -> int:
    if db.execute("PRAGMA integrity_check(1)").fetchone()[0] != "ok":
        raise _unsound("SQLite finds it damaged")
    names = {row["name"] for row in db.execute("SELECT name FROM sqlite_master WHERE type='table'")}
    row = db.execute("SELECT value FROM meta WHERE name = 'schema'").fetchone()
    version = int(row["value"]) if row else 0
    if version > schema.SCHEMA_VERSION:
        raise other_version("the database in the bundle", version)
    # A database of an older version becomes one of this version when it is opened.
    if names != TABLES.get(version, frozenset(schema.metadata.tables)):
        raise _unsound("it holds other tables than its version has")
    table = schema.presignatures.name
    if table in names and db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]:  # noqa: S608
        raise _unsound("it holds presignatures, which no copy of a store may hold")
    return version


def _check_history(db: sqlite3.Connection, manifest: Manifest) -> None:
    """The history that the manifest names is a part of the copy's."""
    said = manifest.history
    if said is None or said.length == 0:
        return
    row = db.execute("SELECT era, hash FROM history WHERE length = ?", (said.length,)).fetchone()
    if row is None or (row["era"], bytes(row["hash"])) != (said.era, said.head):
        raise _unsound("its history is not the one that the manifest names")


def _check_keys(
    db: sqlite3.Connection, manifest: Manifest, report: DatabaseReport
) -> dict[bytes, str]:
    """Every listed key is there as listed; the vault that the records of each batch name."""
    left, vaults = dict(manifest.keys), {}
    for row in db.execute("SELECT key_id, batch_id, record, record_hash FROM keys"):
        report.key_ids.append(row["key_id"])
        record = codec.record_from_bytes(row["record"])
        vaults[row["batch_id"]] = record.vault
        held = left.pop(row["key_id"], None)
        if held is None:
            continue  # Made between the inventory and the snapshot.
        same = record.hash == row["record_hash"] == held.record_hash
        if not same or record.generation != held.generation or record.key_id != row["key_id"]:
            raise _unsound(f"key {row['key_id']} is not the one that the manifest lists")
    if left:
        raise _unsound(f"{len(left)} keys that the manifest lists are missing")
    return vaults


def _check_batches(
    db: sqlite3.Connection,
    pins: Mapping[int, bytes],
    report: DatabaseReport,
    vaults: Mapping[bytes, str],
) -> None:
    for row in db.execute("SELECT * FROM batches ORDER BY batch_id"):
        batch = codec.batch_from_row({**dict(row), "active": bool(row["active"])})
        if not batch.active:
            report.pending.append(batch)
        elif not certified(batch, vaults.get(batch.batch_id, ""), pins):
            report.uncertified.append(batch.batch_id.hex())


def certified(batch: Batch, vault: str, pins: Mapping[int, bytes]) -> bool:
    """Whether ``batch`` carries READY of every holder, by their pinned keys."""
    statement = ready_statement(vault, batch.batch_id, batch.generation, batch.record_hashes)
    for player in batch.holders:
        try:
            key = Ed25519PublicKey.from_public_bytes(pins[player])
            key.verify(batch.ready[player], statement)
        except (KeyError, ValueError, TypeError, InvalidSignature):
            return False
    return True


async def check_sealed(path: Path, report: DatabaseReport, opener: Opener) -> None:
    """Check all that needs the master secret; fills ``sealed``, ``proofs`` and findings.

    Raises:
        KeycairnError: E_STORE_INTEGRITY when the secret doesn't open this database.
    """
    store = await opener(path)
    try:
        damaged = await store.damaged()
        for row in damaged:
            report.findings.append(
                Finding(
                    "damaged row",
                    f"row {row.row} of {row.table} is {row.why}; it is blocked, all others work",
                    "use an older bundle if you need this row",
                )
            )
        broken = await _audit(store)
        if broken is not None:
            # Keys don't depend on it: a restore that refused them would lose more than the log.
            report.findings.append(broken)
        report.documents = list(await store.documents())
        report.sealed = Answer.NO if damaged or broken else Answer.YES
        blocked = {row.row for row in damaged if row.table == schema.keys.name}
        report.proofs = await _prove(store, report, blocked)
    finally:
        await store.close()


async def _audit(store: Store) -> Finding | None:
    try:
        await store.check_audit()
    except KeycairnError as exc:
        if exc.code is not Code.STORE_INTEGRITY:
            raise
        return Finding("audit log", exc.message, exc.next)
    return None


async def _prove(store: Store, report: DatabaseReport, blocked: Collection[str]) -> Answer:
    """x_i*G = X_i for every key but the damaged ones, and a certificate for every active one."""
    answer = Answer.NO if any(f.what == "damaged row" for f in report.findings) else Answer.YES
    # The names are from the very file that the store has open; one that is no text is blocked.
    left = sorted({name for name in report.key_ids if isinstance(name, str)} - set(blocked))
    for start in range(0, len(left), _PAGE):
        try:
            await store.key_shares(left[start : start + _PAGE])
        except KeycairnError as exc:
            if exc.code is not Code.STORE_INTEGRITY:
                raise
            answer = Answer.NO
            report.findings.append(Finding("share", exc.message, exc.next))
    if report.uncertified:
        answer = Answer.NO
    return answer


def report_findings(report: DatabaseReport) -> list[Finding]:
    """Findings of the report, with those that follow from its lists."""
    found = list(report.findings)
    for batch in report.pending:
        missing = sorted(set(batch.holders) - set(batch.ready))
        found.append(
            Finding(
                "pending batch",
                f"{len(batch.key_ids)} keys of batch {batch.batch_id.hex()[:16]}… wait for READY "
                f"of nodes {missing}; nothing is lost, they become active on contact",
                "keycairn key list",
            )
        )
    for batch_id in report.uncertified:
        found.append(
            Finding(
                "certificate",
                f"the certificate of batch {batch_id[:16]}… does not verify under the peers' "
                "pinned keys",
                "compare [[peers]] public_key in node.toml with the peers' own keys",
            )
        )
    return found


def as_json(answer: Answer) -> Any:
    """true, false, or null for "can't tell": never something that reads as true on doubt."""
    return {Answer.YES: True, Answer.NO: False, Answer.CANT_TELL: None}[answer]
