"""The pairwise setup: what two nodes share before they multiply (docs/protocols/setup.md).

Made once per pair of incarnations, held in memory only, used for all keys and curves. Each of the
two is once the receiver of the base OTs (and later "Alice", the OT-extension sender with the
secret Δ) and once their sender (and later "Bob"). Besides, they agree on a seed for zero-shares.

    round 1   direct   A, r0, r1, z     base OTs of both directions (base_ot.py), seed part
    round 2   direct   setup_id         both saw the same; before the first use

A setup ends with :meth:`PairSetup.kill` after a failed consistency check, after 2^32 OTs, after
seven days, and when the node says so (refresh, new incarnation). While it lives, at most one
check may ever fail on it: :meth:`PairSetup.judge`.
"""

from __future__ import annotations

import hmac
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final, NoReturn

from keycairn.curves import SECP256K1
from keycairn.encoding import digest, tag
from keycairn.errors import Abort, Code, KeycairnError
from keycairn.protocols import base_ot
from keycairn.protocols.form import Inbox, Party, Protocol, Round, blame, require_length
from keycairn.protocols.wire import Message

#: OTs that may be extended from one set of base OTs, per direction.
MAX_OTS: Final = 2**32
#: Life time in microseconds: seven days.
MAX_AGE_US: Final = 7 * 24 * 3600 * 1_000_000

_SETUP = tag("setup")
_SEED = tag("zero/seed")
_INTEGRITY = tag("setup/integrity")


class SetupOffer(Message, frozen=True):
    """Round 1, direct, 8,513 bytes of content.

    Attributes:
        point: A, the sender's base-OT point (33).
        r0, r1: the receiver's points, 128 × 33 each.
        seed: z, this player's part of the zero-share seed (32).
    """

    point: bytes
    r0: bytes
    r1: bytes
    seed: bytes


class SetupConfirm(Message, frozen=True):
    """Round 2, direct: the setup id that this player computed (32)."""

    setup_id: bytes


@dataclass(frozen=True, repr=False)
class SetupState:
    """The secrets of a setup, 6.2 kB. Never logged, stored or sent.

    Attributes:
        delta: Δ toward this peer as Alice, 16 bytes.
        alice_keys: ``k_{i,Δi}``, 128 × 16 bytes.
        bob_keys: ``k_{i,0}, k_{i,1}``, 128 × 2 × 16 bytes.
        zeta: zero-share seed, 32 bytes, equal at both.
    """

    delta: bytes
    alice_keys: bytes
    bob_keys: bytes
    zeta: bytes

    def fingerprint(self, index: int, peer: int, setup_id: bytes) -> bytes:
        """Checksum against bit flips in memory (secret: it never leaves the process)."""
        return digest(
            _INTEGRITY,
            index,
            peer,
            setup_id,
            self.delta,
            self.alice_keys,
            self.bob_keys,
            self.zeta,
        )


class PairSetup:
    """One node's side of a pairwise setup. In memory only; not copyable, not picklable.

    The caller sets ``created_at_us`` (wall clock, microseconds) when :func:`pair_setup` returns;
    until then :meth:`expired` answers True for any present-day time.

    Attributes:
        index: this player.
        peer: the other player.
        setup_id: 32 bytes, equal at both; part of every session's handshake.
        created_at_us: see above.
        ots_used: OTs extended so far in each direction.
    """

    __slots__ = (
        "_fingerprint",
        "_lock",
        "_state",
        "created_at_us",
        "index",
        "ots_used",
        "peer",
        "setup_id",
    )

    def __init__(self, index: int, peer: int, setup_id: bytes, state: SetupState) -> None:
        self.index = index
        self.peer = peer
        self.setup_id = setup_id
        self.created_at_us = 0
        self.ots_used = 0
        self._state: SetupState | None = state
        self._fingerprint = state.fingerprint(index, peer, setup_id)
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        life = "dead" if self.dead else "alive"
        return f"PairSetup({self.index} with {self.peer}, {self.setup_id.hex()[:16]}…, {life})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("pairwise setups live in memory only")

    @property
    def dead(self) -> bool:
        """Whether :meth:`kill` was called."""
        return self._state is None

    def kill(self) -> None:
        """End this setup: every session on it aborts at its next step. Cannot be undone."""
        self._state = None

    def expired(self, now_us: int) -> bool:
        """Whether a new setup is due: dead, used up, or seven days from ``created_at_us``.

        A clock that went back by seven days expires it too.
        """
        age = abs(now_us - self.created_at_us)
        return self.dead or self.ots_used >= MAX_OTS or age >= MAX_AGE_US

    def state(self) -> SetupState:
        """The secrets, after checking that the setup lives and that they are undamaged.

        One flipped bit would fail a check at the peer, which would then ban an honest node;
        therefore damage is found here, at home, at each use.

        Raises:
            Abort: E_UNAVAILABLE, nobody blamed: the setup ended, or was damaged and ended now.
        """
        state = self._state
        if state is None:
            self._ended()
        fingerprint = state.fingerprint(self.index, self.peer, self.setup_id)
        if not hmac.compare_digest(fingerprint, self._fingerprint):
            self.kill()
            raise Abort(
                Code.UNAVAILABLE,
                f"this node's setup with player {self.peer} was damaged in memory and is dropped",
                next="try again: a new setup is made; check this machine's memory",
                detail={"peer": self.peer},
            )
        return state

    def reserve(self, ots: int) -> None:
        """Count ``ots`` more OTs in each direction.

        Raises:
            Abort: E_UNAVAILABLE: the setup ended, or would pass 2^32 OTs.
        """
        with self._lock:
            if self.dead:
                self._ended()
            if self.ots_used + ots > MAX_OTS:
                raise Abort(
                    Code.UNAVAILABLE,
                    f"the setup with player {self.peer} is used up",
                    next="try again: a new setup is made",
                    detail={"peer": self.peer},
                )
            self.ots_used += ots

    @contextmanager
    def judge(self) -> Iterator[None]:
        """Hold this while a consistency check of the peer is evaluated, and kill inside it.

        Only one session at a time evaluates, and none does after a failure: so a setup sees at
        most one failed check, whatever runs in parallel (GHSA-7f6p-phw2-8253). Never held across
        a ``yield``.

        Raises:
            Abort: E_UNAVAILABLE if the setup ended; nothing was evaluated.
        """
        with self._lock:
            if self.dead:
                self._ended()
            yield

    def _ended(self) -> NoReturn:
        raise Abort(
            Code.UNAVAILABLE,
            f"the pairwise setup with player {self.peer} has ended",
            not_lost="Nothing was signed by this request.",
            next="repeat the request; if it happens again: keycairn node peers",
            detail={"peer": self.peer, "setup_ended": True},
        )


