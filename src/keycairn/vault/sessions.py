"""Running sessions at a node: limits, one result per request id, bans that reach everywhere."""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import Any, TypeVar, cast

from keycairn.errors import Abort, Certainty, Code, KeycairnError
from keycairn.ports import Clock, Rng
from keycairn.protocols.driver import Environment, Journal, abort_frame, run
from keycairn.protocols.form import Factory, Signer
from keycairn.protocols.link import Link
from keycairn.protocols.router import Router
from keycairn.protocols.session import Hello, SessionSpec, route_of
from keycairn.vault.api import SessionNames, VaultParameters
from keycairn.vault.fence.incarnation import Incarnation
from keycairn.vault.fence.keeper import Fence
from keycairn.vault.ports import BanRow, Store

R = TypeVar("R")

_NAME = re.compile(r"[A-Za-z0-9._:-]{1,64}\Z")
_REMEMBERED = 1000
_NOTICE_SECONDS = 1.0
_DIALLING_SECONDS = 5.0
_AT_ONCE_SECONDS = 0.25


def _look_at(task: asyncio.Future[Any]) -> None:
    """Mark the outcome of a task as seen: there may be nobody left to tell."""
    if not task.cancelled():
        task.exception()


def check_names(names: SessionNames, vault_players: tuple[int, ...]) -> None:
    """Refuse bad session and request ids and impossible players.

    Raises:
        KeycairnError: E_MALFORMED, E_BAD_INDEX.
    """
    for what, value in (("session_id", names.session_id), ("request_id", names.request_id)):
        if not isinstance(value, str) or not _NAME.match(value):
            raise KeycairnError(
                Code.MALFORMED,
                f"{what} must be 1 to 64 characters of A-Z a-z 0-9 . _ : -",
                detail={"field": what},
            )
    players = names.players
    if any(type(p) is not int for p in players) or len(set(players)) != len(players):
        raise KeycairnError(Code.BAD_INDEX, "players must be distinct integers")
    strangers = sorted(p for p in players if p not in vault_players)
    if strangers:
        raise KeycairnError(
            Code.BAD_INDEX,
            f"player {', '.join(map(str, strangers[:8]))} is not in this vault",
            detail={"players": list(vault_players)},
        )


