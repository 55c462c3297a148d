"""Is what this node's receipts speak of still where it was stored, and what it was?

A receipt is evidence for the backup policy, and a bundle that isn't there protects nothing. A
target that can't be looked at right now proves nothing either way: its receipts stay, and coverage
answers "can't tell" for as long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from keycairn.backup.targets import Gone, Mark, digest_of, stored, target_at
from keycairn.errors import Code, KeycairnError
from keycairn.node.logs import logger
from keycairn.ports import Clock
from keycairn.vault.ports import BundleRow, Store

#: How long the first look may take before a target counts as away: the node is starting.
_FIRST_SECONDS = 5.0


class State(Enum):
    """What a look at a stored bundle found."""

    SAME = "same"
    GONE = "gone, or other bytes than were written"
    CANT_TELL = "can't be looked at"


@dataclass(frozen=True)
class _Seen:
    state: State
    mark: Mark | None
    looked: float  # monotonic seconds
    read: float


class Evidence:
    """This node's receipts, held against what is stored.

    Args:
        store: keeps the receipts.
        clock: for how often costly targets are looked at.
        scratch: directory for copies of objects.
        unreadable: SHA-256 of bundles that nobody can look at now; kept up to date here.
    """

    def __init__(self, store: Store, clock: Clock, scratch: Path, unreadable: set[str]) -> None:
        self._store = store
        self._clock = clock
        self._scratch = scratch
        self.unreadable = unreadable
        self._rows: Sequence[BundleRow] | None = None
        self._dropped: dict[str, BundleRow] = {}
        self._seen: dict[str, _Seen] = {}

    async def rows(self) -> Sequence[BundleRow]:
        """All receipts."""
        if self._rows is None:
            self._rows = await self._store.bundles()
        return self._rows

    async def book(self, row: BundleRow) -> None:
        """Keep a receipt of what was just read back."""
        await self._store.put_bundle(row)
        self._rows = None
        self.unreadable.discard(row.sha256)

    async def drop(self, row: BundleRow) -> None:
        """Forget a receipt."""
        self._rows = None
        await self._store.delete_bundle(row.sha256)
        self.unreadable.discard(row.sha256)

    async def first(self) -> None:
        """Before anything is asked of this node: which targets are away? Reads no bundle."""
        rows = await self.rows()

        def look() -> set[str]:
            return {row.sha256 for row in rows if not _present(row)}

        try:
            async with asyncio.timeout(_FIRST_SECONDS):
                self.unreadable |= await asyncio.to_thread(look)
        except TimeoutError:
            self.unreadable |= {row.sha256 for row in rows}

    async def check(self, *, whole: bool) -> list[str]:
        """Drop the receipts of stored bundles that are gone or are not what was written.

        A bundle that comes back while the node runs, as with a disk that was repaired, counts
        again.

        Args:
            whole: read all bundles; otherwise only those that were touched since.

        Returns:
            the locations that no longer count.
        """
        lost: list[str] = []
        for row in await self.rows():
            state = await asyncio.to_thread(self._look, row, whole)
            if state is State.CANT_TELL:
                self.unreadable.add(row.sha256)
                continue
            self.unreadable.discard(row.sha256)
            if state is State.GONE:
                lost.append(row.location)
                self._dropped[row.sha256] = row
                await self.drop(row)
        for row in list(self._dropped.values()):
            if await asyncio.to_thread(self._look, row, False) is State.SAME:
                del self._dropped[row.sha256]
                await self.book(row)
                logger().info("bundle is back", where=row.location)
        return lost

    def is_good(self, row: BundleRow) -> bool:
        """Read a stored bundle, now. Blocks.

        Raises:
            KeycairnError: E_UNAVAILABLE, nobody can tell.
        """
        state = self._look(row, True, now=True)
        if state is State.CANT_TELL:
            raise KeycairnError(
                Code.UNAVAILABLE,
                f"{row.location} can't be read now",
                not_lost="Nothing was removed.",
                next="mount the target, or wait until it answers",
            )
        return state is State.SAME

    def _look(self, row: BundleRow, whole: bool, now: bool = False) -> State:
        known = self._seen.get(row.sha256)
        moment = self._clock.monotonic()
        try:
            target = target_at(row.location)
            if known and not whole and moment < known.looked + target.look_seconds:
                return known.state
            mark = target.look(row.location)
            fresh = now or (whole and (not known or moment >= known.read + target.read_seconds))
            if known and known.mark == mark and not fresh:
                state, read = known.state, known.read
            else:
                with stored(row.location, self._scratch) as path:
                    same = digest_of(path) == row.sha256
                state, read = (State.SAME if same else State.GONE), moment
            self._seen[row.sha256] = _Seen(state, mark, moment, read)
        except Gone:
            self._seen.pop(row.sha256, None)
            return State.GONE
        except (KeycairnError, OSError):
            return State.CANT_TELL
        return state


def _present(row: BundleRow) -> bool:
    """Whether the stored bundle can be looked at; says nothing of what is in it."""
    try:
        target_at(row.location).look(row.location)
    except Gone:
        return True  # Not away. The first whole look will drop it.
    except (KeycairnError, OSError):
        return False
    return True
