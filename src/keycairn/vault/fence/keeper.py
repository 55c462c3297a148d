"""The fence at work: what this node may do, and what it shows of its history to whom.

The order of every change is *database, anchor, announcement, effect*: whoever changes the history
calls :meth:`Fence.publish` after the commit and before anything that follows from it. A node that
is not ACTIVE writes nothing at all; its store is frozen.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from keycairn.errors import Code, KeycairnError
from keycairn.ports import Clock
from keycairn.protocols.form import Signer
from keycairn.vault.api import VaultParameters
from keycairn.vault.control import (
    TwinQuestion,
    WitnessHeld,
    WitnessNote,
    WitnessWanted,
)
from keycairn.vault.exchange import Exchange
from keycairn.vault.fence import (
    Anchor,
    Answer,
    Decision,
    Head,
    State,
    Witness,
    check_witness,
    decide,
    sign_witness,
    witnesses_needed,
)
from keycairn.vault.fence.anchor import AnchorStore, open_anchor, seal_anchor
from keycairn.vault.fence.incarnation import Incarnation
from keycairn.vault.fence.pace import Pace
from keycairn.vault.fence.switches import note_switches
from keycairn.vault.fence.twins import Alive, is_alive, sign_alive
from keycairn.vault.fence.words import words_of
from keycairn.vault.ports import Store

_log = logging.getLogger("keycairn.vault")

#: A peer that reads nothing must not hold up what this node does.
_SEND_SECONDS = 1.0
_PUT_BACK = "the database was put back under the running node"


@dataclass(frozen=True)
class Standing:
    """What a node may do, and why not more.

    Attributes:
        cause: "" | "start" | "anchor" | "restored" | "witness" | "certificate" | "rollback" |
            "clock" | "twin" | "superseded".
    """

    state: State
    cause: str = ""
    why: str = ""


#: Causes after which a node may rejoin by itself. Not "twin" and "superseded": which of two live
#: processes goes on is for people to decide.
UNATTENDED = frozenset({"restored", "witness", "certificate", "rollback", "clock"})


class _Looked:
    """A history of which a few places were read."""

    def __init__(self, head: Head, places: dict[int, Head | None]) -> None:
        self.head = head
        self._places = places

    def at(self, length: int) -> Head | None:
        return self._places[length]


class Fence:
    """Keeps this node's standing. One per process.

    Args:
        crash: see ``NodeService``; points ``fence.committed`` and ``fence.anchored``.

    Attributes:
        answers: what peers said of this node since the start.
        twin_known: peers that say that they heard two live processes of this node.
        anchor: the newest anchor: as found, later as written.
    """

    def __init__(
        self,
        params: VaultParameters,
        incarnation: Incarnation,
        *,
        store: Store,
        anchor: AnchorStore,
        exchange: Exchange,
        signer: Signer,
        clock: Clock,
        pace: Pace,
        crash: Callable[[str], None],
    ) -> None:
        self._params = params
        self._incarnation = incarnation
        self._store = store
        self._anchor_store = anchor
        self._exchange = exchange
        self._signer = signer
        self._clock = clock
        self.pace = pace
        self._crash = crash
        self.standing = Standing(State.WAITING, "start", "it is starting")
        self.anchor: Anchor | None = None
        self.answers: dict[int, Answer] = {}
        self.twin_known: set[int] = set()
        self.trouble = ""
        #: When each peer last answered on a new connection, in monotonic seconds.
        self.in_touch: dict[int, float] = {}
        #: Length of the history at which this incarnation began.
        self.started = 0
        self._said: Witness | None = None
        #: What each peer holds of this node, as far as shown to this node while it was active:
        #: only over a word whose bans were heard may a newer one go.
        self._shown: dict[int, bytes] = {}
        self._began = b""  # the incarnation that stands in the database
        self._asked = self._served = 0
        self._publishing = asyncio.Lock()
        self.changing = asyncio.Lock()  # around every way to become ACTIVE
        self._fresh: set[int] = set()  # who answered since the last question
        self._answered = asyncio.Event()
        self._wake = asyncio.Event()
        self._on_fenced: list[Callable[[], None]] = []
        self._on_active: list[Callable[[], Awaitable[None]]] = []
        self._on_standing: list[Callable[[Standing], None]] = []
        self._on_bans: list[Callable[[Witness], Awaitable[None]]] = []
        self._unattended: Callable[[], Awaitable[None]] | None = None
        exchange.on(WitnessHeld, self._held)
        exchange.on(TwinQuestion, self._questioned)
        exchange.on_up(self._up)

    # -- who wants to know ---------------------------------------------------------------------

    def on_fenced(self, do: Callable[[], None]) -> None:
        """Have ``do`` called at once when an active node is fenced: end what runs."""
        self._on_fenced.append(do)

    def on_active(self, do: Callable[[], Awaitable[None]]) -> None:
        """Have ``do`` awaited when the node has become active."""
        self._on_active.append(do)

    def on_standing(self, do: Callable[[Standing], None]) -> None:
        """Have ``do`` called with every new standing."""
        self._on_standing.append(do)

    def on_lost_words(self, do: Callable[[Witness], Awaitable[None]]) -> None:
        """Have ``do`` awaited when an active node is shown its word of an earlier era."""
        self._on_bans.append(do)

    def unattended(self, do: Callable[[], Awaitable[None]]) -> None:
        """Have ``do`` awaited now and then while the node is quarantined."""
        self._unattended = do

    # -- what the node may do ------------------------------------------------------------------

    @property
    def active(self) -> bool:
        return self.standing.state is State.ACTIVE

    @property
    def said(self) -> Witness | None:
        """This node's newest word."""
        return self._said

    @property
    def index(self) -> int:
        return self._params.index

    @property
    def command(self) -> str:
        """The operator's command that rejoins this node."""
        return f"keycairn node rejoin --config {self._params.config_file}"

    @property
    def needed(self) -> int:
        """Peers that must have answered where there is no fresh anchor."""
        return witnesses_needed(len(self._params.players), self._params.quorum - 1)

    @property
    def peers(self) -> tuple[int, ...]:
        return tuple(p for p in self._params.players if p != self._params.index)

    def require_active(self) -> None:
        """Raise E_QUARANTINED unless the node is active."""
        if not self.active:
            raise self.error()

    def error(self) -> KeycairnError:
        """Why this node does nothing now, and what helps."""
        s = self.standing
        return KeycairnError(
            Code.QUARANTINED,
            f"node {self._params.index} is {s.state.value} and takes part in nothing: {s.why}",
            not_lost="Keys and shares are unchanged, and nothing was done for this request.",
            next=self.next_step(),
            node=self._params.index,
            detail={"state": s.state.value, "cause": s.cause},
        )

    def next_step(self) -> str:
        """The command for the operator, with what to know of it behind ``#``."""
        s, config = self.standing, f"--config {self._params.config_file}"
        rejoin = self.command
        if s.state is State.ACTIVE:
            return ""
        if s.state is State.WAITING:
            return (
                f"keycairn node peers {config}  # start those that are down; if they are lost for "
                f"good: {rejoin} --without-witnesses"
            )
        if s.cause == "superseded":
            return "stop this process: the one that was started last goes on"
        if s.cause == "twin":
            return f"{rejoin}  # at the copy that shall go on, when the other is stopped for good"
        return f"{rejoin}  # it does so by itself when all peers answer; this is sooner"

    # -- start ---------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Decide from history and anchor; an active node has begun its incarnation after this.

        Raises:
            KeycairnError: E_UNAVAILABLE (the anchor can't be written), the store's.
        """
        self.freeze()
        self._store.on_rollback(self._rolled_back)
        data = await asyncio.to_thread(self._anchor_store.read)
        self.anchor = open_anchor(
            data, vault=self._params.vault_id, node=self._params.index, signer=self._signer
        )
        if data is not None and self.anchor is None:
            self.trouble = "the anchor is damaged or another node's: it counts as missing"
        restored = await self._store.restored()
        if restored is not None:
            self.quarantine("restored", f"its database was restored ({restored})")
        else:
            await self.look()

    async def look(self) -> None:
        """Judge what is known now; a waiting node may become active, or quarantined."""
        if self.standing.state is not State.WAITING:
            return
        decision = await self._judged()
        if decision.state is State.QUARANTINED:
            self.quarantine("witness", decision.why)
        elif decision.state is State.WAITING:
            if self.standing.why != decision.why:
                self._stand(Standing(State.WAITING, "anchor", decision.why))
        else:
            await self._activate()

    async def _judged(self) -> Decision:
        return decide(
            await self._history(),
            self.anchor,
            self.answers,
            needed=self.needed,
            now_us=self._clock.now_us(),
        )

    async def _history(self) -> _Looked:
        known = [w for w in self.answers.values() if w is not None]
        if self.anchor is not None:
            known.append(self.anchor.witness)
        places = {w.length: await self._store.history_at(w.length) for w in known}
        return _Looked(await self._store.history_head(), places)

    async def contains(self, place: Head) -> bool:
        """Whether the database contains a place that this node once showed."""
        if place.era < (await self._store.history_head()).era:
            return True
        return await self._store.history_at(place.length) == place

    async def _activate(self) -> None:
        async with self.changing:
            was = self.standing
            if was.state is not State.WAITING:
                return
            self._store.freeze(None)
            try:
                if self._began != self._incarnation.id:
                    head = await self._store.begin_incarnation(
                        self._incarnation.id, self._clock.now_us()
                    )
                    self.begun(head.length)
                await note_switches(self._store, self._params)
                self._crash("fence.committed")
                # The database may have been put back after it was judged, before it was written.
                decision = await self._judged()
                if decision.state is State.QUARANTINED:
                    self.quarantine("witness", decision.why)
                await self.publish(entering=was)
                await self.enter(was)
            except BaseException as exc:
                if not self.active:
                    self.freeze()
                if isinstance(exc, KeycairnError) and self.standing.state is State.QUARANTINED:
                    return  # A peer, or the store, knew better meanwhile: that stands.
                raise

    def begun(self, length: int) -> None:
        """This incarnation stands in the history, as its ``length``-th event."""
        self._began, self.started = self._incarnation.id, length

    async def enter(self, was: Standing) -> None:
        """Become active: history and anchor say so already. Holds :attr:`changing`.

        Args:
            was: the standing from which this was decided. E_QUARANTINED if it is another by now.
        """
        self._require_still(was)
        self._stand(Standing(State.ACTIVE))
        for do in self._on_active:
            await do()

    def _require_still(self, was: Standing) -> None:
        """Raise E_QUARANTINED if something came to light since the node stood so."""
        now = self.standing
        waits = now.state is State.WAITING
        if now.state is not was.state or not (waits or now.cause == was.cause):
            raise self.error()

    def _stand(self, standing: Standing) -> None:
        self.standing = standing
        for do in self._on_standing:
            do(standing)

    def freeze(self) -> None:
        """Nothing more is written."""
        self._store.freeze(self.error())

    # -- fencing -------------------------------------------------------------------------------

    def quarantine(self, cause: str, why: str) -> None:
        """Stop taking part in anything, now; only a rejoin undoes it."""
        was = self.standing
        if was.state is State.QUARANTINED and (was.cause == cause or cause not in ("twin",)):
            return
        self._fall(Standing(State.QUARANTINED, cause, why))

    def _fall(self, standing: Standing) -> None:
        was, self.standing = self.standing, standing
        self.freeze()
        self._shown.clear()
        if was.state is State.ACTIVE:
            for do in self._on_fenced:
                do()
        self._stand(standing)
        self._wake.set()

    def _rolled_back(self) -> None:
        """The store found its database put back, or a newer process in it."""
        self.quarantine("rollback", _PUT_BACK)
        self._exchange.spawn(self._whose())

    async def _whose(self) -> None:
        """A newer process on the same database is no roll back: that one goes on."""
        said = self._said
        if said is None or await self._store.history_at(said.length) != said.place:
            return
        for row in await self._store.history(after=said.length):
            if row.kind in ("start", "rejoin"):
                self._supersede()
                return

    def _supersede(self) -> None:
        self._fall(
            Standing(
                State.QUARANTINED,
                "superseded",
                "another process of this node was started later on the same database",
            )
        )

    # -- publishing ----------------------------------------------------------------------------

    async def publish(self, *, entering: Standing | None = None) -> None:
        """Anchor and announce what the history has become; one write serves all who wait.

        Args:
            entering: the node is about to become active; how it stood when that was decided.

        Raises:
            KeycairnError: E_UNAVAILABLE: the anchor can't be written. The change is durable, but
                what follows from it must not happen yet. E_QUARANTINED.
        """
        self._require(entering)
        self._asked += 1
        # Carried through even if the caller goes away: two writers at a time could swap.
        work = asyncio.ensure_future(self._publish(self._asked, entering))
        await asyncio.shield(work)

    def _require(self, entering: Standing | None) -> None:
        if entering is None:
            self.require_active()
        else:
            self._require_still(entering)

    async def _publish(self, number: int, entering: Standing | None) -> None:
        async with self._publishing:
            if self._served >= number:
                return
            serving = self._asked
            said = self._said
            head = await self._store.history_head()
            if said is None or said.place != head or entering is not None:
                word = await self._word()
                if said is not None and not await self.contains(said.place):
                    # A word about a history that was put back must not replace the newer one.
                    self.quarantine("rollback", _PUT_BACK)
                self._require(entering)
                await self._write_anchor(word)
                self._said = word
                self._crash("fence.anchored")
                await self._announce()
            self._served = serving

    async def _word(self) -> Witness:
        # The head first: what comes in meanwhile may be in the word, what the head covers must.
        head = await self._store.history_head()
        bans, revoked = await words_of(self._store)
        unsigned = Witness(
            self._params.vault_id,
            self._params.index,
            head.era,
            head.length,
            head.hash,
            self._incarnation.id,
            self.started,
            bans,
            revoked,
        )
        return sign_witness(unsigned, self._signer)

    async def _write_anchor(self, said: Witness) -> None:
        anchor = Anchor(said, self._clock.now_us())
        data = seal_anchor(anchor, self._signer)
        await asyncio.to_thread(self._anchor_store.write, data)
        self.anchor = anchor
        self.trouble = ""

    async def _announce(self) -> None:
        work = [asyncio.ensure_future(self._note(peer)) for peer in list(self._shown)]
        if work:
            await asyncio.wait(work, timeout=_SEND_SECONDS)

    async def _note(self, peer: int) -> None:
        """Say the newest word to a peer that has shown what it holds."""
        said = self._said
        if said is None or peer not in self._shown or self._shown[peer] == said.head:
            return
        over, self._shown[peer] = self._shown[peer], said.head
        await self._exchange.send(peer, WitnessNote(said, over))

    # -- what peers say ------------------------------------------------------------------------

    def _up(self, peer: int) -> None:
        # A new connection: what it holds must be shown again.
        self._shown.pop(peer, None)
        self.in_touch.pop(peer, None)

    async def ask(self, seconds: float) -> set[int]:
        """Ask every peer that is connected what it holds; wait until all have said it.

        Returns:
            who answered.
        """
        wanted = {p for p in self.peers if self._exchange.link.is_up(p)}
        self._fresh.clear()
        for peer in wanted:
            with suppress(KeycairnError):
                await self._exchange.send(peer, WitnessWanted("rejoin"))
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not wanted <= self._fresh:
                    self._answered.clear()
                    await self._answered.wait()
        return set(self._fresh)

    async def _held(self, peer: int, said: WitnessHeld) -> None:
        witness = said.witness
        if witness is not None:
            self._check(witness)
        await self._compare(peer, witness)
        self.answers[peer] = witness
        self.in_touch.setdefault(peer, self._clock.monotonic())
        (self.twin_known.add if said.twin else self.twin_known.discard)(peer)
        self._fresh.add(peer)
        self._answered.set()
        if self.standing.state is State.WAITING:
            await self.look()
        if not self.active:
            return  # It shows it again when this node has become active, and is heard then.
        if witness is not None and witness.era < (await self._store.history_head()).era:
            for do in self._on_bans:
                await do(witness)
        if self.active:
            self._shown[peer] = b"" if witness is None else witness.head
            await self._note(peer)

    def _check(self, witness: Witness) -> None:
        check_witness(
            witness, vault=self._params.vault_id, node=self._params.index, signer=self._signer
        )

    async def _compare(self, peer: int, witness: Witness | None) -> None:
        if witness is None or self.standing.state is State.QUARANTINED:
            return
        if await self.contains(witness.place):
            return
        history = _Looked(
            await self._store.history_head(),
            {witness.length: await self._store.history_at(witness.length)},
        )
        found = decide(history, None, {peer: witness}, needed=0, now_us=0)
        self.quarantine("witness", found.why)

    async def _questioned(self, peer: int, question: TwinQuestion) -> None:
        """A peer says that another process of this node spoke later than this one began."""
        newer = question.newer
        self._check(newer)
        if newer.incarnation == self._incarnation.id:
            return
        if await self._store.history_at(newer.length) == newer.place:
            if newer.started > self.started and self.active:
                self._supersede()
            return
        if await self.contains(newer.place):
            return  # a word of an earlier era, which a rejoin gave up: it proves nothing
        word = sign_alive(
            self._params.vault_id, self._params.index, self._incarnation.id, newer, self._signer
        )
        self._twin(f"player {peer} heard another process of this node that is alive")
        await self._exchange.send(peer, word)

    async def proved(self, alive: Alive) -> None:
        """Another process of this node says that it lives, and does not know this one's start."""
        params, signer = self._params, self._signer
        self._check(alive.newer)
        own = is_alive(alive, vault=params.vault_id, node=params.index, signer=signer)
        if not own or alive.incarnation == self._incarnation.id:
            return
        head = await self._store.history_head()
        mine = alive.newer.era == head.era and await self.contains(alive.newer.place)
        if mine or alive.newer.incarnation == self._incarnation.id:
            self._twin("another process of this node is alive, with another database")

    def _twin(self, why: str) -> None:
        self.quarantine("twin", why)

    # -- as long as the node runs --------------------------------------------------------------

    async def watch(self) -> None:
        """Heartbeats, clocks, peers that have not answered, unattended rejoins; for ever."""
        clock, pace = self._clock, self.pace
        beat = clock.monotonic()
        wall, steady = clock.now_us(), clock.monotonic()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(pace.look):
                    await self._wake.wait()
            self._wake.clear()
            now, ticks = clock.now_us(), clock.monotonic()
            self.check_clock((now - wall) / 1_000_000, ticks - steady)
            wall, steady = now, ticks
            try:
                if self.active and ticks - beat >= pace.heartbeat:
                    beat = ticks
                    await self._beat()
                elif self.standing.state is State.WAITING:
                    await self._ask_again()
                elif self.standing.state is State.QUARANTINED and self._unattended is not None:
                    await self._unattended()
            except KeycairnError as exc:
                self.trouble = exc.message
                _log.warning("fence", extra={"code": exc.code.value, "why": exc.message})
            except Exception:
                _log.exception("fence failed")

    def check_clock(self, wall: float, steady: float) -> None:
        """Fence an active node whose two clocks passed different times, in seconds."""
        jump = wall - steady
        if self.active and abs(jump) > self.pace.jump:
            self.quarantine(
                "clock",
                f"the clock jumped by {jump:+.0f} s: the machine was suspended, or put back with "
                "its memory, or its clock was set",
            )

    async def _beat(self) -> None:
        if self._served < self._asked:
            await self.publish()  # An earlier one failed: the anchor's disk was full, or away.
            return
        async with self._publishing:
            if self.active and self._said is not None:
                await self._write_anchor(self._said)

    async def _ask_again(self) -> None:
        for peer in self.peers:
            if peer not in self.answers and self._exchange.link.is_up(peer):
                await self._exchange.send(peer, WitnessWanted("start"))
        await self.look()
