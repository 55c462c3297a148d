"""ACTIVE, WAITING or QUARANTINED: what a node may do, from all that is known of its past.

A pure function of the node's history, its anchor, and what peers answered, so that a restart that
sees the same comes to the same decision. A quarantined node writes nothing, neither history nor
anchor: what convicted it is still there after any number of restarts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from keycairn.vault.fence.history import History, contains
from keycairn.vault.fence.witness import Anchor, Witness

#: An anchor whose heartbeat is older than this may have come back together with the database.
ANCHOR_FRESH_US = 3_600_000_000
#: A heartbeat may lie so far ahead of the clock; further, and one of the two is wrong.
ANCHOR_AHEAD_US = 60_000_000

#: What a peer answered: the newest witness that it holds of this node, or None for none.
Answer = Witness | None


class State(Enum):
    """What a node may do."""

    ACTIVE = "ACTIVE"
    WAITING = "WAITING"  # takes part in nothing until peers have answered
    QUARANTINED = "QUARANTINED"  # takes part in nothing until it rejoins


@dataclass(frozen=True)
class Decision:
    """A state and, for people, why.

    Attributes:
        lacks: of a quarantined node: who holds the witness that its history lacks (a player, or
            0 for the anchor), and the witness.
        answers_needed: of a waiting node: answers that are still missing.
    """

    state: State
    why: str = ""
    lacks: tuple[int, Witness] | None = None
    answers_needed: int = field(default=0)


def witnesses_needed(players: int, threshold: int) -> int:
    """Answers that a node without a fresh anchor waits for: min(t+1, n-1)."""
    return min(threshold + 1, players - 1)


def anchor_fresh(anchor: Anchor | None, now_us: int) -> bool:
    """Whether the anchor proves that this machine ran within the last hour."""
    if anchor is None:
        return False
    return -ANCHOR_AHEAD_US <= now_us - anchor.heartbeat_us <= ANCHOR_FRESH_US


def decide(
    history: History,
    anchor: Anchor | None,
    answers: Mapping[int, Answer],
    *,
    needed: int,
    now_us: int,
) -> Decision:
    """What the node may do.

    Args:
        history: of the database as it is now.
        anchor: as found at start; its witness is this node's and checked.
        answers: by peer, since the start; every witness in them is this node's and checked.
        needed: see :func:`witnesses_needed`.
    """
    known: list[tuple[int, Witness]] = [] if anchor is None else [(0, anchor.witness)]
    known += [(peer, w) for peer, w in sorted(answers.items()) if w is not None]
    for holder, witness in known:
        if not contains(history, witness.place):
            return Decision(State.QUARANTINED, _why(history, holder, witness), (holder, witness))
    if anchor_fresh(anchor, now_us):
        return Decision(State.ACTIVE)
    missing = needed - len(answers)
    if missing <= 0:
        return Decision(State.ACTIVE)
    found = "is missing" if anchor is None else "is older than an hour"
    return Decision(
        State.WAITING,
        f"the anchor {found}: {missing} more of the peers must say what they know of this node",
        answers_needed=missing,
    )


def _why(history: History, holder: int, witness: Witness) -> str:
    source = "the anchor" if holder == 0 else f"player {holder}"
    own = history.head
    if witness.era > own.era:
        lost = f"a rejoin of this node (era {witness.era}; the database is of era {own.era})"
    elif witness.length > own.length:
        lost = f"{witness.length - own.length} changes after change {own.length}"
    else:
        lost = f"another change as change {witness.length}"
    return f"{source} knows of {lost}: the database is older than this node's last word"
