"""Paths, batches and presignatures against a running vault of three nodes."""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keycairn.client import OperatorClient
from keycairn.client.verify import verify_signature
from keycairn.curves.addresses import addresses
from keycairn.node.config import load_config

Run = Callable[..., Any]
KINDS = {
    "ecdsa": ("ecdsa", "secp256k1"),
    "p256": ("ecdsa", "p256"),
    "ed25519": ("schnorr", "ed25519"),
    "bip340": ("schnorr", "secp256k1", "--variant", "bip340"),
}
DIGEST = "11" * 32


@pytest.fixture(scope="module")
def env(vault: Path) -> dict[str, str]:
    return {"KEYCAIRN_VAULT": str(vault / "vault.toml")}


@pytest.fixture(scope="module")
def call(keycairn: Run, env: dict[str, str]) -> Run:
    """Run a command that must not fail; its JSON object."""

    def run(*words: object, code: int = 0) -> dict[str, Any]:
        ran = keycairn(*words, "--json", env=env)
        assert ran.code == code, ran.out
        return dict(ran.json)

    return run


@pytest.fixture(scope="module")
def keys(call: Run) -> dict[str, dict[str, Any]]:
    """A key of every kind, backed up."""
    made = {
        name: call("key", "create", "--scheme", scheme, "--curve", curve, *more)["keys"][0]
        for name, (scheme, curve, *more) in KINDS.items()
    }
    call("backup", "create")
    return made


def stock(call: Run, key_id: str, at_least: int = 1) -> dict[int, list[str]]:
    """Ids of the presignatures of nodes 1 and 2, by node, once there are so many at both."""
    deadline = time.monotonic() + 30
    while True:
        rows = call("presignature", "list", key_id)["presignatures"]
        ids = {r["node"]: r["ids"] for r in rows if r["players"] == [1, 2]}
        if len(ids) == 2 and all(len(i) >= at_least for i in ids.values()):
            return ids
        assert time.monotonic() < deadline, rows
        time.sleep(0.1)


def metric(vault: Path, node: int, name: str) -> float:
    async def read() -> str:
        config = load_config(vault / f"node{node}" / "node.toml", {})
        async with OperatorClient.of(config) as operator:
            return await operator.metrics()

    lines = asyncio.run(read()).splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


@pytest.mark.parametrize("kind", KINDS)
def test_children_are_shown_and_sign(call: Run, keys: dict[str, dict[str, Any]], kind: str) -> None:
    key = keys[kind]
    scheme, curve = KINDS[kind][:2]
    child = call("key", "show", key["key_id"], "--path", "m/0/5")
    assert child["path"] == "m/0/5"
    assert child["public_key"] != key["public_key"]
    public = bytes.fromhex(child["public_key"])
    if curve != "p256":
        assert child["addresses"] == addresses(scheme, curve, public)
        assert any(child["addresses"].values())
    root = call("key", "show", key["key_id"], "--path", "m")
    assert root["public_key"] == key["public_key"]

    option = "--digest" if scheme == "ecdsa" else "--message"
    signed = call("sign", key["key_id"], option, DIGEST, "--path", "m/0/5")
    assert signed["public_key"] == child["public_key"]
    asked = {"digest" if scheme == "ecdsa" else "message": bytes.fromhex(DIGEST)}
    verify_signature(scheme, curve, public, bytes.fromhex(signed["signature"]), **asked)


@pytest.mark.parametrize("kind", ["ecdsa", "bip340"])
def test_a_batch_mixes_paths(
    call: Run, keys: dict[str, dict[str, Any]], kind: str, tmp_path: Path
) -> None:
    key_id = keys[kind]["key_id"]
    scheme, curve = KINDS[kind][:2]
    name = "digest" if scheme == "ecdsa" else "message"
    paths = [None, "m", "m/7", "m/0/5", "m/7"]
    lines = []
    for number, path in enumerate(paths):
        item = {name: f"{number + 1:064x}"} | ({} if path is None else {"path": path})
        lines.append(json.dumps(item))
    file = tmp_path / "batch.jsonl"
    file.write_text("\n".join(lines))
    made = call("sign", key_id, "--batch", file)["signatures"]
    assert len(made) == len(paths)
    known = {None: keys[kind]["public_key"], "m": keys[kind]["public_key"]}
    for path in ("m/7", "m/0/5"):
        known[path] = call("key", "show", key_id, "--path", path)["public_key"]
    for number, (path, one) in enumerate(zip(paths, made, strict=True)):
        assert one["public_key"] == known[path]
        payload = {name: (number + 1).to_bytes(32, "big")}
        public = bytes.fromhex(one["public_key"])
        verify_signature(scheme, curve, public, bytes.fromhex(one["signature"]), **payload)
    assert len({one["base_r"] for one in made}) == len(made)


def test_T042_hardened_paths_are_refused(
    keycairn: Run, env: dict[str, str], keys: dict[str, dict[str, Any]]
) -> None:
    key_id = keys["ecdsa"]["key_id"]
    for words in (["key", "show", key_id], ["sign", key_id, "--digest", DIGEST]):
        ran = keycairn(*words, "--path", "m/44'/0", "--json", env=env)
        assert (ran.code, ran.error) == (2, "E_MALFORMED")


