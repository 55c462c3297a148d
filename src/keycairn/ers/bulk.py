"""Verifying the documents of very many keys: what one document says, and what is known of each key.

Workers look at single documents and know of no expectations but the RSA keys; what the caller
expects of keys is compared in one place, :class:`Ledger`, which keeps everything in a SQLite file.
So memory does not grow with the number of keys, and a run that was killed goes on where it was.

Answers, of a document and of a key:

* yes: a valid document under one of the caller's RSA keys has t+1 parts and more of the key, and
  the public key is the one that the caller expects;
* no: it is invalid, for another RSA key, about another public key, or has too few parts; or no
  document that was looked at holds a key that was expected;
* cant_tell: a document could not be read, or the caller gave nothing to compare it with.

One document that says yes is enough for a key, however bad its other documents are.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keycairn.errors import Code, KeycairnError
from keycairn.ers.document import Document
from keycairn.ers.rsa import RsaPublicKey, load_rsa_public_key
from keycairn.ers.verify import VerifyReport, verify_document

YES, NO, CANT_TELL = "yes", "no", "cant_tell"
STALE = "STALE"
#: What a key's best document makes of it: a bad copy beside a good one takes nothing away.
_RANK = {NO: 0, CANT_TELL: 1, YES: 2}
_SCHEMA = """
CREATE TABLE IF NOT EXISTS settings (text TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS expected (
    key TEXT PRIMARY KEY, curve TEXT, public_key TEXT, generation INTEGER, record_hash TEXT
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS documents (
    name TEXT PRIMARY KEY, mark TEXT NOT NULL, answer TEXT NOT NULL, why TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS found (
    name TEXT NOT NULL, key TEXT NOT NULL, rank INTEGER NOT NULL, status TEXT NOT NULL,
    why TEXT NOT NULL, PRIMARY KEY (key, name)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS found_of ON found (name);
"""


@dataclass(frozen=True)
class Entry:
    """A document in its place: name, size in bytes, and a mark that changes with its content."""

    name: str
    size: int
    mark: str


@dataclass(frozen=True)
class Expected:
    """What the caller knows of a key, as ``key list --json`` prints it; hex."""

    key_id: str
    curve: str | None
    public_key: str | None
    generation: int | None
    record_hash: str | None


def _invalid(error: KeycairnError, keys: Sequence[str]) -> dict[str, Any]:
    where = error.detail.get("check")
    why = f"{error.message} [{where}]" if where else error.message
    return {"answer": NO, "why": why, "keys": [{"key_id": key, "answer": NO} for key in keys]}


def unreadable(error: KeycairnError) -> dict[str, Any]:
    """The finding about a document that could not be read."""
    return {"answer": CANT_TELL, "why": error.message, "keys": []}


def look(data: bytes, spkis: Sequence[bytes]) -> dict[str, Any]:
    """Verify one document; what a worker does.

    Args:
        data: the file.
        spkis: the caller's RSA public keys, SubjectPublicKeyInfo; the document must be for one of
            them. None given: nothing it says can be relied on.

    Returns:
        ``answer``, ``why``, and in ``keys`` the facts of every key, all of it JSON.
    """
    try:
        document = Document.load(data)
    except KeycairnError as exc:
        return _invalid(exc, [])
    rsa: RsaPublicKey | None = None
    if spkis:
        spki = document.context.rsa_spki
        rsa = load_rsa_public_key(spki if spki in spkis else spkis[0], allow_2048=True)
    try:
        report = verify_document(document, rsa=rsa)
    except KeycairnError as exc:
        return _invalid(exc, [key.key_id for key in document.keys])
    return _valid(report, checked=rsa is not None)


def _valid(report: VerifyReport, *, checked: bool) -> dict[str, Any]:
    keys = []
    for key in report.keys:
        s = key.statement
        answer = YES if key.recoverable else NO
        keys.append(
            {
                "key_id": s.key_id,
                "answer": answer if checked or answer == NO else CANT_TELL,
                "status": key.status,
                "curve": s.curve,
                "public_key": s.public_key.hex(),
                "generation": s.generation,
                "record_hash": s.record_hash.hex(),
            }
        )
    why = "" if checked else "no RSA public key was given"
    return {"answer": YES if checked else CANT_TELL, "why": why, "keys": keys}


def judge(fact: dict[str, Any], want: Expected | None) -> tuple[str, str, str]:
    """(answer, status, why) of a key in one document, against what the caller expects of it."""
    answer, status = str(fact["answer"]), str(fact.get("status", ""))
    if not status:
        return NO, "", "the document is not valid"
    if answer == NO:
        return NO, status, "fewer than t+1 parts"
    if want is None or want.public_key is None:
        return CANT_TELL, status, "no public key was given to compare it with"
    if want.curve not in (None, fact["curve"]) or want.public_key != fact["public_key"]:
        return NO, status, "another public key than expected"
    if answer == CANT_TELL:
        return CANT_TELL, status, "no RSA public key was given"
    if want.generation is not None and want.generation != fact["generation"]:
        # Refresh does not change the key: an older document still gives it.
        return YES, STALE, f"of generation {fact['generation']}, not {want.generation}"
    if want.record_hash not in (None, fact["record_hash"]):
        return NO, status, "another key record than expected"
    return YES, status, ""


class Ledger:
    """What is known so far, in a SQLite file that survives the death of the process.

    Args:
        path: the file; made if it is not there. ``""`` is a temporary one that nobody finds again.
        settings: what the answers depend on besides the documents.

    Raises:
        KeycairnError: E_CONFLICT if the file is of a run with other settings, E_MALFORMED if it is
            no such file.
    """

    def __init__(self, path: Path | str, settings: str) -> None:
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.executescript(_SCHEMA)
            row = self._db.execute("SELECT text FROM settings").fetchone()
        except sqlite3.Error as exc:
            raise KeycairnError(
                Code.MALFORMED, f"{path} is not the state of an earlier run", next="name another"
            ) from exc
        if row is None:
            self._db.execute("INSERT INTO settings VALUES (?)", (settings,))
        elif row[0] != settings:
            raise KeycairnError(
                Code.CONFLICT,
                f"{path} is of a run over other documents, or with other expectations",
                next="name another state file, or remove this one",
            )

    def close(self) -> None:
        self._db.close()

    def expect(self, keys: Iterable[Expected]) -> None:
        """Take what the caller expects; done once, before documents are looked at."""
        rows = ((k.key_id, k.curve, k.public_key, k.generation, k.record_hash) for k in keys)
        self._db.execute("BEGIN")
        self._db.executemany("INSERT OR REPLACE INTO expected VALUES (?, ?, ?, ?, ?)", rows)
        self._db.execute("COMMIT")

    def has(self, entry: Entry) -> bool:
        """Whether this content was looked at. What could not be read is tried again."""
        row = self._db.execute(
            "SELECT mark, answer, why FROM documents WHERE name = ?", (entry.name,)
        ).fetchone()
        if row is None or row[0] != entry.mark:
            return False
        unread = self._db.execute("SELECT 1 FROM found WHERE name = ? LIMIT 1", (entry.name,))
        return bool(row[1] != CANT_TELL or unread.fetchone() is not None)

    def _wanted(self, key: str) -> Expected | None:
        row = self._db.execute("SELECT * FROM expected WHERE key = ?", (key,)).fetchone()
        return None if row is None else Expected(*row)

    def note(self, entry: Entry, finding: dict[str, Any]) -> None:
        """One document's finding, in one transaction; it replaces an earlier one."""
        rows, worst = [], str(finding["answer"])
        for fact in finding["keys"]:
            answer, status, why = judge(fact, self._wanted(fact["key_id"]))
            rows.append((entry.name, fact["key_id"], _RANK[answer], status, why))
            if worst == YES or answer == NO:
                worst = answer
        why = finding["why"] or next((row[4] for row in rows if row[2] != _RANK[YES]), "")
        self._db.execute("BEGIN")
        self._db.execute("DELETE FROM found WHERE name = ?", (entry.name,))
        self._db.executemany("INSERT OR REPLACE INTO found VALUES (?, ?, ?, ?, ?)", rows)
        self._db.execute(
            "INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?)",
            (entry.name, entry.mark, worst, why),
        )
        self._db.execute("COMMIT")

    def keep_only(self, names: Iterable[str]) -> None:
        """Forget documents that are no longer there."""
        self._db.execute("CREATE TEMP TABLE there (name TEXT PRIMARY KEY)")
        self._db.executemany("INSERT OR IGNORE INTO there VALUES (?)", ((n,) for n in names))
        for table in ("found", "documents"):
            self._db.execute(
                f"DELETE FROM {table} WHERE name NOT IN (SELECT name FROM there)"  # noqa: S608
            )

    def documents(self) -> dict[str, int]:
        """How many documents gave which answer."""
        rows = self._db.execute("SELECT answer, count(*) FROM documents GROUP BY answer")
        return {YES: 0, NO: 0, CANT_TELL: 0} | dict(rows.fetchall())

    def troubles(self, limit: int) -> list[dict[str, str]]:
        """Documents that did not answer yes."""
        rows = self._db.execute(
            "SELECT name, answer, why FROM documents WHERE answer != 'yes' ORDER BY name LIMIT ?",
            (limit,),
        )
        return [{"document": n, "answer": a, "why": w} for n, a, w in rows]

    def keys(self, *, missing: str) -> Iterator[dict[str, str]]:
        """Every key that was found or expected, with the answer of its best document.

        Args:
            missing: what is said of an expected key that no document holds: "no" if all documents
                could be read.
        """
        names = {rank: answer for answer, rank in _RANK.items()}
        # The bare columns of a row with max() are those of the row that has it (SQLite).
        for key, rank, status, why in self._db.execute(
            "SELECT key, max(rank), status, why FROM found GROUP BY key ORDER BY key"
        ):
            yield {"key_id": key, "answer": names[rank], "status": status, "why": why}
        for (key,) in self._db.execute(
            "SELECT key FROM expected WHERE key NOT IN (SELECT key FROM found) ORDER BY key"
        ):
            yield {"key_id": key, "answer": missing, "status": "NONE", "why": "in no document"}


def read_expected(data: bytes) -> Iterator[Expected]:
    """Expected keys out of a file: the output of ``key list --json``, or one key a line.

    Raises:
        KeycairnError: E_MALFORMED.
    """
    try:
        try:
            whole = json.loads(data)
        except ValueError:
            rows: Iterable[Any] = (json.loads(line) for line in data.splitlines() if line.strip())
        else:
            rows = whole["keys"] if isinstance(whole, dict) and "keys" in whole else [whole]
        for row in rows:
            made = Expected(
                row["key_id"],
                row.get("curve"),
                row.get("public_key"),
                row.get("generation"),
                row.get("record_hash"),
            )
            texts = (made.key_id, made.curve, made.public_key, made.record_hash)
            if not all(value is None or isinstance(value, str) for value in texts):
                raise TypeError
            if type(made.generation) not in (int, type(None)):
                raise TypeError
            yield made
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise KeycairnError(
            Code.MALFORMED,
            "the expected keys are not what `keycairn key list --json` prints, nor one key a line",
        ) from exc
