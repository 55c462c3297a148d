"""The chain of a node's state changes.

Every change that must not be forgotten (start, rejoin, READY given, key activated or deleted,
generation, ban and un-ban, allow-list change) extends the chain by one. A *head* is (era, length,
hash); it names one history and all of its past. Lengths alone say nothing: a history that was put
back catches up.

An *era* begins with a rejoin: from there on the operator has accepted what was lost, so heads of
earlier eras may be missing from the chain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from keycairn.encoding import digest, tag

_GENESIS = tag("fence/genesis")
_EVENT = tag("fence/event")

GENESIS_ERA = 1


@dataclass(frozen=True, order=True)
class Head:
    """Where a history stands: ``hash`` (32 bytes) covers everything up to ``length``."""

    era: int
    length: int
    hash: bytes


class History(Protocol):
    """A history that can be asked for its heads; the store's, or a list in tests."""

    @property
    def head(self) -> Head: ...

    def at(self, length: int) -> Head | None:
        """The head that the history had at ``length``, or None beyond its end."""
        ...


def begin(vault: str, node: int) -> Head:
    """The head of the empty history of a node."""
    return Head(GENESIS_ERA, 0, digest(_GENESIS, vault, node))


def extend(head: Head, kind: str, detail: bytes) -> Head:
    """The head after one more change.

    Args:
        kind: what happened ("start", "ban", …).
        detail: canonical encoding of what it was about.
    """
    return _after(head, head.era, kind, detail)


def next_era(head: Head, era: int, detail: bytes) -> Head:
    """The head after a rejoin, which begins ``era``.

    Raises:
        ValueError: if ``era`` is not later than the history's own.
    """
    if era <= head.era:
        raise ValueError("a rejoin begins a later era")
    return _after(head, era, "rejoin", detail)


def _after(head: Head, era: int, kind: str, detail: bytes) -> Head:
    length = head.length + 1
    return Head(era, length, digest(_EVENT, head.hash, era, length, kind, detail))


def contains(history: History, head: Head) -> bool:
    """Whether ``history`` contains ``head``: it lies on the chain, or is of an earlier era."""
    if head.era < history.head.era:
        return True
    return history.at(head.length) == head
