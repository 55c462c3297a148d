"""Runs all players' generators of a protocol in one process, round by round.

What a test gets besides: a *hook* that sees every copy of every message and may alter, drop or
replace it; the comparison of an echo broadcast; what each player wrote to its journal; and cheap
fixtures (dealt keys and pairwise setups).

    outcomes = run({i: presign(parties[i], keys[i], setups[i], 1) for i in players}, hook)

A hook gets an :class:`Envelope` and returns the message to deliver, or ``DROP``. A broadcast is
offered once for every receiver. :func:`altered` makes the usual hooks.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from keycairn.curves import group
from keycairn.curves.polynomial import Polynomial
from keycairn.encoding import SecretBytes
from keycairn.errors import Abort, Code, KeycairnError, PeerAborted
from keycairn.ports import Rng
from keycairn.ports.seeded import SeededRng
from keycairn.protocols import frost, wire
from keycairn.protocols.form import Durable, Inbox, Party, Protocol, Round
from keycairn.protocols.record import KeyRecord, KeyShare, protocol_for
from keycairn.protocols.setup import PairSetup, SetupState

DROP: Final = object()

#: 33-byte strings that are no secp256k1 point: off the curve; x = p; 2·G of P-256; the identity
#: in its fixed-length guise; the hybrid prefix.
BAD_POINTS: Final = (
    bytes([2]) + (5).to_bytes(32, "big"),
    bytes([2]) + (2**256 - 2**32 - 977).to_bytes(32, "big"),
    bytes.fromhex("037cf27b188d034f7e8a52380304b51ac3c08969e277f21b35a60b48fc47669978"),
    bytes(33),
    bytes.fromhex("0679be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"),
)


@dataclass(frozen=True)
class Envelope:
    """One copy of one message on its way. ``number`` counts rounds from 1."""

    number: int
    sender: int
    receiver: int
    broadcast: bool
    message: Any


Hook = Callable[[Envelope], Any]


@dataclass
class Outcome:
    """What became of one player: a result, or an error; and its journal."""

    result: Any = None
    error: KeycairnError | None = None
    journal: list[Durable] = field(default_factory=list)
    sent: list[Round] = field(default_factory=list)

    @property
    def code(self) -> Code | None:
        return self.error.code if self.error else None

    @property
    def abort(self) -> Abort:
        assert isinstance(self.error, Abort), self.error
        return self.error

    def events(self, what: str) -> list[Any]:
        """Records of one kind from the journal."""
        return [d.record for d in self.journal if d.what == what]


def altered(
    number: int,
    sender: int,
    change: Callable[[Any], Any],
    *,
    broadcast: bool,
    only_to: int | None = None,
) -> Hook:
    """A hook that passes ``sender``'s message of a round through ``change``."""

    def hook(e: Envelope) -> Any:
        mine = (e.number, e.sender, e.broadcast) == (number, sender, broadcast)
        return change(e.message) if mine and only_to in (None, e.receiver) else e.message

    return hook


def replace(message: Any, **fields: Any) -> Any:
    """A copy of a wire message with some fields changed; a callable maps the old value."""
    new = {k: v(getattr(message, k)) if callable(v) else v for k, v in fields.items()}
    return msgspec.structs.replace(message, **new)


def run(protocols: Mapping[int, Protocol[Any]], hook: Hook | None = None) -> dict[int, Outcome]:
    """Run to the end: every player has a result or an error."""
    return Lockstep(protocols, hook).finish()


