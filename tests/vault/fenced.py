"""Nodes whose databases are copied, put back and doubled.

async with Fenced.of(tmp_path, policy="none") as vault:
    back = vault.copy(1)             # a copy of node 1's database, as a tool would make it
    await vault.key()
    await vault.put_back(1, back)    # stopped, put back, started again
    assert vault.state(1) == "QUARANTINED"
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from keycairn.links.inprocess import InProcessLink
from keycairn.vault.fence.anchor import MemoryAnchor
from keycairn.vault.service import NodeService
from vault.nodes import Vault, eventually


class Fenced(Vault):
    """A vault of which nodes can be put back."""

    @classmethod
    @asynccontextmanager
    async def of(cls, folder: Path, n: int = 3, **parameters: Any) -> AsyncIterator[Fenced]:
        async with super().of(folder, n, **{"policy": "none", **parameters}) as vault:
            assert isinstance(vault, Fenced)
            yield vault

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.homes: dict[int, Path] = {}

    def directory(self, node: int) -> Path:
        return self.homes.get(node) or super().directory(node)

    def database(self, node: int) -> Path:
        return self.directory(node) / "node.db"

    def copy(self, node: int) -> bytes:
        """The node's database as it is now, whether or not it runs."""
        target = self.folder / f"copy-{node}.db"
        target.unlink(missing_ok=True)
        with sqlite3.connect(self.database(node)) as source, sqlite3.connect(target) as out:
            source.backup(out)
        source.close()
        out.close()
        return target.read_bytes()

    def put(self, node: int, database: bytes) -> None:
        for path in self.directory(node).glob("node.db*"):
            path.unlink()
        self.database(node).write_bytes(database)

    async def put_back(
        self, node: int, database: bytes, anchor: bytes | bool | None = True
    ) -> NodeService:
        """Stop a node, put its database back, start it.

        Args:
            anchor: True: it stays as it is; bytes: it is put back, too; None: it is gone.
        """
        if node in self.services:
            await self.stop(node)
        self.put(node, database)
        if not isinstance(anchor, bool):
            self.anchors[node].data = anchor
        return await self.start(node)

    def state(self, node: int) -> str:
        return self.services[node].fence.standing.state.value

    def cause(self, node: int) -> str:
        return self.services[node].fence.standing.cause

    async def becomes(self, node: int, state: str, seconds: float = 10.0) -> None:
        async def there() -> bool:
            return self.state(node) == state

        await eventually(there, seconds)

    async def all_recorded(self, *nodes: int) -> None:
        """Wait until every peer of these that is connected holds their newest word."""

        async def done() -> bool:
            for node in nodes or tuple(self.services):
                said = self.services[node].fence.said
                for peer, service in self.services.items():
                    if peer == node or not self.network.link(node).is_up(peer):
                        continue
                    held = service._recorder.held(node)
                    if said is None or held is None or held.place != said.place:
                        return False
            return True

        await eventually(done)

    # -- twins

    async def twin(self, node: int, database: bytes, anchor: bytes | None) -> Twin:
        """Start a second process of a node on a copy of its files; the first one goes on."""
        return await Twin.start(self, node, database, anchor)


class Twin:
    """A copy of a node that runs beside it; :meth:`swap` says whose link works."""

    def __init__(self, vault: Fenced, node: int) -> None:
        self.vault = vault
        self.node = node
        self.first = vault.services[node], vault.stores[node], vault.network.link(node)
        self.first_anchor = vault.anchors[node]
        self.service: NodeService

    @classmethod
    async def start(cls, vault: Fenced, node: int, database: bytes, anchor: bytes | None) -> Twin:
        twin = cls(vault, node)
        home = vault.folder / f"twin-{node}"
        home.mkdir()
        (home / "node.db").write_bytes(database)
        vault.homes[node] = home
        vault.anchors[node] = MemoryAnchor(anchor)
        del vault.services[node], vault.stores[node]
        twin.service = await vault.start(node)
        return twin

    @property
    def original(self) -> NodeService:
        return self.first[0]

    async def swap(self) -> None:
        """The other one's link gets through now."""
        network = self.vault.network
        links: dict[int, InProcessLink] = network._links
        live = links[self.node]
        other = self.first[2]
        if live is other:
            other = self._twins_link
        else:
            self._twins_link = live
        for link, works in ((live, False), (other, True)):
            link.started = works
        for peer in live.presence.peers:
            live.presence.set_down(peer)
            links[peer].presence.set_down(self.node)
        links[self.node] = other
        network._refresh()
        await asyncio.sleep(0.05)

    async def stop(self) -> None:
        """Stop the original, too."""
        await self.original.stop(grace=0.1)
        await self.first[1].close()
