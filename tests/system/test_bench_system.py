"""``keycairn bench system``: real processes, real figures, and nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from databases import SERVERS, node_databases

FIELDS = {
    "p50_ms",
    "p99_ms",
    "cpu_ms_per_node",
    "bytes_sent",
    "pool_start",
    "pool_end",
    "errors",
    "target_met",
}


def bench(folder: Path, *words: str) -> dict[str, Any]:
    """Run it with ``folder`` as the place for temporary directories."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "keycairn.cli",
            "bench",
            "system",
            "--seconds",
            "1",
            *words,
            "--json",
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "TMPDIR": str(folder)},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = json.loads(done.stdout)["results"]
    assert row.keys() >= FIELDS
    assert row["errors"] == {}
    assert 0 < row["p50_ms"] <= row["p99_ms"]
    assert list(folder.iterdir()) == [], "the vault is still there"
    assert not running(folder), "a node is still running"
    return dict(row)


def running(folder: Path) -> list[str]:
    """Command lines of processes that have something to do with ``folder``."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if str(folder) in line:
            found.append(line)
    return found


@pytest.mark.parametrize("scheme", ["ecdsa", "schnorr"])
def test_signatures(tmp_path: Path, scheme: str) -> None:
    row = bench(tmp_path, "--scheme", scheme, "--concurrency", "4")
    assert row["signatures"] == row["requests"] > 0
    assert row["signatures_per_second"] == pytest.approx(
        row["signatures"] / row["seconds"], rel=0.01
    )
    assert row["cpu_ms_per_node"] > 0
    assert row["bytes_sent"] > 100, "two nodes have told each other at least a partial signature"
    assert set(row["cpu_ms_by_node"]) == {"1", "2", "3"}
    # The stock was waited for: a run from it says so, and shows what it left.
    assert row["pool_start"] > 0
    assert row["pool_end"] >= 0
    assert 0 < row["from_pool"] <= row["signatures"]


@pytest.mark.parametrize("kind", SERVERS)
def test_on_a_database_server(tmp_path: Path, kind: str) -> None:
    with node_databases(kind, 2) as at:
        words = ["--database", at["database"], "--database-password-env", at["password_env"]]
        row = bench(tmp_path, "--scheme", "schnorr", "--nodes", "2", *words)
    assert row["database"] == kind
    assert row["signatures"] > 0


def test_a_stock_to_begin_with(tmp_path: Path) -> None:
    """What a run took from a larger stock shows in its row."""
    row = bench(tmp_path, "--scheme", "schnorr", "--concurrency", "4", "--pool", "200")
    assert row["pool_start"] >= 100
    assert row["pool_end"] < row["pool_start"]
    assert 0 < row["from_pool"] <= row["signatures"]


def test_keys(tmp_path: Path) -> None:
    row = bench(tmp_path, "--what", "create", "--batch", "5", "--nodes", "2", "--threshold", "1")
    assert row["keys"] == 5 * row["requests"] > 0
    assert row["keys_per_second"] > 0
