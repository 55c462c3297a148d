"""The one driver: runs a protocol generator for one player over a link.

It owns everything that is not the protocol itself: the handshake that fixes the session id, the
order of steps, strict decoding, echo broadcast, durability before the next message, time-outs,
abort notices, and blame for what only the transport can see. Generators run outside the event
loop, one step at a time.

Steps on the wire: HELLO, CONFIRM (not in a session from presignatures), then for every round its
messages and, where the round has an echoed broadcast and there are three or more players, one
ECHO.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from keycairn.errors import Abort, Code, KeycairnError, PeerAborted
from keycairn.ports import Rng
from keycairn.protocols import session, wire
from keycairn.protocols.durable import Ban
from keycairn.protocols.form import Durable, Factory, Inbox, Party, Round, Signer
from keycairn.protocols.link import Link
from keycairn.protocols.router import Mailbox, Router, known_code
from keycairn.protocols.session import Echo, Frame, Hello, SessionSpec

R = TypeVar("R")


class Journal(Protocol):
    """Where :class:`~keycairn.protocols.form.Durable` steps go."""

    async def commit(self, what: str, record: Any) -> None:
        """Make ``record`` durable; the session does not go on before this returns."""
        ...


@dataclass(frozen=True)
class Environment:
    """What a player's sessions run in.

    Attributes:
        index: this player.
        incarnation: 32 bytes drawn at process start.
        timeout: seconds that a whole session may take.
        executor: where generator steps run (None: the loop's default threads).
        inline: they are so short that handing them to a thread would take longer: they run on the
            event loop.
        crash: called with the name of every durable step and send, before and after; a test
            build may end the process there.
    """

    index: int
    incarnation: bytes
    link: Link
    router: Router
    rng: Rng
    signer: Signer
    journal: Journal
    timeout: float = 30.0
    executor: Executor | None = None
    inline: bool = False
    crash: Callable[[str], None] = lambda _: None


async def run(spec: SessionSpec, factory: Factory[R], env: Environment) -> R:
    """Run one session to its end and return the generator's result.

    Raises:
        Abort: with code, culprits and certainty; E_PEER_TIMEOUT names the silent players.
        KeycairnError: E_SESSION_REPLAY, E_BAD_INDEX, or what the journal raised.
    """
    if env.index not in spec.players or list(spec.players) != sorted(set(spec.players)):
        raise KeycairnError(
            Code.BAD_INDEX, "players must be sorted, distinct, and contain this one"
        )
    peers = tuple(p for p in spec.players if p != env.index)
    box = env.router.open(spec.route, frozenset(peers), spec.largest, spec.first_round)
    box.gone.update(p for p in peers if not env.link.is_up(p))
    runner = _Runner(spec, env, peers, box)
    try:
        async with asyncio.timeout(env.timeout):
            return await runner.run(factory)
    except TimeoutError:
        error: KeycairnError = runner.timed_out()
    except KeycairnError as exc:
        error = exc
    except (asyncio.CancelledError, Exception):
        # Cancelled, or a fault of our own: the peers should not wait for their time-out.
        await runner.notify(Code.UNAVAILABLE)
        raise
    finally:
        env.router.close(spec.route)
    # Also when a peer ended it: that peer may have told nobody but us.
    await runner.notify(error.code)
    raise error


class _Done:
    def __init__(self, value: Any) -> None:
        self.value = value


class _Runner:
    def __init__(
        self, spec: SessionSpec, env: Environment, peers: tuple[int, ...], box: Mailbox
    ) -> None:
        self.spec = spec
        self.env = env
        self.peers = peers
        self.box = box
        self.waiting: set[int] = set(peers)
        self.durable: list[str] = []

    # -- the whole run ---------------------------------------------------------------------

    async def run(self, factory: Factory[R]) -> R:
        sid, nonces = await self._handshake()
        env = self.env
        party = Party(env.index, self.spec.players, sid, env.rng, env.signer, nonces)
        generator = factory(party)
        try:
            answer: Any = None
            while True:
                step = await self._off_loop(partial(_advance, generator, answer))
                if isinstance(step, _Done):
                    return step.value  # type: ignore[no-any-return]
                if isinstance(step, Durable):
                    await self._durable(step)
                    answer = None
                else:
                    answer = await self._round(step)
        finally:
            # A step that is still at work in its thread can't be closed.
            with suppress(ValueError):
                generator.close()

    async def _off_loop(self, work: Callable[[], Any]) -> Any:
        if self.env.inline:
            return work()
        step = asyncio.get_running_loop().run_in_executor(self.env.executor, work)
        try:
            return await asyncio.shield(step)
        except asyncio.CancelledError:
            # The session is over, but its step is still at work in its thread. A peer that times
            # its cheating for this very moment must not get away with it (rule 7).
            with suppress(Exception):
                last = await step
                if isinstance(last, Durable) and isinstance(last.record, Ban):
                    await self._durable(last)
            raise

    async def _durable(self, step: Durable) -> None:
        self.env.crash(f"{step.what}:before")
        await self.env.journal.commit(step.what, step.record)
        self.durable.append(step.what)
        self.env.crash(f"{step.what}:after")

    # -- handshake -------------------------------------------------------------------------

    async def _handshake(self) -> tuple[bytes, Mapping[int, bytes]]:
        opening = self.spec.opening
        if opening is not None:
            await self._durable(opening.spend)
        nonce = opening.nonce if opening else self.env.rng.bytes(session.NONCE_LEN)
        mine = self.spec.hello(self.env.incarnation, nonce)
        body = wire.encode(mine)
        await self._send_all(session.HELLO, lambda _: body)
        frames = await self._collect(session.HELLO)
        hellos: dict[int, Hello] = {self.env.index: mine}
        for peer, frame in sorted(frames.items()):
            if frame.version != session.WIRE_VERSION:
                raise Abort(
                    Code.SESSION_MISMATCH,
                    f"player {peer} speaks wire version {frame.version}",
                    next="run the same keycairn version on every node",
                    detail={"field": "wire version", "peer": peer},
                )
            hellos[peer] = self._decode(Hello, peer, frame.body)
            session.check_hello(mine, hellos[peer], self.spec.params, self.env.index, peer)
        sid = session.session_id(self.spec, hellos)
        self._next_step()
        if opening is None:
            await self._confirm(sid)
        self.box.agree(sid)
        return sid, {i: hello.nonce for i, hello in hellos.items()}

    async def _confirm(self, sid: bytes) -> None:
        await self._send_all(session.CONFIRM, lambda _: sid)
        for peer, frame in sorted((await self._collect(session.CONFIRM)).items()):
            if frame.body != sid:
                raise Abort(
                    Code.SESSION_MISMATCH,
                    f"player {peer} computed another session id",
                    detail={"field": "nonce or incarnation", "peer": peer},
                )
        self._next_step()

    # -- one round -------------------------------------------------------------------------

    async def _round(self, r: Round) -> Inbox:
        if r.direct and set(r.direct) != set(self.peers):
            raise ValueError("direct messages go to all peers or to none")
        echoed = r.echo and r.broadcast is not None and len(self.spec.players) > 2
        own = await self._send_round(r, echoed)
        broadcast: dict[int, Any] = {}
        direct: dict[int, Any] = {}
        frames: Mapping[int, Frame] = {}
        if r.broadcast is not None:
            frames = await self._collect(session.BROADCAST)
            for peer, frame in sorted(frames.items()):
                broadcast[peer] = self._decode(type(r.broadcast), peer, frame.body)
        if r.direct:
            kind = type(next(iter(r.direct.values())))
            for peer, frame in sorted((await self._collect(session.DIRECT)).items()):
                direct[peer] = self._decode(kind, peer, frame.body)
        if echoed:
            await self._echo(own, frames)
        self._next_step()
        return Inbox(broadcast, direct)

    async def _send_round(self, r: Round, echoed: bool) -> tuple[bytes, bytes]:
        hashed = signature = b""
        if r.broadcast is not None:
            body = wire.encode(r.broadcast)
            if echoed:
                hashed = session.body_hash(self.box.sid, self.box.step, self.env.index, body)
                signature = self.env.signer.sign(self._statement(self.env.index, hashed))
            await self._send_all(session.BROADCAST, lambda _: body, signature)
        if r.direct:
            await self._send_all(session.DIRECT, lambda p: wire.encode(r.direct[p]))
        return hashed, signature

    def _statement(self, sender: int, hashed: bytes) -> bytes:
        return session.broadcast_statement(self.box.sid, self.box.step, sender, hashed)

    async def _echo(self, own: tuple[bytes, bytes], frames: Mapping[int, Frame]) -> None:
        """Everybody tells everybody what it received (rule 3).

        A difference is equivocation of the broadcast's sender if its signature stands under both
        versions, and a false accusation by the echoing player if not.
        """
        sid, step = self.box.sid, self.box.step
        seen: dict[int, tuple[bytes, bytes]] = {self.env.index: own}
        for peer, frame in sorted(frames.items()):
            hashed = session.body_hash(sid, step, peer, frame.body)
            if not self.env.signer.verify(peer, self._statement(peer, hashed), frame.signature):
                raise Abort(
                    Code.BAD_PROOF,
                    f"player {peer}: the signature of a broadcast does not verify",
                    culprits=[peer],
                )
            seen[peer] = (hashed, frame.signature)
        order = sorted(seen)
        echo = Echo(tuple(seen[p][0] for p in order), tuple(seen[p][1] for p in order))
        body = wire.encode(echo)
        judged_step = step
        self._next_step()
        await self._send_all(session.ECHO, lambda _: body)

        def judge(peer: int, frame: Frame) -> None:
            theirs = self._decode(Echo, peer, frame.body)
            if len(theirs.hashes) != len(order) or len(theirs.signatures) != len(order):
                raise Abort(Code.BAD_LENGTH, f"player {peer}: bad echo", culprits=[peer])
            for origin, hashed, signature in zip(
                order, theirs.hashes, theirs.signatures, strict=True
            ):
                if hashed != seen[origin][0]:
                    self._equivocation(judged_step, peer, origin, hashed, signature, seen[origin])

        # One by one as they come: two honest players suffice to convict, whatever the
        # equivocator does with its own echo, and before the first to see it ends the session.
        await self._collect(session.ECHO, judge)

    def _equivocation(
        self,
        step: int,
        echoer: int,
        origin: int,
        hashed: bytes,
        signature: bytes,
        mine: tuple[bytes, bytes],
    ) -> None:
        statement = session.broadcast_statement(self.box.sid, step, origin, hashed)
        if len(hashed) != 32 or not self.env.signer.verify(origin, statement, signature):
            raise Abort(
                Code.BAD_PROOF,
                f"player {echoer} echoed a broadcast of player {origin} that it never signed",
                culprits=[echoer],
            )
        raise Abort(
            Code.EQUIVOCATION,
            f"player {origin} sent different broadcasts to different players",
            culprits=[origin],
            detail={
                "evidence": [
                    {"hash": mine[0].hex(), "signature": mine[1].hex()},
                    {"hash": hashed.hex(), "signature": signature.hex()},
                ],
                "step": step,
                "session": self.box.sid.hex(),
            },
        )

    # -- transport -------------------------------------------------------------------------

    def _next_step(self) -> None:
        self.box.advance(self.box.step + 1)

    def _decode(self, kind: type[Any], peer: int, body: bytes) -> Any:
        try:
            return wire.decode(kind, body)
        except KeycairnError as exc:
            raise Abort(exc.code, f"player {peer}: {exc.message}", culprits=[peer]) from exc

    async def _send_all(
        self, kind: int, body: Callable[[int], bytes], signature: bytes = b""
    ) -> None:
        for peer in self.peers:
            failure = self.box.failure
            if failure is not None and failure.code is Code.QUARANTINED:
                # The node was fenced while a step was at work: its result stays here.
                raise failure
            frame = Frame(
                session.WIRE_VERSION,
                self.spec.route,
                self.box.sid,
                self.box.step,
                kind,
                body(peer),
                signature,
            )
            point = f"send:{self.spec.protocol}:{self.box.step}:{kind}:{peer}"
            self.env.crash(f"{point}:before")
            await self.env.link.send(peer, SESSION_FRAME + wire.encode(frame))
            self.env.crash(f"{point}:after")

    async def _collect(
        self, kind: int, judge: Callable[[int, Frame], None] = lambda _peer, _frame: None
    ) -> dict[int, Frame]:
        """Wait for the current step's frames of ``kind`` from every peer; ``judge`` each once.

        A step that is complete is judged before anybody's abort notice is believed, so that
        honest players find the same culprit on their own where they can.
        """
        judged: set[int] = set()
        while True:
            self.box.changed.clear()
            got = self.box.take(self.box.step, kind)
            for peer in sorted(set(got) - judged):
                judged.add(peer)
                judge(peer, got[peer])
            self.waiting = set(self.peers) - set(got)
            if self.box.failure is not None:
                raise self.box.failure
            if not self.waiting:
                return got
            for peer, code in sorted(self.box.aborted.items()):
                silent = self.waiting - set(self.box.aborted)
                raise PeerAborted(known_code(code), peer, waiting_for=silent)
            lost = sorted(self.waiting & self.box.gone)
            if lost:
                raise self._late(lost, "the connection broke or never came up")
            await self.box.changed.wait()

    def timed_out(self) -> Abort:
        if not self.waiting:
            return Abort(
                Code.UNAVAILABLE,
                f"this node did not finish its own step within {self.env.timeout:g} s",
                not_lost="No key share was lost or revealed.",
                next="look at this machine's load, then repeat the request",
                detail={"step": self.box.step},
            )
        return self._late(sorted(self.waiting), f"silent for {self.env.timeout:g} s")

    def _late(self, late: list[int], why: str) -> Abort:
        names = ", ".join(str(p) for p in late)
        return Abort(
            Code.PEER_TIMEOUT,
            f"no message from player {names}: {why}",
            not_lost=self._not_lost(),
            next="keycairn vault status DIR, then repeat the request with live nodes",
            detail={"waiting_for": late, "step": self.box.step},
        )

    def _not_lost(self) -> str:
        if "spend" in self.durable:
            return "The key is safe and the nonce is spent; a silent player may hold the signature."
        if "keygen/pending" in self.durable:
            return "This node keeps its shares of the new keys; they are pending."
        return "Nothing was signed or created here; keys and shares are unchanged."

    async def notify(self, code: Code) -> None:
        """Tell the peers that this player is out; best effort, never raises."""
        notice = abort_frame(self.spec.route, self.box.sid, self.box.step, code)
        for peer in self.peers:
            try:
                await asyncio.wait_for(self.env.link.send(peer, notice), 1.0)
            except (TimeoutError, KeycairnError):
                continue


#: First byte of a link frame that belongs to a session; other bytes are for other floors.
SESSION_FRAME = b"S"


def abort_frame(route: bytes, sid: bytes, step: int, code: Code) -> bytes:
    """A link frame that tells a peer that this player ends, or won't begin, a session."""
    body = wire.encode(session.AbortNotice(code.value))
    frame = Frame(session.WIRE_VERSION, route, sid, step, session.ABORT, body, b"")
    return SESSION_FRAME + wire.encode(frame)


def _advance(generator: Any, answer: Any) -> Any:
    try:
        return generator.send(answer)
    except StopIteration as stop:
        return _Done(stop.value)
