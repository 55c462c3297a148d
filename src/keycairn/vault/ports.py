"""The ports of the vault and the rows that cross them.

A ``Store`` is one node's durable memory. Contract for every adapter (the conformance suite in
tests/store checks it):

* A method that changes something is **one transaction**, durable when it returns (R-22). If it
  raises, nothing of it happened, unless the error is E_UNAVAILABLE from an unknown commit result.
* Concurrent callers are serialised; no update is ever lost.
* Secrets are sealed before they are written (:mod:`keycairn.vault.sealing`), and only there.
* Every transaction that changes state appends to the hash-chained audit log in the same
  transaction (R-57).
* What must not be forgotten extends the node's history by exactly one event, in the same
  transaction (:mod:`keycairn.vault.fence`): start, rejoin, a batch that becomes active, ban and
  un-ban, an ERS key that is allowed or removed. Spends do not: they die with the incarnation.
* Times are integer microseconds since the epoch, UTC.
* Errors: E_UNAVAILABLE (disk, database), E_STORE_INTEGRITY (a row fails its seal or digest),
  E_CONFLICT (uniqueness), E_NOT_FOUND.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from keycairn.encoding import SecretBytes, SecretScalar
from keycairn.errors import Code, KeycairnError
from keycairn.protocols.record import KeyRecord, KeyShare
from keycairn.vault.fence.history import Head


@dataclass(frozen=True)
class NewKey:
    """A key of a batch that has just been made: record and this node's secrets."""

    record: KeyRecord
    share: SecretScalar
    chain_code: SecretBytes | None


@dataclass(frozen=True)
class Batch:
    """One key-creation session: its keys stand or fall together.

    Attributes:
        batch_id: session id (32 bytes).
        application: whose keys these are.
        request_id: idempotency key of the create request, unique per application.
        request_hash: digest of the request's parameters; the same request id with other
            parameters is a conflict.
        generation: number that READY promises; 1 at creation.
        record_hashes: of the keys, in the batch's order.
        key_ids: in the same order.
        holders: sorted player indices, all of whom must say READY.
        ready: READY signatures known so far, by player (this node's own from the start).
        active: True once ``ready`` holds a verified signature of every holder (the certificate).
        created_us: when it became durable here.
    """

    batch_id: bytes
    application: str
    request_id: str
    request_hash: bytes
    generation: int
    record_hashes: tuple[bytes, ...]
    key_ids: tuple[str, ...]
    holders: tuple[int, ...]
    ready: Mapping[int, bytes]
    active: bool
    created_us: int


@dataclass(frozen=True)
class KeyRow:
    """Public view of a stored key."""

    record: KeyRecord
    application: str
    state: str  # "pending" | "active"
    batch_id: bytes
    created_us: int


@dataclass(frozen=True)
class SpendRow:
    """A presignature or nonce that is used up: written before any dependent byte leaves."""

    presignature_id: bytes
    incarnation: bytes
    key_id: str
    base_r: bytes
    digest: bytes
    at_us: int


@dataclass(frozen=True)
class RequestRow:
    """Outcome of a finished idempotent request (other than key creation)."""

    application: str
    request_id: str
    request_hash: bytes
    result: Mapping[str, Any]


class AnsweredBefore(KeycairnError):
    """The request has a result: nothing was spent for it again."""

    def __init__(self) -> None:
        super().__init__(Code.CONFLICT, "this request was answered before")


@dataclass(frozen=True)
class BanRow:
    """A ban of a peer (docs/protocols/index.md, "Aborts and blame")."""

    ban_id: str
    peer: int
    reason: str
    at_us: int
    lifted_us: int | None = None


@dataclass(frozen=True)
class ErsKeyRow:
    """An ERS key on this node's run-time allow-list.

    ``answers`` are the expected hashes while the proof of possession is outstanding.
    """

    spki_sha256: str
    spki: bytes
    bits: int
    added_us: int
    expires_us: int | None
    attested_us: int | None
    state: str  # "challenged" | "allowed" | "removed"
    legacy_2048: bool = False
    challenge: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class DocumentRow:
    """An ERS document that this node holds in its own ERS store, read back and verified.

    ``keys`` maps key id to (generation, record hash); ``complete`` says that the document holds
    the verified parts of all holders.
    """

    sha256: str
    path: str
    spki_sha256: str
    label: str
    complete: bool
    keys: Mapping[str, tuple[int, bytes]]
    created_us: int
    verified_us: int


@dataclass(frozen=True)
class BundleRow:
    """Receipt of a node bundle that was written and read back."""

    sha256: str
    location: str
    size: int
    created_us: int
    verified_us: int
    level: str  # "manifest" | "hashes" | "trial"
    keys: Mapping[str, tuple[int, bytes]]  # key id -> (generation, record hash)
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DamagedRow:
    """A row that failed its integrity check: blocked, while all others go on (R-20).

    ``why`` is "edited", "missing" or "added".
    """

    table: str
    row: str
    why: str


