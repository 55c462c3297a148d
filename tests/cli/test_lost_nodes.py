"""One node of a local vault is lost, refused or hangs: the commands still serve for the others, and
name what brings it back."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any

import pytest

from keycairn.cli.commands import doctor
from keycairn.cli.commands.key import key_text
from keycairn.cli.local import restore_command
from keycairn.cli.processes import NodeProcess, _start_time
from keycairn.client import load_profile
from keycairn.errors import Code, KeycairnError
from keycairn.node.config import load_config

Run = Callable[..., Any]


@pytest.fixture
def made(keycairn: Run, tmp_path: Path, free_ports: Callable[[int], int]) -> Path:
    """A vault of which node 2's directory is gone and node 3's file can be read by others."""
    directory = tmp_path / "v"
    assert keycairn("init", directory, "--base-port", free_ports(9)).code == 0
    (directory / "node2").rename(tmp_path / "lost")
    (directory / "node3" / "node.toml").chmod(0o644)
    return directory


def test_status_shows_all_nodes_each_with_what_helps(keycairn: Run, made: Path) -> None:
    bundles = made / "operator2" / "backups"
    bundles.mkdir(exist_ok=True)
    for when in ("20260102T000000Z-aa", "20260101T000000Z-bb"):
        (bundles / f"keycairn-v-node2-{when}.bundle").touch()
    ran = keycairn("vault", "status", made, "--json")
    steps = [row["next"] for row in ran.json["nodes"]]
    assert steps[0] == f"keycairn vault up {made} --nodes 1"
    newest = bundles / "keycairn-v-node2-20260102T000000Z-aa.bundle"
    identity = made / "operator2" / "backup-identity.age"
    assert steps[1] == (
        f"keycairn node restore {newest} --into {made / 'node2'} --identity {identity} "
        f"--vault {made / 'vault.toml'}"
    )
    assert steps[2] == f"chmod 600 {made / 'node3' / 'node.toml'}"
    assert "directory is gone" in ran.json["nodes"][1]["health"]["reasons"][0]


def test_status_names_an_address_that_vault_toml_has_wrong(keycairn: Run, made: Path) -> None:
    """After a restore to other ports: the node runs and is called where it isn't."""
    profile = made / "vault.toml"
    url = load_profile(profile).nodes[0].url
    profile.write_text(profile.read_text().replace(url, "http://127.0.0.1:1"))
    pid = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        record(made, 1, pid.pid)
        row = keycairn("vault", "status", made, "--json").json["nodes"][0]
    finally:
        pid.kill()
        pid.wait()
    assert row["next"] == f"correct the url of node 1 in {profile}"
    assert url in row["health"]["reasons"][0]


def record(directory: Path, index: int, pid: int) -> None:
    run = directory / "run"
    run.mkdir(exist_ok=True)
    content = {"pid": pid, "started": _start_time(pid)}
    (run / f"node{index}.json").write_text(json.dumps(content))


@pytest.mark.parametrize("index", [2, 3])
def test_a_node_without_a_usable_configuration_can_be_stopped(
    keycairn: Run, made: Path, index: int
) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        record(made, index, process.pid)
        ended = keycairn("vault", "down", made, "--nodes", index, "--json")
        assert ended.json["nodes"] == [{"node": index, "end": "stopped"}]
    finally:
        process.kill()
        process.wait()


def test_a_lost_node_that_is_named_is_not_started(keycairn: Run, made: Path) -> None:
    for index, error in ((2, "E_NOT_FOUND"), (3, "E_POLICY")):
        ran = keycairn("vault", "up", made, "--nodes", index, "--json")
        assert ran.error == error
        assert ran.json["error"]["node"] == index


class Operator:
    """A management API that answers for node 1 only."""

    def __init__(self, index: int) -> None:
        self.index = index

    @classmethod
    def of(cls, config: Any) -> "Operator":
        return cls(config.index)

    async def __aenter__(self) -> "Operator":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    async def status(self) -> dict[str, Any]:
        return {}

    async def backup_point(self, step: str, **_: Any) -> dict[str, Any]:
        return {"newest": 0} if step == "hold" else {"held": True}

    async def backup_create(self) -> dict[str, Any]:
        return {"node": self.index, "bundle": f"b{self.index}", "size": 1, "keys": 2}


