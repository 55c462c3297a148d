"""Keys that this node once promised to keep and does not know any more.

A batch with this node's own READY that is not in the database is a witness, too: in the first era
it convicts the database. After a rejoin, which accepts what was lost, such batches are *behind*:
they are listed, with what brings them back.
"""

from __future__ import annotations

import asyncio

from keycairn.errors import KeycairnError
from keycairn.ports import Clock
from keycairn.protocols.form import Signer
from keycairn.vault.api import VaultParameters
from keycairn.vault.control import (
    BatchesHere,
    BatchesWanted,
    BatchHere,
    BatchWanted,
    ReadyNote,
)
from keycairn.vault.exchange import Exchange
from keycairn.vault.fence.batches import BatchWord, certified, signed_by, word_of
from keycairn.vault.fence.history import GENESIS_ERA
from keycairn.vault.fence.keeper import Fence
from keycairn.vault.ports import BehindRow, Store

#: Keys of one page. A peer that asks again and again gets a page in so many seconds.
_PAGE = 200
_PAGE_SECONDS = 0.02
_NAME = 128


class Behind:
    """Asks peers for the batches that this node holds shares of, and answers the same question."""

    def __init__(
        self,
        params: VaultParameters,
        fence: Fence,
        *,
        store: Store,
        exchange: Exchange,
        signer: Signer,
        clock: Clock,
    ) -> None:
        self._params = params
        self._fence = fence
        self._store = store
        self._exchange = exchange
        self._signer = signer
        self._clock = clock
        #: Peers that have still to be asked, or to answer to the end, with what they named last.
        self._unasked: dict[int, set[bytes]] = {}
        exchange.on(BatchWanted, self._wanted_one)
        exchange.on(BatchesWanted, self._wanted)
        exchange.on(BatchesHere, self._ids)
        exchange.on(BatchHere, self._here)

    def ask_all(self) -> None:
        """After a rejoin: ask every peer, at once or when it comes."""
        self._unasked = {peer: set() for peer in self._fence.peers}

    async def contact(self, peer: int) -> None:
        """A peer is here."""
        if peer in self._unasked:
            await self._exchange.send(peer, BatchesWanted(""))

    async def unknown(self, peer: int, note: ReadyNote) -> None:
        """A peer speaks of a batch that this node does not know."""
        if self._params.index in dict(note.ready):
            await self._exchange.send(peer, BatchWanted(note.batch_id))

    # -- answering -----------------------------------------------------------------------------

    async def _wanted_one(self, peer: int, wanted: BatchWanted) -> None:
        batch = await self._store.batch(wanted.batch_id)
        if batch is not None and peer in batch.holders:
            await self._exchange.send(peer, BatchHere(word_of(batch)))

    async def _wanted(self, peer: int, wanted: BatchesWanted) -> None:
        if len(wanted.after) > _NAME:
            return
        await asyncio.sleep(_PAGE_SECONDS)  # Only this peer's own messages wait behind it.
        rows = await self._store.keys(after=wanted.after, limit=_PAGE)
        shared = [r for r in rows if r.state == "active" and peer in r.record.holders]
        ids = dict.fromkeys(row.batch_id for row in shared)
        more = rows[-1].record.key_id if len(rows) == _PAGE else ""
        await self._exchange.send(peer, BatchesHere(tuple(ids), more))

    # -- hearing -------------------------------------------------------------------------------

    async def _ids(self, peer: int, said: BatchesHere) -> None:
        known = self._unasked.get(peer)
        if known is None or len(said.ids) > _PAGE or len(said.more) > _NAME:
            return
        for batch_id in said.ids:
            if batch_id not in known and not await self._here_already(batch_id):
                await self._exchange.send(peer, BatchWanted(batch_id))
        self._unasked[peer] = set(said.ids)  # A batch can go on on the next page.
        if said.more:
            await self._exchange.send(peer, BatchesWanted(said.more))
        else:
            del self._unasked[peer]

    async def _here(self, peer: int, said: BatchHere) -> None:
        word = said.batch
        head = await self._store.history_head()
        if not await self._lost(word, first=head.era == GENESIS_ERA):
            return
        if head.era == GENESIS_ERA:
            self._fence.quarantine(
                "certificate",
                f"player {peer} has this node's own READY for keys that it does not know: the "
                "database is older than this node's last word",
            )
        elif self._fence.active:
            row = BehindRow(word.batch_id, word.key_ids, peer, self._clock.now_us())
            await self._store.put_behind([row])

    async def _here_already(self, batch_id: bytes) -> bool:
        try:
            return await self._store.batch(batch_id) is not None
        except KeycairnError:
            return True  # damaged, not lost: that is said elsewhere

    async def _lost(self, word: BatchWord, *, first: bool) -> bool:
        vault, me = self._params.vault_id, self._params.index
        if not signed_by(word, me, vault=vault, signer=self._signer):
            return False
        # After a rejoin only what all holders confirmed matters; what never became a key does not.
        if not first and not certified(word, vault=vault, signer=self._signer):
            return False
        if await self._here_already(word.batch_id):
            return False
        name = word.batch_id.hex()
        return not any(name in d.row for d in await self._store.damaged())
