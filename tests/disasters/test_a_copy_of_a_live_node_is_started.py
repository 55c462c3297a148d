"""Scenario 15: somebody starts a copy of a live node, with other ports, beside it.

Database, configuration, identity and anchor are copied while the node runs. Neither of the two can
know by itself that it is not alone; their peers can. Both are quarantined, and stay so: which one
goes on is for people to decide.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from databases import SERVERS, scratch
from disasters.tools import database_name, dump, load, query
from disasters.traffic import SPENDS, Traffic, becomes, judge, spend_rows, standing
from keycairn.errors import Code, KeycairnError
from keycairn.ports.system import SystemClock
from system.local import LocalVault, keycairn

ORIGINAL, COPY = 2, 4
_CLOCK = SystemClock()


@contextmanager
def copied(vault: LocalVault, kind: str, base_port: int) -> Iterator[None]:
    """Node 2, copied while it runs; the copy is ready to start as "node 4" of the directory."""
    shutil.copytree(vault.node_directory(ORIGINAL), vault.node_directory(COPY))
    with ExitStack() as stack:
        with vault.editing(COPY) as config:
            for k, section in enumerate(("api", "links", "management")):
                config[section]["listen"] = f"127.0.0.1:{base_port + k}"
            if kind in SERVERS:
                database = stack.enter_context(scratch(kind))
                file = vault.directory / "a-dump"
                custom = ("--format=custom",) if kind == "postgresql" else ()
                dump(kind, database_name(vault, ORIGINAL), file, *custom)
                load(kind, database.name, file, user=(database.name, database.password))
                variable = f"KEYCAIRN_TEST_PASSWORD_{database.name}".upper()
                os.environ[variable] = database.password
                stack.callback(os.environ.pop, variable, None)
                config["database"]["url"] = database.url
                config["database"]["password_env"] = variable
        yield


async def eras(vault: LocalVault) -> list[int]:
    return [(await standing(vault, node))["head"]["era"] for node in (ORIGINAL, COPY)]


@pytest.mark.parametrize(
    "kind", ["sqlite", *(pytest.param(kind, marks=pytest.mark.full) for kind in SERVERS)]
)
async def test_inv1_inv14_both_are_quarantined_and_the_operator_chooses(
    make_vault: Any, free_ports: Callable[..., int], kind: str, request: pytest.FixtureRequest
) -> None:
    # Unattended rejoins begin after twelve seconds in touch with all peers.
    watched = 40.0 if request.config.getoption("--full") else 1.0
    vault: LocalVault = make_vault(on=kind, policy="none", session_seconds=6)
    for i in vault.players:
        with vault.editing(i) as config:
            config["presignatures"] = {"storage": "database", "target": 24, "low_water": 8}
    vault.start()
    async with vault.client() as client:
        await vault.linked()
        keys = [
            *await client.create_keys("ecdsa", "secp256k1"),
            *await client.create_keys("schnorr", "ed25519"),
        ]
        traffic = Traffic(client, keys)
        async with traffic.running([1, 2], [1, 3]):
            await traffic.more(1, 2, count=5)
        with copied(vault, kind, free_ports(3)):
            async with traffic.running([1, 2], [1, 3]):
                await traffic.more(1, 2, count=2)
                started_at = _CLOCK.monotonic()
                vault.start(COPY, wait=False)
                await asyncio.to_thread(vault.running[COPY].wait_ready)
                for node in (ORIGINAL, COPY):
                    await becomes(vault, node, "QUARANTINED", 60)
                fenced = _CLOCK.monotonic() - started_at
                await traffic.more(1, 3, count=5)
                before = await eras(vault)
                await asyncio.sleep(watched)
                assert await eras(vault) == before, "a live copy rejoined by itself"
                for node in (ORIGINAL, COPY):
                    assert (await standing(vault, node))["state"] == "QUARANTINED"
                with pytest.raises(KeycairnError) as refused:
                    await traffic.sign([1, 2])
                assert refused.value.code is Code.QUARANTINED
                # The operator decides: the copy goes, the node goes on.
                vault.kill(COPY)
                at = ("--config", str(vault.config(ORIGINAL)))
                said = await asyncio.to_thread(keycairn, "node", "rejoin", *at)
                assert said["era"] > max(before)
                await becomes(vault, ORIGINAL, "ACTIVE")
                await traffic.more(1, 2, count=3)
            first = traffic.first(1, 2, since=started_at + fenced)
            # Whoever starts the copy again by mistake has a node that knows its place.
            vault.start(COPY, wait=False)
            await becomes(vault, COPY, "QUARANTINED")
            await traffic.sign([1, 3])
            vault.kill(COPY)
            await vault.linked()
            await traffic.comes_back([2, 3])
            vault.stop()
            rows = [
                row
                for node, place in ((1, 1), (2, ORIGINAL), (2, COPY), (3, 3))
                for row in spend_rows(node, query(vault, place, SPENDS))
            ]
        figures = {
            "scenario": 15,
            "database": kind,
            "keys_lost": 0,
            "presignatures_reused": judge(rows, traffic),
            "seconds_to_fence": round(fenced, 2),
            "seconds_to_first_signature": round(first, 2),
        }
        print(json.dumps(figures))
        assert figures["presignatures_reused"] == 0
