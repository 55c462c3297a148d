"""Scenario 14: a live node's database fails over to a replica that lacks the last commits.

Nodes 1 and 2 are processes; node 1's database fails over. Node 3 runs in this process, so that it
can cheat: the ban that follows is among what the replica lacks, with a new key and many spends.
Node 4 is away while an operator decides: with all its peers in touch a node rejoins by itself.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from disasters.replicas import Failing, failing_vault
from disasters.traffic import SPENDS, Traffic, becomes, judge, rejoin, spend_rows, standing
from keycairn.client import OperatorClient, Vault
from keycairn.errors import Code, KeycairnError
from keycairn.links.tls import TlsLink
from keycairn.node import daemon
from keycairn.node.config import load_config
from keycairn.ports.system import SystemClock, SystemRng
from keycairn.protocols import wire
from keycairn.protocols.driver import SESSION_FRAME
from keycairn.protocols.session import Frame
from system.local import LocalVault
from system.test_bans import bad_ot
from system.test_uniqueness import Spend

KINDS = ["sqlite renamed", "sqlite in place", "postgresql", "mariadb"]
CASES = [
    pytest.param(
        kind,
        by,
        id=f"{kind}, {by}",
        marks=[pytest.mark.full] if by == "by itself" or kind == "sqlite in place" else [],
    )
    for kind in KINDS
    for by in ("by its operator", "by itself")
]
_CLOCK = SystemClock()


class CheatsNode1(TlsLink):
    """A link of node 3 that alters an OT column, towards node 1 only."""

    on = False

    async def send(self, peer: int, data: bytes) -> None:
        if CheatsNode1.on and peer == 1 and data[:1] == SESSION_FRAME:
            frame = bad_ot(wire.decode(Frame, data[1:]))
            data = SESSION_FRAME + wire.encode(frame)
        await super().send(peer, data)


@asynccontextmanager
async def running(failing: Failing, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LocalVault]:
    vault = failing.vault
    for i in vault.players:
        with vault.editing(i) as config:
            config["presignatures"] = {"storage": "database", "target": 24, "low_water": 8}
    monkeypatch.setattr(CheatsNode1, "on", False)
    monkeypatch.setattr(daemon, "TlsLink", CheatsNode1)
    vault.start(1, 2, 4)
    config3 = load_config(vault.config(3), {})
    async with daemon.serve_node(config3, SystemClock(), SystemRng(), lambda: None):
        await vault.linked()
        yield vault


async def refused(
    client: Vault, key_id: str, signers: Sequence[int], *codes: Code
) -> KeycairnError:
    """Node 1 alone is asked: it doesn't wait for a partner that it will not sign with."""
    name = f"refused-{_CLOCK.now_us()}"
    body = {"session_id": name, "request_id": name, "players": list(signers)}
    with pytest.raises(KeycairnError) as caught:
        await client.nodes[1].sign(key_id, body | {"digest": bytes(32).hex()})
    assert caught.value.code in codes, caught.value
    return caught.value


async def get_banned(vault: LocalVault, client: Vault, key_id: str) -> None:
    """Node 3 cheats until node 1 bans it."""
    CheatsNode1.on = True
    async with asyncio.timeout(20):
        while 3 not in await banned(vault):
            with suppress(KeycairnError):
                await client.sign(key_id, digest=bytes(32), nodes=[1, 3])
    CheatsNode1.on = False


async def banned(vault: LocalVault) -> list[int]:
    """Whom node 1 works with no more."""
    async with OperatorClient.of(load_config(vault.config(1), {})) as operator:
        return [p["index"] for p in await operator.peers() if p["banned"]]


def spent(failing: Failing) -> list[Spend]:
    """What the databases say that the nodes use now."""
    return [
        row
        for node in failing.vault.players
        for row in spend_rows(node, failing.query(node, SPENDS))
    ]


async def wrote_nothing(failing: Failing, seconds: float = 1.0) -> None:
    length = failing.database.length
    await asyncio.sleep(seconds)
    assert failing.database.length == length, "a quarantined node wrote"


async def eras_after(vault: LocalVault, era: int) -> int:
    """Wait until node 1 has rejoined by itself."""
    async with asyncio.timeout(60):
        while (now := (await becomes(vault, 1, "ACTIVE", 60))["head"]["era"]) == era:
            await asyncio.sleep(0.05)
    return int(now)


