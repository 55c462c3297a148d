"""A backup point led over the links: bundles of all nodes, of one moment.

Any node can lead; its operator asked it to. The leader

1. draws a mark and asks every node to *hold* back the creation of keys. Each answers with the
   newest point that it knows; the new number is one more than the largest.
2. asks every node to *take* its copy. Signing goes on all the while.
3. *releases* every node, whatever happened.
4. asks for the *result* until each node has written its bundle and read it back.

Nobody depends on the leader. Every node writes its own bundle by its own configuration, and only
if that lets peers ask (:class:`PeerPoints`): a peer can neither choose what is written nor make it
happen often. A hold ends by itself (:data:`keycairn.vault.hold.LONGEST`), and only for the mark
that began it, so that two leaders can't release each other's. A number is a point when *all* nodes
copied under their holds; otherwise the leader says that there is none, and ``backup status`` finds
the same from the bundles alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from keycairn.errors import Code, KeycairnError
from keycairn.ports import Clock, Rng
from keycairn.vault.control import PointAnswer, PointAsk
from keycairn.vault.exchange import Exchange
from keycairn.vault.fence import State
from keycairn.vault.hold import LONGEST

MARK_BYTES = 16
#: How far a number may be above the newest that a node knows: a liar can't use them all up.
LEAP = 1 << 30
#: Largest number of a point.
LARGEST = 1 << 53
#: A peer may hold back creations once in so many seconds, if nothing comes of it.
_HOLD_PAUSE = 60.0
_HOLD_SECONDS = 5.0
_TAKE_SECONDS = LONGEST + 2.0
_RESULT_SECONDS = 600.0
#: Between two questions for a result; the answer also comes by itself.
_ASK_AGAIN = 2.0


@dataclass(frozen=True)
class PeerPoints:
    """What this node does when a peer leads: nothing, unless ``allowed``; and from each peer one
    point in ``interval`` seconds."""

    allowed: bool = False
    interval: float = 3600.0


class Part(Protocol):
    """What a node does in a point, whoever leads it. ``mark`` names the point."""

    async def hold(self, mark: bytes) -> int:
        """Hold back creations; the number of the newest point that this node knows. E_CONFLICT
        while it is in another point, or writes a bundle."""
        ...

    async def take(self, mark: bytes, number: int, leader: int) -> tuple[bool, int]:
        """Copy; whether the hold was in force to the end, and how many creations ran on.
        E_CONFLICT without a hold of this mark; what making a bundle raises."""
        ...

    def release(self, mark: bytes) -> None:
        """End the hold of this mark, if it is in force."""
        ...

    async def result(self, mark: bytes) -> Mapping[str, Any]:
        """Wait for the bundle: at least ``sha256`` (hexadecimal), ``keys`` and ``size``."""
        ...


@dataclass
class _Served:
    """The last point that a peer led here."""

    mark: bytes
    began: float
    newest: int
    taken: bool = False
    result: PointAnswer | None = None


class PointSessions:
    """Leads points, and takes part in those of peers.

    Args:
        index: this node.
        players: all nodes of the vault; a point is of all of them.
        banned: whether this node banned a peer.
        require_active: raises E_QUARANTINED while this node takes part in nothing.
    """

    def __init__(
        self,
        index: int,
        players: Iterable[int],
        exchange: Exchange,
        banned: Callable[[int], bool],
        clock: Clock,
        rng: Rng,
        *,
        require_active: Callable[[], None] = lambda: None,
        crash: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._index = index
        self._peers = tuple(sorted(set(players) - {index}))
        self._exchange = exchange
        self._banned = banned
        self._clock = clock
        self._rng = rng
        self._require_active = require_active
        self._crash = crash
        self._part: Part | None = None
        self._policy = PeerPoints()
        self._leading = False
        self._served: dict[int, _Served] = {}
        self._took: dict[int, float] = {}
        self._waiting: dict[tuple[bytes, str, int], asyncio.Future[PointAnswer]] = {}
        exchange.on(PointAsk, self._asked)
        exchange.on(PointAnswer, self._answered)

    def serve(self, part: Part, policy: PeerPoints) -> None:
        """From now on this node can make bundles."""
        self._part, self._policy = part, policy

    # -- taking part -------------------------------------------------------------------------

    async def _asked(self, peer: int, ask: PointAsk) -> None:
        part = self._part
        if part is None or len(ask.mark) != MARK_BYTES:
            return
        served = self._served.get(peer)
        mine = served is not None and served.mark == ask.mark
        if ask.step == "release":
            if mine:
                part.release(ask.mark)
            return
        try:
            self._admit(peer)
            if ask.step == "hold":
                await self._hold(part, peer, ask)
            elif served is None or not mine:
                raise _out_of_order()
            elif ask.step == "take":
                self._check_take(served, ask)
                self._took[peer] = self._clock.monotonic()
                # The next message of the peer, such as "release", must not wait for the copy.
                self._exchange.spawn(self._take(part, peer, served, ask))
            elif ask.step == "result" and served.result is not None:
                await self._exchange.send(peer, served.result)
        except KeycairnError as exc:
            await self._exchange.send(peer, _refusal_of(ask, exc))

    def _admit(self, peer: int) -> None:
        self._require_active()
        if self._exchange.peers[peer].state != State.ACTIVE.value:
            raise KeycairnError(Code.QUARANTINED, f"player {peer} isn't active")
        if self._banned(peer):
            raise KeycairnError(Code.PEER_BANNED, f"player {peer} is banned")
        if not self._policy.allowed:
            raise KeycairnError(Code.POLICY, "peers begin no backup points here")

    async def _hold(self, part: Part, peer: int, ask: PointAsk) -> None:
        now, interval = self._clock.monotonic(), self._policy.interval
        before = self._served.get(peer)
        ends = [] if before is None else [before.began + min(_HOLD_PAUSE, interval)]
        ends += [self._took[peer] + interval] if peer in self._took else []
        wait = max(ends, default=now) - now
        if wait > 0:
            raise KeycairnError(
                Code.RATE_LIMIT, "a peer's points are limited", detail={"wait": int(wait) + 1}
            )
        newest = await part.hold(ask.mark)
        self._served[peer] = _Served(ask.mark, now, newest)
        await self._exchange.send(peer, _answer(ask, number=newest))

    @staticmethod
    def _check_take(served: _Served, ask: PointAsk) -> None:
        if served.taken:
            raise _out_of_order()
        if not served.newest < ask.number <= min(served.newest + LEAP, LARGEST):
            raise _out_of_order()
        served.taken = True

    async def _take(self, part: Part, peer: int, served: _Served, ask: PointAsk) -> None:
        try:
            held, creating = await part.take(ask.mark, ask.number, peer)
        except KeycairnError as exc:
            part.release(ask.mark)
            await self._exchange.send(peer, _refusal_of(ask, exc))
            return
        await self._exchange.send(peer, _answer(ask, held=held, creating=creating))
        later = PointAsk(ask.mark, "result", ask.number)
        try:
            made = await part.result(ask.mark)
            served.result = _answer(
                later,
                sha256=bytes.fromhex(str(made["sha256"])),
                keys=int(made["keys"]),
                size=int(made["size"]),
            )
        except KeycairnError as exc:
            served.result = _refusal_of(later, exc)
        await self._exchange.send(peer, served.result)

    # -- leading -----------------------------------------------------------------------------

    async def lead(self) -> dict[str, Any]:
        """Lead one point of all nodes.

        Returns:
            point (its number, or None if it isn't one: why says so), bundles[] (node, sha256,
            keys, size; of this node all that ``backup create`` says), failed[] (node and error).

        Raises:
            KeycairnError: before any bundle was written: E_PEER_TIMEOUT (a node is away or says
                nothing), E_CONFLICT (another point, or another bundle), E_RATE_LIMIT, E_POLICY,
                E_PEER_BANNED, E_QUARANTINED, each of them naming the node.
        """
        part = self._part
        self._require_active()
        if part is None:
            raise KeycairnError(Code.UNAVAILABLE, "this node is starting", next="try again")
        if self._leading:
            raise _busy(self._index)
        self._leading = True
        try:
            return await self._lead(part)
        finally:
            self._leading = False

    async def _lead(self, part: Part) -> dict[str, Any]:
        self._require_all()
        mark = self._rng.bytes(MARK_BYTES)
        try:
            held = await self._each(mark, "hold", 0, self._hold_here(part, mark), _HOLD_SECONDS)
            number = self._number(held)
            self._crash("point:held")
            taken = await self._each(
                mark, "take", number, self._take_here(part, mark, number), _TAKE_SECONDS
            )
            self._crash("point:taken")
        finally:
            part.release(mark)
            for peer in self._peers:
                await self._exchange.send(peer, PointAsk(mark, "release", 0))
        failed = {i: a for i, a in taken.items() if isinstance(a, KeycairnError)}
        good = {i: a for i, a in taken.items() if isinstance(a, PointAnswer)}
        bundles, late = await self._results(part, mark, good)
        return _outcome(number, good, bundles, failed | late)

    def _require_all(self) -> None:
        for peer in self._peers:
            if self._banned(peer):
                raise KeycairnError(
                    Code.PEER_BANNED,
                    f"this node banned player {peer}, and a backup point is of all nodes",
                    not_lost="Nothing was written.",
                    next="keycairn backup create --config node.toml makes this node's own bundle",
                    node=peer,
                )
        away = [p for p in self._peers if not self._exchange.link.is_up(p)]
        if away:
            raise _silent(away[0], "is not connected")

    def _number(self, held: Mapping[int, PointAnswer | KeycairnError]) -> int:
        for _, answer in sorted(held.items()):
            if isinstance(answer, KeycairnError):
                raise answer
        known = {i: a.number for i, a in held.items() if isinstance(a, PointAnswer)}
        number = 1 + max(known.values())
        if number > min(known[self._index] + LEAP, LARGEST):
            liar = max(known, key=lambda i: known[i])
            raise KeycairnError(
                Code.CONFLICT,
                f"node {liar} says that {known[liar]} backup points were taken, which can't be",
                not_lost="Nothing was written.",
                next=f"ask the operator of node {liar}: keycairn backup status --config node.toml",
                node=liar,
            )
        return number

    async def _hold_here(self, part: Part, mark: bytes) -> PointAnswer:
        return _answer(PointAsk(mark, "hold", 0), number=await part.hold(mark))

    async def _take_here(self, part: Part, mark: bytes, number: int) -> PointAnswer:
        held, creating = await part.take(mark, number, self._index)
        return _answer(PointAsk(mark, "take", number), held=held, creating=creating)

    async def _each(
        self, mark: bytes, step: str, number: int, here: Awaitable[PointAnswer], seconds: float
    ) -> dict[int, PointAnswer | KeycairnError]:
        """A step at every node at once; each one's answer, or why there is none."""

        async def own() -> PointAnswer | KeycairnError:
            try:
                async with asyncio.timeout(seconds):
                    return await here
            except KeycairnError as exc:
                return exc
            except TimeoutError:
                return _silent(self._index, f"took more than {seconds:g} seconds")

        async def other(peer: int) -> PointAnswer | KeycairnError:
            try:
                return await self._ask(peer, PointAsk(mark, step, number), seconds)
            except KeycairnError as exc:
                return exc

        found = await asyncio.gather(own(), *(other(p) for p in self._peers))
        return dict(zip((self._index, *self._peers), found, strict=True))

    async def _results(
        self, part: Part, mark: bytes, good: Iterable[int]
    ) -> tuple[dict[int, dict[str, Any]], dict[int, KeycairnError]]:
        bundles: dict[int, dict[str, Any]] = {}
        failed: dict[int, KeycairnError] = {}

        async def one(node: int) -> None:
            try:
                if node == self._index:
                    bundles[node] = {**await part.result(mark), "node": node}
                else:
                    said = await self._ask(node, PointAsk(mark, "result", 0), _RESULT_SECONDS)
                    bundles[node] = {
                        "node": node,
                        "sha256": said.sha256.hex(),
                        "keys": said.keys,
                        "size": said.size,
                    }
            except KeycairnError as exc:
                failed[node] = exc

        await asyncio.gather(*(one(i) for i in good))
        return bundles, failed

    async def _ask(self, peer: int, ask: PointAsk, seconds: float) -> PointAnswer:
        """Ask until there is an answer; E_PEER_TIMEOUT, or what the peer refused with."""
        place = (ask.mark, ask.step, peer)
        waiting = asyncio.get_running_loop().create_future()
        self._waiting[place] = waiting
        try:
            async with asyncio.timeout(seconds):
                await self._exchange.send(peer, ask)
                while ask.step == "result" and not waiting.done():
                    await asyncio.wait([waiting], timeout=_ASK_AGAIN)
                    if not waiting.done():
                        await self._exchange.send(peer, ask)
                answer: PointAnswer = await waiting
        except TimeoutError:
            raise _silent(peer, "did not answer in time") from None
        finally:
            del self._waiting[place]
        if answer.code:
            raise _refused(peer, answer)
        return answer

    async def _answered(self, peer: int, answer: PointAnswer) -> None:
        if len(answer.sha256) not in (0, 32):
            return
        waiting = self._waiting.get((answer.mark, answer.step, peer))
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)


