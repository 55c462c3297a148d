"""The commands against a running vault of three nodes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def env(vault: Path) -> dict[str, str]:
    return {"KEYCAIRN_VAULT": str(vault / "vault.toml")}


@pytest.fixture(scope="module")
def key(keycairn: Run, env: dict[str, str]) -> dict[str, Any]:
    made = keycairn("key", "create", "--scheme", "schnorr", "--curve", "ed25519", "--json", env=env)
    assert made.code == 0, made.out
    [created] = made.json["keys"]
    assert created["state"] == "active"
    assert created["players"] == [1, 2, 3]
    return dict(created)


def test_T081_refused_until_backed_up_then_signs(
    keycairn: Run, env: dict[str, str], key: dict[str, Any], vault: Path
) -> None:
    key_id = key["key_id"]
    shown = keycairn("key", "show", key_id, "--json", env=env).json
    assert set(shown["addresses"].values()) == {None}
    assert shown["missing"]
    assert "NOT BACKED UP" in keycairn("key", "show", key_id, env=env).out
    refused = keycairn("sign", key_id, "--message", "00", "--json", env=env)
    assert (refused.code, refused.error) == (3, "E_KEY_NOT_BACKED_UP")
    rows = keycairn("coverage", key_id, "--json", env=env).json["keys"]
    assert [r["holds"] for r in rows] == ["no"]

    # One node's bundle covers that node only: the other one still refuses.
    config = vault / "node1" / "node.toml"
    made = keycairn("backup", "create", "--config", config, "--json", env=env).json
    assert {"bundle", "sha256", "size", "keys", "seconds", "level", "verified"} <= set(made)
    refused = keycairn("sign", key_id, "--message", "00", "--nodes", "1,2", "--json", env=env)
    assert (refused.code, refused.error) == (3, "E_KEY_NOT_BACKED_UP")
    assert refused.json["error"]["node"] == 2

    made = keycairn("backup", "create", "--json", env=env).json
    assert [b["node"] for b in made["bundles"]] == [1, 2, 3]
    shown = keycairn("key", "show", key_id, "--json", env=env).json
    assert shown["addresses"]["solana"]
    assert shown["missing"] == []
    signed = keycairn("sign", key_id, "--message", "abcd", "--nodes", "2,3", "--json", env=env)
    assert signed.json["nodes"] == [2, 3]
    good = keycairn(
        "verify", "--scheme", "schnorr", "--curve", "ed25519",
        "--public-key", key["public_key"], "--signature", signed.json["signature"],
        "--message", "abcd", "--json",
    )  # fmt: skip
    assert good.json == {"valid": True}


def test_T040_bad_requests(keycairn: Run, env: dict[str, str], key: dict[str, Any]) -> None:
    for words, code, error in (
        (["sign", "key-unknown", "--message", "00"], 4, "E_NOT_FOUND"),
        (["key", "show", "../../etc/passwd"], 4, "E_NOT_FOUND"),
        (["key", "show", "'; DROP TABLE keys;--"], 4, "E_NOT_FOUND"),
        (["sign", key["key_id"], "--digest", "00" * 32], 2, "E_MALFORMED"),
        (["sign", key["key_id"], "--message", "0"], 2, "E_MALFORMED"),
        (["sign", key["key_id"], "--message", "00", "--nodes", "1"], 2, "E_BAD_INDEX"),
        (["sign", key["key_id"], "--message", "00", "--nodes", "1,4"], 2, "E_BAD_INDEX"),
        (["key", "create", "--scheme", "schnorr", "--curve", "secp256k1"], 2, "E_MALFORMED"),
        (["key", "create", "--scheme", "rsa", "--curve", "ed25519"], 2, "E_MALFORMED"),
        (["key", "wait", "no-such-key", "--timeout", "1"], 4, "E_NOT_FOUND"),
        (
            ["key", "create", "--scheme", "schnorr", "--curve", "ed25519", "--threshold", "3"],
            2,
            "E_MALFORMED",
        ),
    ):
        ran = keycairn(*words, "--json", env=env)
        assert (ran.code, ran.error) == (code, error), words


def test_wrong_api_key(keycairn: Run, vault: Path, tmp_path: Path) -> None:
    text = (vault / "vault.toml").read_text()
    start = text.index('api_key = "') + len('api_key = "')
    other = vault / "wrong.toml"
    other.write_text(text[:start] + "f" * 64 + text[start + 64 :])
    other.chmod(0o600)
    ran = keycairn(
        "key", "create", "--scheme", "schnorr", "--curve", "ed25519", "--vault", other, "--json"
    )
    assert (ran.code, ran.error) == (4, "E_AUTHN")
    assert ran.json["error"]["node"] == 1


def test_T031_same_request_id_gives_the_same_key(keycairn: Run, env: dict[str, str]) -> None:
    words = ["key", "create", "--scheme", "ecdsa", "--curve", "secp256k1", "--request-id", "once"]
    first = keycairn(*words, "--json", env=env).json
    again = keycairn(*words, "--json", env=env).json
    assert first["keys"] == again["keys"]
    other = keycairn(*words, "--count", "2", "--json", env=env)
    assert (other.code, other.error) == (3, "E_CONFLICT")


def test_ers_from_key_to_document(
    keycairn: Run, process: Run, env: dict[str, str], key: dict[str, Any], tmp_path: Path
) -> None:
    tool = "keycairn.ers.cli"
    rsa = tmp_path / "rsa.pem"
    process("keygen", "--out", rsa, module=tool)
    public = tmp_path / "rsa.pem.pub"
    out = tmp_path / "documents" / "doc.json"
    out.parent.mkdir()
    create = ["ers", "create", key["key_id"], "--rsa-public-key", public, "--out", out, "--json"]
    refused = keycairn(*create, env=env)
    assert (refused.code, refused.error) == (3, "E_KEY_NOT_ALLOWED")
    # No document goes beside the private key, and no command but recovery takes that.
    beside = keycairn(*create[:-2], tmp_path / "doc.json", "--json", env=env)
    assert (beside.code, beside.error) == (3, "E_POLICY")
    assert "rsa.pem" in beside.json["error"]["message"]
    assert not (tmp_path / "doc.json").exists()
    for words in (
        ["ers", "create", key["key_id"], "--rsa-public-key", rsa, "--out", out],
        ["ers", "key", "add", "--rsa-public-key", rsa],
        ["ers", "rotate", "--to", rsa],
    ):
        taken = keycairn(*words, "--json", env=env)
        assert (taken.code, taken.error) == (3, "E_POLICY"), words

    challenges = tmp_path / "challenges"
    add = ["ers", "key", "add", "--rsa-public-key", public, "--out", challenges, "--json"]
    added = keycairn(*add, env=env).json
    assert added["nodes"] == [1, 2, 3]
    assert added["bits"] == 3072
    assert (keycairn(*create, env=env)).error == "E_KEY_NOT_ALLOWED"  # Not before the proof.
    for i in (1, 2, 3):
        answers = challenges / f"answers-node{i}.json"
        process(
            "prove", "--challenges", challenges / f"challenges-node{i}.json",
            "--rsa-key", rsa, "--out", answers, module=tool,
        )  # fmt: skip
    confirmed = keycairn("ers", "key", "confirm", "--answers", challenges, "--json", env=env).json
    assert {"rsa_spki_sha256", "bits", "nodes", "added", "attested_at", "expires"} <= set(confirmed)
    assert confirmed["nodes"] == [1, 2, 3]
    [listed] = keycairn("ers", "key", "list", "--json", env=env).json["keys"]
    assert listed["rsa_spki_sha256"] == confirmed["rsa_spki_sha256"]

    made = keycairn(*create, "--label", "tests", env=env).json
    assert set(made) == {"document", "sha256", "keys", "parts", "rsa_spki_sha256"}
    assert made["parts"] == [1, 2, 3]
    assert keycairn(*create, env=env).error == "E_CONFLICT"  # The file is not overwritten.
    verify = ["ers", "verify", out, "--rsa-public-key", public, "--json"]
    known = f"{key['key_id']}={key['public_key']}"
    report = keycairn(*verify, "--public-key", known, "--label", "tests").json
    assert report["valid"] is True
    wrong = keycairn(*verify, "--label", "other")
    assert (wrong.code, wrong.error) == (5, "E_ERS_INVALID")
    [row] = keycairn("ers", "status", key["key_id"], "--json", env=env).json["keys"]
    assert (row["status"], row["parts"], row["have"]) == ("COMPLETE", 3, 3)

    # The same with one file for all nodes, as the README has it.
    one = keycairn("ers", "key", "add", "--rsa-public-key", public, "--json", env=env)
    assert one.code == 3, one.out  # It is on the list.
    again = keycairn("ers", "key", "attest", confirmed["rsa_spki_sha256"], "--json", env=env)
    asked, answered = tmp_path / "challenges.json", tmp_path / "answers.json"
    asked.write_text(again.out)
    process("prove", "--challenges", asked, "--rsa-key", rsa, "--out", answered, module=tool)
    few = keycairn(
        "ers", "key", "confirm", "--answers", answered, "--nodes", "1", "--json", env=env
    )
    assert few.json["nodes"] == [1]
    others = ["ers", "key", "confirm", "--answers", answered, "--nodes", "2,3", "--json"]
    assert keycairn(*others, env=env).json["nodes"] == [2, 3]

    private = keycairn("ers", "verify", out, "--rsa-public-key", rsa, "--json")
    assert (private.code, private.error) == (3, "E_POLICY")
    beside = process("keygen", "--out", out.parent / "new.pem", "--json", module=tool)
    assert (beside.code, beside.error) == (3, "E_POLICY")
    [listed] = keycairn("ers", "key", "list", "--json", env=env).json["keys"]
    assert (listed["attestation"], listed["attested_days"]) == ("good", 0)

    remove = ["ers", "key", "remove", confirmed["rsa_spki_sha256"], "--json"]
    only = keycairn(*remove, env=env)
    assert (only.code, only.error) == (3, "E_CONFLICT")
    removed = keycairn(*remove, "--force", env=env)
    assert removed.json["removed"] == [1, 2, 3]
    [row] = keycairn("ers", "status", key["key_id"], "--json", env=env).json["keys"]
    assert (row["status"], row["have"]) == ("STALE", 0)
    out.unlink()
    assert keycairn(*create, env=env).error == "E_KEY_NOT_ALLOWED"


def test_node_and_vault_commands(keycairn: Run, vault: Path, env: dict[str, str]) -> None:
    config = vault / "node1" / "node.toml"
    status = keycairn("node", "status", "--config", config, "--json").json
    assert {"state", "why", "incarnation", "head", "findings"} <= set(status)
    peers = keycairn("node", "peers", "--config", config, "--json").json["peers"]
    assert [(p["index"], p["up"]) for p in peers] == [(2, True), (3, True)]
    digest = keycairn("node", "digest", "--config", config, "--json").json["digest"]
    assert len(digest) == 64
    rows = keycairn("vault", "status", vault, "--json").json["nodes"]
    assert [r["health"]["ok"] for r in rows] == [True] * 3
    again = keycairn("node", "run", "--config", config, "--json")
    assert (again.code, again.error) == (3, "E_CONFLICT")  # Two nodes on one data directory.
    found = keycairn("doctor", "--json", env=env)
    assert found.code in (0, 7)
    assert isinstance(found.json["findings"], list)


def test_a_node_goes_and_comes_back(
    keycairn: Run, vault: Path, env: dict[str, str], key: dict[str, Any]
) -> None:
    config = vault / "node3" / "node.toml"
    before = keycairn("node", "status", "--config", config, "--json").json["incarnation"]
    running = keycairn("node", "digest", "--config", config, "--json").json
    down = keycairn("vault", "down", vault, "--nodes", "3", "--json").json
    assert down["nodes"] == [{"node": 3, "end": "stopped"}]
    stopped = keycairn("node", "digest", "--config", config, "--json").json
    assert stopped == running  # Read from the database itself, and equal.
    shown = keycairn("key", "show", key["key_id"], "--json", env=env).json
    assert shown["state"] == "degraded"
    assert "node 3: no answer" in shown["missing"]
    log = (vault / "run" / "node3.log").read_text().splitlines()
    assert json.loads(log[-1])["event"] == "stopped"
    assert keycairn("vault", "up", vault, "--nodes", "3", "--json").code == 0
    after = keycairn("node", "status", "--config", config, "--json").json["incarnation"]
    assert after != before
    ready = (vault / "run" / "node3.out").read_text()
    url = next(
        r["api"]
        for r in keycairn("vault", "status", vault, "--json").json["nodes"]
        if r["node"] == 3
    )
    assert ready == f'{{"event":"ready","node":3,"api":"{url}"}}\n'
