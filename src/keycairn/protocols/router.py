"""From link frames to session mailboxes, with every buffer bounded (T-022, T-023).

Only authenticated frames reach this code, but a malicious *peer* is authenticated: it may send
junk, the future, the past, or everything twice. Whatever does not belong is dropped and counted;
it never ends a session that its sender isn't part of.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field

from keycairn.errors import Abort, Code, KeycairnError, PeerAborted
from keycairn.protocols import session
from keycairn.protocols.session import Frame, Hello
from keycairn.protocols.wire import MAX_MESSAGE, decode

_EARLY_PER_PEER = 256  # HELLOs of sessions that this node has not been asked for yet
_GIVEN_UP_PER_PEER = 256  # sessions that a peer gave up before this node was asked for them
_EARLY_BYTES = 4 << 20  # all early HELLOs of one peer; a large one (ERS, long message) fits
_SMALL = 256 << 10  # largest HELLO, CONFIRM, ECHO or ABORT
_NOTICE = 512  # largest ABORT that is kept
_REMEMBERED_NAMES = 200_000


@dataclass
class Mailbox:
    """Frames of one session, by (step, kind, peer); one slot each.

    A peer can be at most one step ahead (it needs our message of a step to get further), so
    frames of the current and the next step are kept and all others are dropped.
    """

    peers: frozenset[int]
    largest: int = MAX_MESSAGE
    first_round: int = 2
    sid: bytes = b""
    step: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    slots: dict[tuple[int, int, int], Frame] = field(default_factory=dict)
    aborted: dict[int, str] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)
    failure: Abort | None = None
    dropped: int = 0

    def put(self, peer: int, frame: Frame) -> None:
        """Take a frame of ``peer`` or drop it."""
        if peer not in self.peers:
            self.dropped += 1
            return
        if frame.kind == session.ABORT:
            self._abort(peer, frame)
        elif not self._expected(frame):
            self.dropped += 1
        elif self._foreign(frame):
            self.fail(_other_session(peer))
        else:
            self._store(peer, frame)
        self.changed.set()

    def _expected(self, frame: Frame) -> bool:
        # What an honest peer can send now. Only rounds are large, so a peer that fills every slot
        # can't make this node hold more than two steps' messages.
        if not self.step <= frame.step <= self.step + 1 or len(frame.signature) > 64:
            return False
        if len(frame.sid) > 32:
            return False
        if frame.kind == session.HELLO:
            return frame.step == 0 and len(frame.body) <= _SMALL
        if frame.kind == session.CONFIRM:
            return frame.step == 1 < self.first_round and len(frame.body) <= _SMALL
        if frame.kind == session.ECHO:
            return frame.step > self.first_round and len(frame.body) <= _SMALL
        if len(frame.body) > self.largest:
            return False
        return frame.kind in (session.BROADCAST, session.DIRECT) and frame.step >= self.first_round

    def agree(self, sid: bytes) -> None:
        """All players confirmed ``sid``: from here on every frame must carry it."""
        self.sid = sid
        for (_, _, peer), frame in self.slots.items():
            # A fast peer's first round may be here before the last CONFIRM.
            if self._foreign(frame):
                self.fail(_other_session(peer))

    def _foreign(self, frame: Frame) -> bool:
        # CONFIRM carries the sender's own idea of the id in its body; it is compared there.
        if frame.kind in (session.HELLO, session.CONFIRM):
            return False
        return bool(self.sid) and frame.sid != self.sid

    def _store(self, peer: int, frame: Frame) -> None:
        place = (frame.step, frame.kind, peer)
        known = self.slots.get(place)
        if known is None:
            self.slots[place] = frame
        elif known != frame and frame.kind in (session.HELLO, session.CONFIRM):
            # An honest player that restarted and was asked again does this: nobody is blamed.
            self.fail(_other_session(peer))
        elif known != frame:
            self.fail(
                Abort(
                    Code.EQUIVOCATION,
                    f"player {peer} sent two different messages for one step",
                    culprits=[peer],
                    detail={"step": frame.step},
                )
            )

    def _abort(self, peer: int, frame: Frame) -> None:
        if frame.sid and self.sid and frame.sid != self.sid:
            if self.first_round == 2:
                # A notice of an earlier run under the same name must not end this one.
                self.dropped += 1
            else:
                # Without CONFIRM, a peer may be in this session under another id.
                self.fail(_other_session(peer))
            return
        try:
            code = decode(session.AbortNotice, frame.body).code
        except KeycairnError:
            self.dropped += 1
            return
        self.aborted.setdefault(peer, code)

    def fail(self, abort: Abort) -> None:
        """End the session with ``abort`` (the first one counts)."""
        if self.failure is None:
            self.failure = abort

    def advance(self, step: int) -> None:
        """Begin ``step``: everything older is forgotten."""
        self.step = step
        for place in [p for p in self.slots if p[0] < step]:
            del self.slots[place]

    def take(self, step: int, kind: int) -> dict[int, Frame]:
        """The frames of (step, kind) that are here, by peer."""
        return {p: frame for (s, k, p), frame in self.slots.items() if s == step and k == kind}


def _other_session(peer: int) -> Abort:
    return Abort(
        Code.SESSION_MISMATCH,
        f"player {peer} sent a message of another session",
        detail={"field": "session id", "peer": peer},
    )


class Router:
    """Mailboxes by route, early HELLOs, and the names that were used in this incarnation."""

    def __init__(self) -> None:
        self._open: dict[bytes, Mailbox] = {}
        self._early: dict[int, OrderedDict[bytes, Frame]] = {}
        self._given_up: dict[int, OrderedDict[bytes, Frame]] = {}
        self._used: OrderedDict[bytes, None] = OrderedDict()
        self._wanted: dict[tuple[bytes, int], asyncio.Event] = {}
        self.dropped = 0

    def open(
        self,
        route: bytes,
        peers: frozenset[int],
        largest: int = MAX_MESSAGE,
        first_round: int = 2,
    ) -> Mailbox:
        """A mailbox for a new session.

        Args:
            largest: see :class:`~keycairn.protocols.session.SessionSpec`.
            first_round: step of the session's first round.

        Raises:
            KeycairnError: E_SESSION_REPLAY if the name was used before in this process.
        """
        self.check_fresh(route)
        self._use(route)
        box = Mailbox(peers, largest, first_round)
        self._open[route] = box
        for peer in peers:
            for kept in (self._early, self._given_up):
                frame = kept.get(peer, OrderedDict()).pop(route, None)
                if frame is not None:
                    box.put(peer, frame)
        return box

    async def proposal(self, route: bytes, peer: int) -> Hello:
        """What ``peer`` proposes for a session that this node was asked for and hasn't opened.

        Waits for its HELLO, which stays here for :meth:`open`. The caller sets the time limit and
        trusts nothing of it that it doesn't compare with its own request.

        Raises:
            KeycairnError: E_SESSION_REPLAY if the name was used before in this process, or is
                waited for already; E_MALFORMED for a HELLO that is none.
            PeerAborted: the peer gave the session up.
            Abort: E_PEER_TIMEOUT if the connection breaks.
        """
        place = (route, peer)
        self.check_fresh(route)
        if place in self._wanted:
            raise _replay()
        event = self._wanted[place] = asyncio.Event()
        try:
            while True:
                given_up = self._given_up.get(peer, OrderedDict()).pop(route, None)
                if given_up is not None:
                    notice = decode(session.AbortNotice, given_up.body)
                    raise PeerAborted(known_code(notice.code), peer, waiting_for={peer})
                early = self._early.get(peer, OrderedDict()).get(route)
                if early is not None:
                    return decode(Hello, early.body)
                if event.is_set():
                    raise Abort(
                        Code.PEER_TIMEOUT,
                        f"no message from player {peer}: the connection broke",
                        not_lost="Nothing was signed by this request.",
                        detail={"waiting_for": [peer]},
                    )
                await event.wait()
        finally:
            del self._wanted[place]

    def check_fresh(self, route: bytes) -> None:
        """E_SESSION_REPLAY if the name was used before: before anything is spent on it."""
        if route in self._used:
            raise _replay()

    def _use(self, route: bytes) -> None:
        self._used[route] = None
        while len(self._used) > _REMEMBERED_NAMES:
            self._used.popitem(last=False)

    def refuse(self, route: bytes) -> bool:
        """Use up a name without a session; False if it was used before."""
        if route in self._used:
            return False
        self._use(route)
        for kept in (*self._early.values(), *self._given_up.values()):
            kept.pop(route, None)
        return True

    def close(self, route: bytes) -> None:
        """Forget the session; late frames are dropped from here on."""
        self._open.pop(route, None)

    def deliver(self, peer: int, data: bytes) -> None:
        """Take one session frame of an authenticated peer."""
        try:
            frame = decode(Frame, data)
        except KeycairnError:
            self.dropped += 1
            return
        if frame.version != session.WIRE_VERSION and frame.kind != session.HELLO:
            self.dropped += 1
            return
        box = self._open.get(frame.route)
        if box is not None:
            box.put(peer, frame)
        elif frame.kind in (session.HELLO, session.ABORT) and frame.route not in self._used:
            self._keep_early(peer, frame, len(data))
            wanted = self._wanted.get((frame.route, peer))
            if wanted is not None:
                wanted.set()
        else:
            self.dropped += 1

    def _keep_early(self, peer: int, frame: Frame, size: int) -> None:
        if size > _SMALL or frame.step != 0:
            self.dropped += 1
            return
        early = self._early.setdefault(peer, OrderedDict())
        if frame.kind == session.ABORT:
            # Kept apart: whoever makes an honest peer refuse many requests must not push the
            # HELLOs of its other sessions out of here.
            early.pop(frame.route, None)
            given_up = self._given_up.setdefault(peer, OrderedDict())
            if size <= _NOTICE:
                given_up[frame.route] = frame
            while len(given_up) > _GIVEN_UP_PER_PEER:
                given_up.popitem(last=False)
                self.dropped += 1
            return
        if frame.route not in self._given_up.get(peer, OrderedDict()):
            early.setdefault(frame.route, frame)
        while len(early) > _EARLY_PER_PEER or _held(early) > _EARLY_BYTES:
            early.popitem(last=False)
            self.dropped += 1

    def fail(self, route: bytes, abort: Abort) -> None:
        """End an open session from outside (its peer was banned)."""
        box = self._open.get(route)
        if box is not None:
            box.fail(abort)
            box.changed.set()

    def lost(self, peer: int) -> None:
        """The connection to ``peer`` broke: frames may be missing, so sessions that still wait
        for it end at once and not at their time-out."""
        for box in self._open.values():
            if peer in box.peers:
                box.gone.add(peer)
                box.changed.set()
        for (_, other), event in self._wanted.items():
            if other == peer:
                event.set()

    def forget_peer(self, peer: int, incarnation: bytes) -> None:
        """Drop what ``peer`` left behind before its present ``incarnation``.

        A HELLO of the new incarnation may be here already: it overtakes control messages.
        """
        self._given_up.pop(peer, None)
        early = self._early.get(peer, OrderedDict())
        for route, frame in list(early.items()):
            try:
                alive = decode(session.Hello, frame.body).incarnation == incarnation
            except KeycairnError:
                alive = False
            if not alive:
                del early[route]


def _replay() -> KeycairnError:
    return KeycairnError(
        Code.SESSION_REPLAY,
        "this session id was used before",
        not_lost="Nothing was signed or created by this request.",
        next="send the request again under a fresh session_id (and the same request_id)",
    )


def known_code(code: str) -> Code:
    """The code of a peer's notice; it must not speak for this node's own front door."""
    try:
        known = Code(code)
    except ValueError:
        return Code.UNAVAILABLE
    return Code.UNAVAILABLE if known in (Code.AUTHN, Code.RATE_LIMIT) else known


def _held(early: OrderedDict[bytes, Frame]) -> int:
    return sum(len(frame.body) + len(frame.route) for frame in early.values())
