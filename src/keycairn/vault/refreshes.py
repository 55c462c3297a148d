"""Which keys ask for a refresh, because a peer was banned and the ban lifted.

A peer that failed a consistency check may have learned bits of this node's choice bits, and with
them of the shares that it tried. New base OTs stop that, but don't take back what was learned;
only new shares do. So before a ban is lifted the keys that both nodes hold are recorded, durably,
each with its generation: the record is what an operator's request left behind, in the table of
finished requests, and belongs to no application.

A key is through with it once its generation is above the recorded one. This version can't refresh
keys, so it never is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keycairn.encoding import digest, tag
from keycairn.errors import KeycairnError
from keycairn.vault.ports import BanRow, KeyRow, RequestRow, Store
from keycairn.vault.sessions import Sessions

_REQUEST = tag("request/unban")
#: No application has this name.
_OPERATOR = ""
_PAGE = 1000
#: Keys per row: some databases end a value at 64 KiB.
_ROW = 500


class Refreshes:
    """Records, and knows, the keys that lifted bans concern."""

    def __init__(self, store: Store, sessions: Sessions) -> None:
        self._store = store
        self._sessions = sessions
        self._known: dict[str, tuple[str, ...]] = {}  # key ids, by ban id

    async def record(self, ban: BanRow) -> None:
        """Make the keys that a ban concerns durable. Idempotent: what is recorded stays."""
        if await self._store.request(_OPERATOR, _name(ban, 0)) is not None:
            return
        shared = await self._shared(ban.peer)
        parts = [shared[n : n + _ROW] for n in range(0, len(shared), _ROW)] or [[]]
        # The first one last: it says that all others are there.
        for number, part in reversed(list(enumerate(parts))):
            if number and await self._store.request(_OPERATOR, _name(ban, number)) is not None:
                continue
            keys = {row.record.key_id: row.record.generation for row in part}
            result = {"peer": ban.peer, "parts": len(parts), "keys": keys}
            hashed = digest(_REQUEST, ban.ban_id, number)
            await self._store.put_request(RequestRow(_OPERATOR, _name(ban, number), hashed, result))

    async def keys_with(self, peer: int) -> list[str]:
        """Ids of the keys that lifted bans of ``peer`` concern, sorted."""
        found: set[str] = set()
        for ban in self._sessions.lifted_bans:
            if ban.peer == peer:
                found.update(await self._recorded(ban))
        return sorted(found)

    async def findings(self) -> list[dict[str, Any]]:
        """A finding per peer with lifted bans, while there are keys that they concern."""
        found = []
        for peer in sorted({ban.peer for ban in self._sessions.lifted_bans}):
            keys = await self.keys_with(peer)
            if keys:
                found.append(
                    {
                        "finding": "refresh",
                        "peer": peer,
                        "key_ids": keys,
                        "text": f"the ban of player {peer} was lifted: refresh these keys (or "
                        "rotate them); it may have learned bits of their shares",
                        "next": "this version can't refresh a key, so this finding stays; to end "
                        "the risk now, create new keys and move what the old ones hold",
                    }
                )
        return found

    async def _recorded(self, ban: BanRow) -> tuple[str, ...]:
        if ban.ban_id not in self._known:
            try:
                keys = await self._read(ban)
            except KeycairnError:
                # The record is damaged: all that may have stood in it.
                return tuple(row.record.key_id for row in await self._shared(ban.peer))
            self._known[ban.ban_id] = keys
        return self._known[ban.ban_id]

    async def _read(self, ban: BanRow) -> tuple[str, ...]:
        keys: list[str] = []
        number, parts = 0, 1
        while number < parts:
            row = await self._store.request(_OPERATOR, _name(ban, number))
            if row is None:
                break
            parts = row.result["parts"]
            keys += row.result["keys"]
            number += 1
        return tuple(keys)

    async def _shared(self, peer: int) -> Sequence[KeyRow]:
        """Keys that this node and ``peer`` hold, active or not."""
        found: list[KeyRow] = []
        after = ""
        while True:
            page = await self._store.keys(after=after, limit=_PAGE)
            found += [row for row in page if peer in row.record.holders]
            if len(page) < _PAGE:
                return found
            after = page[-1].record.key_id


def _name(ban: BanRow, number: int) -> str:
    return f"unban/{ban.ban_id}/{number}"
