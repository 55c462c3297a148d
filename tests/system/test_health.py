"""A node stays answerable while it works: /health within 100 ms (p99)."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from disasters.ers import register_recovery_key, spki
from keycairn.client import Vault
from keycairn.ports.system import SystemClock
from system.local import LocalVault


async def watch(http: httpx.AsyncClient, stop: asyncio.Event) -> list[float]:
    """Milliseconds of one /health request after the other until ``stop``."""
    clock = SystemClock()
    taken: list[float] = []
    while not stop.is_set():
        began = clock.monotonic()
        answer = await http.get("/health")
        taken.append((clock.monotonic() - began) * 1000)
        assert answer.status_code == 200, answer.text
        await asyncio.sleep(0.005)
    return taken


def p99(values: list[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.99))]


async def measured(client: Vault, work: Any) -> list[float]:
    """All samples of all nodes while ``work`` runs, over connections that are open before."""
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        watching = []
        for node in client.profile.nodes:
            http = await stack.enter_async_context(httpx.AsyncClient(base_url=node.url, timeout=10))
            await http.get("/health")
            watching.append(watch(http, stop))
        tasks = [asyncio.create_task(w) for w in watching]
        try:
            await work
        finally:
            stop.set()
        return [ms for series in await asyncio.gather(*tasks) for ms in series]


@pytest.mark.slow
async def test_health_answers_within_100_ms_while_keys_are_made_and_proved(
    make_vault: Any, tmp_path: Path
) -> None:
    vault: LocalVault = make_vault()
    vault.start()
    _, public = register_recovery_key(vault, tmp_path / "safe")
    async with vault.client() as client:
        await vault.linked()
        keys: list[dict[str, Any]] = []

        async def create() -> None:
            keys.extend(await client.create_keys("schnorr", "ed25519", count=100))

        async def prove() -> None:
            await client.ers_create([k["key_id"] for k in keys], spki(public))

        creating = await measured(client, create())
        proving = await measured(client, prove())
    print(
        f"/health p99: {p99(creating):.1f} ms over {len(creating)} while making 100 keys, "
        f"{p99(proving):.1f} ms over {len(proving)} while proving 100"
    )
    assert p99(creating) < 100
    assert p99(proving) < 100
