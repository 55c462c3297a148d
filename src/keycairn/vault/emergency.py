"""Emergency recovery at a node: which RSA keys are allowed, and the documents it holds.

An RSA key counts only if this node's configuration names it, or this node's operator added it
and its owner proved that it can decrypt (R-30, R-31). A document counts only once it was read
back from this node's own store and verified again.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from keycairn.encoding import canonical_json, digest, tag
from keycairn.errors import Code, KeycairnError, malformed
from keycairn.ers.document import Document
from keycairn.ers.possession import Challenges, check_answers, make_challenges
from keycairn.ers.rsa import RsaPublicKey, check_distinct, load_rsa_public_key
from keycairn.ers.verify import ExpectedKey, verify_document
from keycairn.ports import Clock, Rng
from keycairn.protocols import ers_session
from keycairn.protocols.durable import Release
from keycairn.protocols.session import SessionSpec
from keycairn.vault.api import CreateDocument, DocumentResult, ErsKeyView, VaultParameters
from keycairn.vault.control import DocumentHere, DocumentOffer, DocumentWanted
from keycairn.vault.exchange import Exchange
from keycairn.vault.keys import Keys
from keycairn.vault.ports import (
    DocumentRow,
    DocumentStore,
    ErsKeyRow,
    KeyRow,
    RequestRow,
    Store,
)
from keycairn.vault.sessions import Sessions, check_names

_REQUEST = tag("request/ers")
_OFFER = 4000


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


class ErsKeys:
    """This node's allow-list of RSA recovery keys (default: empty, nothing is allowed)."""

    def __init__(self, params: VaultParameters, store: Store, clock: Clock, rng: Rng) -> None:
        self._params = params
        self._store = store
        self._clock = clock
        self._rng = rng
        # Held by every change of a row: what is read must still be so when it is written.
        self._change = asyncio.Lock()

    async def allowed(self, spki: bytes) -> RsaPublicKey:
        """The key, if it stands on the list right now. E_KEY_NOT_ALLOWED, E_WEAK_RSA."""
        sha = load_rsa_public_key(spki, allow_2048=True).spki_sha256
        configured = base64.b64encode(spki).decode()
        if sha in self._params.ers_allowed or configured in self._params.ers_allowed:
            return load_rsa_public_key(spki)
        row = await self._store.ers_key(sha)
        now = self._clock.now_us()
        if row is not None and row.state == "allowed":
            if row.expires_us is None or row.expires_us > now:
                return load_rsa_public_key(row.spki, allow_2048=row.legacy_2048)
            reason = "its entry has expired"
        elif row is not None and row.state == "challenged":
            reason = "its owner has not answered the challenges yet"
        else:
            reason = "it is not on the list"
        raise KeycairnError(
            Code.KEY_NOT_ALLOWED,
            f"this RSA key is not allowed at this node: {reason}",
            not_lost="Nothing was encrypted to it.",
            next="each node's operator: keycairn ers key add --rsa-public-key FILE, then "
            "keycairn ers key confirm",
            node=self._params.index,
            detail={"rsa_spki_sha256": sha},
        )

    async def add(self, spki: bytes, expires_us: int | None, legacy_2048: bool) -> dict[str, Any]:
        """Check a key and give challenges to its owner."""
        key = load_rsa_public_key(spki, allow_2048=legacy_2048)
        if expires_us is not None and expires_us <= self._clock.now_us():
            raise malformed("the expiry lies in the past")
        async with self._change:
            others = [r for r in await self._store.ers_keys() if r.spki_sha256 != key.spki_sha256]
            check_distinct([key, *(load_rsa_public_key(r.spki, allow_2048=True) for r in others)])
            known = await self._store.ers_key(key.spki_sha256)
            if known is not None and known.state == "allowed":
                raise KeycairnError(
                    Code.CONFLICT,
                    "this RSA key is on the list already",
                    next="keycairn ers key attest repeats the proof of possession",
                )
            return await self._challenge(
                ErsKeyRow(
                    spki_sha256=key.spki_sha256,
                    spki=key.spki,
                    bits=key.bits,
                    added_us=self._clock.now_us(),
                    expires_us=expires_us,
                    attested_us=None,
                    state="challenged",
                    legacy_2048=legacy_2048,
                )
            )

    async def attest(self, spki_sha256: str) -> dict[str, Any]:
        """Challenges for a key that is on the list; it stays allowed meanwhile."""
        async with self._change:
            row = await self._store.ers_key(spki_sha256)
            if row is None or row.state == "removed":
                raise KeycairnError(Code.NOT_FOUND, "no such ERS key at this node")
            return await self._challenge(row)

    async def _challenge(self, row: ErsKeyRow) -> dict[str, Any]:
        key = load_rsa_public_key(row.spki, allow_2048=row.legacy_2048)
        made = make_challenges(key, self._rng)
        kept = {
            "public": made.public_json.decode(),
            "expected": [e.hex() for e in made.expected],
            "nonce": made.nonce.hex(),
        }
        await self._store.put_ers_key(replace(row, challenge=kept))
        return cast("dict[str, Any]", json.loads(made.public_json))

    async def confirm(self, answers: Mapping[str, Any]) -> ErsKeyView:
        """Check the owner's answers and put the key on the list. E_BAD_PROOF."""
        sha = answers.get("rsa_spki_sha256")
        async with self._change:
            row = await self._store.ers_key(sha) if isinstance(sha, str) else None
            if row is None or row.challenge is None or row.state == "removed":
                raise KeycairnError(
                    Code.NOT_FOUND,
                    "no challenges are outstanding for this RSA key",
                    next="keycairn ers key add --rsa-public-key FILE",
                )
            kept = row.challenge
            challenges = Challenges(
                kept["public"].encode(),
                tuple(bytes.fromhex(e) for e in kept["expected"]),
                row.spki_sha256,
                bytes.fromhex(kept["nonce"]),
            )
            check_answers(challenges, canonical_json(dict(answers)))
            now = self._clock.now_us()
            row = replace(row, state="allowed", attested_us=now, challenge=None)
            await self._store.put_ers_key(row)
            return self._view(row)

    async def remove(self, spki_sha256: str) -> None:
        """Take a run-time key off the list (documents under it stay what they are)."""
        if any(_configured(e).rsa_spki_sha256 == spki_sha256 for e in self._params.ers_allowed):
            raise KeycairnError(
                Code.CONFLICT,
                "this RSA key is allowed by the configuration file",
                not_lost="It stays allowed.",
                next="take it out of [ers] allowed in node.toml and restart the node",
            )
        async with self._change:
            row = await self._store.ers_key(spki_sha256)
            if row is None:
                raise KeycairnError(Code.NOT_FOUND, "no such ERS key at this node")
            await self._store.put_ers_key(replace(row, state="removed", challenge=None))

    async def list(self) -> Sequence[ErsKeyView]:
        rows = [self._view(r) for r in await self._store.ers_keys() if r.state != "removed"]
        known = {r.rsa_spki_sha256 for r in rows}
        for entry in self._params.ers_allowed:
            view = _configured(entry)
            if view.rsa_spki_sha256 not in known:
                rows.append(view)
        return rows

    def _view(self, row: ErsKeyRow) -> ErsKeyView:
        over = row.expires_us is not None and row.expires_us <= self._clock.now_us()
        return ErsKeyView(
            rsa_spki_sha256=row.spki_sha256,
            bits=row.bits,
            state="expired" if over and row.state == "allowed" else row.state,
            added_us=row.added_us,
            attested_us=row.attested_us,
            expires_us=row.expires_us,
            origin="runtime",
        )


