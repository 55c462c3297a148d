"""``init --node``: what it refuses, and that nothing is overwritten."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keycairn.node.config import load_config


@pytest.fixture
def init(tmp_path: Path, keycairn: Callable[..., Any]) -> Callable[..., Any]:
    """``init(1, …)``: begin node 1 of three in tmp_path/n1; options by name replace the usual."""
    recipient = keycairn("backup", "keygen", "--out", tmp_path / "id.age", "--json").json
    usual = {
        "vault-id": "treasury", "nodes": 3, "threshold": 1, "api": "127.0.0.1:8080",
        "backup-target": tmp_path, "backup-recipient": recipient["recipient"],
    }  # fmt: skip

    def run(i: int, *words: object, **options: object) -> Any:
        named = {
            "address": f"wss://node{i}.example.org:9000",
            "secret-file": tmp_path / f"master{i}.key",
            **usual,
            **{k.replace("_", "-"): v for k, v in options.items()},
        }
        flat = [w for k, v in named.items() if v is not None for w in (f"--{k}", v)]
        return keycairn("init", tmp_path / f"n{i}", "--node", i, *flat, *words, "--json")

    return run


def peers(tmp_path: Path, *which: int) -> list[object]:
    return [w for i in which for w in ("--peer", tmp_path / f"n{i}" / "node.card")]


def files(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"vault_id": None}, "E_MALFORMED"),
        ({"vault_id": "no spaces"}, "E_MALFORMED"),
        ({"address": "https://node1"}, "E_MALFORMED"),
        ({"address": "wss://node1.example.org"}, "E_MALFORMED"),
        ({"nodes": 1}, "E_MALFORMED"),
        ({"threshold": 3}, "E_MALFORMED"),
        ({"policy": "redundancy >= 9"}, "E_POLICY"),
        ({"api": "0.0.0.0:8080"}, "E_POLICY"),
        ({"management": "0.0.0.0:9090"}, "E_POLICY"),
        ({"backup_recipient": None}, "E_MALFORMED"),
        ({"backup_recipient": "age1nonsense"}, "E_MALFORMED"),
        ({"backup_target": None}, "E_MALFORMED"),
        ({"backup_schedule": "now and then"}, "E_MALFORMED"),
        ({"operations": "ecdsa,everything"}, "E_MALFORMED"),
        ({"secret_file": None}, "E_MALFORMED"),
        ({"secret_env": "MASTER"}, "E_MALFORMED"),
        ({"database": "postgresql://user:pw@db/x"}, None),
    ],
)
def test_what_cannot_be_a_node_is_refused_before_anything_is_written(
    init: Callable[..., Any], tmp_path: Path, options: dict[str, Any], code: str | None
) -> None:
    before = files(tmp_path)
    ran = init(1, **options)
    assert ran.code in (2, 3), ran.out
    assert ran.error == code or code is None
    assert not (tmp_path / "n1").exists()
    assert files(tmp_path) == before


def test_a_master_secret_in_the_nodes_own_directory_is_refused(
    init: Callable[..., Any], tmp_path: Path
) -> None:
    assert init(1, secret_file=tmp_path / "n1" / "master.key").error == "E_POLICY"
    assert not (tmp_path / "n1").exists()


def test_nothing_is_overwritten(
    init: Callable[..., Any], keycairn: Callable[..., Any], tmp_path: Path
) -> None:
    for i in (1, 2, 3):
        assert init(i).code == 0
    before = files(tmp_path)
    assert init(1).error == "E_CONFLICT"
    assert keycairn("backup", "keygen", "--out", tmp_path / "id.age", "--json").error
    assert files(tmp_path) == before
    finish = ("init", tmp_path / "n1", *peers(tmp_path, 2, 3), "--json")
    first = keycairn(*finish)
    assert first.code == 0
    done = files(tmp_path)
    again = keycairn(*finish)
    assert again.error == "E_CONFLICT"
    # It says the fingerprint again, for whoever had to correct [[peers]].
    assert first.json["vault_fingerprint"] in again.json["error"]["next"]
    assert files(tmp_path) == done
    # What the operator changed in between is kept.
    path = tmp_path / "n2" / "node.toml"
    path.write_text(path.read_text().replace('schedule = "1d"', 'schedule = "6h"  # mine'))
    assert keycairn("init", tmp_path / "n2", *peers(tmp_path, 1, 3), "--json").code == 0
    assert "# mine" in path.read_text()
    config = load_config(path, {})
    assert [p.index for p in config.peers] == [1, 3]
    assert config.backup.peer_points.allowed


def altered(card: Path, to: Path, **changes: Any) -> Path:
    to.write_text(json.dumps(json.loads(card.read_text()) | changes))
    return to


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vault": "treasure"}, "vault id"),
        ({"threshold": 2}, "threshold"),
        ({"nodes": 4}, "number of nodes"),
        ({"index": 2}, "both are node 2"),
        ({"index": 1}, "both are node 1"),
        ({"public_key": "of node 2"}, "same identity key"),
        ({"address": "wss://node2.example.org:9000"}, "same address"),
    ],
)
def test_cards_that_disagree_are_refused_and_nothing_is_changed(
    init: Callable[..., Any],
    keycairn: Callable[..., Any],
    tmp_path: Path,
    changes: dict[str, Any],
    words: str,
) -> None:
    for i in (1, 2, 3):
        init(i)
    two = tmp_path / "n2" / "node.card"
    if "public_key" in changes:
        changes = {"public_key": json.loads(two.read_text())["public_key"]}
    bad = altered(tmp_path / "n3" / "node.card", tmp_path / "bad.card", **changes)
    before = files(tmp_path)
    ran = keycairn("init", tmp_path / "n1", "--peer", two, "--peer", bad, "--json")
    assert (ran.code, ran.error) == (3, "E_CONFLICT")
    assert words in ran.json["error"]["message"]
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"public_key": "00" * 32},
        {"public_key": "01" + "00" * 31},
        {"index": 0},
        {"index": True},
        {"index": "2"},
        {"keycairn_card": 2},
        {"address": "wss://x:1/../"},
        {"more": 1},
    ],
)
def test_a_card_that_is_none_is_refused(
    init: Callable[..., Any],
    keycairn: Callable[..., Any],
    tmp_path: Path,
    changes: dict[str, Any],
) -> None:
    for i in (1, 2, 3):
        init(i)
    bad = altered(tmp_path / "n3" / "node.card", tmp_path / "bad.card", **changes)
    before = files(tmp_path)
    good = peers(tmp_path, 2)
    assert keycairn("init", tmp_path / "n1", *good, "--peer", bad, "--json").code == 2
    assert keycairn("init", tmp_path / "n1", *good, "--json").error == "E_MALFORMED"
    assert files(tmp_path) == before


def test_a_card_changed_on_its_way_changes_the_fingerprint_of_the_vault(
    init: Callable[..., Any], keycairn: Callable[..., Any], tmp_path: Path
) -> None:
    for i in (1, 2, 3):
        init(i)
    honest = keycairn("init", tmp_path / "n1", *peers(tmp_path, 2, 3), "--json").json
    other = keycairn("init", tmp_path / "n2", *peers(tmp_path, 1, 3), "--json").json
    assert honest["vault_fingerprint"] == other["vault_fingerprint"]
    swapped = altered(
        tmp_path / "n2" / "node.card", tmp_path / "x.card", address="wss://evil.example.org:9000"
    )
    words = [*peers(tmp_path, 1), "--peer", swapped]
    cheated = keycairn("init", tmp_path / "n3", *words, "--json").json
    assert cheated["vault_fingerprint"] != honest["vault_fingerprint"]