@dataclass(frozen=True)
class HistoryRow:
    """One event of the node's history, and the head (``era``, ``length``, ``hash``) behind it.

    ``kind`` and ``detail``, as the store writes them: "start" {incarnation}, "rejoin"
    {incarnation, bans, revoked, dropped, detail}, "keys" {batch, generation, records}, "ban" and
    "unban" {ban, peer}, "ers_key" {spki_sha256, state}; others come by ``note_history``.
    """

    length: int
    era: int
    hash: bytes
    kind: str
    detail: Mapping[str, Any]
    at_us: int


@dataclass(frozen=True)
class BehindRow:
    """A batch that ``peer`` proves (this node's own READY is in its certificate) and that this
    node lacks. ``key_ids`` as the peer names them."""

    batch_id: bytes
    key_ids: tuple[str, ...]
    peer: int
    at_us: int


class DocumentStore(Protocol):
    """The node's own ERS store: complete documents as files, named by their SHA-256.

    A document that was put is durable when :meth:`put` returns, and what :meth:`get` gives back
    has the hash that it was asked for. Errors: E_UNAVAILABLE (disk), E_NOT_FOUND,
    E_STORE_INTEGRITY (the stored bytes have another hash), E_MALFORMED (not 64 hex digits).
    """

    def put(self, sha256: str, data: bytes) -> Path:
        """Store a document; a no-op when it is there and sound. E_MALFORMED if the hash of
        ``data`` is not ``sha256``."""
        ...

    def get(self, sha256: str) -> bytes:
        """Read a document back and check its hash."""
        ...

    def list(self) -> Sequence[str]:
        """Hashes of all stored documents, sorted, unchecked."""
        ...

    def marks(self) -> Mapping[str, tuple[int, ...]]:
        """Per document something that differs once its file was touched; nothing is read."""
        ...

    def delete(self, sha256: str) -> None:
        """Remove a document; no error when it is not there."""
        ...


