"""The fence: a node acts only on a history that contains everything it ever showed of it.

A database that is put back, a replica that lost the last commits, a machine image, a copy: each is
a node whose memory is older than what others remember of it. Acting on it would forget bans and
revocations (what is spent cannot come back: presignatures die with the process). From the bottom
up::

    history     the chain of state changes, and where one of its heads lies
    witness     the node's own signed word about its history, kept outside the database
    decision    ACTIVE, WAITING or QUARANTINED, from history, anchor and peers
    merge       what a rejoin takes over

No I/O here: the ports are in :mod:`keycairn.vault.ports`.
"""

from keycairn.vault.fence.decision import (
    ANCHOR_FRESH_US,
    Answer,
    Decision,
    State,
    decide,
    witnesses_needed,
)
from keycairn.vault.fence.history import GENESIS_ERA, Head, History, begin, extend, next_era
from keycairn.vault.fence.merge import TakenOver, era_after, take_over
from keycairn.vault.fence.witness import Anchor, BanWord, Witness, check_witness, sign_witness

__all__ = [
    "ANCHOR_FRESH_US",
    "GENESIS_ERA",
    "Anchor",
    "Answer",
    "BanWord",
    "Decision",
    "Head",
    "History",
    "State",
    "TakenOver",
    "Witness",
    "begin",
    "check_witness",
    "decide",
    "era_after",
    "extend",
    "next_era",
    "sign_witness",
    "take_over",
    "witnesses_needed",
]
