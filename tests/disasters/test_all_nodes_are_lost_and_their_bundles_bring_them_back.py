"""Scenarios 3 and 18: every node is lost; all addresses and credentials change. Scenario 9: an old
bundle."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import tomli_w

from disasters.conftest import everywhere, first_signature
from keycairn.client import Vault, load_profile
from keycairn.ports.system import SystemClock
from system.local import LocalVault, keycairn

MESSAGE = b"after the disaster"
DIGEST = bytes(range(32))


def restore(vault: LocalVault, i: int, bundle: Path, *words: str) -> dict[str, Any]:
    return keycairn(
        "node",
        "restore",
        str(bundle),
        "--into",
        str(vault.node_directory(i)),
        "--identity",
        str(vault.operator(i) / "backup-identity.age"),
        "--vault",
        str(vault.profile),
        *words,
    )


async def sign_with_all(client: Vault, keys: list[dict[str, Any]]) -> list[str]:
    nonces = []
    for key in keys:
        for signers in ([1, 2], [2, 3], [1, 3]):
            what: dict[str, Any] = (
                {"message": MESSAGE} if key["scheme"] == "schnorr" else {"digest": DIGEST}
            )
            nonces.append((await client.sign(key["key_id"], nodes=signers, **what))["base_r"])
    return nonces


@everywhere()
async def test_all_nodes_are_lost_and_their_bundles_bring_them_back(
    scratch_database: Any, make_vault: Any, tmp_path: Path, free_ports: Any, on: str
) -> None:
    vault: LocalVault = make_vault(on=on)
    vault.start()
    async with vault.client() as client:
        await vault.linked()
        keys = [
            *await client.create_keys("schnorr", "ed25519", count=2),
            *await client.create_keys("ecdsa", "secp256k1"),
        ]
        point = keycairn("backup", "create", "--vault", str(vault.profile))["point"]
        assert point == 1
        before = await sign_with_all(client, keys)
    for i in (1, 2, 3):
        vault.lose(i)
    clock = SystemClock()
    lost_at = clock.monotonic()

    # With every node gone, the bundles alone say that they fit together.
    told = keycairn("backup", "status", "--vault", str(vault.profile))
    assert (told["answer"], told["point"], told["keys"]) == ("consistent", 1, 3)

    # Nothing is as it was: ports, places of secrets.
    port = free_ports(9)
    peers = {str(i): f"wss://127.0.0.1:{port + 3 * i - 2}" for i in (1, 2, 3)}
    for i in (1, 2, 3):
        secret = tmp_path / f"secret-of-{i}"
        shutil.move(vault.operator(i) / "master.key", secret)
        mapping: dict[str, Any] = {
            "api": {"listen": f"127.0.0.1:{port + 3 * i - 3}"},
            "links": {"listen": f"127.0.0.1:{port + 3 * i - 2}"},
            "management": {"listen": f"127.0.0.1:{port + 3 * i - 1}"},
            "encryptor": {"secret_file": str(secret)},
            "peers": {k: v for k, v in peers.items() if k != str(i)},
        }
        expected = {"api.listen", "links.listen", "encryptor.secret_file"}
        if on != "sqlite":
            # Another server, as far as the node can tell: other database, user and password.
            made = scratch_database(on)
            password = tmp_path / f"password-of-{i}"
            password.write_text(made.password)
            password.chmod(0o600)
            mapping["database"] = {"url": made.url, "password_file": str(password)}
            expected |= {"database.url", "database.password_file", "database.password_env"}
        map_file = tmp_path / f"map-{i}.toml"
        map_file.write_text(tomli_w.dumps(mapping))
        bundle = vault.newest_bundle(i)
        dry = restore(vault, i, bundle, "--map", str(map_file), "--dry-run")
        assert dry["done"] is False
        changed = {c["key"] for c in dry["changes"]}
        assert expected <= changed
        assert not vault.node_directory(i).exists()
        done = restore(vault, i, bundle, "--map", str(map_file))
        assert (done["keys"], done["presignatures"], done["proofs_ok"]) == (3, 0, True)
        assert done["point"] == 1
        assert done["peers"]["answer"] == "cant_tell"  # nobody runs yet
    profile = tomllib.loads(vault.profile.read_text())
    for node in profile["nodes"]:
        node["url"] = f"http://127.0.0.1:{port + 3 * node['index'] - 3}"
    vault.profile.write_text(tomli_w.dumps(profile))
    vault.start()
    async with Vault(load_profile(vault.profile)) as client:
        await vault.linked()
        first = await first_signature(client, keys[0]["key_id"], message=MESSAGE, nodes=[1, 2])
        seconds = clock.monotonic() - lost_at
        after = await sign_with_all(client, keys)
    nonces = [*before, first["base_r"], *after]
    assert len(set(nonces)) == len(nonces)
    print(
        json.dumps(
            {
                "scenario": "3 and 18",
                "database": on,
                "keys_lost": 0,
                "presignatures_reused": 0,
                "seconds_to_first_signature": round(seconds, 2),
            }
        )
    )


@everywhere()
async def test_an_old_bundle_is_held_against_the_peers_and_says_what_is_missing(
    make_vault: Any, on: str
) -> None:
    """Scenario 9, as far as it goes without repair: the keys made since are named."""
    vault: LocalVault = make_vault(on=on)
    vault.start()
    async with vault.client() as client:
        await vault.linked()
        old = await client.create_keys("schnorr", "ed25519", count=2)
        keycairn("backup", "create", "--vault", str(vault.profile))
        bundle = vault.newest_bundle(2)
        [late] = await client.create_keys("schnorr", "ed25519")
        keycairn("backup", "create", "--vault", str(vault.profile))
        vault.lose(2)
        done = restore(vault, 2, bundle)
        assert done["proofs_ok"] is True
        assert (done["peers"]["answer"], done["peers"]["asked"]) == ("no", [1, 3])
        assert done["peers"]["compared"] == 2
        missing = [f for f in done["findings"] if f["what"] == "peers"]
        assert {tuple(f["keys"]) for f in missing} == {(late["key_id"],)}
        assert any("newer bundle" in n for n in done["next"])
        vault.start(2)
        await vault.linked()
        # The old keys sign with it, the new one without it.
        await client.sign(old[0]["key_id"], message=MESSAGE, nodes=[2, 3])
        await client.sign(late["key_id"], message=MESSAGE, nodes=[1, 3])
        # The newest bundle has them all, and the peers agree.
        vault.lose(2)
        again = restore(vault, 2, vault.newest_bundle(2))
        assert (again["peers"]["answer"], again["peers"]["compared"]) == ("yes", 3)
        assert [f for f in again["findings"] if f["what"] == "peers"] == []