def test_a_named_presignature_is_used_once(
    call: Run, keycairn: Run, env: dict[str, str], vault: Path, keys: dict[str, dict[str, Any]]
) -> None:
    key_id = keys["ecdsa"]["key_id"]
    call("sign", key_id, "--digest", DIGEST, "--nodes", "1,2")
    ids = stock(call, key_id, 2)
    assert ids[1] == ids[2]
    wanted = ids[1][1]  # not the oldest: it was asked for by name
    before = metric(vault, 1, 'keycairn_signatures_total{how="pool"}')
    signed = call("sign", key_id, "--digest", DIGEST, "--presignature", wanted)
    assert (signed["presignature_id"], signed["nodes"]) == (wanted, [1, 2])
    assert metric(vault, 1, 'keycairn_signatures_total{how="pool"}') == before + 1
    assert wanted not in stock(call, key_id)[1]

    for words in ([], ["--nodes", "1,2"]):  # T-045
        ran = keycairn(
            "sign", key_id, "--digest", "22" * 32, "--presignature", wanted, *words, "--json",
            env=env,
        )  # fmt: skip
        assert (ran.code, ran.error) == (3, "E_PRESIG_SPENT")
    # T-047: another key's, another signer set's, nobody's.
    other = stock(call, key_id)[1][0]
    for key, presignature, nodes in (
        (keys["p256"]["key_id"], other, "1,2"),
        (key_id, other, "1,3"),
        (key_id, "00" * 32, "1,2"),
    ):
        ran = keycairn(
            "sign", key, "--digest", DIGEST, "--presignature", presignature, "--nodes", nodes,
            "--json", env=env,
        )  # fmt: skip
        assert (ran.code, ran.error) == (3, "E_PRESIG_UNKNOWN"), ran.out


def test_list_count_and_metrics_agree(
    call: Run, vault: Path, keys: dict[str, dict[str, Any]]
) -> None:
    key_id = keys["ecdsa"]["key_id"]
    call("sign", key_id, "--digest", DIGEST, "--nodes", "1,2")
    stock(call, key_id, 8)
    rows = call("presignature", "count", key_id)["presignatures"]
    (row,) = [r for r in rows if r["node"] == 1 and r["players"] == [1, 2]]
    assert set(row) == {
        "node", "key_id", "players", "protocol", "count", "target", "low_water", "storage",
    }  # fmt: skip
    assert (row["target"], row["low_water"], row["storage"]) == (32, 8, "memory")
    every = call("presignature", "count", "--all")["presignatures"]
    assert {r["node"] for r in every} >= {1, 2}
    made = metric(vault, 1, "keycairn_presignatures_made_total")
    assert made >= row["count"]


def test_delete_at_one_node_and_at_all(
    call: Run, vault: Path, keys: dict[str, dict[str, Any]]
) -> None:
    key_id = keys["ecdsa"]["key_id"]
    config = ("--config", vault / "node1" / "node.toml")
    call("sign", key_id, "--digest", DIGEST, "--nodes", "1,2")
    old = stock(call, key_id, 8)
    gone = call("presignature", "delete", key_id, *config)
    assert gone["deleted"][0]["node"] == 1
    assert gone["deleted"][0]["deleted"] >= 8
    assert gone["failed"] == []
    # The other signers hear of it: none of the old ones is left anywhere.
    deadline = time.monotonic() + 10
    while True:
        rows = call("presignature", "list", key_id)["presignatures"]
        left = {i for r in rows if r["players"] == [1, 2] for i in r["ids"]} & set(old[1])
        if not left:
            break
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    everywhere = call("presignature", "delete", "--all")
    assert [r["node"] for r in everywhere["deleted"]] == [1, 2, 3]
    again = call("presignature", "delete", "--all")
    assert [r["deleted"] for r in again["deleted"]] == [0, 0, 0]
    # And the key signs on.
    assert call("sign", key_id, "--digest", DIGEST, "--nodes", "1,2")["signature"]


def test_a_node_that_is_away_makes_it_partial(
    call: Run, keycairn: Run, env: dict[str, str], vault: Path, keys: dict[str, dict[str, Any]]
) -> None:
    call("vault", "down", vault, "--nodes", "3")
    try:
        for action in ("delete", "count", "list"):
            ran = call("presignature", action, "--all", code=7)
            assert [f["node"] for f in ran["failed"]] == [3]
            assert ran["failed"][0]["code"] == "E_UNAVAILABLE"
        text = keycairn("presignature", "delete", "--all", env=env)
        assert text.code == 7
        assert "node 3: FAILED" in text.out
        config = vault / "node3" / "node.toml"
        ran = keycairn("presignature", "delete", "--all", "--config", config, "--json")
        assert (ran.code, ran.error) == (1, "E_UNAVAILABLE")
    finally:
        call("vault", "up", vault, "--nodes", "3")
    assert call("presignature", "delete", "--all")["failed"] == []


def test_empty_pools_are_no_finding(
    call: Run, keycairn: Run, env: dict[str, str], keys: dict[str, dict[str, Any]]
) -> None:
    ran = keycairn("doctor", "--json", env=env)
    assert isinstance(ran.json["information"], list)
    assert not [f for f in ran.json["findings"] if "presignature" in f["what"]]


@pytest.mark.parametrize(
    "words",
    [
        ["list"],
        ["count"],
        ["delete"],
        ["delete", "K", "--all"],
        ["delete", "--all", "--nodes", "x"],
    ],
)
def test_which_presignatures_must_be_said(
    keycairn: Run, env: dict[str, str], words: list[str]
) -> None:
    ran = keycairn("presignature", *words, "--json", env=env)
    assert ran.code == 2


def test_foreign_and_missing_keys_look_alike(keycairn: Run, env: dict[str, str]) -> None:
    for action in ("list", "count", "delete"):
        ran = keycairn("presignature", action, "key-unknown", "--json", env=env)
        assert (ran.code, ran.error) == (4, "E_NOT_FOUND")