def _configured(entry: str) -> ErsKeyView:
    """A list entry of the configuration: SPKI SHA-256 in hex, or the SPKI in base64."""
    if len(entry) == 64:
        return ErsKeyView(entry, 0, "allowed", 0, None, None, "config")
    try:
        key = load_rsa_public_key(base64.b64decode(entry, validate=True), allow_2048=True)
    except (binascii.Error, ValueError) as exc:
        raise malformed("[ers] allowed holds something that is neither a hash nor base64") from exc
    return ErsKeyView(key.spki_sha256, key.bits, "allowed", 0, None, None, "config")


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
            self._check_key(row, names.players)
        parameters = ers_session.ErsParams(
            names.request_id,
            request.key_ids,
            tuple(row.record.hash for row in rows),
            rsa.spki_sha256,
            request.params,
            request.label,
        )
        hashed = digest(
            _REQUEST, list(request.key_ids), rsa.spki_sha256, request.params, request.label
        )

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

    def _check_key(self, row: KeyRow, players: tuple[int, ...]) -> None:
        if row.state != "active":
            raise KeycairnError(
                Code.CONFLICT, "the key is pending", detail={"key_id": row.record.key_id}
            )
        if row.record.holders != players:
            raise KeycairnError(
                Code.BAD_INDEX,
                "all holders of every key take part in its document",
                detail={"key_id": row.record.key_id, "holders": list(row.record.holders)},
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

    async def check_files(self, *, whole: bool = True) -> list[str]:
        """Every booked document must be readable; those that aren't stop counting.

        Args:
            whole: read all of them back; otherwise only those whose files were touched since.

        Returns:
            the hashes of documents that are gone or damaged; peers are asked for them.
        """
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

    async def status(self, row: KeyRow) -> dict[str, Any]:
        """NONE, COMPLETE or STALE for one key; documents of this node are always whole."""
        held = [d for d in await self._store.documents(row.record.key_id) if d.complete]
        now = (row.record.generation, row.record.hash)
        current = [d for d in held if d.keys[row.record.key_id] == now]
        state = "COMPLETE" if current else "STALE" if held else "NONE"
        newest = current[-1] if current else held[-1] if held else None
        return {
            "key_id": row.record.key_id,
            "status": state,
            "parts": len(row.record.holders),
            "have": len(row.record.holders) if current else 0,
            "generation": None if newest is None else newest.keys[row.record.key_id][0],
            "sha256": None if newest is None else newest.sha256,
            "rsa_spki_sha256": None if newest is None else newest.spki_sha256,
        }

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
