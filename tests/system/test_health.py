"""A node stays answerable while it works: /health within 100 ms (p99)."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from disasters.ers import register_recovery_key, spki
from keycairn.client import Vault
from system.local import LocalVault


def p99(values: list[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.99))]


async def measured(client: Vault, work: Any) -> list[float]:
    """All samples of all nodes while ``work`` runs, over connections that are open before."""
    watch = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("watch_health.py")),
        *(node.url for node in client.profile.nodes),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert watch.stdin is not None
    assert watch.stdout is not None
    assert await watch.stdout.readline() == b"ready\n"
    try:
        await work
    finally:
        watch.stdin.close()
        answer, _ = await watch.communicate()
    samples: list[float] = json.loads(answer)
    assert len(samples) >= 100
    return samples


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
