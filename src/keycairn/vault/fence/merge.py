"""What a rejoin takes over from the witnesses of a node's lost past.

Bans and revocations count from *any* witness, however old, unless one of them shows that the same
ban was lifted; additions to allow-lists are never taken over (an operator makes them again).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from keycairn.vault.fence.history import Head
from keycairn.vault.fence.witness import BanWord, Witness


@dataclass(frozen=True)
class TakenOver:
    """Bans that come into force and revocations that hold, which the database did not know."""

    bans: tuple[BanWord, ...]
    revoked: tuple[str, ...]


def take_over(
    witnesses: Iterable[Witness],
    *,
    bans: Mapping[str, BanWord],
    revoked: frozenset[str],
) -> TakenOver:
    """What the witnesses add to the database.

    Args:
        witnesses: the node's own, checked, from anchor and peers.
        bans: all bans that the database knows, lifted ones too, by id.
        revoked: the revocations that it knows.
    """
    seen: dict[str, BanWord] = {}
    lifted = {ban_id for ban_id, ban in bans.items() if ban.lifted}
    gone: set[str] = set()
    for witness in witnesses:
        gone.update(witness.revoked)
        for ban in witness.bans:
            seen[ban.ban_id] = ban
            if ban.lifted:
                lifted.add(ban.ban_id)
    new = [
        BanWord(ban_id, ban.peer, False)
        for ban_id, ban in sorted(seen.items())
        if ban_id not in lifted and (ban_id not in bans)
    ]
    return TakenOver(tuple(new), tuple(sorted(gone - revoked)))


def era_after(head: Head, witnesses: Iterable[Witness]) -> int:
    """The era that a rejoin begins: later than every one that the node ever showed."""
    return 1 + max([head.era, *(w.era for w in witnesses)])