@contextmanager
def judge_all(setups: Iterable[PairSetup]) -> Iterator[None]:
    """:meth:`PairSetup.judge` for several peers; always taken in the order of their numbers."""
    with ExitStack() as stack:
        for setup in sorted(setups, key=lambda s: s.peer):
            stack.enter_context(setup.judge())
        yield


def pair_setup(party: Party) -> Protocol[PairSetup]:
    """Make the setup of two players (Masny-Rindal base OTs; docs/protocols/setup.md).

    Both run it with the same ``party.sid``. The result lives in memory only; the caller notes the
    time in ``created_at_us``.

    Raises:
        KeycairnError: E_BAD_INDEX unless the session has exactly two players.
        Abort: E_BAD_LENGTH, E_BAD_POINT naming the peer; E_SESSION_MISMATCH naming nobody.
    """
    if len(party.players) != 2 or party.index not in party.players:
        raise KeycairnError(Code.BAD_INDEX, "a pairwise setup has exactly two players")
    group = SECP256K1
    me, (peer,) = party.index, party.peers
    receiver = base_ot.Receiver(base_ot.pair_id(party.sid, peer, me), party.rng)
    sender = base_ot.Sender(base_ot.pair_id(party.sid, me, peer), party.rng)
    mine = SetupOffer(sender.point.encode(), receiver.r0, receiver.r1, party.rng.bytes(32))

    inbox: Inbox = yield Round(direct={peer: mine})
    theirs: SetupOffer = inbox.direct[peer]
    require_length(peer, "A", theirs.point, group.point_len)
    require_length(peer, "r0", theirs.r0, base_ot.COLUMN_LEN)
    require_length(peer, "r1", theirs.r1, base_ot.COLUMN_LEN)
    require_length(peer, "z", theirs.seed, 32)
    with blame(peer):
        sender_point = group.decode_point(theirs.point)
        r0 = base_ot.decode_column(theirs.r0)
        r1 = base_ot.decode_column(theirs.r1)
    offers = {me: mine, peer: theirs}
    setup_id = digest(
        _SETUP,
        party.sid,
        [[p, offers[p].point, offers[p].r0, offers[p].r1] for p in party.players],
    )
    with blame(peer):
        bob_keys = sender.keys(setup_id, r0, r1)
    alice_keys = receiver.keys(setup_id, sender_point)
    zeta = digest(_SEED, party.sid, setup_id, *(offers[p].seed for p in party.players))

    inbox = yield Round(direct={peer: SetupConfirm(setup_id)})
    confirmed: SetupConfirm = inbox.direct[peer]
    require_length(peer, "setup id", confirmed.setup_id, 32)
    if not hmac.compare_digest(confirmed.setup_id, setup_id):
        raise Abort(
            Code.SESSION_MISMATCH,
            "the two players saw different pairwise setups",
            next="try again: a new setup is made",
            detail={"field": "setup_id"},
        )
    state = SetupState(receiver.delta, alice_keys, bob_keys, zeta)
    return PairSetup(me, peer, setup_id, state)