class Sessions:
    """Starts protocol runs for this node and knows those that are running."""

    def __init__(
        self,
        params: VaultParameters,
        incarnation: Incarnation,
        *,
        store: Store,
        link: Link,
        router: Router,
        signer: Signer,
        clock: Clock,
        rng: Rng,
        executor: Executor | None,
        crash: Callable[[str], None],
        fence: Fence,
    ) -> None:
        self._params = params
        self._store = store
        self._link = link
        self._router = router
        self._clock = clock
        self._rng = rng
        self._incarnation = incarnation
        self._fence = fence
        self._signer = signer
        self._executor = executor
        self._crash = crash
        self._running: dict[object, SessionSpec] = {}
        self._public = 0
        self._idle_since = clock.monotonic()
        self._on_ban: list[Callable[[int], None]] = []
        self._requests: dict[tuple[str, str, str], tuple[asyncio.Task[Any], bytes]] = {}
        self._history: OrderedDict[tuple[str, str], dict[str, Any]] = OrderedDict()
        self._banned: dict[int, BanRow] = {}
        self._lifted: list[BanRow] = []
        self._bans_lock = asyncio.Lock()  # around what bans and un-bans write

    # -- bans ------------------------------------------------------------------------------

    def require_active(self) -> None:
        """Raise E_QUARANTINED while this node may take part in nothing."""
        self._fence.require_active()

    def stop_all(self) -> None:
        """The node was fenced: end every session, judging nobody."""
        fault = self._fence.error()
        for spec in list(self._running.values()):
            self._router.fail(
                spec.route, Abort(fault.code, fault.message, next=fault.next, detail=fault.detail)
            )

    def end(self, name: str) -> None:
        """End the session of a name, if it runs: its other player's incarnation has ended."""
        self._router.fail(
            route_of(self._params.vault_id, name),
            Abort(Code.UNAVAILABLE, "the other player was started anew during this session"),
        )

    async def load_bans(self) -> None:
        """Read the bans in force, and those that were lifted."""
        rows = await self._store.bans()
        self._banned = {b.peer: b for b in rows if b.lifted_us is None}
        self._lifted = [b for b in rows if b.lifted_us is not None]

    def banned(self, peer: int) -> bool:
        """Whether ``peer`` is banned by this node."""
        return peer in self._banned

    @property
    def bans(self) -> dict[int, BanRow]:
        return dict(self._banned)

    def on_ban(self, do: Callable[[int], None]) -> None:
        """Have ``do`` called with every peer that is banned, at once."""
        self._on_ban.append(do)

    @property
    def lifted_bans(self) -> tuple[BanRow, ...]:
        """Bans that this node's operator lifted, oldest lift first."""
        return tuple(self._lifted)

    async def unban(self, peer: int, before: Callable[[BanRow], Awaitable[None]]) -> list[BanRow]:
        """Lift every ban of ``peer`` durably; the rows that this call lifted.

        The caller drops what was made with the peer. A ban that is being written at this moment
        is not lifted: it is younger than the operator's decision.

        Args:
            before: what must be durable before a ban is lifted.
        """
        async with self._bans_lock:
            now = self._clock.now_us()
            lifted: list[BanRow] = []
            for row in await self._store.bans():
                if row.peer == peer and row.lifted_us is None:
                    await before(row)
                    gone = BanRow(row.ban_id, peer, row.reason, row.at_us, lifted_us=now)
                    await self._store.put_ban(gone)
                    await self._fence.publish()
                    lifted.append(gone)
                    self._lifted.append(gone)  # now: the next one may fail
            in_force = self._banned.get(peer)
            if in_force is not None and in_force.ban_id in {row.ban_id for row in lifted}:
                del self._banned[peer]
        return lifted

    async def ban(self, peers: tuple[int, ...], reason: str) -> None:
        """Ban durably, then end every session with the banned peers (rule 7).

        From the first line on no other session with them judges anything: their setups were
        killed by the protocol before it asked for this record.
        """
        now = self._clock.now_us()
        rows = [BanRow(f"ban-{self._rng.bytes(8).hex()}", p, reason, now) for p in peers]
        await self.ban_as(rows)

    async def ban_as(self, rows: Sequence[BanRow]) -> None:
        """The same, with bans that have their names already."""
        peers = tuple(row.peer for row in rows)
        # In memory all at once: a disk that fails must not leave a peer out.
        self._banned.update({row.peer: row for row in rows})
        for peer in peers:
            for do in self._on_ban:
                do(peer)
        failures: list[KeycairnError] = []
        async with self._bans_lock:
            for row in rows:
                try:
                    await self._store.put_ban(row)
                except KeycairnError as exc:
                    failures.append(exc)
            try:
                await self._fence.publish()
            except KeycairnError as exc:
                failures.append(exc)
        # Only now: the end of a session tells the peer that its check failed.
        for spec in list(self._running.values()):
            if set(spec.players) & set(peers):
                self._router.fail(
                    spec.route,
                    Abort(
                        Code.PEER_BANNED,
                        f"player {', '.join(map(str, peers))} was banned during this session",
                        culprits=peers,
                        certainty=Certainty.CERTAIN,
                    ),
                )
        if failures:
            raise failures[0]

    def refuse_banned(self, players: tuple[int, ...]) -> None:
        """Raise E_PEER_BANNED if a player is banned."""
        bad = sorted(p for p in players if p in self._banned)
        if bad:
            raise KeycairnError(
                Code.PEER_BANNED,
                f"player {', '.join(map(str, bad))} is banned by this node",
                not_lost="Keys are safe; other signers can go on without the banned player.",
                next="choose other --nodes; keycairn node peers shows the ban and its reason",
                detail={"peers": bad},
            )

    # -- running ---------------------------------------------------------------------------

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Count a user's request against ``max_sessions`` while it runs. E_RATE_LIMIT."""
        if self._public >= self._params.max_sessions:
            raise KeycairnError(
                Code.RATE_LIMIT,
                f"{self._params.max_sessions} sessions are running",
                not_lost="Nothing was signed or created by this request.",
                next="repeat the request later",
            )
        self._public += 1
        try:
            yield
        finally:
            self._public -= 1
            self._idle_since = self._clock.monotonic()

    def quiet(self, seconds: float) -> bool:
        """Whether no user's request has been running for ``seconds``."""
        return not self._public and self._clock.monotonic() - self._idle_since >= seconds

    def connected(self, players: Iterable[int]) -> bool:
        """Whether all of them are connected right now."""
        return all(self._link.is_up(p) for p in players if p != self._params.index)

    async def reach(self, players: Iterable[int]) -> bool:
        """Whether all of them are connected, after a moment for nodes that still dial."""
        if self.connected(players):
            return True
        peers = {p for p in players if p != self._params.index}
        limit = min(self._params.session_seconds, _DIALLING_SECONDS)
        return await self._link.wait_up(peers, limit) >= peers

    async def proposal(
        self, names: SessionNames, proposer: int, meanwhile: Callable[[], Awaitable[None]]
    ) -> Hello:
        """What the proposer of a session wants to run, as soon as it says so.

        Args:
            meanwhile: done if it does not come at once; what it raises ends the wait.

        Raises:
            KeycairnError: as ``Router.proposal``; Abort E_PEER_TIMEOUT when it says nothing.
        """
        limit = self._params.session_seconds
        try:
            async with asyncio.timeout(limit):
                route = route_of(self._params.vault_id, names.session_id)
                coming = asyncio.ensure_future(self._router.proposal(route, proposer))
                try:
                    done, _ = await asyncio.wait({coming}, timeout=_AT_ONCE_SECONDS)
                    if not done:
                        await meanwhile()
                    return await coming
                finally:
                    coming.cancel()
                    coming.add_done_callback(_look_at)
        except TimeoutError:
            raise Abort(
                Code.PEER_TIMEOUT,
                f"no message from player {proposer}: silent for {limit:g} s",
                not_lost="Nothing was signed by this request.",
                next="keycairn vault status DIR, then repeat the request with live nodes",
                detail={"waiting_for": [proposer], "step": 0},
            ) from None

    def check_fresh(self, names: SessionNames) -> None:
        """E_SESSION_REPLAY if the session's name was used before."""
        self._router.check_fresh(route_of(self._params.vault_id, names.session_id))

    async def off_loop(self, work: Callable[[], R]) -> R:
        """Do CPU-bound work in a thread of the protocols."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    async def run(
        self,
        spec: SessionSpec,
        factory: Factory[R],
        journal: Journal,
        *,
        public: bool = True,
        timeout: float | None = None,
        inline: bool = False,
    ) -> R:
        """Run one session.

        Args:
            inline: see :class:`~keycairn.protocols.driver.Environment`.
            public: counts against ``max_sessions``. Pair setups and presigning don't, nor does
                the session of a request that was admitted before.
        """
        with self.admitted() if public else nullcontext():
            return await self._admitted(spec, factory, journal, timeout, inline)

    async def _admitted(
        self,
        spec: SessionSpec,
        factory: Factory[R],
        journal: Journal,
        timeout: float | None,
        inline: bool,
    ) -> R:
        self.require_active()
        self.refuse_banned(spec.players)
        limit = timeout if timeout is not None else self._params.session_seconds
        env = Environment(
            index=self._params.index,
            incarnation=self._incarnation.id,
            link=self._link,
            router=self._router,
            rng=self._rng,
            signer=self._signer,
            journal=journal,
            timeout=limit,
            executor=self._executor,
            inline=inline,
            crash=self._crash,
        )
        # Not by name: a second session of the same name is refused, and must not take the first
        # one's place here.
        run_id = object()
        self._running[run_id] = spec
        try:
            await self.reach(spec.players)
            self.require_active()  # no more, it may be
            self.refuse_banned(spec.players)  # one of them may have been banned meanwhile
            return await run(spec, factory, env)
        finally:
            del self._running[run_id]

    async def decline(self, names: SessionNames, code: Code) -> None:
        """Tell the other players that this node won't take part, so that they needn't wait.

        Only for a session that never ran here; best effort, the reason is the code alone.
        """
        if isinstance(names.session_id, str) and _NAME.match(names.session_id):
            await self.refuse(names.session_id, names.players, code)

    async def refuse(self, name: str, players: Iterable[int], code: Code) -> None:
        """The same for a session that a node and not a user named."""
        route = route_of(self._params.vault_id, name)
        if not self._router.refuse(route):
            return
        notice = abort_frame(route, b"", 0, code)
        for peer in self._params.players:
            if peer in players and peer != self._params.index:
                # A peer that reads nothing must not hold up the answer to our own client.
                with suppress(TimeoutError, KeycairnError):
                    await asyncio.wait_for(self._link.send(peer, notice), _NOTICE_SECONDS)

    async def drain(self, seconds: float) -> None:
        """Wait until no session runs, at most ``seconds``."""
        deadline = self._clock.monotonic() + seconds
        while self._running and self._clock.monotonic() < deadline:
            await asyncio.sleep(0.02)

    # -- idempotency and history --------------------------------------------------------------

    async def once(
        self,
        application: str,
        kind: str,
        names: SessionNames,
        hashed: bytes,
        work: Callable[[], Awaitable[R]],
    ) -> R:
        """Do ``work``, or wait for the same request that is already being worked on.

        All callers share the outcome, errors included. The work is a task of its own: a caller
        that goes away does not stop it.

        Args:
            hashed: digest of the request's parameters. E_CONFLICT if the request id is being
                worked on with others: nobody is ever handed another request's result.
        """
        place = (application, kind, names.request_id)
        task, running = self._requests.get(place, (None, hashed))
        if running != hashed:
            raise KeycairnError(
                Code.CONFLICT,
                "this request_id is in use for other parameters",
                not_lost="The earlier request goes on unchanged.",
                next="use a fresh request_id",
            )
        if task is None:
            task = asyncio.get_running_loop().create_task(
                self._work(application, kind, names, work)
            )
            self._requests[place] = (task, hashed)
            task.add_done_callback(partial(self._finished, place))
        return cast("R", await asyncio.shield(task))

    def _finished(self, place: tuple[str, str, str], task: asyncio.Task[Any]) -> None:
        del self._requests[place]
        _look_at(task)

    async def _work(
        self, application: str, kind: str, names: SessionNames, work: Callable[[], Awaitable[R]]
    ) -> R:
        entry = {"session_id": names.session_id, "kind": kind, "state": "failed", "error": None}
        running = {**entry, "state": "running"}
        self._remember(application, names.session_id, running)
        try:
            result = await work()
        except KeycairnError as exc:
            entry["error"] = exc.to_json()["error"]
            raise
        else:
            entry["state"] = "done"
            return result
        finally:
            self._remember(application, names.session_id, entry)

    def _remember(self, application: str, session_id: str, entry: dict[str, Any]) -> None:
        self._history[(application, session_id)] = entry
        while len(self._history) > _REMEMBERED:
            self._history.popitem(last=False)

    def describe(self, application: str, session_id: str) -> dict[str, Any]:
        """What became of a session. E_NOT_FOUND."""
        entry = self._history.get((application, session_id))
        if entry is None:
            raise KeycairnError(Code.NOT_FOUND, "no such session at this node in this incarnation")
        return dict(entry)