class Lockstep:
    """The players of one session; :meth:`step` takes one round, :meth:`finish` all."""

    def __init__(self, protocols: Mapping[int, Protocol[Any]], hook: Hook | None = None) -> None:
        self.outcomes = {i: Outcome() for i in protocols}
        self.number = 0
        self._hook: Hook = hook or (lambda e: e.message)
        self._live = dict(protocols)
        self._stopped: tuple[int, Code] | None = None
        self._pending: dict[int, Round] = {}
        for i in protocols:
            self._advance(i, lambda g: next(g))

    @property
    def done(self) -> bool:
        return not self._live

    def finish(self) -> dict[int, Outcome]:
        while not self.done:
            self.step()
        return self.outcomes

    def step(self) -> None:
        """Exchange the messages of one round and let every player work on them."""
        self.number += 1
        rounds, self._pending = self._pending, {}
        stopped = self._stopped
        inboxes: dict[int, Inbox | Abort] = {}
        for i in self._live:
            if stopped:
                inboxes[i] = PeerAborted(stopped[1], stopped[0])
            else:
                inboxes[i] = self._collect(i, rounds)
        liars = self._equivocators(rounds, inboxes)
        for i in list(self._live):
            inbox = inboxes[i]
            others = [j for j in liars if j != i]
            if isinstance(inbox, Inbox) and others:
                inbox = Abort(Code.EQUIVOCATION, "copies of a broadcast differ", culprits=others)
            if isinstance(inbox, Inbox):
                self._advance(i, lambda g, m=inbox: g.send(m))  # type: ignore[misc]
            else:
                self._advance(i, lambda g, e=inbox: g.throw(e))  # type: ignore[misc]

    def _advance(self, i: int, resume: Callable[[Protocol[Any]], Any]) -> None:
        generator, outcome = self._live[i], self.outcomes[i]
        try:
            step = resume(generator)
            while isinstance(step, Durable):
                outcome.journal.append(step)
                step = generator.send(None)
        except StopIteration as stop:
            outcome.result = stop.value
            del self._live[i]
        except KeycairnError as error:
            outcome.error = error
            self._stopped = self._stopped or (i, error.code)
            del self._live[i]
        else:
            assert isinstance(step, Round)
            outcome.sent.append(step)
            self._pending[i] = step

    def _collect(self, receiver: int, rounds: Mapping[int, Round]) -> Inbox | Abort:
        inbox = Inbox({}, {})
        for sender, sent in rounds.items():
            if sender == receiver:
                continue
            for broadcast in (True, False):
                message = sent.broadcast if broadcast else sent.direct.get(receiver)
                if message is None:
                    continue
                got = self._hook(Envelope(self.number, sender, receiver, broadcast, message))
                if got is DROP:
                    return Abort(Code.PEER_TIMEOUT, f"nothing came from player {sender}")
                try:
                    got = wire.decode(type(message), wire.encode(got))
                except KeycairnError as error:
                    return Abort(error.code, error.message, culprits=[sender])
                (inbox.broadcast if broadcast else inbox.direct)[sender] = got  # type: ignore[index]
        return inbox

    @staticmethod
    def _equivocators(
        rounds: Mapping[int, Round], inboxes: Mapping[int, Inbox | Abort]
    ) -> list[int]:
        """Senders whose broadcast did not reach all receivers alike, where the round echoes."""
        liars = []
        for sender, sent in rounds.items():
            copies = {
                wire.encode(inbox.broadcast[sender])
                for inbox in inboxes.values()
                if isinstance(inbox, Inbox) and sender in inbox.broadcast
            }
            if sent.echo and len(copies) > 1:
                liars.append(sender)
        return liars


class NoSigner:
    """Identity signatures for protocols that do not use them."""

    def sign(self, data: bytes) -> bytes:
        return hashlib.sha512(data).digest()

    def verify(self, player: int, data: bytes, signature: bytes) -> bool:
        return signature == hashlib.sha512(data).digest()


def frost_sign(
    party: Party, key: KeyShare, message: bytes, merkle_root: bytes | None = None
) -> Protocol[frost.FrostSignature]:
    """One FROST signature in a session that draws its own nonces."""
    asked = [frost.Request(message, 0, merkle_root)]
    (signature,) = yield from frost.sign_full(party, key, asked)
    return signature


def parties(
    players: Iterable[int], sid: bytes | str = "session", seed: object = 0
) -> dict[int, Party]:
    """A :class:`Party` for every player, with one session id and reproducible randomness."""
    everyone = tuple(sorted(players))
    if isinstance(sid, str):
        sid = hashlib.sha256(sid.encode()).digest()
    return {
        i: Party(i, everyone, sid, SeededRng(f"{seed}/{i}/{sid.hex()}"), NoSigner())
        for i in everyone
    }


def deal(
    curve: str = "secp256k1",
    n: int = 3,
    t: int = 1,
    *,
    scheme: str = "ecdsa",
    key_id: str = "key",
    rng: Rng | None = None,
) -> dict[int, KeyShare]:
    """Key shares of players 1..n from a trusted dealer (tests only)."""
    g = group(curve)
    polynomial = Polynomial.random(g, t, rng or SeededRng(f"{curve}/{n}/{t}/{key_id}"))
    shares = {i: polynomial.evaluate(i) for i in range(1, n + 1)}
    record = KeyRecord(
        key_id=key_id,
        vault="vault",
        scheme=scheme,
        curve=curve,
        protocol=protocol_for(scheme, curve),
        purpose="sign",
        threshold=t,
        holders=tuple(range(1, n + 1)),
        public_key=polynomial.commit()[0].encode(),
        share_commitments=tuple(g.base_mul(s.reveal()).encode() for s in shares.values()),
        chain_code_hash=None,
        generation=1,
    )
    return {i: KeyShare(record, i, s, SecretBytes(bytes(32))) for i, s in shares.items()}


def deal_setups(players: Iterable[int], seed: object = 0) -> dict[int, dict[int, PairSetup]]:
    """Pairwise setups of all pairs from a trusted dealer: ``result[i][j]``. Costs no base OT."""
    everyone = tuple(sorted(players))
    out: dict[int, dict[int, PairSetup]] = {i: {} for i in everyone}
    for a, b in itertools.combinations(everyone, 2):
        rng = SeededRng(f"setup/{seed}/{a}/{b}")
        setup_id, zeta = rng.bytes(32), rng.bytes(32)
        keys = {i: rng.bytes(4096) for i in (a, b)}  # as Bob
        for me, peer in ((a, b), (b, a)):
            delta = rng.bytes(16)
            chosen = b"".join(
                keys[peer][32 * i + 16 * bit : 32 * i + 16 * bit + 16]
                for i, bit in ((i, (delta[i // 8] >> (i % 8)) & 1) for i in range(128))
            )
            state = SetupState(delta, chosen, keys[me], zeta)
            out[me][peer] = PairSetup(me, peer, setup_id, state)
    return out
