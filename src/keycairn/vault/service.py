"""One node, whole: the ports put together behind the ``Service`` port."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
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
from keycairn.vault.emergency import Documents
from keycairn.vault.ers_auto import Automatic
from keycairn.vault.ers_keys import ErsKeys
from keycairn.vault.exchange import Exchange
from keycairn.vault.fence import State, Witness, take_over
from keycairn.vault.fence.anchor import AnchorStore
from keycairn.vault.fence.behind import Behind
from keycairn.vault.fence.incarnation import Incarnation
from keycairn.vault.fence.keeper import Fence
from keycairn.vault.fence.pace import Pace
from keycairn.vault.fence.recorder import Recorder
from keycairn.vault.fence.rejoin import Rejoin, rows_of
from keycairn.vault.fence.twins import Alive
from keycairn.vault.fence.words import words_of
from keycairn.vault.hold import CreationHold
from keycairn.vault.keys import Keys
from keycairn.vault.points import PointSessions
from keycairn.vault.policy import parse, warnings_for
from keycairn.vault.pools import Place, Pool, Pools
from keycairn.vault.ports import DocumentStore, ErsKeyRow, KeyRow, Store
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
_PACE = Pace()
#: An un-ban waits so long for the new pair setup.
_UNBAN_SECONDS = 5.0
#: A rejoin waits so long for sessions of the old incarnation, which were told to end.
_RESET_SECONDS = 5.0
#: A peer whose state changes again and again is heard once in so many seconds.
_CHANGE_SECONDS = 0.1


class NodeService:
    """Implements :class:`keycairn.vault.api.Service`.

    Args:
        params: constants of vault and node, from the configuration.
        identity: the node's identity key; its public half must be the pin of ``params.index``.
        store: the node's durable memory, open.
        documents: the node's own ERS store.
        link: its links; attached and started by :meth:`start`.
        anchor: the node's newest word about its history, outside the store.
        pace: how fast the fence does what it does by itself.
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
        anchor: AnchorStore,
        crash: Callable[[str], None] = lambda _: None,
        pace: Pace = _PACE,
    ) -> None:
        self._params = params
        self._store = store
        self._link = link
        self._clock = clock
        self._policy = parse(params.policy)
        self._incarnation = Incarnation(rng)
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="protocol")
        self._router = Router()
        signer = IdentitySigner(identity, params.pins)
        self._exchange = Exchange(link, self._router, self._announce)
        self.fence = Fence(
            params,
            self._incarnation,
            store=store,
            anchor=anchor,
            exchange=self._exchange,
            signer=signer,
            clock=clock,
            pace=pace,
            crash=crash,
        )
        self._sessions = Sessions(
            params,
            self._incarnation,
            fence=self.fence,
            store=store,
            link=link,
            router=self._router,
            signer=signer,
            clock=clock,
            rng=rng,
            executor=self._executor,
            crash=crash,
        )
        self._recorder = Recorder(
            params,
            store=store,
            exchange=self._exchange,
            signer=signer,
            clock=clock,
            active=lambda: self.fence.active,
        )
        self._behind = Behind(
            params, self.fence, store=store, exchange=self._exchange, signer=signer, clock=clock
        )
        self._rejoin = Rejoin(
            self.fence,
            self._incarnation,
            store=store,
            clock=clock,
            crash=crash,
            reset=self._reset,
            after=self._rejoined,
            in_force=lambda: self._sessions.bans.values(),
        )
        self._exchange.on(Announce, self._announced)
        self._exchange.on(Alive, self._alive)
        self._setups = SetupBook(
            params.index,
            self._exchange,
            self._run_setup,
            self._out,
            clock,
            rng,
            self._setup_dropped,
            self._sessions.end,
        )
        self._shelf: Shelf = (
            DatabaseShelf(store, self._incarnation, rng)
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
            publish=self.fence.publish,
            unknown=self._behind.unknown,
        )
        # Pair setups and presigning ban, but spend nothing.
        self._setup_journal = SigningJournal(store, self._sessions, clock, b"")
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
        self.fence.on_fenced(self._fenced)
        self.fence.on_active(self._entered)
        self.fence.on_standing(lambda _: self._exchange.announce())
        self.fence.on_lost_words(self._hear)
        self._exchange.on(PoolDropped, self._peer_dropped)
        self._signing = Signing(
            params,
            self._incarnation,
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
        self.points = PointSessions(
            params.index,
            params.players,
            self._exchange,
            self._sessions.banned,
            clock,
            rng,
            require_active=self.fence.require_active,
            crash=crash,
        )
        self._automatic = Automatic(
            params,
            self._policy,
            self._documents,
            self._ers_keys,
            store=store,
            sessions=self._sessions,
            exchange=self._exchange,
            link=link,
            clock=clock,
            rng=rng,
        )
        self._keys.on_active = self._automatic.created
        self.started_us = 0

    @property
    def documents(self) -> Documents:
        """This node's ERS documents."""
        return self._documents

    @property
    def ers_keys(self) -> ErsKeys:
        """The RSA keys that this node may encrypt its shares to."""
        return self._ers_keys

    @property
    def automatic(self) -> Automatic:
        """Makes documents that nobody asked for."""
        return self._automatic

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
        """Look at history and anchor, begin a new incarnation if they allow it, open the links.

        The node may be WAITING or QUARANTINED after this; see :attr:`fence`.
        """
        await self._keys.check_identity()
        wire.prepare()
        self.started_us = self._clock.now_us()
        await self._sessions.load_bans()
        await self._recorder.load()
        await self.fence.begin()
        self._link.attach(self._exchange)
        await self._link.start()
        self._refiller.start()
        self._automatic.start()
        self._exchange.spawn(self.fence.watch())

    # -- the fence ---------------------------------------------------------------------------

    @property
    def incarnation(self) -> bytes:
        """Of this process' present life."""
        return self._incarnation.id

    def _announce(self) -> Announce:
        state = self.fence.standing.state.value
        return Announce(self._params.vault_id, self.incarnation, __version__, state)

    def _out(self, peer: int) -> bool:
        """Whether no setup is made with a peer now."""
        return self._sessions.banned(peer) or not self.fence.active

    def _fenced(self) -> None:
        """Nothing of this incarnation may be used any more."""
        self._sessions.stop_all()
        self._setups.drop_all()
        self._pools.forget(lambda _: True)

    async def _entered(self) -> None:
        """The node has become active."""
        await self._sessions.load_bans()
        await self.check_documents()
        for peer, known in list(self._exchange.peers.items()):
            if known.up and known.greeted:
                # What it said of itself while nothing could be written here is asked for again.
                self._exchange.spawn(self._recorder.show(peer))
                self._exchange.spawn(self._meet(peer))

    async def _reset(self) -> None:
        """Before a rejoin: whatever bears the old incarnation goes."""
        self._fenced()
        await self._sessions.drain(_RESET_SECONDS)
        self._incarnation.renew()
        self._shelf.renew()
        self._signing.forget()

    async def _rejoined(self) -> None:
        self._behind.ask_all()
        for peer, known in list(self._exchange.peers.items()):
            if known.up:
                await self._behind.contact(peer)

    async def _alive(self, peer: int, alive: Alive) -> None:
        if alive.node == self._params.index:
            await self.fence.proved(alive)
        elif alive.node == peer:
            await self._recorder.proved(peer, alive)

    async def _hear(self, witness: Witness) -> None:
        """A word of an earlier era came to light after the rejoin: its bans count."""
        bans, revoked = await words_of(self._store)
        taken = take_over([witness], bans={b.ban_id: b for b in bans}, revoked=frozenset(revoked))
        if taken.bans:
            await self._sessions.ban_as(rows_of(taken.bans, self._clock.now_us()))
        for spki in taken.revoked:
            row = await self._store.ers_key(spki)
            gone = ErsKeyRow(spki, b"", 0, self._clock.now_us(), None, None, "removed")
            await self._store.put_ers_key(
                gone if row is None else replace(row, state="removed", challenge=None)
            )
        if taken.revoked:
            await self.fence.publish()

    async def rejoin(self, *, without_witnesses: bool) -> dict[str, Any]:
        return await self._rejoin.by_operator(without_witnesses=without_witnesses)

    async def check_documents(self, whole: bool = True) -> list[str]:
        """Stop counting booked documents that can't be read back; returns their hashes.

        ``whole`` reads all of them; otherwise only those whose files were touched.
        """
        return await self._documents.check_files(whole=whole)

    async def stop(self, grace: float = 5.0) -> None:
        """Let running sessions end for ``grace`` seconds, then close links. Not the store."""
        self._refiller.stop()
        self._automatic.stop()
        await self._sessions.drain(grace)
        with suppress(KeycairnError):  # It stops all the same.
            await self._recorder.flush()
        await self._exchange.close()
        await self._link.close()
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _announced(self, peer: int, hello: Announce) -> None:
        """First word of a peer on a new connection."""
        known = self._exchange.peers[peer]
        if hello.vault != self._params.vault_id:
            return
        if len(hello.incarnation) != 32 or len(hello.version) > 64 or len(hello.state) > 16:
            return
        if known.greeted:
            # Each answer costs a look through the store: one per connection and change.
            if (known.incarnation, known.state) == (hello.incarnation, hello.state):
                return
            await asyncio.sleep(_CHANGE_SECONDS)
        known.greeted, known.state = True, hello.state
        if known.incarnation != hello.incarnation:
            # Whatever was made with the peer's old incarnation died with it.
            known.incarnation = hello.incarnation
            self._setups.lost(peer)
            self._pools.drop_peer(peer)
            self._router.forget_peer(peer, hello.incarnation)
        elif hello.state != State.ACTIVE.value:
            # It drops what it has, and uses none of it again.
            self._setups.drop(peer)
            self._pools.drop_peer(peer)
        known.version = hello.version
        if await self._recorder.greet(peer, hello):
            await self._meet(peer)

    async def _meet(self, peer: int) -> None:
        """Begin with a peer what needs both of us to be active."""
        if not self.fence.active or self._exchange.peers[peer].state != State.ACTIVE.value:
            return
        await self._behind.contact(peer)
        await self._keys.contact(peer)
        await self._documents.contact(peer)
        await self._setups.contact(peer)
        self._refiller.contact(peer)
        self._automatic.contact(peer)

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

    async def _answer(self, names: SessionNames, work: Callable[[], Awaitable[T]]) -> T:
        """Do ``work``; if this node refuses, the other players hear it at once."""
        try:
            self.fence.require_active()
            return await work()
        except KeycairnError as exc:
            if not isinstance(exc, Abort):
                await self._sessions.decline(names, exc.code)
            raise

    # -- applications ------------------------------------------------------------------------

    async def create_keys(self, application: str, request: CreateKeys) -> Sequence[KeyView]:
        return await self._answer(request.names, lambda: self._keys.create(application, request))

    async def list_keys(self, application: str, after: str, limit: int) -> Sequence[KeyView]:
        self.fence.require_active()
        return await self._keys.list(application, after, limit)

    async def show_key(self, application: str, key_id: str, path: str | None) -> KeyView:
        self.fence.require_active()
        row = await self._keys.of(application, key_id)
        return await (self._keys.view(row) if path is None else self._keys.child(row, path))

    async def key_paths(self, application: str, key_id: str) -> Sequence[str]:
        self.fence.require_active()
        row = await self._keys.of(application, key_id)
        return await self._store.paths(row.record.key_id)

    async def sign(self, application: str, request: Sign) -> Sequence[Signature]:
        return await self._answer(request.names, lambda: self._signing.sign(application, request))

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
        if application is not None:
            self.fence.require_active()
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
        return await self._answer(
            request.names, lambda: self._documents.create(application, request)
        )

    async def ers_status(self, application: str, key_id: str | None) -> Sequence[dict[str, Any]]:
        self.fence.require_active()
        if key_id is not None:
            rows: Sequence[KeyRow] = [await self._keys.of(application, key_id)]
        else:
            rows = await self._keys.all(application)
        return [found.to_json() for found in await self._documents.statuses(rows)]

    async def coverage(self, application: str, key_id: str | None) -> Sequence[dict[str, Any]]:
        self.fence.require_active()
        if key_id is not None:
            rows: Sequence[KeyRow] = [await self._keys.of(application, key_id)]
        else:
            rows = await self._keys.all(application)
        return [covered.to_json() for covered in await self._keys.coverages(rows)]

    async def session(self, application: str, session_id: str) -> dict[str, Any]:
        self.fence.require_active()
        return self._sessions.describe(application, session_id)

    # -- operator ----------------------------------------------------------------------------

    async def ers_key_add(
        self, spki: bytes, expires_us: int | None, legacy_2048: bool
    ) -> dict[str, Any]:
        self.fence.require_active()
        return await self._ers_keys.add(spki, expires_us, legacy_2048)

    async def ers_key_confirm(self, answers: Mapping[str, Any]) -> ErsKeyView:
        self.fence.require_active()
        view = await self._ers_keys.confirm(answers)
        await self.fence.publish()
        await self._documents.learn_retired()
        self._automatic.look()
        return view

    async def ers_key_remove(self, spki_sha256: str, force: bool = False) -> None:
        self.fence.require_active()
        if not force:
            await self._documents.require_covered_elsewhere(spki_sha256)
        await self._ers_keys.remove(spki_sha256)
        await self.fence.publish()
        await self._documents.learn_retired()
        self._automatic.look()

    async def ers_key_list(self) -> Sequence[ErsKeyView]:
        return await self._ers_keys.list()

    async def ers_key_attest(self, spki_sha256: str) -> dict[str, Any]:
        self.fence.require_active()
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
        findings += await self._ers_keys.findings()
        findings += await self._automatic.findings()
        findings += [
            {"finding": "policy", "text": text}
            for text in warnings_for(self._policy, self._params.gate)
        ]
        findings += await self._fence_findings()
        head = await self._store.history_head()
        return {
            **self._fence_status(),
            "head": {"era": head.era, "length": head.length, "hash": head.hash.hex()},
            "vault": self._params.vault_id,
            "node": self._params.index,
            "incarnation": self.incarnation.hex(),
            "started_us": self.started_us,
            "version": __version__,
            "pending": [list(b.key_ids) for b in pending],
            "findings": findings,
        }

    def _fence_status(self) -> dict[str, Any]:
        standing, anchor = self.fence.standing, self.fence.anchor
        return {
            "state": standing.state.value,
            "cause": standing.cause,
            "why": standing.why,
            "next": self.fence.next_step(),
            "answers": sorted(self.fence.answers),
            "answers_needed": self.fence.needed,
            "anchor_us": None if anchor is None else anchor.heartbeat_us,
        }

    async def _fence_findings(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        standing = self.fence.standing
        if standing.state is not State.ACTIVE:
            found.append(
                {
                    "finding": standing.state.value.lower(),
                    "why": standing.why,
                    "next": self.fence.next_step(),
                }
            )
        if self.fence.trouble:
            found.append(
                {
                    "finding": "anchor",
                    "why": self.fence.trouble,
                    "next": "see that the directory of [anchor] is there and can be written",
                }
            )
        behind = await self._store.behind()
        if behind:
            found.append(
                {
                    "finding": "behind",
                    "text": "other nodes hold keys of which this node lost its share when its "
                    "database was put back",
                    "key_ids": [key for row in behind for key in row.key_ids],
                    "next": "stop this node, move its directory away, and restore its newest "
                    "bundle that holds them (keycairn node restore); t+1 other nodes that hold "
                    "them sign without it meanwhile",
                }
            )
        return found

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
                    "state": known.state if known and known.greeted else "",
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
        self.fence.require_active()
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
            if p == self._params.index or (self._takes_part(p) and p not in bans)
        ]
        needed = self._params.quorum
        reasons = [] if self.fence.active else [self.fence.error().message]
        if len(reachable) < needed:
            missing = sorted(set(self._params.players) - set(reachable))
            reasons.append(f"players {missing} are not reachable; {needed} are needed to sign")
        return {"ok": not reasons, "node": self._params.index, "reasons": reasons}

    def _takes_part(self, peer: int) -> bool:
        known = self._exchange.peers.get(peer)
        fenced = known is not None and known.state not in ("", State.ACTIVE.value)
        return self._link.is_up(peer) and not fenced

    async def state_digest(self) -> bytes:
        return await self._store.state_digest()
