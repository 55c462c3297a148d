"""Clients that sign while a disaster happens, and the judgement of INV-1 and INV-2 afterwards."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from keycairn.client import OperatorClient, Vault
from keycairn.errors import Code, KeycairnError
from keycairn.node.config import load_config
from keycairn.ports.system import SystemClock
from system.local import LocalVault, keycairn
from system.test_uniqueness import Spend, up_to_sign, verifies

SPENDS = "SELECT presignature_id, base_r, key_id, digest, incarnation, at_us FROM spends"
_CLOCK = SystemClock()
#: What a node answers that is starting (its token is new), or finds its database changed.
_STARTING = {Code.UNAVAILABLE, Code.AUTHN, Code.STORE_ROLLBACK}
#: What nodes answer while links and pair setups are made anew.
_COMING = {
    Code.UNAVAILABLE,
    Code.PEER_TIMEOUT,
    Code.PRESIG_UNKNOWN,
    Code.SESSION_MISMATCH,
}


@dataclass
class Traffic:
    """Requests of clients, one after the other for each set of signers."""

    client: Vault
    keys: list[dict[str, Any]]
    #: What came back, with the payload that was sent and the time (monotonic).
    signatures: list[tuple[dict[str, Any], bytes, float]] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    _number: int = 0

    async def sign(self, signers: Sequence[int]) -> dict[str, Any]:
        """One signature with the next key; it verifies."""
        self._number += 1
        key = self.keys[self._number % len(self.keys)]
        payload = self._number.to_bytes(32, "big")
        what: dict[str, Any] = (
            {"digest": payload} if key["scheme"] == "ecdsa" else {"message": payload}
        )
        made = await self.client.sign(key["key_id"], nodes=list(signers), **what)
        verifies(made, payload)
        self.signatures.append((made, payload, _CLOCK.monotonic()))
        return made

    async def comes_back(self, signers: Sequence[int], seconds: float = 20.0) -> None:
        """Wait for a signature with each key of nodes that have just found each other again."""
        left = len(self.keys)
        async with asyncio.timeout(seconds):
            while left:
                try:
                    await self.sign(signers)
                    left -= 1
                except KeycairnError as exc:
                    if exc.code not in _COMING:
                        raise
                    self.errors[f"{exc.code}"] += 1
                    left = len(self.keys)
                    await asyncio.sleep(0.05)

    async def _client(self, signers: Sequence[int]) -> None:
        while True:
            try:
                await self.sign(signers)
            except KeycairnError as exc:
                self.errors[f"{exc.code}"] += 1
                await asyncio.sleep(0.05)

    @asynccontextmanager
    async def running(self, *sets: Sequence[int]) -> AsyncIterator[None]:
        """Sign with each of ``sets`` without a pause; an error is a count, not the end."""
        tasks = [asyncio.create_task(self._client(one)) for one in sets]
        try:
            yield
            for task in tasks:
                if task.done():
                    task.result()  # a signature that does not verify
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def count(self, *signers: int, since: float = 0.0) -> int:
        """Signatures of exactly these nodes that came back after ``since``."""
        return sum(m["nodes"] == list(signers) and at > since for m, _, at in self.signatures)

    def first(self, *signers: int, since: float) -> float:
        """Seconds from ``since`` to the first signature of these nodes."""
        return min(
            at - since for m, _, at in self.signatures if m["nodes"] == list(signers) and at > since
        )

    async def more(self, *signers: int, count: int = 1, seconds: float = 30.0) -> None:
        """Wait for ``count`` more signatures of these nodes."""
        goal = self.count(*signers) + count
        async with asyncio.timeout(seconds):
            while self.count(*signers) < goal:
                await asyncio.sleep(0.02)


def spend_rows(node: int, rows: Iterable[tuple[Any, ...]]) -> list[Spend]:
    """What :data:`SPENDS` gave, from one database of a node."""
    return [
        Spend(
            node, bytes(p).hex(), bytes(r or b"").hex(), k, bytes(d).hex(), bytes(i).hex(), int(at)
        )
        for p, r, k, d, i, at in rows
    ]


def judge(rows: Iterable[Spend], traffic: Traffic) -> int:
    """Compare what all nodes spent, in all the lives that their databases had.

    A row that is in several copies of one database is one spend; two rows of one node for one
    presignature that differ in anything are two.

    Returns:
        The number of presignatures that were used more than once; to be 0. Other breaches raise.
    """
    distinct = {
        (r.node, r.presignature, r.base_r, r.digest, r.incarnation, r.at_us): r for r in rows
    }
    nonces: dict[str, str] = {}
    uses: dict[str, set[str]] = {}
    places: Counter[tuple[int, str]] = Counter()
    for row in distinct.values():
        nonce = up_to_sign(row.base_r)
        assert nonces.setdefault(nonce, row.presignature) == row.presignature, row
        uses.setdefault(row.presignature, set()).add(row.digest)
        places[(row.node, row.presignature)] += 1
    names = Counter(made["presignature_id"] for made, _, _ in traffic.signatures)
    assert not [n for n, count in names.items() if count > 1], "two signatures from one"
    assert set(names) <= set(uses), "a signature without a spend"
    twice = {name for (_, name), count in places.items() if count > 1}
    return len(twice | {name for name, digests in uses.items() if len(digests) > 1})


async def standing(vault: LocalVault, node: int) -> dict[str, Any]:
    """What ``keycairn node status`` shows."""
    async with OperatorClient.of(load_config(vault.config(node), {})) as operator:
        return await operator.status()


async def becomes(
    vault: LocalVault, node: int, state: str, seconds: float = 40.0
) -> dict[str, Any]:
    """Wait for a state; what the node shows then. It may still be starting, or be about to find
    out that its database is another one."""
    async with asyncio.timeout(seconds):
        while True:
            assert vault.alive(node) or node not in vault.running, f"node {node} has ended"
            try:
                found = await standing(vault, node)
                if found["state"] == state:
                    return found
            except KeycairnError as exc:
                if exc.code not in _STARTING:
                    raise
            await asyncio.sleep(0.05)


async def rejoin(vault: LocalVault, node: int) -> int:
    """``keycairn node rejoin``; the era. It may have rejoined by itself meanwhile."""
    config = str(vault.config(node))
    said = await asyncio.to_thread(keycairn, "node", "rejoin", "--config", config, check=False)
    assert said["exit"] == 0 or said["error"]["code"] == Code.CONFLICT, said
    return int((await becomes(vault, node, "ACTIVE"))["head"]["era"])
