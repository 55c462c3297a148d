"""kill -9 at named crash points: nothing acknowledged is ever lost. (At random moments:
test_kills_everywhere.)"""

from __future__ import annotations

import asyncio
import itertools
import signal
from typing import Any

import pytest

from keycairn.client import Vault
from keycairn.errors import KeycairnError
from system.local import LocalVault

#: Every durable write of key generation and the sends around it. Steps of a three-player run:
#: HELLO 0, CONFIRM 1, commitment 2 (echo 3), opening and shares 4 (echo 5), record hash 6
#: (echo 7), READY 8. True: the victim had made its promise durable, so the key must come alive.
CRASH_POINTS = {
    "send:keygen:0:0:*:before": False,
    "send:keygen:1:1:*:after": False,
    "send:keygen:2:2:*:after": False,
    "send:keygen:4:3:*:before": False,
    "send:keygen:5:4:*:after": False,
    "send:keygen:6:2:*:after": False,
    "keygen/pending:before": False,
    "keygen/pending:after": True,
    "send:keygen:8:2:*:before": True,
    "send:keygen:8:2:*:after": True,
    "keygen/certificate:before": True,
    "keygen/certificate:after": True,
}
MESSAGE = b"keycairn kill test"


async def states(client: Vault) -> dict[str, dict[int, str]]:
    """Key id -> node -> state, as each node says on its own."""
    found: dict[str, dict[int, str]] = {}
    for i, node in client.nodes.items():
        for key in await node.list_keys():
            found.setdefault(key["key_id"], {})[i] = key["state"]
    return found


async def sign_with_every_quorum(client: Vault, vault: LocalVault, key_id: str) -> None:
    for signers in itertools.combinations(vault.players, vault.threshold + 1):
        done = await client.sign(key_id, message=MESSAGE, nodes=signers)
        assert len(bytes.fromhex(done["signature"])) == 64


async def settled(client: Vault, before: set[str], seconds: float = 10.0) -> dict[str, Any]:
    """The states of the keys that are new, once no key is active at some nodes only."""
    async with asyncio.timeout(seconds):
        while True:
            new = {k: v for k, v in (await states(client)).items() if k not in before}
            mixed = [
                k
                for k, by_node in new.items()
                if "active" in by_node.values() and set(by_node.values()) != {"active"}
            ]
            if not mixed:
                return new
            await asyncio.sleep(0.1)


@pytest.mark.slow
async def test_t029_kill_at_every_durable_write_and_send_of_key_generation(
    make_vault: Any, request: pytest.FixtureRequest
) -> None:
    vault: LocalVault = make_vault(policy="none", test_profile=True, session_seconds=8)
    vault.start()
    every = bool(request.config.getoption("--full"))
    async with vault.client() as client:
        for number, (point, promised) in enumerate(CRASH_POINTS.items()):
            victims = vault.players if every else [vault.players[number % 3]]
            for victim in victims:
                await crash_at(vault, client, victim, point, promised)
        created = await client.create_keys("schnorr", "ed25519")
        await sign_with_every_quorum(client, vault, created[0]["key_id"])


async def crash_at(
    vault: LocalVault, client: Vault, victim: int, point: str, promised: bool
) -> None:
    before = set(await states(client))
    vault.kill(victim)
    vault.start(victim, crash_at=point)
    await vault.linked()
    acknowledged: list[str] = []
    try:
        made = await client.create_keys("schnorr", "ed25519")
        acknowledged = [k["key_id"] for k in made]
    except KeycairnError:
        pass
    assert vault.reap(victim) == -signal.SIGKILL, f"{point} was not reached at node {victim}"
    vault.start(victim)
    await vault.linked()
    new = await settled(client, before)
    if promised:
        assert len(new) == 1, f"{point}: {new}"
        assert all(set(s.values()) == {"active"} and len(s) == 3 for s in new.values()), new
        (key_id,) = new
        await sign_with_every_quorum(client, vault, key_id)
    else:
        assert not acknowledged
        assert all("active" not in s.values() for s in new.values()), f"{point}: {new}"
        # Whoever signed READY keeps its pending row; the victim never did and has none.
        assert all(victim not in s for s in new.values()), f"{point}: {new}"