@pytest.mark.parametrize(("kind", "by"), CASES)
async def test_inv1_inv11_inv14_the_node_fences_itself_and_rejoins(
    make_vault: Any,
    free_ports: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    by: str,
) -> None:
    alone = by == "by itself"
    with failing_vault(
        make_vault, free_ports, kind, nodes=4, policy="none", session_seconds=6
    ) as failing:
        async with running(failing, monkeypatch) as vault, vault.client() as client:
            keys = [
                *await client.create_keys("ecdsa", "secp256k1"),
                *await client.create_keys("schnorr", "ed25519"),
            ]
            ecdsa = keys[0]["key_id"]
            traffic = Traffic(client, keys)
            async with traffic.running([1, 2], [2, 3]):
                await traffic.more(1, 2, count=5)
                await asyncio.to_thread(failing.database.fall_behind)
                await asyncio.to_thread(failing.database.keep_another)
                # What the replica lacks: a key, a ban, spends.
                [late] = await client.create_keys("ecdsa", "secp256k1")
                await get_banned(vault, client, ecdsa)
                await traffic.more(1, 2, count=10)
                before = await standing(vault, 1)
                if not alone:
                    vault.kill(4)
                had = failing.database.length

                await asyncio.to_thread(failing.database.fail_over)
                failed_at = _CLOCK.monotonic()
                assert failing.database.length < had
                if alone:
                    era = await eras_after(vault, before["head"]["era"])
                    fenced = None
                else:
                    state = await becomes(vault, 1, "QUARANTINED")
                    fenced = round(_CLOCK.monotonic() - failed_at, 2)
                    assert "put back" in state["why"]
                    await traffic.more(2, 3, count=5)
                    await wrote_nothing(failing)
                    error = await refused(client, ecdsa, [1, 2], Code.QUARANTINED)
                    assert (error.exit_code, "node rejoin" in error.next) == (3, True)
                    era = await rejoin(vault, 1)
                    assert era > before["head"]["era"]
                back_at = _CLOCK.monotonic()  # what was on its way at the fail-over counts not
                await traffic.more(1, 2, count=5)
            first = back_at - failed_at + traffic.first(1, 2, since=back_at)
            others = traffic.first(2, 3, since=failed_at)
            rows = spent(failing) + spend_rows(1, failing.query(1, SPENDS, lost=True))

            # What the replica lacked is back, or is named.
            assert await banned(vault) == [3]
            await refused(client, ecdsa, [1, 3], Code.PEER_BANNED)
            behind = [f for f in (await standing(vault, 1))["findings"] if f["finding"] == "behind"]
            assert late["key_id"] in json.dumps(behind)
            await client.sign(late["key_id"], digest=bytes(32), nodes=[2, 3])

            # Again to the same state, with nothing going on: the lost ban is not forgotten by
            # whoever asks for a presignature first.
            await asyncio.to_thread(failing.database.fail_over)
            await refused(client, ecdsa, [1, 3], Code.PEER_BANNED, Code.QUARANTINED)
            await refused(client, ecdsa, [1, 2], Code.STORE_ROLLBACK, Code.QUARANTINED)
            if alone:
                era = await eras_after(vault, era)
                # And back to the first one, which has the lost commits and lacks all since.
                rows += spent(failing)
                await asyncio.to_thread(failing.database.fail_back)
                with suppress(KeycairnError):
                    await traffic.sign([1, 2])
                await eras_after(vault, era)
            else:
                await becomes(vault, 1, "QUARANTINED")
                for signers in ([1, 3], [1, 2]):
                    await refused(client, ecdsa, signers, Code.QUARANTINED)
                await wrote_nothing(failing)
                assert await rejoin(vault, 1) > era
            assert await banned(vault) == [3]
            await refused(client, ecdsa, [1, 3], Code.PEER_BANNED)
            await traffic.comes_back([1, 2])
            for _ in range(3):
                await traffic.sign([1, 2])
            rows += spent(failing) + spend_rows(1, failing.query(1, SPENDS, lost=True))
            figures = {
                "scenario": 14,
                "database": kind,
                "rejoined": by,
                "keys_lost": 0,
                "presignatures_reused": judge(rows, traffic),
                "seconds_to_fence": fenced,
                "seconds_to_first_signature": round(first, 2),
                "seconds_to_first_signature_of_the_others": round(others, 2),
            }
            print(json.dumps(figures))
            assert figures["presignatures_reused"] == 0
