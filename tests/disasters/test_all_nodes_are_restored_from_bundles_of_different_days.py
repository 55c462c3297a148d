"""Scenario 10: each node comes back from another day. Keys that t+1 bundles have in common sign; a
key that only one restored node knows is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from disasters.conftest import everywhere, first_signature
from keycairn.ports.system import SystemClock
from system.local import LocalVault, keycairn

MESSAGE = b"after the disaster"


@everywhere()
async def test_all_nodes_are_restored_from_bundles_of_different_days(
    make_vault: Any, on: str
) -> None:
    vault: LocalVault = make_vault(on=on)
    vault.start()
    days: dict[int, Path] = {}
    keys: dict[int, str] = {}
    async with vault.client() as client:
        await vault.linked()
        for day in vault.players:
            [key] = await client.create_keys("schnorr", "ed25519")
            keys[day] = key["key_id"]
            keycairn("backup", "create", "--vault", str(vault.profile))
            # Node 1 is to come back from day 1, node 2 from day 2, node 3 from day 3.
            days[day] = vault.newest_bundle(day)
        before = [
            (await client.sign(k, message=MESSAGE, nodes=list(s)))["base_r"]
            for k in keys.values()
            for s in ((1, 2), (2, 3))
        ]
    for i in vault.players:
        vault.lose(i)
    clock = SystemClock()
    lost_at = clock.monotonic()

    # The bundles alone say which keys come back, and which one needs more than them.
    bundles = [str(path) for path in days.values()]
    told = keycairn("backup", "status", *bundles, "--vault", str(vault.profile), check=False)
    assert (told["answer"], told["exit"]) == ("inconsistent", 7)
    lacking = {(f["node"], f["recoverable"], *sorted(f["keys"])) for f in told["findings"]}
    assert lacking == {
        (1, True, keys[2]),
        (1, False, keys[3]),
        (2, False, keys[3]),
    }

    def restore(i: int, bundle: Path, into: Path, *more: str) -> dict[str, Any]:
        return keycairn(
            "node", "restore", str(bundle),
            "--into", str(into),
            "--identity", str(vault.operator(i) / "backup-identity.age"),
            "--vault", str(vault.profile),
            *more,
        )  # fmt: skip

    for i in vault.players:
        done = restore(i, days[i], vault.node_directory(i))
        assert (done["keys"], done["proofs_ok"], done["presignatures"]) == (i, True, 0)
    vault.start()
    await vault.linked()
    after = []
    async with vault.client() as client:
        first = await first_signature(client, keys[1], message=MESSAGE, nodes=[1, 2])
        seconds = clock.monotonic() - lost_at
        for key, signers in ((1, (1, 3)), (1, (2, 3)), (2, (2, 3))):
            made = await client.sign(keys[key], message=MESSAGE, nodes=list(signers))
            after.append(made["base_r"])
    nonces = [*before, first["base_r"], *after]
    assert len(set(nonces)) == len(nonces)
    found = keycairn("doctor", "--vault", str(vault.profile), check=False)
    named = {f["node"] for f in found["findings"] if keys[3] in f["keys"]}
    assert {1, 2} <= named
    # So does a look at the third's bundle, held against the peers that run.
    dry = restore(3, days[3], vault.directory / "elsewhere", "--dry-run")
    [alone] = [f for f in dry["findings"] if keys[3] in f.get("keys", ())]
    assert "none of the nodes that were asked" in alone["words"]
    assert dry["peers"]["answer"] == "cant_tell"
    # It isn't lost as long as another holder's bundle of that day exists.
    vault.lose(2)
    newest = vault.newest_bundle(2)
    assert newest != days[2]
    restore(2, newest, vault.node_directory(2))
    vault.start(2)
    await vault.linked()
    async with vault.client() as client:
        await first_signature(client, keys[3], message=MESSAGE, nodes=[2, 3])
    print(
        json.dumps(
            {
                "scenario": 10,
                "database": on,
                "keys_lost": 0,
                "known_to_one_node_and_named": 1,
                "presignatures_reused": 0,
                "seconds_to_first_signature": round(seconds, 2),
            }
        )
    )
