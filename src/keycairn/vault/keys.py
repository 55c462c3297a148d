"""Keys at a node: creation, the certificate that makes them active, and how they are shown."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from keycairn.curves.addresses import addresses
from keycairn.curves.derivation import parse_path
from keycairn.encoding import digest, tag
from keycairn.errors import Code, KeycairnError
from keycairn.ports import Clock
from keycairn.protocols import keygen
from keycairn.protocols.durable import Certified, PendingBatch
from keycairn.protocols.form import Signer
from keycairn.protocols.session import SessionSpec
from keycairn.vault.api import CreateKeys, KeyView, VaultParameters
from keycairn.vault.control import ReadyNote
from keycairn.vault.coverage import KeyCoverage, key_coverage
from keycairn.vault.exchange import Exchange
from keycairn.vault.hold import CreationHold
from keycairn.vault.jobs import ROOT, child
from keycairn.vault.policy import Answer, Policy, require_satisfiable
from keycairn.vault.ports import Batch, KeyRow, NewKey, Store
from keycairn.vault.sessions import Sessions, check_names

_REQUEST = tag("request/create")
Publish = Callable[[], Awaitable[None]]
#: Rows that the store gives at once.
_PAGE = 1000
_WAIT_FOR_CERTIFICATE = 5.0


class _CreateJournal:
    """Makes the two durable steps of key generation durable in the store."""

    def __init__(
        self,
        store: Store,
        publish: Publish,
        clock: Clock,
        application: str,
        request: CreateKeys,
        hashed: bytes,
    ) -> None:
        self._store = store
        self._publish = publish
        self._clock = clock
        self._application = application
        self._request = request
        self._hash = hashed

    async def commit(self, what: str, record: Any) -> None:
        if isinstance(record, PendingBatch):
            await self._pending(record)
        elif isinstance(record, Certified):
            await self._store.add_ready(record.batch_id, record.ready)
            await self._publish()
        else:
            raise ValueError(f"key generation has no durable step {what}")

    async def _pending(self, p: PendingBatch) -> None:
        records = [k.record for k in p.keys]
        own = self._request.names
        batch = Batch(
            batch_id=p.batch_id,
            application=self._application,
            request_id=own.request_id,
            request_hash=self._hash,
            generation=p.generation,
            record_hashes=tuple(r.hash for r in records),
            key_ids=tuple(r.key_id for r in records),
            holders=records[0].holders,
            ready={p.index: p.ready},
            active=False,
            created_us=self._clock.now_us(),
        )
        keys = [NewKey(k.record, k.share, k.chain_code) for k in p.keys]
        await self._store.put_batch(batch, keys)
        await self._publish()  # Before READY leaves: whoever has it may hold it against this node.


class Keys:
    """Creation and views of keys.

    A batch is *pending* from this node's READY until the READY of every holder is here; nodes
    exchange them at every contact, so a crash between the two loses nothing (R-15).

    Args:
        publish: anchors and announces a change of the history.
        unknown: told of a batch that a peer speaks of and this node does not know.
    """

    def __init__(
        self,
        params: VaultParameters,
        policy: Policy,
        *,
        store: Store,
        sessions: Sessions,
        exchange: Exchange,
        signer: Signer,
        clock: Clock,
        publish: Publish,
        unknown: Callable[[int, ReadyNote], Awaitable[None]],
    ) -> None:
        self._params = params
        self._publish = publish
        self._unknown = unknown
        self._policy = policy
        self._store = store
        self._sessions = sessions
        self._exchange = exchange
        self._signer = signer
        self._clock = clock
        self._activated = asyncio.Condition()
        self.unreadable: set[str] = set()
        self.retired: frozenset[str] = frozenset()  # RSA keys, by hash
        self.on_active: Callable[[Batch], None] = lambda _: None
        self.hold = CreationHold()
        exchange.on(ReadyNote, self._ready_note)

    # -- creation --------------------------------------------------------------------------

    async def create(self, application: str, request: CreateKeys) -> Sequence[KeyView]:
        """See ``Service.create_keys``."""
        names = request.names
        check_names(names, self._params.players)
        parameters = keygen.KeygenParams(
            names.request_id,
            request.scheme,
            request.curve,
            request.threshold,
            request.count,
            application,
            variant=request.variant,
        )
        keygen.check_params(names.players, parameters)
        if names.players != self._params.players:
            raise KeycairnError(
                Code.BAD_INDEX,
                "a key is held by all nodes of the vault; name every player",
                detail={"players": list(self._params.players)},
            )
        self._allowed(request.scheme, "create")
        require_satisfiable(self._policy, len(names.players), request.threshold)
        hashed = digest(
            _REQUEST,
            names.request_id,
            request.scheme,
            request.curve,
            request.threshold,
            request.count,
            request.variant,
            list(names.players),
        )

        async def work() -> Sequence[KeyView]:
            batch = await self._store.batch_by_request(application, names.request_id)
            if batch is None:
                async with self.hold.creating():
                    batch = await self._generate(application, request, parameters, hashed)
            elif batch.request_hash != hashed:
                raise KeycairnError(
                    Code.CONFLICT,
                    "this request_id was used for other keys",
                    not_lost="The keys of the earlier request are unchanged.",
                    next="use a fresh request_id",
                )
            if not batch.active:
                batch = await self._await_certificate(batch)
            # An earlier request may have made them active and failed to say so.
            await self._publish()
            self.on_active(batch)
            return await self._views([await self._row(k) for k in batch.key_ids])

        return await self._sessions.once(application, "create", names, hashed, work)

    def _allowed(self, scheme: str, action: str) -> None:
        if f"{scheme}.{action}" not in self._params.operations:
            raise KeycairnError(
                Code.POLICY,
                f"this node's configuration does not allow {scheme}.{action}",
                next=f"set {action} = true under [operations.{scheme}] in node.toml and restart",
            )

    async def _generate(
        self,
        application: str,
        request: CreateKeys,
        parameters: keygen.KeygenParams,
        hashed: bytes,
    ) -> Batch:
        spec = SessionSpec(
            request.names.session_id,
            keygen.NAME,
            keygen.VERSION,
            self._params.vault_id,
            request.names.players,
            parameters,
            largest=keygen.largest_round(parameters),
        )
        journal = _CreateJournal(
            self._store, self._publish, self._clock, application, request, hashed
        )
        try:
            created = await self._sessions.run(
                spec,
                lambda party: keygen.keygen(party, self._params.vault_id, parameters),
                journal,
                timeout=self._params.session_seconds + request.count * 0.2,
            )
            batch = await self._store.batch(created.batch_id)
        except KeycairnError:
            # Died after READY? Then the batch is there, and the peers may know the rest.
            batch = await self._store.batch_by_request(application, request.names.request_id)
            if batch is None:
                raise
        if batch is None:
            raise KeycairnError(Code.STORE_INTEGRITY, "the batch just written is not there")
        return batch

    async def _await_certificate(self, batch: Batch) -> Batch:
        """Ask all holders for their READY and wait a little for the certificate."""
        await self._tell(batch, [h for h in batch.holders if h != self._params.index], ask=True)

        async def active() -> Batch:
            async with self._activated:
                while True:
                    now = await self._store.batch(batch.batch_id)
                    if now is not None and now.active:
                        return now
                    await self._activated.wait()

        try:
            return await asyncio.wait_for(active(), _WAIT_FOR_CERTIFICATE)
        except TimeoutError:
            now = await self._store.batch(batch.batch_id) or batch
            waiting = [h for h in now.holders if h not in now.ready]
            raise KeycairnError(
                Code.PEER_TIMEOUT,
                f"the keys are pending: READY of player {', '.join(map(str, waiting))} is missing",
                not_lost="This node keeps its shares; the keys become active when the certificate "
                "is complete. They are not usable until then.",
                next="start the missing nodes, then keycairn key list (or create under a fresh "
                "request_id)",
                detail={"waiting_for": waiting, "key_ids": list(batch.key_ids)},
            ) from None

    async def check_identity(self) -> None:
        """Refuse to start under another identity key than the one this node's keys were made with.

        Its peers would refuse it anyway, without a word on this side about why.

        Raises:
            KeycairnError: E_CONFLICT.
        """
        for row in await self._store.keys(limit=1):
            batch = await self._store.batch(row.batch_id)
            signature = None if batch is None else batch.ready.get(self._params.index)
            if batch is None or signature is None:
                continue
            statement = keygen.ready_statement(
                self._params.vault_id, batch.batch_id, batch.generation, batch.record_hashes
            )
            if not self._signer.verify(self._params.index, statement, signature):
                raise KeycairnError(
                    Code.CONFLICT,
                    "this is not the identity key under which this node's keys were made",
                    not_lost="The node did not start; nothing was changed.",
                    next="put the old file back at [player] identity_key_file; the node's bundles "
                    "hold it (keycairn node restore BUNDLE --into DIR --identity FILE)",
                    node=self._params.index,
                )

    # -- READY at every contact ------------------------------------------------------------

    async def contact(self, peer: int) -> None:
        """Show a peer what is still pending here, and ask for what it knows."""
        for batch in await self._store.pending_batches():
            if peer in batch.holders:
                await self._tell(batch, [peer], ask=True)

    async def _tell(self, batch: Batch, peers: Sequence[int], *, ask: bool) -> None:
        """Send the READYs that are known, this node's own among them: it is published first, since
        the attempt of the session that made it may have failed."""
        await self._publish()
        note = ReadyNote(batch.batch_id, tuple(sorted(batch.ready.items())), ask)
        for peer in peers:
            await self._exchange.send(peer, note)

    async def _ready_note(self, peer: int, note: ReadyNote) -> None:
        batch = await self._store.batch(note.batch_id)
        if batch is None:
            await self._unknown(peer, note)
        if batch is None or peer not in batch.holders:
            return
        statement = keygen.ready_statement(
            self._params.vault_id, batch.batch_id, batch.generation, batch.record_hashes
        )
        new = {
            player: signature
            for player, signature in note.ready[: len(batch.holders)]
            if player in batch.holders
            and player not in batch.ready
            and self._signer.verify(player, statement, signature)
        }
        if new:
            batch = await self._store.add_ready(batch.batch_id, new)
            if batch.active:
                await self._publish()
                self.on_active(batch)
                async with self._activated:
                    self._activated.notify_all()
        if note.ask:
            await self._tell(batch, [peer], ask=False)

    # -- views -----------------------------------------------------------------------------

    async def _row(self, key_id: str) -> KeyRow:
        row = await self._store.key(key_id)
        if row is None:
            raise not_found()
        return row

    async def of(self, application: str, key_id: str) -> KeyRow:
        """The row of an application's key; E_NOT_FOUND is the same for foreign and missing."""
        row = await self._store.key(key_id)
        if row is None or row.application != application:
            raise not_found()
        return row

    async def list(self, application: str, after: str, limit: int) -> Sequence[KeyView]:
        return await self._views(
            await self._store.keys(application=application, after=after, limit=limit)
        )

    async def _views(self, rows: Sequence[KeyRow]) -> Sequence[KeyView]:
        documents = await self._store.documents()
        bundles = await self._store.bundles()

        def views() -> Sequence[KeyView]:
            policy = self._policy
            return [
                self._view(
                    row,
                    key_coverage(
                        row, policy, documents=documents, bundles=bundles, retired=self.retired
                    ),
                )
                for row in rows
            ]

        return await asyncio.to_thread(views)

    async def all(self, application: str) -> Sequence[KeyRow]:
        """Every key of an application, however many: the store gives them page by page."""
        rows: Sequence[KeyRow] = []
        while True:
            after = rows[-1].record.key_id if rows else ""
            page = await self._store.keys(application=application, after=after, limit=_PAGE)
            rows = [*rows, *page]
            if len(page) < _PAGE:
                return rows

    async def coverage(self, row: KeyRow) -> KeyCoverage:
        """What protects this key here, from this node's own evidence."""
        return key_coverage(
            row,
            self._policy,
            documents=await self._store.documents(row.record.key_id),
            bundles=await self._store.bundles(),
            unreadable=self.unreadable,
            retired=self.retired,
        )

    async def coverages(self, rows: Sequence[KeyRow]) -> Sequence[KeyCoverage]:
        """The same of many keys: the evidence is read once."""
        documents = await self._store.documents()
        bundles = await self._store.bundles()
        return [
            key_coverage(
                row,
                self._policy,
                documents=documents,
                bundles=bundles,
                unreadable=self.unreadable,
                retired=self.retired,
            )
            for row in rows
        ]

    async def view(self, row: KeyRow) -> KeyView:
        return self._view(row, await self.coverage(row))

    async def child(self, row: KeyRow, path: str) -> KeyView:
        """The same for the child at ``path``. E_MALFORMED, E_BAD_SCALAR."""
        record = row.record
        parse_path(path)
        key = await self._store.key_share(record.key_id)
        coverage = await self.coverage(row)
        view = self._view(row, coverage, child(key, path)[1])
        if self._open(row, coverage) and path != ROOT:
            # An address is a promise: recovery must know the path before anybody sees it.
            await self._store.note_paths(record.key_id, [path], self._clock.now_us())
        return replace(view, path=path)

    def _open(self, row: KeyRow, coverage: KeyCoverage) -> bool:
        """Whether addresses may be shown."""
        gated = "address" in self._params.gate
        return row.state == "active" and (not gated or coverage.holds is Answer.YES)

    def _view(self, row: KeyRow, coverage: KeyCoverage, public_key: bytes = b"") -> KeyView:
        record = row.record
        open_gate = self._open(row, coverage)
        public_key = public_key or record.public_key
        known = addresses(record.scheme, record.curve, public_key)
        return KeyView(
            key_id=record.key_id,
            scheme=record.scheme,
            curve=record.curve,
            public_key=public_key,
            generation=record.generation,
            threshold=record.threshold,
            players=record.holders,
            state=row.state,
            record_hash=record.hash,
            backed_up=coverage.holds.value,
            addresses=known if open_gate else dict.fromkeys(known),
            missing=tuple(coverage.missing.words),
            next=tuple(coverage.missing.next),
        )


def not_found() -> KeycairnError:
    """The one answer for a key that is missing or another application's."""
    return KeycairnError(
        Code.NOT_FOUND, "no such key", next="keycairn key list shows the keys you may use"
    )