class Store(Protocol):
    """One node's durable memory. All methods may raise E_UNAVAILABLE and E_STORE_INTEGRITY."""

    async def close(self) -> None: ...

    # -- incarnations and spends
    async def begin_incarnation(self, incarnation: bytes, at_us: int) -> Head:
        """Record a process start; everything of earlier incarnations is dead from here on."""
        ...

    async def rejoin(
        self,
        incarnation: bytes,
        era: int,
        at_us: int,
        *,
        bans: Sequence[BanRow],
        revoked: Sequence[str],
        detail: Mapping[str, Any],
    ) -> Head:
        """Begin a later era with a new incarnation, in one transaction.

        Everything of earlier incarnations is dead, stored presignatures are deleted, the restore
        mark is cleared. Every ERS key that was added at run time (allowed, or still challenged) is
        dropped, to be added again; those in ``revoked`` stay on record as "removed", known or not.

        Args:
            incarnation: new (32 bytes).
            era: later than the history's own.
            at_us: now.
            bans: of the witnesses; those whose id is known here are left as they are.
            revoked: SPKI hashes (hex) of the witnesses.
            detail: for the event, beside what the store says itself.

        Raises:
            KeycairnError: E_CONFLICT (not a later era, or a known incarnation), E_MALFORMED.
        """
        ...

    async def spend_all(
        self,
        rows: Sequence[SpendRow],
        paths: Sequence[str] = (),
        unless: tuple[str, str] | None = None,
    ) -> None:
        """Spend presignatures of one key, all or none, in one durable transaction (R-02): their
        stored rows are deleted, the incarnation's counter advances, ``paths`` join the key's
        ledger. Conditional on the counter that this process left, and on that there is no result
        yet of the request ``unless``, (application, request id): else :class:`AnsweredBefore`.

        E_PRESIG_SPENT if an id or a base nonce was spent before; E_QUARANTINED if a newer
        incarnation is recorded; E_STORE_ROLLBACK, from then on for every spend, if the counter
        is another. After E_UNAVAILABLE they count as spent."""
        ...

    async def spends(self, key_id: str | None = None) -> Sequence[SpendRow]: ...

    # -- the history and what others say of it
    async def history_head(self) -> Head:
        """Where the history stands; the head of an empty one has length 0."""
        ...

    async def history_at(self, length: int) -> Head | None:
        """The head that it had at ``length``; None beyond its end."""
        ...

    async def history(self, after: int = 0, limit: int = 1000) -> Sequence[HistoryRow]:
        """Events in order, starting behind the ``after``-th."""
        ...

    async def note_history(self, kind: str, detail: Mapping[str, Any]) -> Head:
        """Extend it by an event that is no row here (at most 64 characters of ``kind``): a changed
        configuration. E_MALFORMED for a kind that the store writes itself."""
        ...

    async def put_witness(self, peer: int, body: bytes, place: Head) -> None:
        """Keep a peer's newest word (encoded) about itself in place of the one before. May wait up
        to 50 ms for another write to share a transaction with."""
        ...

    async def witness(self, peer: int) -> bytes | None: ...

    async def put_behind(self, rows: Sequence[BehindRow]) -> None:
        """Insert or replace by ``batch_id``. A batch that is put here later takes its row away."""
        ...

    async def behind(self) -> Sequence[BehindRow]:
        """In order of ``batch_id``."""
        ...

    async def restored(self) -> str | None:
        """Why this database was put here by a restore that no rejoin has ended yet."""
        ...

    # -- when the node may not act
    def freeze(self, error: KeycairnError | None) -> None:
        """From now on every write raises ``error`` and nothing is written, also what is queued
        already (a transaction that has begun ends as it would have); None lifts it. Reads go on."""
        ...

    def on_rollback(self, callback: Callable[[], None]) -> None:
        """Call this on the event loop, once per incarnation of this store, when the database is
        found put back (E_STORE_ROLLBACK) or holds a newer incarnation than this process began."""
        ...

    # -- presignatures under the incarnation's own key (storage "database")
    async def put_presignatures(self, incarnation: bytes, sealed: Mapping[bytes, bytes]) -> None:
        """Keep sealed presignatures by id. They are gone with the next incarnation, and no copy
        of the store holds them. Errors as :meth:`spend_all`; E_CONFLICT for a known id."""
        ...

    async def presignatures(self, ids: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """Those that are there."""
        ...

    async def drop_presignatures(self, ids: Sequence[bytes]) -> None: ...

    # -- the path ledger
    async def note_paths(self, key_id: str, paths: Sequence[str], at_us: int) -> None:
        """Remember that an address or a signature was given for these paths."""
        ...

    async def paths(self, key_id: str) -> Sequence[str]:
        """Every path noted, oldest first. E_STORE_INTEGRITY if one of this key is damaged."""
        ...

    # -- keys
    async def put_batch(self, batch: Batch, keys: Sequence[NewKey]) -> None:
        """Make a batch durable as pending, with this node's own READY, and extend the history by
        it: the caller publishes before READY leaves. E_CONFLICT when a key id or (application,
        request_id) exists."""
        ...

    async def add_ready(self, batch_id: bytes, ready: Mapping[int, bytes]) -> Batch:
        """Add *verified* READY signatures; activates the batch when all holders' are there."""
        ...

    async def batch(self, batch_id: bytes) -> Batch | None: ...

    async def batch_by_request(self, application: str, request_id: str) -> Batch | None: ...

    async def pending_batches(self) -> Sequence[Batch]: ...

    async def key(self, key_id: str) -> KeyRow | None: ...

    async def keys(
        self, *, application: str | None = None, after: str = "", limit: int = 1000
    ) -> Sequence[KeyRow]:
        """Keys in order of key id, starting behind ``after``."""
        ...

    async def key_share(self, key_id: str) -> KeyShare:
        """Record and unsealed share; checks x_i*G = X_i. E_NOT_FOUND, E_STORE_INTEGRITY."""
        ...

    async def key_shares(self, key_ids: Sequence[str]) -> Sequence[KeyShare]:
        """The same for many keys, in the order asked."""
        ...

    # -- idempotent results
    async def request(self, application: str, request_id: str) -> RequestRow | None: ...

    async def put_request(self, row: RequestRow, *, hurry: bool = True) -> None:
        """Without ``hurry`` it waits up to 50 ms for another write to share a transaction with."""
        ...

    # -- bans
    async def put_ban(self, row: BanRow) -> None: ...

    async def bans(self) -> Sequence[BanRow]: ...

    # -- ERS keys and documents
    async def put_ers_key(self, row: ErsKeyRow) -> None:
        """Insert or replace by ``spki_sha256``."""
        ...

    async def ers_key(self, spki_sha256: str) -> ErsKeyRow | None: ...

    async def ers_keys(self) -> Sequence[ErsKeyRow]: ...

    async def put_document(self, row: DocumentRow) -> None: ...

    async def documents(self, key_id: str | None = None) -> Sequence[DocumentRow]: ...

    async def delete_document(self, sha256: str) -> None:
        """Forget a document whose stored file is gone or no longer verifies."""
        ...

    # -- bundles
    async def put_bundle(self, row: BundleRow) -> None: ...

    async def bundles(self) -> Sequence[BundleRow]: ...

    async def delete_bundle(self, sha256: str) -> None: ...

    # -- whole store
    async def damaged(self) -> Sequence[DamagedRow]:
        """Rows that are blocked because they failed their check. Reading one by its name raises
        E_STORE_INTEGRITY; lists of keys, batches, ERS keys, documents and bundles leave them out
        (which is the safe side), lists of bans and spends raise."""
        ...

    async def audit(self, event: str, detail: Mapping[str, Any]) -> None:
        """Append an audit record of its own (changes above write theirs themselves)."""
        ...

    async def check_audit(self) -> int:
        """Number of audit records; E_STORE_INTEGRITY naming the position of a broken link."""
        ...

    async def snapshot(self, target: Path) -> None:
        """Write a consistent copy of the database (sealed as it is) to a new file."""
        ...

    async def state_digest(self) -> bytes:
        """SHA-256 over the canonical durable logical state, without audit, incarnations, spends,
        bans and request results (docs/rules.md, "State digest")."""
        ...
