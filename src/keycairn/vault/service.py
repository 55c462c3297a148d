"""One node, whole: the ports put together behind the ``Service`` port."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from keycairn import __version__
from keycairn.errors import Abort, Code, KeycairnError
from keycairn.ports import Clock, Rng
from keycairn.protocols import wire
from keycairn.protocols.dkls23 import session as dkls23_session
from keycairn.protocols.link import Link
from keycairn.protocols.presignature import Presignature
from keycairn.protocols.router import Router
from keycairn.protocols.session import SMALL_ROUNDS, SessionSpec
from keycairn.protocols.setup import PairSetup, pair_setup
from keycairn.vault.api import (
    CreateDocument,
    CreateKeys,
    DocumentResult,
    ErsKeyView,
    Identity,
    KeyView,
    SessionNames,
    Sign,
    Signature,
    VaultParameters,
)
from keycairn.vault.claims import Claims
from keycairn.vault.control import Announce, PoolDropped
from keycairn.vault.emergency import Documents, ErsKeys
from keycairn.vault.exchange import Exchange
from keycairn.vault.hold import CreationHold
from keycairn.vault.keys import Keys
from keycairn.vault.policy import parse, warnings_for
from keycairn.vault.pools import Place, Pool, Pools
from keycairn.vault.ports import DocumentStore, KeyRow, Store
from keycairn.vault.refill import Refiller
from keycairn.vault.refreshes import Refreshes
from keycairn.vault.sessions import Sessions
from keycairn.vault.setups import SetupBook
from keycairn.vault.shelf import DatabaseShelf, MemoryShelf, Shelf
from keycairn.vault.signer import IdentitySigner
from keycairn.vault.signing import Signing, SigningJournal

T = TypeVar("T")

#: Threads for protocol steps. The work holds the interpreter lock most of the time; a few
#: threads let sessions interleave, more would only add switching.
_THREADS = 4
#: Ids of one pool that are listed.
_LISTED = 1000
#: An un-ban waits so long for the new pair setup.
_UNBAN_SECONDS = 5.0


class NodeService:
    """Implements :class:`keycairn.vault.api.Service`.

    Args:
        params: constants of vault and node, from the configuration.
        identity: the node's identity key; its public half must be the pin of ``params.index``.
        store: the node's durable memory, open.
        documents: the node's own ERS store.
        link: its links; attached and started by :meth:`start`.
        crash: called at every named crash point; only a test build ends the process there.
    """

    def __init__(
        self,
        params: VaultParameters,
        identity: Identity,
        store: Store,
        documents: DocumentStore,
        link: Link,
        clock: Clock,
        rng: Rng,
        *,
        crash: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._params = params
        self._store = store
        self._link = link
        self._clock = clock
        self._policy = parse(params.policy)
        self.incarnation = rng.bytes(32)
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="protocol")
        self._router = Router()
        signer = IdentitySigner(identity, params.pins)
        self._sessions = Sessions(
            params,
            self.incarnation,
            store=store,
            link=link,
            router=self._router,
            signer=signer,
            clock=clock,
            rng=rng,
            executor=self._executor,
            crash=crash,
        )
        self._exchange = Exchange(
            link, self._router, Announce(params.vault_id, self.incarnation, __version__)
        )
        self._exchange.on(Announce, self._announced)
        self._setups = SetupBook(
            params.index,
            self._exchange,
            self._run_setup,
            self._sessions.banned,
            clock,
            rng,
            self._setup_dropped,
        )
        self._shelf: Shelf = (
            DatabaseShelf(store, self.incarnation, rng)
            if params.presignature_storage == "database"
            else MemoryShelf()
        )
        self._pools = Pools(
            usable=self._usable, dropped=self._stock_dropped, evicted=self._tell_dropped
        )
        self._keys = Keys(
            params,
            self._policy,
            store=store,
            sessions=self._sessions,
            exchange=self._exchange,
            signer=signer,
            clock=clock,
        )
        self._setup_journal = SigningJournal(store, self._sessions, clock, self.incarnation)
        self._refiller = Refiller(
            params,
            self._pools,
            self._shelf,
            store=store,
            sessions=self._sessions,
            setups=self._setups,
            exchange=self._exchange,
            link=link,
            journal=self._setup_journal,
            clock=clock,
            rng=rng,
        )
        self._sessions.on_ban(self._forget_peer)
        self._exchange.on(PoolDropped, self._peer_dropped)
        self._signing = Signing(
            params,
            self.incarnation,
            store=store,
            sessions=self._sessions,
            setups=self._setups,
            keys=self._keys,
            claims=Claims(
                params.index,
                params.presignature_target,
                self._pools,
                self._shelf,
                self._refiller,
                self._sessions,
                rng,
            ),
            clock=clock,
            spawn=self._exchange.spawn,
        )
        self._refreshes = Refreshes(store, self._sessions)
        self._ers_keys = ErsKeys(params, store, clock, rng)
        self._documents = Documents(
            params,
            store=store,
            files=documents,
            ers_keys=self._ers_keys,
            sessions=self._sessions,
            keys=self._keys,
            exchange=self._exchange,
            clock=clock,
        )
        self.started_us = 0

    @property
    def unreadable(self) -> set[str]:
        """SHA-256 of stored evidence that nobody can look at now; whoever looks keeps it. What is
        in here counts as "can't tell"."""
        return self._keys.unreadable

    @property
    def creation(self) -> CreationHold:
        """Holds back key creation while a backup point is taken."""
        return self._keys.hold

    # -- life ------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin a new incarnation and open the links."""
        await self._keys.check_identity()
        wire.prepare()
        self.started_us = self._clock.now_us()
        await self._store.begin_incarnation(self.incarnation, self.started_us)
        await self._sessions.load_bans()
        await self.check_documents()
        self._link.attach(self._exchange)
        await self._link.start()
        self._refiller.start()

    async def check_documents(self, whole: bool = True) -> list[str]:
        """Stop counting booked documents that can't be read back; returns their hashes.

        ``whole`` reads all of them; otherwise only those whose files were touched.
        """
        return await self._documents.check_files(whole=whole)

    async def stop(self, grace: float = 5.0) -> None:
        """Let running sessions end for ``grace`` seconds, then close links. Not the store."""
        self._refiller.stop()
        await self._sessions.drain(grace)
        await self._exchange.close()
        await self._link.close()
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _announced(self, peer: int, hello: Announce) -> None:
        """First word of a peer on a new connection."""
        known = self._exchange.peers[peer]
        if hello.vault != self._params.vault_id or known.greeted:
            return  # each answer costs a look through the store: one per connection
        if len(hello.incarnation) != 32 or len(hello.version) > 64:
            return
        known.greeted = True
        if known.incarnation != hello.incarnation:
            # Whatever was made with the peer's old incarnation died with it.
            known.incarnation = hello.incarnation
            self._setups.drop(peer)
            self._pools.drop_peer(peer)
            self._router.forget_peer(peer, hello.incarnation)
        known.version = hello.version
        await self._keys.contact(peer)
        await self._documents.contact(peer)
        await self._setups.contact(peer)
        self._refiller.contact(peer)

    # -- presignatures -----------------------------------------------------------------------

    def _usable(self, p: Presignature[Any]) -> bool:
        """Whether all pair setups that a presignature was made on are alive."""
        for peer, setup_id in getattr(p, "setup_ids", {}).items():
            setup = self._setups.get(peer)
            if setup is None or setup.setup_id != setup_id:
                return False
        return True

    def _setup_dropped(self) -> None:
        self._pools.drop_unusable()

    def _stock_dropped(self, ids: Sequence[bytes]) -> None:
        if self._shelf.name == "database":
            self._exchange.spawn(self._shelf.drop(ids))

    def _forget_peer(self, peer: int) -> None:
        self._pools.forget(lambda pool: peer in pool.place.players)

    def _tell_dropped(self, pool: Pool) -> None:
        """The others needn't keep what this node doesn't have any more."""
        for peer in pool.place.players:
            if peer != self._params.index:
                self._exchange.spawn(self._exchange.send(peer, PoolDropped(*pool.place)))

    async def _peer_dropped(self, peer: int, note: PoolDropped) -> None:
        place = Place(note.record_hash, note.players)
        if peer in place.players:
            self._pools.forget(lambda pool: pool.place == place)

    async def _run_setup(self, name: str, peer: int) -> PairSetup:
        players = tuple(sorted((self._params.index, peer)))
        spec = SessionSpec(
            name,
            dkls23_session.SETUP_NAME,
            dkls23_session.SETUP_VERSION,
            self._params.vault_id,
            players,
            dkls23_session.SetupParams("ecdsa"),
            largest=SMALL_ROUNDS,
        )
        made = await self._sessions.run(spec, pair_setup, self._setup_journal, public=False)
        made.created_at_us = self._clock.now_us()
        return made

    async def _answer(self, names: SessionNames, work: Awaitable[T]) -> T:
        """Do ``work``; if this node refuses, the other players hear it at once."""
        try:
            return await work
        except KeycairnError as exc:
            if not isinstance(exc, Abort):
                await self._sessions.decline(names, exc.code)
            raise

    # -- applications ------------------------------------------------------------------------

    async def create_keys(self, application: str, request: CreateKeys) -> Sequence[KeyView]:
        return await self._answer(request.names, self._keys.create(application, request))

    async def list_keys(self, application: str, after: str, limit: int) -> Sequence[KeyView]:
        return await self._keys.list(application, after, limit)

    async def show_key(self, application: str, key_id: str, path: str | None) -> KeyView:
        row = await self._keys.of(application, key_id)
        return await (self._keys.view(row) if path is None else self._keys.child(row, path))

    async def sign(self, application: str, request: Sign) -> Sequence[Signature]:
        return await self._answer(request.names, self._signing.sign(application, request))

    async def presignatures(
        self, application: str | None, key_id: str | None
    ) -> Sequence[dict[str, Any]]:
        pools = await self._pools_of(application, key_id)
        return [
            {
                "key_id": pool.key_id,
                "players": list(pool.place.players),
                "protocol": pool.protocol,
                "count": self._pools.count(pool.place),
                "target": self._params.presignature_target,
                "low_water": self._params.presignature_low_water,
                "storage": self._params.presignature_storage,
                "ids": [i.hex() for i in self._pools.ids(pool.place)[:_LISTED]],
            }
            for pool in sorted(pools, key=lambda pool: (pool.key_id, pool.place.players))
        ]

    async def delete_presignatures(
        self, application: str | None, key_id: str | None
    ) -> dict[str, Any]:
        places = {pool.place for pool in await self._pools_of(application, key_id)}
        detail = {"application": application, "key": key_id}
        await self._store.audit("presignatures.delete", detail)
        count, pools = self._pools.forget(lambda pool: pool.place in places)
        for pool in pools:
            self._tell_dropped(pool)
        return {"deleted": count}

    async def _pools_of(self, application: str | None, key_id: str | None) -> list[Pool]:
        if application is not None and key_id is not None:
            await self._keys.of(application, key_id)
        return [
            pool
            for pool in self._pools.all()
            if application in (None, pool.application) and key_id in (None, pool.key_id)
        ]

    def statistics(self) -> dict[str, Any]:
        return {"presignatures_made": self._pools.made, "signatures": dict(self._signing.signed)}

    async def create_document(self, application: str, request: CreateDocument) -> DocumentResult:
        return await self._answer(request.names, self._documents.create(application, request))

    async def ers_status(self, application: str, key_id: str | None) -> Sequence[dict[str, Any]]:
        if key_id is not None:
            return [await self._documents.status(await self._keys.of(application, key_id))]
        return [await self._documents.status(row) for row in await self._keys.all(application)]

    async def coverage(self, application: str, key_id: str | None) -> Sequence[dict[str, Any]]:
        if key_id is not None:
            rows: Sequence[KeyRow] = [await self._keys.of(application, key_id)]
        else:
            rows = await self._keys.all(application)
        return [covered.to_json() for covered in await self._keys.coverages(rows)]

    async def session(self, application: str, session_id: str) -> dict[str, Any]:
        return self._sessions.describe(application, session_id)

    # -- operator ----------------------------------------------------------------------------

    async def ers_key_add(
        self, spki: bytes, expires_us: int | None, legacy_2048: bool
    ) -> dict[str, Any]:
        return await self._ers_keys.add(spki, expires_us, legacy_2048)

    async def ers_key_confirm(self, answers: Mapping[str, Any]) -> ErsKeyView:
        return await self._ers_keys.confirm(answers)

    async def ers_key_remove(self, spki_sha256: str) -> None:
        await self._ers_keys.remove(spki_sha256)

    async def ers_key_list(self) -> Sequence[ErsKeyView]:
        return await self._ers_keys.list()

    async def ers_key_attest(self, spki_sha256: str) -> dict[str, Any]:
        return await self._ers_keys.attest(spki_sha256)

    async def status(self) -> dict[str, Any]:
        pending = await self._store.pending_batches()
        findings: list[dict[str, Any]] = [
            {
                "finding": "pending",
                "key_ids": list(b.key_ids),
                "waiting_for": [h for h in b.holders if h not in b.ready],
                "next": "start the nodes that it waits for: the keys become active at the next "
                "contact. If they run and don't know the keys, these never will be: create others",
            }
            for b in pending
        ]
        findings += [
            {
                "finding": "damaged",
                "table": d.table,
                "row": d.row,
                "why": d.why,
                "next": "keycairn node restore BUNDLE --into DIR --identity FILE",
            }
            for d in await self._store.damaged()
        ]
        findings += await self._refreshes.findings()
        findings += [
            {"finding": "policy", "text": text}
            for text in warnings_for(self._policy, self._params.gate)
        ]
        return {
            "state": "ACTIVE",
            "why": "",
            "vault": self._params.vault_id,
            "node": self._params.index,
            "incarnation": self.incarnation.hex(),
            "started_us": self.started_us,
            "version": __version__,
            "head": None,
            "pending": [list(b.key_ids) for b in pending],
            "findings": findings,
        }

    async def peers(self) -> Sequence[dict[str, Any]]:
        bans = self._sessions.bans
        out = []
        for index in self._params.players:
            if index == self._params.index:
                continue
            known = self._exchange.peers.get(index)
            ban = bans.get(index)
            out.append(
                {
                    "index": index,
                    "up": self._link.is_up(index),
                    "incarnation": known.incarnation.hex() if known else "",
                    "version": known.version if known else "",
                    "setup": self._setups.get(index) is not None,
                    "banned": ban is not None,
                    "ban": None
                    if ban is None
                    else {"id": ban.ban_id, "reason": ban.reason, "at_us": ban.at_us},
                    "lifted_bans": [
                        {
                            "id": row.ban_id,
                            "reason": row.reason,
                            "at_us": row.at_us,
                            "lifted_us": row.lifted_us,
                        }
                        for row in self._sessions.lifted_bans
                        if row.peer == index
                    ],
                }
            )
        return out

    async def unban(self, peer: int) -> dict[str, Any]:
        if peer == self._params.index or peer not in self._params.players:
            raise KeycairnError(
                Code.BAD_INDEX,
                f"player {peer} is not a peer of this node",
                next="keycairn node peers shows this node's peers",
                detail={"players": list(self._params.players)},
            )
        lifted = await self._sessions.unban(peer, self._refreshes.record)
        if lifted:
            # Only new base OTs from here on: of the old ones the peer may know choice bits.
            self._setups.drop(peer)
            if self._link.is_up(peer):
                with suppress(KeycairnError):  # Whoever needs it asks for it again.
                    await self._setups.ensure([peer], _UNBAN_SECONDS)
        return {
            "peer": peer,
            "lifted": [row.ban_id for row in lifted],
            "banned": self._sessions.banned(peer),
            "refresh": await self._refreshes.keys_with(peer),
        }

    async def health(self) -> dict[str, Any]:
        """Whether a round could finish: as many players as the smallest key needs are here."""
        bans = self._sessions.bans
        reachable = [
            p
            for p in self._params.players
            if p == self._params.index or (self._link.is_up(p) and p not in bans)
        ]
        needed = self._params.quorum
        reasons = []
        if len(reachable) < needed:
            missing = sorted(set(self._params.players) - set(reachable))
            reasons.append(f"players {missing} are not reachable; {needed} are needed to sign")
        return {"ok": not reasons, "node": self._params.index, "reasons": reasons}

    async def state_digest(self) -> bytes:
        return await self._store.state_digest()
