"""Wrong use, refusals and their exit codes; nothing here starts a node."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keycairn.cli.output import render
from keycairn.cli.run import run as run_here
from keycairn.ports.seeded import SeededRng

Run = Callable[..., Any]


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (["nonsense"], 2, "E_MALFORMED"),
        (["key", "create"], 2, "E_MALFORMED"),
        (["key", "create", "--scheme", "ecdsa", "--curve", "secp256k1"], 2, "E_MALFORMED"),
        (["key", "list", "--no-such-option"], 2, "E_MALFORMED"),
        (["key", "list", "--vault", "/nonexistent/vault.toml"], 2, "E_MALFORMED"),
        (["sign", "K", "--digest", "00", "--vault", "x"], 2, "E_MALFORMED"),
        (["sign", "K", "--vault", "x"], 2, "E_MALFORMED"),
        (["sign", "K", "--digest", "00" * 32, "--message", "00"], 2, "E_MALFORMED"),
        (["sign", "K", "--message-file", "/nonexistent"], 2, "E_MALFORMED"),
        (["node", "run", "--config", "/nonexistent/node.toml"], 2, "E_MALFORMED"),
        (["node", "unban", "2"], 2, "E_MALFORMED"),
        (["node", "unban", "two", "--config", "/nonexistent/node.toml"], 2, "E_MALFORMED"),
        (["backup", "create"], 2, "E_MALFORMED"),
        (["bench", "sign", "--signers", "1"], 2, "E_MALFORMED"),
        (["bench", "sign", "--signers", "2.0"], 2, "E_MALFORMED"),
        (["bench", "presign", "--batch", "257"], 2, "E_MALFORMED"),
        (["bench", "presign", "--curve", "ed25519"], 2, "E_MALFORMED"),
        (["bench", "dkg", "--threshold", "3"], 2, "E_MALFORMED"),
        (["bench", "all", "--check", "--baseline", "/nonexistent"], 2, "E_MALFORMED"),
        (["bench", "system", "--database", "postgresql"], 2, "E_MALFORMED"),
        (["bench", "system", "--link", "broker"], 2, "E_MALFORMED"),
        (["bench", "system", "--what", "pray"], 2, "E_MALFORMED"),
        (["bench", "system", "--concurrency", "0"], 2, "E_MALFORMED"),
        (["bench", "ers", "--keys", "0"], 2, "E_MALFORMED"),
        (["bench", "ers", "--params", "huge"], 2, "E_MALFORMED"),
        (["backup", "verify", "/nonexistent.bundle"], 2, "E_MALFORMED"),
        (["node", "restore", "/", "--into", "x", "--identity", "y"], 2, "E_MALFORMED"),
    ],
)
def test_wrong_use_is_exit_2(keycairn: Run, words: list[str], code: int, error: str) -> None:
    ran = keycairn(*words, "--json")
    assert (ran.code, ran.error) == (code, error)
    plain = keycairn(*words)
    assert plain.code == code
    assert plain.out == ""
    assert error in plain.err


@pytest.mark.parametrize("group", [[], ["key"], ["ers", "key"]])
def test_a_group_without_a_command_shows_its_help(keycairn: Run, group: list[str]) -> None:
    plain = keycairn(*group)
    assert (plain.code, plain.out) == (2, "")
    assert plain.err.startswith("Usage: ")
    assert "E_MALFORMED" not in plain.err
    ran = keycairn(*group, "--json")
    assert (ran.code, ran.error) == (2, "E_MALFORMED")
    assert "Usage" not in ran.json["error"]["message"]


def test_wrong_use_names_the_help_of_its_command(keycairn: Run) -> None:
    ran = keycairn("ers", "key", "add", "--no-such-option", "--json")
    assert ran.json["error"]["next"] == "see `keycairn ers key add --help`"


def test_a_missing_package_is_an_error_object_too(
    keycairn: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a base install: None makes its import fail.
    monkeypatch.delitem(sys.modules, "keycairn.cli.run")
    monkeypatch.setitem(sys.modules, "typer", None)
    ran = keycairn("key", "list", "--json")
    assert (ran.code, ran.error) == (1, "E_UNAVAILABLE")
    assert "keycairn[node]" in ran.json["error"]["next"]


def test_a_process_of_its_own_says_the_same(keycairn: Run, process: Run, tmp_path: Path) -> None:
    for words in (["key", "list", "--json"], ["--json", "sign"], ["node", "run"], ["--version"]):
        here, there = keycairn(*words), process(*words)
        assert (here.code, here.out, here.err) == (there.code, there.out, there.err)
    made = process("init", tmp_path / "v", "--json")
    assert made.code == 0
    assert set(made.json) >= {"directory", "vault", "quorum", "next"}


@pytest.mark.parametrize("group", [[], ["key", "create"], ["ers", "key", "add"], ["sign"]])
def test_help_ends_with_the_exit_codes(keycairn: Run, group: list[str]) -> None:
    ran = keycairn(*group, "--help")
    assert ran.code == 0
    assert "130" in ran.out
    assert "Exit codes" in ran.out


@pytest.mark.parametrize(
    ("options", "code", "error"),
    [
        (["--threshold", "0"], 2, "E_MALFORMED"),
        (["--threshold", "3"], 2, "E_MALFORMED"),
        (["--threshold", "-1"], 2, "E_MALFORMED"),
        (["--threshold", "1.0"], 2, "E_MALFORMED"),
        (["--nodes", "1"], 2, "E_MALFORMED"),
        (["--nodes", "33"], 2, "E_MALFORMED"),
        (["--base-port", "80"], 2, "E_MALFORMED"),
        (["--policy", "ers or"], 2, "E_MALFORMED"),
        (["--policy", "redundancy >= 2"], 3, "E_POLICY"),
    ],
)
def test_T028_init_refuses_before_it_writes(
    keycairn: Run, tmp_path: Path, options: list[str], code: int, error: str
) -> None:
    ran = keycairn("init", tmp_path / "v", *options, "--json")
    assert (ran.code, ran.error) == (code, error)
    assert not (tmp_path / "v").exists()


def test_init_refuses_a_directory_in_use(keycairn: Run, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    ran = keycairn("init", tmp_path, "--json")
    assert (ran.code, ran.error) == (3, "E_CONFLICT")
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_init_layout_and_modes(keycairn: Run, tmp_path: Path) -> None:
    ran = keycairn("init", tmp_path / "v", "--nodes", "3", "--threshold", "1", "--json")
    assert ran.json["quorum"] == "2-of-3 (t=1)"
    plain = keycairn("init", tmp_path / "w")
    assert "2-of-3 (t=1)" in plain.out
    for i in (1, 2, 3):
        node, operator = tmp_path / "v" / f"node{i}", tmp_path / "v" / f"operator{i}"
        assert (node / "anchor").is_dir()
        assert (node / "ers").is_dir()
        assert (operator / "backups").is_dir()
        secret = [
            node / "node.toml",
            node / "identity.key",
            node / "data" / "node.db",
            operator / "master.key",
            operator / "backup-identity.age",
            tmp_path / "v" / "vault.toml",
        ]
        assert [p for p in secret if p.stat().st_mode & 0o077] == []
        # What opens the node's things is not among the node's things.
        held = b"".join(p.read_bytes() for p in node.rglob("*") if p.is_file())
        assert (operator / "master.key").read_bytes().strip() not in held
        assert b"AGE-SECRET-KEY" not in held


def test_doctor_names_a_lost_directory_and_its_restore(keycairn: Run, tmp_path: Path) -> None:
    keycairn("init", tmp_path / "v")
    shutil.rmtree(tmp_path / "v" / "node2")
    ran = keycairn("doctor", "--vault", tmp_path / "v" / "vault.toml", "--json")
    assert ran.code == 7
    [found] = [f for f in ran.json["findings"] if "directory is gone" in f["what"]]
    assert found["node"] == 2
    assert found["next"].startswith("keycairn node restore ")
    assert not any("node 1: node 1" in f["what"] for f in ran.json["findings"])


def test_policy_none_is_said_loudly(keycairn: Run, tmp_path: Path) -> None:
    ran = keycairn("init", tmp_path / "v", "--policy", "none")
    assert ran.code == 0
    assert "NO BACKUP AT ALL" in ran.err.upper()


@pytest.mark.parametrize("nodes", ["0", "1,1", "1,,2", "-1", "a", "1;2", "٣", "1.0", ""])
def test_T006_node_lists(keycairn: Run, tmp_path: Path, nodes: str) -> None:
    keycairn("init", tmp_path / "v")
    vault = tmp_path / "v" / "vault.toml"
    ran = keycairn("sign", "K", "--message", "00", "--nodes", nodes, "--vault", vault, "--json")
    assert (ran.code, ran.error) == (2, "E_BAD_INDEX")


def test_loose_modes_are_refused(keycairn: Run, tmp_path: Path) -> None:
    keycairn("init", tmp_path / "v")
    profile, config = tmp_path / "v" / "vault.toml", tmp_path / "v" / "node1" / "node.toml"
    for path, words in (
        (profile, ["key", "list", "--vault", profile]),
        (config, ["node", "run", "--config", config]),
        (config.with_name("identity.key"), ["node", "run", "--config", config]),
    ):
        path.chmod(0o644)
        ran = keycairn(*words, "--json")
        assert (ran.code, ran.error) == (3, "E_POLICY")
        assert ran.json["error"]["next"] == f"chmod 600 {path}"
        path.chmod(0o600)


def test_T120_crash_hook_in_production(keycairn: Run, tmp_path: Path) -> None:
    keycairn("init", tmp_path / "v")
    config = tmp_path / "v" / "node1" / "node.toml"
    ran = keycairn(
        "node", "run", "--config", config, "--json", env={"KEYCAIRN_CRASH_AT": "spend:before"}
    )
    assert (ran.code, ran.error) == (3, "E_POLICY")


def test_verify_needs_no_node(keycairn: Run) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(SeededRng(1).bytes(32))
    public = key.public_key().public_bytes_raw()
    words = ["verify", "--scheme", "schnorr", "--curve", "ed25519"]
    words += ["--public-key", public.hex(), "--signature", key.sign(b"abc").hex()]
    ran = keycairn(*words, "--message", b"abc".hex(), "--json")
    assert (ran.code, ran.json) == (0, {"valid": True})
    ran = keycairn(*words, "--message", b"abd".hex(), "--json")
    assert (ran.code, ran.error) == (5, "E_SIG_INVALID")
    ran = keycairn(*words, "--digest", "00" * 32, "--json")
    assert (ran.code, ran.error) == (2, "E_MALFORMED")


def test_bench_prints_the_documented_figures(keycairn: Run) -> None:
    sign = keycairn("bench", "sign", "--count", "1", "--json").json
    assert set(sign) == {"machine", "results"}
    for row in sign["results"]:
        names = {"scheme", "curve", "signers", "ms_per_signature_per_party", "bytes_sent"}
        assert names <= set(row)
    ers = keycairn("bench", "ers", "--keys", "1", "--rsa-bits", "2048", "--json").json
    for row in ers["results"]:
        assert set(row) == {
            "keys",
            "params",
            "rsa_bits",
            "curve",
            "prove_ms_per_key",
            "verify_ms_per_key",
            "bytes_per_key",
            "context_bytes_per_key",
            "proof_bytes_per_key",
            "peak_memory_mb",
        }
    presign = keycairn("bench", "presign", "--batch", "2", "--json").json
    names = {"signers", "batch", "ms_per_presignature_per_party"}
    names |= {"bytes_per_presignature_per_peer", "ratio_to", "ratio_to_floor", "target_met"}
    assert all(names <= set(row) for row in presign["results"])
    dkg = keycairn("bench", "dkg", "--batch", "2", "--curve", "ed25519", "--json").json
    assert {"curve", "players", "batch", "ms_per_key_per_node"} <= set(dkg["results"][0])


def test_an_unexpected_error_has_a_code_and_no_stack(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from keycairn.cli import options

    def broken(*_: Any) -> None:
        raise ZeroDivisionError("share = 12345")

    monkeypatch.setattr(options, "load_profile", broken)
    assert run_here(["ers", "key", "list", "--vault", "x", "--json"]) == 1
    out = capsys.readouterr().out
    assert "E_UNAVAILABLE" in out
    assert "12345" not in out


def test_interrupted_is_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from keycairn.cli import options

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(options, "load_profile", interrupted)
    assert run_here(["ers", "key", "list", "--vault", "x"]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert run_here(["ers", "key", "list", "--vault", "x", "--json"]) == 130
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "E_UNAVAILABLE"


def test_render_is_plain() -> None:
    text = render({"a": 1, "b": None, "c": [{"d": True}], "e": []})
    assert text == "a: 1\nb: -\nc:\n  - d: yes\ne: -"
