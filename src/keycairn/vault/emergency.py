"""Emergency recovery at a node: the documents it makes and holds.

A document counts only once it was read back from this node's own store and verified again. Which
RSA keys are allowed is in :mod:`keycairn.vault.ers_keys`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from keycairn.encoding import digest, tag
from keycairn.errors import Code, KeycairnError, malformed
from keycairn.ers.document import Document
from keycairn.ers.rsa import RsaPublicKey
from keycairn.ers.verify import ExpectedKey, verify_document
from keycairn.ports import Clock
from keycairn.protocols import ers_session
from keycairn.protocols.durable import Release
from keycairn.protocols.session import SessionSpec
from keycairn.vault.api import CreateDocument, DocumentResult, VaultParameters
from keycairn.vault.control import DocumentHere, DocumentOffer, DocumentWanted
from keycairn.vault.ers_keys import ErsKeys
from keycairn.vault.ers_state import (
    STATUSES,
    ErsEvidence,
    ErsStatus,
    by_key,
    key_status,
    only_under,
)
from keycairn.vault.exchange import Exchange
from keycairn.vault.keys import Keys
from keycairn.vault.ports import (
    DocumentRow,
    DocumentStore,
    KeyRow,
    RequestRow,
    Store,
)
from keycairn.vault.sessions import Sessions, check_names

_REQUEST = tag("request/ers")
_OFFER = 4000
#: Keys that a refusal counts; beyond it says "or more".
_COUNTED = 1000
_PAGE = 1000


class _ReleaseJournal:
    """Looks at the allow-list once more, and writes down what leaves, before it leaves."""

    def __init__(self, store: Store, ers_keys: ErsKeys, rsa: RsaPublicKey) -> None:
        self._store = store
        self._ers_keys = ers_keys
        self._rsa = rsa

    async def commit(self, what: str, record: Any) -> None:
        if not isinstance(record, Release):
            raise ValueError(f"this session has no durable step {what}")
        await self._ers_keys.allowed(self._rsa.spki)
        await self._store.audit(
            "ers.part",
            {
                "session": record.session,
                "spki_sha256": record.rsa_spki_sha256,
                "keys": list(record.key_ids),
            },
        )


class Documents:
    """The ERS documents of this node: made, kept, read back, fetched from peers."""

    def __init__(
        self,
        params: VaultParameters,
        *,
        store: Store,
        files: DocumentStore,
        ers_keys: ErsKeys,
        sessions: Sessions,
        keys: Keys,
        exchange: Exchange,
        clock: Clock,
    ) -> None:
        self._params = params
        self._store = store
        self._files = files
        self._ers_keys = ers_keys
        self._sessions = sessions
        self._keys = keys
        self._exchange = exchange
        self._clock = clock
        self._lost: frozenset[str] = frozenset()
        self._marks: dict[str, tuple[int, ...]] = {}
        self._players: dict[str, tuple[int, ...]] = {}  # of documents without all parts
        self._unsound: dict[str, str] = {}  # stored as they were, and the proof does not hold
        exchange.on(DocumentOffer, self._offered)
        exchange.on(DocumentWanted, self._wanted)
        exchange.on(DocumentHere, self._received)

    # -- making ----------------------------------------------------------------------------

    async def create(self, application: str, request: CreateDocument) -> DocumentResult:
        """See ``Service.create_document``."""
        names = request.names
        check_names(names, self._params.players)
        if "ers.create" not in self._params.operations:
            raise KeycairnError(
                Code.POLICY,
                "this node's configuration does not allow ers.create",
                next="set create = true under [operations.ers] in node.toml and restart",
            )
        if len(set(request.key_ids)) != len(request.key_ids):
            raise malformed("a key is named twice")
        if not 1 <= len(request.key_ids) <= ers_session.MAX_KEYS:
            raise malformed(f"a document holds 1 to {ers_session.MAX_KEYS} keys")
        rsa = await self._ers_keys.allowed(request.rsa_spki)
        rows = [await self._keys.of(application, k) for k in request.key_ids]
        for row in rows:
            self._check_key(row, names.players, request.partial)
        parameters = ers_session.ErsParams(
            names.request_id,
            request.key_ids,
            tuple(row.record.hash for row in rows),
            rsa.spki_sha256,
            request.params,
            request.label,
        )
        asked = [list(request.key_ids), rsa.spki_sha256, request.params, request.label]
        hashed = digest(_REQUEST, *asked, *([True] if request.partial else []))

        async def work() -> DocumentResult:
            done = await self._store.request(application, f"ers/{names.request_id}")
            if done is not None:
                return await asyncio.to_thread(self._again, done, hashed)
            document = await self._run(names.session_id, names.players, parameters, rsa)
            row = await self._keep(document, rsa, [r.record.hash for r in rows])
            result = RequestRow(
                application, f"ers/{names.request_id}", hashed, {"sha256": row.sha256}
            )
            await self._store.put_request(result)
            return await asyncio.to_thread(_result, document)

        return await self._sessions.once(application, "ers", names, hashed, work)

    async def make(
        self,
        name: str,
        players: tuple[int, ...],
        rows: Sequence[KeyRow],
        rsa: RsaPublicKey,
    ) -> DocumentRow:
        """Make a document that no user asked for, in the session ``name``, and file it.

        Args:
            players: all holders of the keys, or t+1 of them and more: then it is partial.
        """
        for row in rows:
            self._check_key(row, players, partial=True)
        key_ids = tuple(row.record.key_id for row in rows)
        hashes = tuple(row.record.hash for row in rows)
        parameters = ers_session.ErsParams(name, key_ids, hashes, rsa.spki_sha256, "balanced", "")
        document = await self._run(name, players, parameters, rsa, public=False)
        return await self._keep(document, rsa, hashes)

    def _check_key(self, row: KeyRow, players: tuple[int, ...], partial: bool) -> None:
        if row.state != "active":
            raise KeycairnError(
                Code.CONFLICT, "the key is pending", detail={"key_id": row.record.key_id}
            )
        holders, needed = row.record.holders, row.record.threshold + 1
        enough = set(players) <= set(holders) and len(players) >= needed
        if holders != players and not (partial and enough):
            raise KeycairnError(
                Code.BAD_INDEX,
                f"a partial document needs {needed} holders of every key"
                if partial
                else "all holders of every key take part in its document",
                detail={"key_id": row.record.key_id, "holders": list(holders)},
            )

    def _again(self, done: RequestRow, hashed: bytes) -> DocumentResult:
        if done.request_hash != hashed:
            raise KeycairnError(
                Code.CONFLICT,
                "this request_id was used for another document",
                next="use a fresh request_id",
            )
        return _result(Document.load(self._files.get(done.result["sha256"])))

    async def _run(
        self,
        session_id: str,
        players: tuple[int, ...],
        parameters: ers_session.ErsParams,
        rsa: RsaPublicKey,
        *,
        public: bool = True,
    ) -> Document:
        shares = await self._store.key_shares(parameters.key_ids)
        spec = SessionSpec(
            session_id,
            ers_session.NAME,
            ers_session.VERSION,
            self._params.vault_id,
            players,
            parameters,
            largest=ers_session.largest_round(len(shares)),
        )
        paths = {key_id: await self._store.paths(key_id) for key_id in parameters.key_ids}
        made = await self._sessions.run(
            spec,
            lambda party: ers_session.make_document(
                party, self._params.vault_id, parameters, rsa, shares, paths
            ),
            _ReleaseJournal(self._store, self._ers_keys, rsa),
            public=public,
            timeout=self._params.session_seconds + 0.05 * len(shares),
        )
        return made.document

    async def _keep(
        self, document: Document, rsa: RsaPublicKey, record_hashes: Sequence[bytes]
    ) -> DocumentRow:
        """Store, read back, verify what was read, and only then book the evidence."""
        path, stored = await asyncio.to_thread(self._file, document)
        expected = [
            ExpectedKey(s.key_id, s.public_key, s.curve, s.generation, h)
            for s, h in zip(document.keys, record_hashes, strict=True)
        ]
        try:
            report = await asyncio.to_thread(
                verify_document, stored, rsa=rsa, expected=expected, vault=self._params.vault_id
            )
        except KeycairnError:
            # Else a peer could fill this store with documents that never count.
            await asyncio.to_thread(self._files.delete, document.sha256)
            raise
        now = self._clock.now_us()
        row = DocumentRow(
            sha256=document.sha256,
            path=str(path),
            spki_sha256=rsa.spki_sha256,
            label=report.label,
            complete=report.complete,
            keys={
                k.statement.key_id: (k.statement.generation, k.statement.record_hash)
                for k in report.keys
            },
            created_us=now,
            verified_us=now,
        )
        await self._store.put_document(row)
        return row

    def _file(self, document: Document) -> tuple[Path, Document]:
        """Write a document and read it back (in a thread: documents may be megabytes)."""
        path = self._files.put(document.sha256, document.to_cbor())
        return path, Document.load(self._files.get(document.sha256))

    # -- what the node holds -----------------------------------------------------------------

    async def learn_retired(self) -> None:
        """Take note of the RSA keys under which nothing counts any more."""
        standing = await self._ers_keys.standing()
        gone = {sha for sha, state in standing.items() if state == "removed"}
        self._keys.retired = frozenset(gone)

    async def require_covered_elsewhere(self, spki_sha256: str) -> None:
        """Refuse to retire an RSA key that is the only one for some key's document.

        Raises:
            KeycairnError: E_CONFLICT naming some of the keys.
        """
        # One that nobody can tell of is no cover for the loss of another.
        documents = [
            d
            for d in await self._store.documents()
            if d.spki_sha256 == spki_sha256 or d.sha256 not in self._keys.unreadable
        ]
        found = await asyncio.to_thread(only_under, spki_sha256, documents, self._keys.retired)
        left: list[str] = []
        for key_id, held in sorted(found.items()):
            row = await self._store.key(key_id)
            if row is not None and (row.record.generation, row.record.hash) == held:
                left.append(key_id)
                if len(left) >= _COUNTED:
                    break
        if left:
            more = " or more" if len(left) >= _COUNTED else ""
            raise KeycairnError(
                Code.CONFLICT,
                f"{len(left)}{more} keys have their only recovery document under this RSA key",
                not_lost="It stays on the list.",
                next=f"keycairn ers rotate --from {spki_sha256} --to NEWKEY first (--force takes "
                "it off all the same: these keys then count as not backed up by ERS)",
                node=self._params.index,
                detail={"rsa_spki_sha256": spki_sha256, "keys": left[:20], "count": len(left)},
            )

    async def rows(self) -> Sequence[DocumentRow]:
        """Every booked document."""
        return await self._store.documents()

    async def rsa_of(self, spki_sha256: Sequence[str]) -> list[RsaPublicKey]:
        """The RSA keys of these names, as far as a document here is encrypted to them."""
        found: dict[str, RsaPublicKey] = {}
        for row in await self._store.documents():
            if row.spki_sha256 in spki_sha256 and row.spki_sha256 not in found:
                with suppress(KeycairnError):
                    document = await asyncio.to_thread(self._load, row.sha256)
                    found[row.spki_sha256] = document.context.rsa()
        return list(found.values())

    async def data(self, sha256: str) -> bytes:
        """The stored bytes of a document, CBOR, checked against the hash that is asked for."""
        return await asyncio.to_thread(self._files.get, sha256)

    async def reverify(self, age_us: int, limit: int = 8) -> list[str]:
        """Verify booked documents again, from the stored copy, that were not for ``age_us``.

        A document whose bytes are what they were and whose proof does not hold counts as "can't
        tell" from then on; one that is gone or damaged is :meth:`check_files`' business.

        Args:
            limit: how many at most, oldest check first.

        Returns:
            the hashes of those whose proof does not hold.
        """
        before = self._clock.now_us() - age_us
        due = sorted(
            (d for d in await self._store.documents() if d.verified_us <= before),
            key=lambda d: d.verified_us,
        )
        bad: list[str] = []
        for row in due[:limit]:
            try:
                stored = await asyncio.to_thread(self._load, row.sha256)
                await self._verify_stored(row, stored)
            except KeycairnError as exc:
                if exc.code in (Code.NOT_FOUND, Code.STORE_INTEGRITY):
                    continue
                if exc.code is Code.UNAVAILABLE:
                    raise
                self._unsound[row.sha256] = exc.message
                self._keys.unreadable.add(row.sha256)
                bad.append(row.sha256)
                continue
            if self._unsound.pop(row.sha256, None) is not None:
                self._keys.unreadable.discard(row.sha256)
            await self._store.put_document(replace(row, verified_us=self._clock.now_us()))
        return bad

    def _load(self, sha256: str) -> Document:
        return Document.load(self._files.get(sha256))

    async def _verify_stored(self, row: DocumentRow, document: Document) -> None:
        rsa = document.context.rsa()
        if rsa.spki_sha256 != row.spki_sha256:
            raise KeycairnError(Code.ERS_INVALID, "it is encrypted to another RSA key")
        expected = []
        for statement in document.keys:
            key = await self._store.key(statement.key_id)
            if key is None:
                raise KeycairnError(Code.ERS_INVALID, "it names a key that this node does not hold")
            generation, record_hash = row.keys[statement.key_id]
            public = key.record.public_key
            expected.append(
                ExpectedKey(statement.key_id, public, key.record.curve, generation, record_hash)
            )
        await asyncio.to_thread(
            verify_document,
            document,
            rsa=rsa,
            expected=expected,
            label=row.label,
            vault=self._params.vault_id,
        )

    @property
    def unsound(self) -> Mapping[str, str]:
        """Documents whose proof did not hold at the last check, with the reason."""
        return dict(self._unsound)

    async def check_files(self, *, whole: bool = True) -> list[str]:
        """Every booked document must be readable; those that aren't stop counting.

        Args:
            whole: read all of them back; otherwise only those whose files were touched since.

        Returns:
            the hashes of documents that are gone or damaged; peers are asked for them.
        """
        await self.learn_retired()
        marks = await asyncio.to_thread(self._files.marks)
        if marks == self._marks and not whole:
            return []
        lost: list[str] = []
        for row in await self._store.documents():
            mark = marks.get(row.sha256)
            if not whole and mark is not None and mark == self._marks.get(row.sha256):
                continue
            try:
                await asyncio.to_thread(self._files.get, row.sha256)
            except KeycairnError as exc:
                if exc.code not in (Code.NOT_FOUND, Code.STORE_INTEGRITY):
                    raise
                lost.append(row.sha256)
                await self._store.delete_document(row.sha256)
        self._marks = dict(marks)
        self._lost |= frozenset(lost)
        for peer in self._params.players if lost else ():
            if peer != self._params.index:
                for sha in lost:
                    await self._exchange.send(peer, DocumentWanted(sha))
        return lost

    async def evidence(self, key_id: str | None = None) -> ErsEvidence:
        """What this node holds, for one key or for all: one look for many statuses."""
        documents = await self._store.documents(key_id)
        standing = await self._ers_keys.standing()
        named = await asyncio.to_thread(by_key, documents)
        return ErsEvidence(named, standing)

    async def statuses(
        self, rows: Sequence[KeyRow], evidence: ErsEvidence | None = None
    ) -> Sequence[ErsStatus]:
        """NONE, PARTIAL, COMPLETE or STALE for each of these keys."""
        if evidence is None:
            evidence = await self.evidence(rows[0].record.key_id if len(rows) == 1 else None)
        held = evidence

        def work() -> Sequence[ErsStatus]:
            return [
                key_status(
                    row, held.named.get(row.record.key_id, ()), held.standing, self._players_of
                )
                for row in rows
            ]

        return await asyncio.to_thread(work)

    async def summary(self) -> dict[str, int]:
        """How many active keys of all applications have which status. Reads all keys."""
        evidence = await self.evidence()
        counts = dict.fromkeys(STATUSES, 0)
        after = ""
        while page := await self._store.keys(after=after, limit=_PAGE):
            after = page[-1].record.key_id
            active = [row for row in page if row.state == "active"]
            for found in await self.statuses(active, evidence):
                counts[found.status] += 1
            if len(page) < _PAGE:
                break
        return counts

    def _players_of(self, row: DocumentRow) -> tuple[int, ...]:
        """Whose parts a stored document holds; nobody's if it can't be read now."""
        if row.sha256 not in self._players:
            try:
                self._players[row.sha256] = self._load(row.sha256).nodes
            except KeycairnError:
                return ()
        return self._players[row.sha256]

    # -- from peers --------------------------------------------------------------------------

    async def contact(self, peer: int) -> None:
        """Tell a peer which complete documents are here."""
        held = [d.sha256 for d in await self._store.documents() if d.complete]
        for start in range(0, len(held), _OFFER):
            await self._exchange.send(peer, DocumentOffer(tuple(held[start : start + _OFFER])))

    async def _offered(self, peer: int, offer: DocumentOffer) -> None:
        held = {d.sha256 for d in await self._store.documents()}
        for sha in offer.sha256[:_OFFER]:
            if sha not in held:
                await self._exchange.send(peer, DocumentWanted(sha))

    async def _wanted(self, peer: int, wanted: DocumentWanted) -> None:
        if any(d.sha256 == wanted.sha256 for d in await self._store.documents()):
            data = await asyncio.to_thread(self._files.get, wanted.sha256)
            await self._exchange.send(peer, DocumentHere(wanted.sha256, data))

    async def _received(self, peer: int, here: DocumentHere) -> None:
        """A document from a peer counts after the same checks as one that was made here."""
        self._sessions.require_active()  # or it would be written, and never booked
        document = await asyncio.to_thread(Document.load, here.data)
        if document.sha256 != here.sha256 or not await self._adds_something(document):
            return
        rsa = await self._ers_keys.allowed(document.context.rsa().spki)
        hashes = []
        for statement in document.keys:
            row = await self._store.key(statement.key_id)
            if row is None or ers_session.statement_of(row.record) != statement:
                return
            hashes.append(row.record.hash)
        await self._keep(document, rsa, hashes)

    async def _adds_something(self, document: Document) -> bool:
        """Whether a document of a peer is whole and protects a key that is not protected yet.

        A peer can make its own part anew as often as it likes, and put it together with the
        others' parts of an earlier document: each of those documents verifies.
        """
        if len(document.parts) != len(document.nodes):
            return False
        if any(key.holders != document.nodes for key in document.keys):
            return False
        if document.sha256 in self._lost:
            return True
        spki_sha256 = document.context.rsa().spki_sha256
        for key in document.keys:
            held = [
                row
                for row in await self._store.documents(key.key_id)
                if row.complete
                and row.spki_sha256 == spki_sha256
                and row.keys[key.key_id] == (key.generation, key.record_hash)
            ]
            if not held:
                return True
        return False


def _result(document: Document) -> DocumentResult:
    return DocumentResult(
        document=document.to_json(),
        sha256=document.sha256,
        keys=tuple(k.key_id for k in document.keys),
        parts=document.nodes,
        rsa_spki_sha256=document.context.rsa().spki_sha256,
    )