def _outcome(
    number: int,
    taken: Mapping[int, PointAnswer],
    bundles: Mapping[int, dict[str, Any]],
    failed: Mapping[int, KeycairnError],
) -> dict[str, Any]:
    why = ""
    for node, answer in sorted(taken.items()):
        if not answer.held:
            why = f"node {node}'s copy took longer than its hold lasts"
        elif answer.creating:
            why = f"node {node} was still creating keys when it copied"
    for node, error in sorted(failed.items()):
        why = f"node {node}: {error.message}"
    return {
        "point": None if why else number,
        "why": why,
        "bundles": [made for _, made in sorted(bundles.items())],
        "failed": [
            {
                "node": i,
                **e.to_json()["error"],
            }
            for i, e in sorted(failed.items())
        ],
    }


def _answer(ask: PointAsk, **fields: Any) -> PointAnswer:
    nothing = {
        "code": "", "wait_seconds": 0, "number": 0, "held": False, "creating": 0, "sha256": b"",
        "keys": 0, "size": 0,
    }  # fmt: skip
    return PointAnswer(ask.mark, ask.step, **{**nothing, **fields})


def _refusal_of(ask: PointAsk, error: KeycairnError) -> PointAnswer:
    # The code only: paths and services of this node are not its peers' business.
    wait = error.detail.get("wait", 0) if error.detail else 0
    return _answer(ask, code=error.code.value, wait_seconds=int(wait))


