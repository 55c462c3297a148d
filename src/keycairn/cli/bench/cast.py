"""A key from a trusted dealer, its holders, and the parties of their sessions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from itertools import combinations
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keycairn.cli.bench import lockstep
from keycairn.cli.bench.lockstep import Measured
from keycairn.curves import group
from keycairn.curves.polynomial import Polynomial
from keycairn.encoding import SecretBytes
from keycairn.ports.system import ProcessClock, SystemRng
from keycairn.protocols.form import Inbox, Party, Protocol, Round
from keycairn.protocols.record import KeyRecord, KeyShare, protocol_for
from keycairn.protocols.setup import PairSetup, pair_setup
from keycairn.protocols.wire import Message
from keycairn.vault.api import Identity
from keycairn.vault.signer import IdentitySigner

R = TypeVar("R")
_CLOCK, _RNG = ProcessClock(), SystemRng()


class Cast:
    """Players 1 … ``players``, all of whom a session needs.

    Attributes:
        players: their numbers.
        scheme, curve: of the key that :attr:`shares` are of.
    """

    def __init__(self, scheme: str, curve: str, players: int) -> None:
        self.players = tuple(range(1, players + 1))
        self.scheme, self.curve = scheme, curve
        keys = {i: Ed25519PrivateKey.from_private_bytes(_RNG.bytes(32)) for i in self.players}
        pins = {i: k.public_key().public_bytes_raw() for i, k in keys.items()}
        self._signers = {
            i: IdentitySigner(Identity(SecretBytes(k.private_bytes_raw()), pins[i]), pins)
            for i, k in keys.items()
        }

    @cached_property
    def shares(self) -> dict[int, KeyShare]:
        """A key that all players together sign with."""
        return deal("bench", self.scheme, self.curve, len(self.players), len(self.players) - 1)

    @cached_property
    def setups(self) -> dict[int, dict[int, PairSetup]]:
        """Real pairwise setups of all pairs: ``setups[i][j]``."""
        made: dict[int, dict[int, PairSetup]] = {i: {} for i in self.players}
        for a, b in combinations(self.players, 2):
            ends = run({i: pair_setup(p) for i, p in self.parties((a, b)).items()})
            made[a][b], made[b][a] = ends[a].result, ends[b].result
        return made

    def parties(self, players: tuple[int, ...] = ()) -> dict[int, Party]:
        """The players (or some of them) in a new session."""
        chosen, sid = players or self.players, _RNG.bytes(32)
        return {i: Party(i, chosen, sid, _RNG, self._signers[i]) for i in chosen}


def deal(key_id: str, scheme: str, curve: str, n: int, t: int) -> dict[int, KeyShare]:
    """A key of ``n`` holders with threshold ``t`` from a dealer: benches need shares, not trust."""
    g = group(curve)
    polynomial = Polynomial.random(g, t, _RNG)
    shares = {i: polynomial.evaluate(i) for i in range(1, n + 1)}
    record = KeyRecord(
        key_id=key_id,
        vault="bench",
        scheme=scheme,
        curve=curve,
        protocol=protocol_for(scheme, curve),
        purpose="sign",
        threshold=t,
        holders=tuple(shares),
        public_key=polynomial.commit()[0].encode(),
        share_commitments=tuple(g.base_mul(s.reveal()).encode() for s in shares.values()),
        chain_code_hash=None,
        generation=1,
    )
    return {i: KeyShare(record, i, s, None) for i, s in shares.items()}


def run(protocols: Mapping[int, Protocol[Any]]) -> dict[int, Measured]:
    """Run a session to its end; seconds are processor time of each player."""
    return lockstep.run(protocols, _CLOCK)


def party_ms(ends: Mapping[int, Measured]) -> float:
    """Milliseconds of one player, the mean of all."""
    return 1000 * sum(e.seconds for e in ends.values()) / len(ends)


class _Greeting(Message, frozen=True):
    """What a HELLO carries in a session from presignatures."""

    nonce: bytes


def from_pool(
    party: Party, claim: Callable[[], Any], use: Callable[[Party, Any], Protocol[R]]
) -> Protocol[R]:
    """Claim, greet, use: a session from presignatures as the driver runs it, without its I/O."""
    taken = claim()
    mine = taken.opening.nonce
    inbox: Inbox = yield Round(broadcast=_Greeting(mine), echo=False)
    nonces = {party.index: mine} | {j: m.nonce for j, m in inbox.broadcast.items()}
    return (yield from use(replace(party, nonces=nonces), taken))