def test_bundles_of_the_others_are_made_when_a_node_is_lost(
    keycairn: Run, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keycairn.cli.options.OperatorClient", Operator)
    ran = keycairn("backup", "create", "--vault", made / "vault.toml", "--json")
    assert ran.code == 7
    assert [b["node"] for b in ran.json["bundles"]] == [1]
    assert ran.json["point"] is None  # that takes all nodes
    assert "node 2" in ran.json["why"]
    assert [(f["node"], f["code"]) for f in ran.json["failed"]] == [
        (2, "E_NOT_FOUND"),
        (3, "E_POLICY"),
    ]
    assert ran.json["failed"][0]["next"].startswith("keycairn node restore ")
    text = keycairn("backup", "create", "--vault", made / "vault.toml").out
    assert "node 2: FAILED" in text
    # None of them: the error itself.
    ran = keycairn("backup", "create", "--vault", made / "vault.toml", "--nodes", "2", "--json")
    assert (ran.code, ran.error) == (4, "E_NOT_FOUND")


def test_doctor_looks_at_the_others_when_one_is_refused(keycairn: Run, made: Path) -> None:
    ran = keycairn("doctor", "--vault", made / "vault.toml", "--json")
    assert ran.code == 7
    said = [(f["node"], f["what"]) for f in ran.json["findings"]]
    assert any(i == 1 and "is not running" in what for i, what in said)
    assert any(i == 2 and "directory is gone" in what for i, what in said)
    assert any(i == 3 and "can be read or written by others" in what for i, what in said)


def row(key: str, missing: list[str], **change: Any) -> dict[str, Any]:
    return {
        "key_id": key,
        "state": "active",
        "players": [1, 2, 3],
        "require": "ers",
        "holds": "no",
        "missing": missing,
        "nodes": {"1": {"require": "ers"}},
    } | change


def test_doctor_says_once_what_is_true_of_many_keys(made: Path) -> None:
    profile = load_profile(made / "vault.toml")
    rows = [row(f"K{i}", ["node 1: ers: …"]) for i in range(200)]
    [found] = doctor._keys(profile, rows)
    assert found["what"].startswith(
        "keys K0, K1, K2 and 197 more: not backed up as the policy asks"
    )
    assert found["keys"] == [f"K{i}" for i in range(200)]


def test_doctor_names_a_node_whose_database_is_older_than_the_keys(made: Path) -> None:
    """A copy of the database that was put back lacks keys, and its node is healthy."""
    profile = load_profile(made / "vault.toml")
    lacking = ["node 3: does not know this key"]
    rows = [
        row("K1", lacking, holds="cant_tell", state="degraded"),
        row("K2", lacking, holds="cant_tell", state="pending"),
    ]
    behind, *_ = doctor._keys(profile, rows)
    assert (behind["node"], behind["keys"]) == (3, ["K1"])
    assert f"--into {made / 'node3'}" in behind["next"]


def test_a_bundle_that_lacks_the_keys_is_not_advised(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The schedule made one after the database was put back: newest, and of no use."""
    bundles = made / "operator3" / "backups"
    bundles.mkdir(exist_ok=True)
    held = {"1-before": ["K0"], "2-good": ["K0", "K1"], "3-after": ["K0"]}
    for name in held:
        (bundles / f"{name}.bundle").touch()

    def manifest(path: Path) -> Any:
        return SimpleNamespace(keys=dict.fromkeys(held[path.stem]))

    monkeypatch.setattr("keycairn.backup.read_manifest", manifest)
    assert "2-good.bundle" in restore_command(made / "node3", 3, ["K1"])
    assert "3-after.bundle" in restore_command(made / "node3", 3)
    assert "restore BUNDLE " in restore_command(made / "node3", 3, ["K9"])


def test_doctor_names_policies_of_none_at_any_node(made: Path) -> None:
    profile = load_profile(made / "vault.toml")
    nodes = {"1": {"require": "ers"}, "2": {"require": "none"}}
    differ = row("K1", [], holds="yes", nodes=nodes, require="node 1: ers; node 2: none")
    [found] = doctor._keys(profile, [differ])
    assert "node 2: none" in found["what"]


def test_doubt_about_a_backup_is_not_called_no() -> None:
    key = {
        "key_id": "K",
        "scheme": "ecdsa",
        "curve": "secp256k1",
        "threshold": 1,
        "players": [1, 2, 3],
        "generation": 1,
        "state": "degraded",
        "public_key": "02",
        "addresses": {},
        "missing": ["node 2: no answer"],
        "next": [],
    }
    assert "CAN'T TELL WHETHER BACKED UP" in key_text(key | {"backed_up": "cant_tell"})
    assert "NOT BACKED UP" in key_text(key | {"backed_up": "no"})


def test_a_lost_node_directory_is_not_answered_with_init(tmp_path: Path, keycairn: Run) -> None:
    ran = keycairn("node", "status", "--config", tmp_path / "node.toml", "--json")
    assert "node restore" in ran.json["error"]["next"]
    assert Code(ran.error) is Code.MALFORMED
    assert KeycairnError.from_json(ran.json).not_lost


class Apart(Operator):
    """A node that runs and has no link to node 2."""

    async def status(self) -> dict[str, Any]:
        return {"state": "ACTIVE", "findings": []}

    async def peers(self) -> list[dict[str, Any]]:
        return [{"index": 2, "up": False, "banned": False}, {"index": 3, "up": True}]

    async def backups(self) -> list[dict[str, Any]]:
        return [{"sha256": "00"}]

    async def ers_keys(self) -> list[dict[str, Any]]:
        return []

    async def presignatures(self) -> list[dict[str, Any]]:
        return []


@pytest.mark.parametrize(("well", "findings"), [({1, 2, 3}, 1), ({1, 3}, 0)])
async def test_doctor_names_nodes_that_run_and_do_not_reach_each_other(
    made: Path, monkeypatch: pytest.MonkeyPatch, well: set[int], findings: int
) -> None:
    """A wrong pin or address between two nodes: each can sign with the third, and is healthy."""
    monkeypatch.setattr(doctor, "OperatorClient", Apart)
    node = load_profile(made / "vault.toml").nodes[0]
    found = await doctor._operator(node, [], well)
    assert len(found) == findings
    assert all("node 1 does not reach node 2" in f["what"] for f in found)
    assert all(f"keycairn node peers --config {made / 'node1'}" in f["next"] for f in found)


def test_doctor_sends_nobody_to_a_command_that_only_local_vaults_have(made: Path) -> None:
    """QUARANTINED, in a vault whose nodes are on machines of their own."""
    profile = load_profile(made / "vault.toml")
    state: dict[str, Any] = {"ok": False, "reasons": ["node 1 is QUARANTINED"]}
    health: dict[int, dict[str, Any]] = {1: state, 2: {**state, "reached": False}, 3: {"ok": True}}
    running, gone = (f["next"] for f in doctor._nodes(profile, health))
    config = f"--config {profile.nodes[0].config}"
    assert running == f"keycairn node status {config}; keycairn node peers {config}"
    assert gone == f"keycairn vault status {made}"
    far = replace(profile, nodes=tuple(replace(n, config=None) for n in profile.nodes))
    for finding in doctor._nodes(far, health):
        assert "keycairn node status --config node.toml" in finding["next"]
        assert "vault status" not in finding["next"]


def test_a_node_that_does_not_come_up_is_told_with_the_end_of_its_log(made: Path) -> None:
    (made / "run").mkdir(exist_ok=True)
    (made / "run" / "node1.log").write_text("Traceback\nModuleNotFoundError: No module named 'x'\n")
    error = NodeProcess(1, made / "run", load_config(made / "node1" / "node.toml", {}))._failed()
    assert error.message == "node 1 did not come up: ModuleNotFoundError: No module named 'x'"
