"""A database put back with its own tools, and no keycairn command at all, is caught at the start.

pg_dump, mariadb-dump, a file copy, pg_basebackup: what they bring back is sound, and old. The
anchor beside it says so with no peer up; without the anchor the peers do.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from databases import SERVERS
from disasters.replicas import failing_vault
from disasters.tools import copy_file, database_name, dump, load, query, replace_file
from disasters.traffic import SPENDS, Traffic, becomes, judge, rejoin, spend_rows, standing
from keycairn.errors import Code, KeycairnError
from keycairn.ports.system import SystemClock
from system.local import LocalVault
from system.test_uniqueness import Spend

BACK = 2
RESTARTS = 20
_CLOCK = SystemClock()


class PlainTools:
    """Dump and load the database of node 2 with the programs that came with it."""

    def __init__(self, vault: LocalVault, kind: str) -> None:
        self.kind = kind
        self.file = vault.directory / "a-dump"
        self.data = vault.node_directory(BACK) / "data" / "node.db"
        self.name = database_name(vault, BACK)

    def dump(self) -> None:
        """While the node runs."""
        if self.kind in SERVERS:
            custom = ("--format=custom",) if self.kind == "postgresql" else ()
            dump(self.kind, self.name, self.file, *custom)
        else:
            copy_file(self.data, self.file)

    def load(self) -> None:
        """While the node does not run."""
        if self.kind in SERVERS:
            load(self.kind, self.name, self.file)
        else:
            replace_file(self.file, self.data)


def spends(vault: LocalVault, node: int) -> list[Spend]:
    return spend_rows(node, query(vault, node, SPENDS))


def begin(vault: LocalVault, *nodes: int) -> None:
    """Start nodes that need not become ready."""
    vault.start(*nodes, wait=False)


async def answered(vault: LocalVault, node: int, peers: list[int]) -> None:
    """Wait until these peers have said what they know of a node."""
    async with asyncio.timeout(20):
        while (await standing(vault, node))["answers"] != peers:
            await asyncio.sleep(0.05)


def pooled(vault: LocalVault) -> None:
    for i in vault.players:
        with vault.editing(i) as config:
            config["presignatures"] = {"storage": "database", "target": 24, "low_water": 8}


@pytest.mark.parametrize("kind", ["sqlite", *SERVERS])
async def test_inv14_by_the_anchor_alone_or_else_by_the_peers(
    make_vault: Any, kind: str, request: pytest.FixtureRequest
) -> None:
    vault: LocalVault = make_vault(on=kind, policy="none", session_seconds=6)
    pooled(vault)
    tools = PlainTools(vault, kind)
    vault.start()
    async with vault.client() as client:
        await vault.linked()
        keys = [
            *await client.create_keys("ecdsa", "secp256k1"),
            *await client.create_keys("schnorr", "ed25519"),
        ]
        traffic = Traffic(client, keys)
        async with traffic.running([1, 2], [2, 3]):
            await traffic.more(1, 2, count=3)
            await asyncio.to_thread(tools.dump)
            [late] = await client.create_keys("schnorr", "ed25519")
            await traffic.more(1, 2, count=5)
        head = (await standing(vault, BACK))["head"]
        vault.stop()
        rows = spends(vault, BACK)
        tools.load()
        began = _CLOCK.monotonic()

        # No peer is up: the anchor knows, and after a restart it still does.
        for _ in range(2 if kind == "sqlite" else 1):
            begin(vault, BACK)
            state = await becomes(vault, BACK, "QUARANTINED")
            fenced = _CLOCK.monotonic() - began
            # The late key's READY and its being active.
            assert "the anchor knows of 2 changes" in state["why"]
            assert state["head"]["length"] == head["length"] - 2
            vault.kill(BACK)

        # Without the anchor it waits, and whoever answers first convicts it.
        if kind == "sqlite" or request.config.getoption("--full"):
            anchor = vault.node_directory(BACK) / vault.toml(BACK)["anchor"]["directory"]
            assert list(anchor.iterdir())
            shutil.rmtree(anchor)
            anchor.mkdir(mode=0o700)
            begin(vault, BACK)
            await becomes(vault, BACK, "WAITING")
            with pytest.raises(KeycairnError) as refused:
                await client.nodes[BACK].list_keys()
            assert refused.value.code is Code.QUARANTINED
            vault.start(1, 3)
            state = await becomes(vault, BACK, "QUARANTINED")
            assert "player" in state["why"]
            assert not list(anchor.iterdir()), "a quarantined node wrote an anchor"
        else:
            begin(vault, BACK)
            vault.start(1, 3)
            await becomes(vault, BACK, "QUARANTINED")
        await vault.linked(1, 3)
        await traffic.sign([1, 3])

        await answered(vault, BACK, [1, 3])
        assert await rejoin(vault, BACK) == head["era"] + 1
        await vault.linked()
        await traffic.comes_back([1, 2])
        for _ in range(3):
            await traffic.sign([1, 2])
        first = traffic.first(1, 2, since=began)
        async with asyncio.timeout(10):
            while late["key_id"] not in json.dumps((await standing(vault, BACK))["findings"]):
                await asyncio.sleep(0.1)
        await client.sign(late["key_id"], message=b"late", nodes=[1, 3])
    vault.stop()
    for node in vault.players:
        rows += spends(vault, node)
    figures = {
        "database": kind,
        "keys_lost": 0,
        "presignatures_reused": judge(rows, traffic),
        "seconds_to_fence": round(fenced, 2),
        "seconds_to_first_signature": round(first, 2),
    }
    print(json.dumps(figures))
    assert figures["presignatures_reused"] == 0


@pytest.mark.full
@pytest.mark.timeout(900)
async def test_four_events_back_and_twenty_restarts_still_quarantined(make_vault: Any) -> None:
    vault: LocalVault = make_vault(policy="none")
    tools = PlainTools(vault, "sqlite")
    vault.start()
    async with vault.client() as client:
        await vault.linked()
        await client.create_keys("schnorr", "ed25519")
        tools.dump()
        for _ in range(4):
            await client.create_keys("schnorr", "ed25519")
    vault.kill(BACK)
    tools.load()
    anchor = vault.node_directory(BACK) / "anchor"
    before = tools.data.read_bytes(), {p.name: p.read_bytes() for p in anchor.iterdir()}
    for number in range(RESTARTS):
        # Alone every other time; what convicts it must be there each time.
        if number % 2:
            vault.start(1, 3)
        begin(vault, BACK)
        state = await becomes(vault, BACK, "QUARANTINED")
        assert "8 changes" in state["why"]  # READY and active, four times
        vault.stop()
        after = tools.data.read_bytes(), {p.name: p.read_bytes() for p in anchor.iterdir()}
        assert after == before, "a quarantined node wrote"
    print(f"{RESTARTS} restarts, still QUARANTINED")


@pytest.mark.full
async def test_a_whole_cluster_put_back_with_pg_basebackup(
    make_vault: Any, free_ports: Callable[..., int]
) -> None:
    with failing_vault(
        make_vault, free_ports, "postgresql", policy="none", session_seconds=6
    ) as failing:
        vault = failing.vault
        pooled(vault)
        vault.start()
        async with vault.client() as client:
            await vault.linked()
            keys = await client.create_keys("ecdsa", "secp256k1")
            traffic = Traffic(client, keys)
            async with traffic.running([1, 2], [2, 3]):
                await traffic.more(1, 2, count=3)
                server = failing.server
                assert server is not None
                back = await asyncio.to_thread(server.base_backup)
                [late] = await client.create_keys("schnorr", "ed25519")
                await traffic.more(1, 2, count=5)
            vault.stop()
            rows = [
                row
                for node in vault.players
                for row in spend_rows(node, failing.query(node, SPENDS))
            ]
            server.put_back(back)
            began = _CLOCK.monotonic()
            begin(vault, 1, 2, 3)
            for node in vault.players:
                await becomes(vault, node, "QUARANTINED")
            for node in vault.players:
                await answered(vault, node, [p for p in vault.players if p != node])
                await rejoin(vault, node)
            await vault.linked()
            for signers in ([1, 2], [2, 3], [1, 3]):
                await traffic.comes_back(signers)
            first = traffic.first(1, 2, since=began)
            # A key that nobody has any more was made after the copy: it is gone, and nobody
            # pretends otherwise.
            with pytest.raises(KeycairnError):
                await client.sign(late["key_id"], message=b"late", nodes=[1, 2])
            rows += [
                row
                for node in vault.players
                for row in spend_rows(node, failing.query(node, SPENDS))
            ]
        assert judge(rows, traffic) == 0
        print(json.dumps({"tool": "pg_basebackup", "seconds_to_first_signature": round(first, 2)}))
