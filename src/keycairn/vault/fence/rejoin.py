"""Leaving quarantine: one action, by an operator or, where nobody can be harmed, by itself (R-04).

What was lost is accepted, but no ban and no revocation: they are taken from the node's own
witnesses, out of the anchor and from peers. Everything that bore the old incarnation is gone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from keycairn.errors import Code, KeycairnError
from keycairn.ports import Clock
from keycairn.vault.fence import (
    BanWord,
    State,
    TakenOver,
    Witness,
    era_after,
    take_over,
)
from keycairn.vault.fence.incarnation import Incarnation
from keycairn.vault.fence.keeper import UNATTENDED, Fence
from keycairn.vault.fence.words import words_of
from keycairn.vault.ports import BanRow, Store

TAKEN_OVER = "taken over at a rejoin from this node's own witness"


class Rejoin:
    """Rejoins this node.

    Args:
        reset: drops everything that bears the old incarnation, and takes the new one.
        after: what follows when the node is active again.
        in_force: the bans that this process knows.
    """

    def __init__(
        self,
        fence: Fence,
        incarnation: Incarnation,
        *,
        store: Store,
        clock: Clock,
        crash: Callable[[str], None],
        reset: Callable[[], Awaitable[None]],
        after: Callable[[], Awaitable[None]],
        in_force: Callable[[], Iterable[BanRow]] = tuple,
    ) -> None:
        self._fence = fence
        self._incarnation = incarnation
        self._store = store
        self._clock = clock
        self._crash = crash
        self._reset = reset
        self._after = after
        self._in_force = in_force
        fence.unattended(self.unattended)

    async def by_operator(self, *, without_witnesses: bool) -> dict[str, Any]:
        """Rejoin now.

        Args:
            without_witnesses: also if too few peers answer and there is no anchor.

        Returns:
            era, incarnation (hex), cause, asked (peers that answered), anchor (bool), bans and
            revoked (what was taken over), missing (None, or what may be missing and since when).

        Raises:
            KeycairnError: E_CONFLICT when the node is active, E_QUARANTINED when it knows too
                little of its past, E_UNAVAILABLE.
        """
        fence = self._fence
        if fence.active:
            raise KeycairnError(
                Code.CONFLICT,
                "this node is ACTIVE: there is nothing to rejoin",
                not_lost="Nothing was changed.",
            )
        await fence.ask(fence.pace.answer)
        enough = len(fence.answers) >= fence.needed or fence.anchor is not None
        if fence.active:  # It was only waiting for these answers.
            return await self._result("", TakenOver((), ()), None, anchor=fence.anchor is not None)
        if not enough and not without_witnesses:
            missing = fence.needed - len(fence.answers)
            raise KeycairnError(
                Code.QUARANTINED,
                f"node {fence.index} has no anchor, and {missing} more of its peers must say what "
                "they know of it",
                not_lost="Nothing was changed.",
                next=f"start the peers and repeat; if they are lost for good: {fence.command} "
                "--without-witnesses (bans and revocations since the backup may be missing then)",
                node=fence.index,
            )
        return await self._rejoin("operator", unsure=not enough)

    async def unattended(self) -> None:
        """Rejoin if every peer answers, has for a while, and none knows a twin."""
        fence = self._fence
        if not self._harmless():
            return
        answered = await fence.ask(fence.pace.answer)
        if self._harmless() and answered == set(fence.peers):
            await self._rejoin("unattended", unsure=False)

    def _harmless(self) -> bool:
        fence = self._fence
        if fence.standing.state is not State.QUARANTINED or fence.standing.cause not in UNATTENDED:
            return False
        if fence.twin_known:
            return False
        long_ago = self._clock.monotonic() - fence.pace.quiet
        return all(fence.in_touch.get(p, long_ago + 1) <= long_ago for p in fence.peers)

    async def _rejoin(self, by: str, *, unsure: bool) -> dict[str, Any]:
        fence, store = self._fence, self._store
        async with fence.changing:
            if fence.active:
                raise KeycairnError(Code.CONFLICT, "this node is ACTIVE already")
            was = fence.standing
            cause = was.cause
            anchor = fence.anchor is not None  # Before this rejoin writes one.
            await self._reset()
            # What is shown after this is heard once the node is active, before it is overwritten.
            witnesses = [w for w in fence.answers.values() if w is not None]
            if fence.anchor is not None:
                witnesses.append(fence.anchor.witness)
            taken, rows = await self._taken(witnesses)
            before = await store.history_head()
            last = await store.history(after=before.length - 1) if before.length else ()
            since = last[-1].at_us if last else 0
            detail = {
                "by": by,
                "cause": cause,
                "answers": sorted(fence.answers),
                "anchor": anchor,
                "since_us": since,
            }
            store.freeze(None)
            try:
                head = await store.rejoin(
                    self._incarnation.id,
                    era_after(before, witnesses),
                    self._clock.now_us(),
                    bans=rows,
                    revoked=taken.revoked,
                    detail=detail,
                )
                fence.begun(head.length)
                self._crash("fence.committed")
                await fence.publish(entering=was)
                await fence.enter(was)
            except BaseException:
                if not fence.active:
                    fence.freeze()
                raise
        await self._after()
        return await self._result(cause, taken, since if unsure else None, anchor=anchor)

    async def _taken(self, witnesses: list[Witness]) -> tuple[TakenOver, list[BanRow]]:
        bans, revoked = await words_of(self._store)
        taken = take_over(witnesses, bans={b.ban_id: b for b in bans}, revoked=frozenset(revoked))
        rows = [
            *rows_of(taken.bans, self._clock.now_us()),
            # One that this process knows may not have reached the disk, or have left it again.
            *self._in_force(),
            *await self._store.bans(),
        ]
        return taken, list({row.ban_id: row for row in rows}.values())

    async def _result(
        self, cause: str, taken: TakenOver, since: int | None, *, anchor: bool
    ) -> dict[str, Any]:
        fence = self._fence
        head = await self._store.history_head()
        return {
            "node": fence.index,
            "state": fence.standing.state.value,
            "cause": cause,
            "era": head.era,
            "incarnation": self._incarnation.id.hex(),
            "asked": sorted(fence.answers),
            "anchor": anchor,
            "bans": [{"id": b.ban_id, "peer": b.peer} for b in taken.bans],
            "revoked": list(taken.revoked),
            "missing": None
            if since is None
            else {
                "what": "bans and revocations that this node made after its database was copied",
                "since_us": since,
            },
        }


def rows_of(words: tuple[BanWord, ...], now_us: int) -> list[BanRow]:
    """Bans that were taken over, as rows in force."""
    return [BanRow(w.ban_id, w.peer, TAKEN_OVER, now_us) for w in words if not w.lifted]