def _refused(peer: int, answer: PointAnswer) -> KeycairnError:
    """A peer's refusal in this node's own words: what it sends is no text for an operator."""
    try:
        code = Code(answer.code)
    except ValueError:
        code = Code.UNAVAILABLE
    wait = min(max(answer.wait_seconds, 1), 1 << 20)
    words, helps = {
        Code.POLICY: (
            "lets no peer begin a backup point, or has nowhere to write bundles",
            "its operator sets points_from_peers, targets and recipients under [backup]",
        ),
        Code.RATE_LIMIT: (
            f"takes part in another of your points in {wait} seconds",
            "wait, or let the operator of another node begin it",
        ),
        Code.CONFLICT: (
            "is busy with another backup point or bundle",
            "try again in a minute",
        ),
        Code.PEER_BANNED: ("banned this node", "its operator knows why: keycairn node peers"),
        Code.QUARANTINED: (
            "is waiting or quarantined, and takes part in nothing",
            "its operator runs keycairn doctor there",
        ),
    }.get(code, ("could not write its bundle", "its operator runs keycairn backup status there"))
    return KeycairnError(
        code,
        f"node {peer} {words}",
        not_lost="Older bundles are untouched, and creation of keys goes on.",
        next=helps,
        node=peer,
    )


def _silent(node: int, what: str) -> KeycairnError:
    return KeycairnError(
        Code.PEER_TIMEOUT,
        f"node {node} {what}, and a backup point is of all nodes",
        not_lost="Older bundles are untouched; holds end by themselves.",
        next=f"start node {node}, or make bundles without a point: keycairn backup create",
        node=node,
    )


def _out_of_order() -> KeycairnError:
    return KeycairnError(Code.CONFLICT, "no such step in this backup point now")


def _busy(node: int) -> KeycairnError:
    return KeycairnError(
        Code.CONFLICT,
        "this node leads another backup point",
        not_lost="Nothing was changed.",
        next="wait until it has ended",
        node=node,
    )
