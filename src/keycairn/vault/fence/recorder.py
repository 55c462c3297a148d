"""What this node remembers of its peers' histories, and tells them at every contact.

A peer's newest word is recorded durably; the peer is shown it whenever it announces itself. It is
replaced only by a word that says over which record it goes: a history that was put back and grew
can't overwrite the word that convicts it, because the peer has to see that first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from keycairn.errors import KeycairnError
from keycairn.ports import Clock
from keycairn.protocols.form import Signer
from keycairn.protocols.wire import decode, encode
from keycairn.vault.api import VaultParameters
from keycairn.vault.control import (
    Announce,
    TwinQuestion,
    WitnessHeld,
    WitnessNote,
    WitnessWanted,
)
from keycairn.vault.exchange import Exchange
from keycairn.vault.fence import Witness, check_witness
from keycairn.vault.fence.twins import Alive, Sightings, is_alive
from keycairn.vault.ports import Store

#: Words of one peer that are made durable at once; later one in so many seconds, the newest.
_BURST, _REFILL_SECONDS = 32.0, 1.0


class Recorder:
    """The witnesses of this node's peers.

    Args:
        active: whether this node may write.
    """

    def __init__(
        self,
        params: VaultParameters,
        *,
        store: Store,
        exchange: Exchange,
        signer: Signer,
        clock: Clock,
        active: Callable[[], bool],
    ) -> None:
        self._params = params
        self._store = store
        self._exchange = exchange
        self._signer = signer
        self._clock = clock
        self._active = active
        self._held: dict[int, Witness] = {}
        self._alive: dict[int, Alive] = {}
        self._refused: dict[int, bytes] = {}
        self._durable: dict[int, Witness] = {}
        self._writing: set[int] = set()
        self._budget: dict[int, tuple[float, float]] = {}
        self._sightings = Sightings()
        exchange.on(WitnessNote, self._noted)
        exchange.on(WitnessWanted, self._wanted)

    async def load(self) -> None:
        """Read what is on record. A record that is damaged counts as none."""
        for peer in self._params.players:
            if peer == self._params.index:
                continue
            try:
                body = await self._store.witness(peer)
                if body is None:
                    continue
                witness = decode(Witness, body)
                check_witness(witness, vault=self._params.vault_id, node=peer, signer=self._signer)
            except KeycairnError:
                continue
            self._held[peer] = self._durable[peer] = witness
            self._sightings.heard(peer, witness.incarnation, witness.era)

    def held(self, peer: int) -> Witness | None:
        """The newest word of a peer that is on record."""
        return self._held.get(peer)

    async def greet(self, peer: int, hello: Announce) -> bool:
        """A peer announced itself: show it what is known of it. False if it is a twin."""
        held = self._held.get(peer)
        twin = self._sightings.heard(peer, hello.incarnation, held.era if held else 0)
        await self.show(peer)
        alive = self._alive.get(peer)
        if alive is not None and alive.incarnation != hello.incarnation:
            await self._exchange.send(peer, alive)
        if twin and held is not None and held.incarnation != hello.incarnation:
            await self._exchange.send(peer, TwinQuestion(held))
        return not twin

    async def show(self, peer: int) -> None:
        """Tell a peer what is on record of it."""
        said = WitnessHeld(self._held.get(peer), self._sightings.twin(peer))
        await self._exchange.send(peer, said)

    async def proved(self, peer: int, alive: Alive) -> None:
        """A peer says that two of its processes live; kept for the other one."""
        vault = self._params.vault_id
        check_witness(alive.newer, vault=vault, node=peer, signer=self._signer)
        if is_alive(alive, vault=vault, node=peer, signer=self._signer):
            self._alive[peer] = alive
            self._sightings.accuse(peer, alive.newer.era)

    async def _wanted(self, peer: int, _: WitnessWanted) -> None:
        await self.show(peer)

    async def _noted(self, peer: int, note: WitnessNote) -> None:
        witness, held = note.witness, self._held.get(peer)
        check_witness(witness, vault=self._params.vault_id, node=peer, signer=self._signer)
        if held is not None and held.place == witness.place:
            return
        if note.over != (b"" if held is None else held.head):
            if self._refused.get(peer) != witness.signature:  # once for each word
                self._refused[peer] = witness.signature
                await self.show(peer)
            return
        if not self._active():
            return  # Nothing is written now; it is shown the old one when this node is active.
        self._held[peer] = witness
        if peer not in self._writing:
            self._writing.add(peer)
            self._exchange.spawn(self._write(peer))
        self._sightings.heard(peer, witness.incarnation, witness.era)
        if held is not None and held.era < witness.era:
            self._sightings.rejoined(peer, witness.era)
            self._alive.pop(peer, None)

    async def _write(self, peer: int) -> None:
        """Make the newest word of a peer durable, as often as its budget allows.

        A peer can sign words without end, and each that is stored leaves an audit record. One that
        is lost with this process is heard again: the peer's next word goes over another record.
        """
        try:
            while self._held[peer] is not self._durable.get(peer) and self._active():
                if self._spend(peer):
                    await self._store_newest(peer)
                else:
                    await asyncio.sleep(_REFILL_SECONDS)
        finally:
            self._writing.discard(peer)

    async def flush(self) -> None:
        """Make every word durable, before the process ends."""
        for peer in list(self._held):  # a word may arrive while another is written
            if self._held[peer] is not self._durable.get(peer) and self._active():
                await self._store_newest(peer)

    async def _store_newest(self, peer: int) -> None:
        newest = self._held[peer]
        await self._store.put_witness(peer, encode(newest), newest.place)
        self._durable[peer] = newest

    def _spend(self, peer: int) -> bool:
        now = self._clock.monotonic()
        left, then = self._budget.get(peer, (_BURST, now))
        left = min(_BURST, left + (now - then) / _REFILL_SECONDS)
        self._budget[peer] = (left - 1 if left >= 1 else left, now)
        return left >= 1
