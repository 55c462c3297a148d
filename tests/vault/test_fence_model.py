"""The fence as a model: one node, its database and anchor, and peers that remember (R-03, INV-14).

Databases and anchors are lists here; what is tested is history, witness, decision and merge: the
rules that store, links and daemon carry out.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from keycairn.errors import Code, KeycairnError
from keycairn.vault.fence import (
    ANCHOR_FRESH_US,
    Anchor,
    BanWord,
    Decision,
    Head,
    State,
    Witness,
    begin,
    check_witness,
    decide,
    era_after,
    extend,
    next_era,
    sign_witness,
    take_over,
    witnesses_needed,
)
from keycairn.vault.fence.history import contains

VAULT, NODE = "vault", 1


class Pen:
    """Signatures without cryptography: only the node that a byte names can make them."""

    def __init__(self, node: int = NODE) -> None:
        self.node = node

    def sign(self, data: bytes) -> bytes:
        return bytes([self.node]) + hash_of(data)

    def verify(self, player: int, data: bytes, signature: bytes) -> bool:
        return signature == bytes([player]) + hash_of(data)


def hash_of(data: bytes) -> bytes:
    import hashlib

    return hashlib.sha256(data).digest()


@dataclass
class Database:
    """The chain and the tables that it speaks of."""

    heads: list[Head] = field(default_factory=lambda: [begin(VAULT, NODE)])
    bans: dict[str, BanWord] = field(default_factory=dict)
    revoked: frozenset[str] = frozenset()

    @property
    def head(self) -> Head:
        return self.heads[-1]

    def at(self, length: int) -> Head | None:
        return self.heads[length] if length < len(self.heads) else None

    def copy(self) -> Database:
        return Database(list(self.heads), dict(self.bans), self.revoked)


def witness(db: Database, incarnation: int, started: int = 0) -> Witness:
    head = db.head
    unsigned = Witness(
        VAULT, NODE, head.era, head.length, head.hash, incarnation.to_bytes(32, "big"),
        min(started, head.length), tuple(db.bans[k] for k in sorted(db.bans)),
        tuple(sorted(db.revoked)),
    )  # fmt: skip
    return sign_witness(unsigned, Pen())


def newer(a: Witness | None, b: Witness) -> Witness:
    """What a peer keeps: the later place."""
    return b if a is None or (b.era, b.length) >= (a.era, a.length) else a


# -- single rules ---


def grown(*kinds: str) -> Database:
    db = Database()
    for kind in kinds:
        db.heads.append(extend(db.head, kind, b""))
    return db


def test_a_history_contains_its_own_past_and_earlier_eras_only() -> None:
    db = grown("start", "ban", "key")
    for head in db.heads:
        assert contains(db, head)
    other = grown("start", "ban", "unban")
    assert not contains(db, other.head)
    assert contains(db, other.heads[2])
    assert not contains(other, extend(db.head, "x", b""))
    db.heads.append(next_era(db.head, 2, b""))
    assert contains(db, other.head), "an earlier era"
    assert not contains(other, db.head), "a later era"
    with pytest.raises(ValueError, match="later era"):
        next_era(db.head, 2, b"")


def test_equal_lengths_are_not_equal_histories() -> None:
    """A history that was put back catches up in length."""
    back = grown("start", "key")
    lost = grown("start", "ban")
    decision = decide(back, Anchor(witness(lost, 1), 0), {}, needed=2, now_us=0)
    assert decision.state is State.QUARANTINED
    assert decision.lacks is not None
    assert decision.lacks[0] == 0
    assert "another change" in decision.why


@pytest.mark.parametrize(
    ("age", "state"),
    [
        (0, State.ACTIVE),
        (ANCHOR_FRESH_US, State.ACTIVE),
        (ANCHOR_FRESH_US + 1, State.WAITING),
        (-60_000_000, State.ACTIVE),
        (-60_000_001, State.WAITING),
    ],
)
def test_an_anchor_speaks_for_an_hour(age: int, state: State) -> None:
    db = grown("start")
    now = 10 * ANCHOR_FRESH_US
    assert decide(db, Anchor(witness(db, 1), now - age), {}, needed=1, now_us=now).state is state


@pytest.mark.parametrize(("n", "t", "needed"), [(2, 1, 1), (3, 1, 2), (3, 2, 2), (5, 2, 3)])
def test_without_an_anchor_peers_must_answer(n: int, t: int, needed: int) -> None:
    assert witnesses_needed(n, t) == needed
    db = grown("start")
    for heard in range(needed):
        answers = dict.fromkeys(range(2, 2 + heard))
        decision = decide(db, None, answers, needed=needed, now_us=0)
        assert decision.state is State.WAITING
        assert decision.answers_needed == needed - heard
    answers = dict.fromkeys(range(2, 2 + needed))
    assert decide(db, None, answers, needed=needed, now_us=0).state is State.ACTIVE


def test_one_peer_that_knows_better_outweighs_all_others_and_the_anchor() -> None:
    db = grown("start")
    lost = grown("start", "ban")
    fresh = Anchor(witness(db, 1), 0)
    answers = {2: None, 3: witness(lost, 1), 4: witness(db, 1)}
    decision = decide(db, fresh, answers, needed=1, now_us=0)
    assert decision.state is State.QUARANTINED
    assert decision.lacks == (3, witness(lost, 1))


def test_only_the_nodes_own_well_formed_word_is_a_witness() -> None:
    db = grown("start", "ban")
    db.bans = {"b": BanWord("b", 2, False)}
    good = witness(db, 1, 1)
    check_witness(good, vault=VAULT, node=NODE, signer=Pen())
    changes: list[dict[str, Any]] = [
        {"era": 2}, {"length": 3}, {"head": bytes(32)}, {"incarnation": bytes(32)}, {"started": 0},
        {"bans": ()}, {"bans": (BanWord("b", 2, True),)}, {"revoked": ("x",)},
        {"signature": bytes([2]) + good.signature[1:]}, {"signature": b""},
    ]  # fmt: skip
    for change in changes:
        with pytest.raises(KeycairnError) as caught:
            check_witness(_with(good, **change), vault=VAULT, node=NODE, signer=Pen())
        assert caught.value.code is Code.BAD_PROOF, change
    shapes: list[dict[str, Any]] = [
        {"vault": "other"}, {"node": 2}, {"era": 0}, {"length": -1}, {"head": b""},
        {"started": 3}, {"incarnation": b"x"}, {"revoked": ("b", "a")}, {"revoked": ("",)},
        {"bans": (BanWord("b", 2, False), BanWord("a", 2, False))},
    ]  # fmt: skip
    for change in shapes:
        with pytest.raises(KeycairnError) as caught:
            check_witness(_with(good, **change), vault=VAULT, node=NODE, signer=Pen())
        assert caught.value.code is Code.MALFORMED, change


def _with(w: Witness, **change: Any) -> Witness:
    import msgspec

    return msgspec.structs.replace(w, **change)


ban_ids = st.sampled_from(["a", "b", "c"])
tables = st.dictionaries(ban_ids, st.booleans()).map(
    lambda d: {k: BanWord(k, ord(k), lifted) for k, lifted in d.items()}
)


@given(st.lists(tables, max_size=4), tables, st.sets(st.sampled_from("xyz")))
def test_inv11_a_rejoin_takes_every_ban_that_nobody_saw_lifted(
    words: list[dict[str, BanWord]], own: dict[str, BanWord], revoked: set[str]
) -> None:
    seen = []
    for k, bans in enumerate(words):
        db = Database(bans=bans, revoked=frozenset("xyz"[: k % 3]))
        seen.append(witness(db, k))
    taken = take_over(seen, bans=own, revoked=frozenset(revoked))
    lifted = {k for table in [*words, own] for k, ban in table.items() if ban.lifted}
    everywhere = {k for table in words for k in table}
    assert {b.ban_id for b in taken.bans} == everywhere - lifted - set(own)
    assert set(taken.revoked) == {r for w in seen for r in w.revoked} - revoked


# -- the machine ---


@dataclass
class Memory:
    """What outlives the process."""

    db: Database
    anchor: Anchor | None
    peers: dict[int, Witness]


class Life(RuleBasedStateMachine):
    """Changes, crashes at every boundary, restarts, restores, rejoins. Honest peers, 3 of 4."""

    N, T = 4, 1

    @initialize()
    def birth(self) -> None:
        self.now = 10 * ANCHOR_FRESH_US
        self.memory = Memory(Database(), None, {})
        self.reachable = {2, 3, 4}
        self.copies: list[tuple[Database, Anchor | None]] = []
        self.rolled_back = False
        #: Bans that the node acted on at any time, and those that an operator lifted.
        self.banned: set[str] = set()
        self.lifted: set[str] = set()
        self.incarnation = 0
        self.decision = Decision(State.WAITING)
        self.names = iter(f"ban{k}" for k in range(10**6))
        self._start()

    # -- what the daemon does

    def _start(self) -> None:
        self.incarnation += 1
        self.started = self.memory.db.head.length
        self._look()
        if self.decision.state is State.ACTIVE:
            self._change("start")

    def _look(self) -> None:
        m = self.memory
        answers = {p: m.peers.get(p) for p in self.reachable}
        self.decision = decide(
            m.db, m.anchor, answers, needed=witnesses_needed(self.N, self.T), now_us=self.now
        )

    def _change(self, kind: str, crash: int = 9) -> None:
        """Database, anchor, announcement; ``crash`` is the number of steps that still happen."""
        m = self.memory
        if crash < 1:
            return
        m.db.heads.append(extend(m.db.head, kind, str(self.incarnation).encode()))
        said = witness(m.db, self.incarnation, self.started)
        if crash < 2:
            return
        m.anchor = Anchor(said, self.now)
        if crash < 3:
            return
        for peer in self.reachable:
            m.peers[peer] = newer(m.peers.get(peer), said)

    # -- what happens to it

    active = precondition(lambda self: self.decision.state is State.ACTIVE)

    @active
    @rule(crash=st.sampled_from([0, 1, 2, 3, 9]))
    def key_is_made(self, crash: int) -> None:
        self._change("key", crash)
        if crash < 9:
            self._start()

    @active
    @rule(crash=st.sampled_from([1, 2, 3, 9]))
    def peer_is_banned(self, crash: int) -> None:
        name = next(self.names)
        self.memory.db.bans[name] = BanWord(name, 2, False)
        self._change("ban", crash)
        self.banned.add(name)
        if crash < 9:
            self._start()

    @active
    @rule()
    def ban_is_lifted(self) -> None:
        bans = self.memory.db.bans
        for name in [k for k, ban in sorted(bans.items()) if not ban.lifted][:1]:
            bans[name] = BanWord(name, 2, True)
            self.lifted.add(name)
            self._change("unban")

    @active
    @rule()
    def heartbeat(self) -> None:
        anchor = self.memory.anchor
        assert anchor is not None
        self.memory.anchor = replace(anchor, heartbeat_us=self.now)

    @rule()
    def restart(self) -> None:
        self._start()

    @rule(minutes=st.sampled_from([1, 59, 61]))
    def time_passes(self, minutes: int) -> None:
        self.now += minutes * 60_000_000

    @rule(reachable=st.sets(st.sampled_from([2, 3, 4])))
    def network(self, reachable: set[int]) -> None:
        self.reachable = reachable
        if self.decision.state is not State.QUARANTINED:
            # Both ways at each contact.
            was = self.decision.state
            self._look()
            if was is State.ACTIVE and self.decision.state is State.WAITING:
                self.decision = Decision(State.ACTIVE)
            if self.decision.state is State.ACTIVE:
                self._change("start" if was is State.WAITING else "contact")

    @rule()
    def backup(self) -> None:
        self.copies.append((self.memory.db.copy(), self.memory.anchor))

    @precondition(lambda self: bool(self.copies))
    @rule(data=st.data(), anchor_too=st.booleans())
    def database_is_put_back(self, data: st.DataObject, anchor_too: bool) -> None:
        db, anchor = data.draw(st.sampled_from(self.copies))
        lost = db.head != self.memory.db.head
        self.memory.db = db.copy()
        if anchor_too:
            self.memory.anchor = anchor
        self.rolled_back = self.rolled_back or lost
        self._start()

    @rule()
    def anchor_is_lost(self) -> None:
        self.memory.anchor = None
        self._start()

    @precondition(lambda self: self.decision.state is not State.ACTIVE)
    @rule()
    def operator_rejoins(self) -> None:
        m = self.memory
        intact = m.anchor is not None
        if len(self.reachable) < witnesses_needed(self.N, self.T) and not intact:
            return
        words = [w for p in self.reachable if (w := m.peers.get(p)) is not None]
        if m.anchor is not None:
            words.append(m.anchor.witness)
        taken = take_over(words, bans=m.db.bans, revoked=m.db.revoked)
        for ban in taken.bans:
            m.db.bans[ban.ban_id] = ban
        self.incarnation += 1
        m.db.heads.append(next_era(m.db.head, era_after(m.db.head, words), b""))
        said = witness(m.db, self.incarnation, m.db.head.length)
        m.anchor = Anchor(said, self.now)
        for peer in self.reachable:
            m.peers[peer] = newer(m.peers.get(peer), said)
        self.decision = Decision(State.ACTIVE)
        # An honest recorder that answered, or the anchor, brought every ban that it knew.
        for w in words:
            for ban in w.in_force:
                assert ban.ban_id in m.db.bans

    # -- what must hold

    @invariant()
    def inv14_acts_only_on_a_history_that_contains_what_was_shown(self) -> None:
        if getattr(self, "decision", None) is None or self.decision.state is not State.ACTIVE:
            return
        m = self.memory
        if m.anchor is not None:
            assert contains(m.db, m.anchor.witness.place)

    @invariant()
    def never_a_false_quarantine(self) -> None:
        if not getattr(self, "rolled_back", True):
            assert self.decision.state is not State.QUARANTINED, self.decision.why

    @invariant()
    def no_ban_is_forgotten_where_the_anchor_stayed(self) -> None:
        """While the anchor knows a ban, an active node knows it, too."""
        if getattr(self, "decision", None) is None or self.decision.state is not State.ACTIVE:
            return
        m = self.memory
        if m.anchor is not None:
            for ban in m.anchor.witness.in_force:
                assert ban.ban_id in m.db.bans


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_four_events_back_and_twenty_restarts_still_quarantined() -> None:
    db = grown("start", "key", "key", "ban", "key", "key")
    anchor = Anchor(witness(db, 1), 0)
    back = Database(db.heads[:-4])
    for k in range(20):
        decision = decide(back, anchor, {}, needed=2, now_us=k * 60_000_000)
        assert decision.state is State.QUARANTINED
        assert "4 changes" in decision.why


def test_two_fail_overs_to_the_same_replica_with_a_rejoin_between() -> None:
    """The replica is of an earlier era the second time, and the anchor says so."""
    db = grown("start", "key", "ban")
    replica = Database(db.heads[:2])
    first = Database(list(replica.heads))
    anchor = Anchor(witness(db, 1), 0)
    assert decide(first, anchor, {}, needed=2, now_us=0).state is State.QUARANTINED
    first.heads.append(next_era(first.head, era_after(first.head, [anchor.witness]), b""))
    anchor = Anchor(witness(first, 2), 0)
    assert decide(first, anchor, {}, needed=2, now_us=0).state is State.ACTIVE
    decision = decide(Database(list(replica.heads)), anchor, {}, needed=2, now_us=0)
    assert decision.state is State.QUARANTINED
    assert "rejoin" in decision.why


def test_an_old_witness_after_a_rejoin_brings_its_bans_but_no_quarantine() -> None:
    lost = grown("start", "ban")
    lost.bans = {"b": BanWord("b", 3, False)}
    old = witness(lost, 1)
    db = grown("start")
    db.heads.append(next_era(db.head, 2, b""))
    assert decide(db, None, {2: old, 3: None}, needed=2, now_us=0).state is State.ACTIVE
    taken = take_over([old], bans={}, revoked=frozenset())
    assert taken.bans == (BanWord("b", 3, False),)
