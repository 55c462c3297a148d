"""Vaults with many keys: a node of one comes back from its bundle, and they answer like small ones.

What is asserted is what must hold; times are printed, one JSON line of figures for each test, since
they depend on the machine and on what else it does. docs/performance.md says how to repeat them.
``KEYCAIRN_MANY_KEYS`` sets the count; 100,000 with --full, without it a thousand on SQLite.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import statistics
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

import pytest

from databases import SERVERS
from disasters.conftest import first_signature
from disasters.traffic import becomes
from keycairn.cli.bench.system import stock
from keycairn.client import Vault
from keycairn.ports.system import SystemClock
from system.local import LocalVault, keycairn
from system.test_uniqueness import up_to_sign, verifies

CLOCK = SystemClock()
FEW = 1_000
MANY = int(os.environ.get("KEYCAIRN_MANY_KEYS", "100000"))
#: For a command that goes through all keys; a million take a while.
PATIENCE = 60 + MANY / 200
SAMPLE = 60
FROM_STOCK = 20

on_every_database = pytest.mark.parametrize(
    ("on", "count"),
    [
        ("sqlite", FEW),
        *(pytest.param(on, MANY, marks=pytest.mark.full) for on in ("sqlite", *SERVERS)),
    ],
)
pytestmark = pytest.mark.timeout(300 + MANY / 50)


def filled(make_vault: Any, on: str, count: int, policy: str) -> tuple[LocalVault, float]:
    """A vault of two nodes with ``count`` keys, and the seconds it took to deal them."""
    vault: LocalVault = make_vault(nodes=2, on=on, test_profile=True, policy=policy)
    began = CLOCK.monotonic()
    words = ["bench", "populate", str(vault.directory), "--keys", str(count)]
    keycairn(*words, seconds=PATIENCE)
    return vault, CLOCK.monotonic() - began


async def started(vault: LocalVault) -> float:
    """Start all nodes; seconds until the last of them says that it is ready."""
    began = CLOCK.monotonic()
    await asyncio.to_thread(vault.start)
    return CLOCK.monotonic() - began


async def signed(client: Vault, key: Mapping[str, Any], seen: list[str]) -> None:
    """A signature that verifies under the key as it was listed; its nonce goes to ``seen``."""
    digest = secrets.token_bytes(32)
    made = await first_signature(client, key["key_id"], digest=digest)
    assert made["public_key"] == key["public_key"]
    verifies(made, digest)
    seen.append(up_to_sign(made["base_r"]))


def figures(**words: Any) -> None:
    """One line for docs/performance.md."""
    load = [round(x, 1) for x in os.getloadavg()[:2]]
    rounded = {k: round(v, 2) if isinstance(v, float) else v for k, v in words.items()}
    print(json.dumps(rounded | {"load": load}), flush=True)


@on_every_database
async def test_a_node_with_many_keys_comes_back_from_its_bundle(
    make_vault: Any, on: str, count: int
) -> None:
    vault, populate = filled(make_vault, on, count, "node_backup")
    await started(vault)
    nonces: list[str] = []
    async with vault.client() as client:
        await vault.linked()
        began = CLOCK.monotonic()
        words = ["backup", "create", "--vault", str(vault.profile)]
        made = await asyncio.to_thread(keycairn, *words, seconds=PATIENCE)
        backup = CLOCK.monotonic() - began
        assert all(b["verified"] and b["keys"] == count for b in made["bundles"]), made
        before = await client.nodes[2].list_keys()
        assert len(before) == count
        first, used, last = before[0], before[count // 2], before[-1]
        bundle = vault.newest_bundle(2)
        # Whatever is in stock when the node is lost must not be used afterwards.
        for _ in range(FROM_STOCK):
            await signed(client, used, nonces)

        lives: dict[str, dict[str, float]] = {}
        # By itself it waits twelve seconds for twins.
        for how in ("by itself", "by command") if count == MANY else ("by command",):
            life = lives[how] = {}
            vault.lose(2)
            lost = CLOCK.monotonic()
            restored = await restore(vault, bundle)
            assert restored["keys"] == count
            assert restored["presignatures"] == 0
            assert restored["proofs_ok"] is True
            life["restore"] = CLOCK.monotonic() - lost
            vault.start(2, wait=False)
            # It answers its operator, and takes part in nothing.
            await becomes(vault, 2, "QUARANTINED")
            life["start"] = CLOCK.monotonic() - lost - life["restore"]
            if how == "by command":
                await at_once(vault)
            await asyncio.to_thread(vault.running[2].wait_ready)
            # Both must sign: there are no others.
            await signed(client, first, nonces)
            life["first_signature"] = CLOCK.monotonic() - lost
            figures(figure="restored", database=on, keys=count, rejoined=how, **life)

            after = await client.nodes[2].list_keys()
            assert [k["key_id"] for k in after] == [k["key_id"] for k in before]
            assert [k["record_hash"] for k in after] == [k["record_hash"] for k in before]
            for key in (last, *[used] * FROM_STOCK):
                await signed(client, key, nonces)
        assert len(set(nonces)) == len(nonces)
    figures(
        figure="restore",
        database=on,
        keys=count,
        keys_lost=0,
        presignatures_reused=0,
        populate_s=populate,
        backup_s=backup,
        bundle_mb=bundle.stat().st_size / 1e6,
        **{
            f"{name}_s, {how}": seconds
            for how, life in lives.items()
            for name, seconds in life.items()
        },
    )


async def at_once(vault: LocalVault) -> None:
    """``node rejoin`` as soon as the node takes it; it is still starting, and looks for peers."""
    async with asyncio.timeout(30):
        while True:
            words = ["node", "rejoin", "--config", str(vault.config(2))]
            said = await asyncio.to_thread(keycairn, *words, check=False)
            if said["exit"] == 0:
                return
            # Nothing listens yet, or no peer has said what it knows.
            assert said["error"]["code"] in ("E_UNAVAILABLE", "E_QUARANTINED"), said


async def restore(vault: LocalVault, bundle: Any) -> dict[str, Any]:
    """``node restore`` of node 2 to where it was."""
    words = ["node", "restore", str(bundle), "--into", str(vault.node_directory(2))]
    words += ["--identity", str(vault.operator(2) / "backup-identity.age")]
    words += ["--vault", str(vault.profile)]
    return await asyncio.to_thread(keycairn, *words, seconds=PATIENCE)


@on_every_database
async def test_many_keys_are_found_and_sign_like_few(make_vault: Any, on: str, count: int) -> None:
    """The large vault and one of a thousand keys (of a hundred, if that is the large one) take
    turns with each request, so that whatever else the machine does slows both."""
    vaults = {}
    start = {}
    populate = 0.0
    for size in (min(FEW, count // 10), count):
        vaults[size], populate = filled(make_vault, on, size, "none")
        start[size] = await started(vaults[size])
    ms: dict[str, dict[int, list[float]]] = {
        what: {size: [] for size in vaults} for what in ("look-up", "session", "from stock")
    }

    async def timed(what: str, size: int, call: Callable[[], Awaitable[Any]]) -> Any:
        began = CLOCK.monotonic()
        answer = await call()
        ms[what][size].append(1000 * (CLOCK.monotonic() - began))
        return answer

    nonces: list[str] = []
    async with AsyncExitStack() as stack:
        clients = {
            size: await stack.enter_async_context(vault.client()) for size, vault in vaults.items()
        }
        keys = {}
        for size, client in clients.items():
            await vaults[size].linked()
            keys[size] = [await anyone(client) for _ in range(SAMPLE)]
            await signed(client, keys[size][0], nonces)  # connections, and the pair's setup
        for i in range(1, SAMPLE):
            for size, client in clients.items():
                key, node = keys[size][i], client.nodes[1 + i % 2]
                view = await timed("look-up", size, lambda n=node, k=key: n.show_key(k["key_id"]))
                assert view["record_hash"] == key["record_hash"]
        for i in range(1, SAMPLE // 2):
            for size, client in clients.items():
                key = keys[size][i]
                await timed("session", size, lambda c=client, k=key: signed(c, k, nonces))
        for size, client in clients.items():
            await in_stock(client, keys[size][0])
        for _ in range(FROM_STOCK):
            for size, client in clients.items():
                key = keys[size][0]
                await timed("from stock", size, lambda c=client, k=key: signed(c, k, nonces))
        await pages(clients[count])
    assert len(set(nonces)) == len(nonces)
    p50 = {what: {size: statistics.median(x) for size, x in by.items()} for what, by in ms.items()}
    few = min(vaults)
    figures(
        figure="many keys",
        database=on,
        keys=count,
        compared_with=few,
        populate_s=populate,
        start_s=start[count],
        **{"start_s, few": start[few]},
        **{f"{what} p50 ms": by[count] for what, by in p50.items()},
        **{f"{what} p50 ms, few": by[few] for what, by in p50.items()},
        **{f"{what} ratio": by[count] / by[few] for what, by in p50.items()},
    )


async def anyone(client: Vault) -> dict[str, Any]:
    """A key from anywhere in the store: the next one behind a random name."""
    while True:
        query = {"after": f"key-{secrets.token_hex(16)}", "limit": 1}
        page = await client.nodes[1].call("GET", "/v1/keys", query=query)
        if page["keys"]:
            found: dict[str, Any] = page["keys"][0]
            return found


async def in_stock(client: Vault, key: Mapping[str, Any]) -> None:
    """Wait until both nodes have presignatures of the key for what is to come."""
    async with asyncio.timeout(60):
        while stock((await client.presignatures(key["key_id"]))[0]) < FROM_STOCK:
            await asyncio.sleep(0.1)


async def pages(client: Vault) -> None:
    """A list comes in pages, each behind the one before."""
    query = {"limit": 50}
    first = await client.nodes[1].call("GET", "/v1/keys", query=query)
    second = await client.nodes[1].call("GET", "/v1/keys", query=query | {"after": first["after"]})
    ids = [k["key_id"] for page in (first, second) for k in page["keys"]]
    assert len(ids) == 100
    assert ids == sorted(set(ids))
