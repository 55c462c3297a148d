"""``keycairn bench``: that figures are made, of what, and what a check does with them.

No figure is asserted: this machine is busy with tests. Runs are as few as they can be.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from keycairn.cli.bench import baseline, dkg, ecdsa, ers, floors, schnorr, suite, targets
from keycairn.cli.bench.cast import Cast
from keycairn.cli.bench.primitives import primitives
from keycairn.cli.bench.processes import cpu_seconds
from keycairn.cli.bench.row import Subject
from keycairn.cli.bench.sample import Sample
from keycairn.cli.bench.system import stock
from keycairn.errors import Code, KeycairnError
from keycairn.ports.system import SystemClock
from keycairn.protocols.record import SUITES

ECDSA = [c for s, c in SUITES if s == "ecdsa"]
SCHNORR = [c for s, c in SUITES if s == "schnorr"]


def complete(row: dict[str, Any], figure: str) -> None:
    """Every row has a median among its runs, its primitives, its floor and its ratio to that."""
    assert 0 < row["min_ms"] <= row["p50_ms"] <= row["p99_ms"]
    assert row["min_ms"] <= row[figure] <= row["p99_ms"]
    assert set(row["ratio_to"]) <= set(row["microseconds"])
    assert row["ratio_to_floor"] == pytest.approx(row[figure] / row["floor_ms"], rel=0.01)
    assert row["least_ratio_to_floor"] > 1, "faster than its own library calls"
    assert (row["target_ms"] is None) == (row["target_met"] is None)


@pytest.mark.parametrize("curve", ECDSA)
@pytest.mark.parametrize("signers", [2, 3])
def test_presignatures(curve: str, signers: int) -> None:
    row = ecdsa.presign(Cast("ecdsa", curve, signers), 2, 1)
    complete(row, "ms_per_presignature_per_party")
    assert (row["signers"], row["batch"], row["curve"]) == (signers, 2, curve)
    assert 60_000 < row["bytes_per_presignature_per_peer"] < 80_000


@pytest.mark.parametrize("curve", ECDSA)
@pytest.mark.parametrize("pool", [True, False])
def test_ecdsa_signatures(curve: str, pool: bool) -> None:
    row = ecdsa.sign(Cast("ecdsa", curve, 2), 2, pool=pool)
    complete(row, "ms_per_signature_per_party")
    assert (row["scheme"], row["signatures"], row["from_pool"]) == ("ecdsa", 2, pool)
    # ν and a partial, or all of presigning.
    assert row["bytes_sent"] < 200 if pool else row["bytes_sent"] > 70_000


@pytest.mark.parametrize("curve", SCHNORR)
def test_frost(curve: str) -> None:
    cast = Cast("schnorr", curve, 2)
    complete(schnorr.nonces(cast, 3, 1), "ms_per_nonce_pair_per_party")
    for pool in (True, False):
        complete(schnorr.sign(cast, 2, pool=pool), "ms_per_signature_per_party")


@pytest.mark.parametrize(("scheme", "curve"), SUITES)
def test_key_generation(scheme: str, curve: str) -> None:
    row = dkg.dkg(scheme, curve, 3, 1, 2, 1)
    complete(row, "ms_per_key_per_node")
    assert (row["players"], row["batch"]) == (3, 2)


def test_setup() -> None:
    row = dkg.setup(1)
    complete(row, "ms_per_player")
    assert 8_500 < row["bytes_sent"] < 8_700


@pytest.mark.parametrize(("scheme", "curve"), SUITES)
def test_primitives(scheme: str, curve: str) -> None:
    figures = primitives(scheme, curve, runs=1, repeats=2)
    counts = [floors.presign(3, 5), floors.ecdsa_full(2), floors.frost_full(2), floors.keygen(3, 1)]
    if curve == "secp256k1":
        counts.append(floors.setup())
    assert all(us > 0 for us in figures.values())
    assert all(set(count) <= set(figures) for count in counts)


def test_recovery_documents() -> None:
    row = ers.ers("ed25519", 2, "fast", ers.rsa_spki(2048))
    assert (row["keys"], row["rsa_bits"]) == (2, 2048)
    assert row["bytes_per_key"] > row["context_bytes_per_key"] > 0


def test_floor_of_a_presignature_grows_with_peers_and_shrinks_with_batches() -> None:
    alone, many, three = floors.presign(2, 1), floors.presign(2, 100), floors.presign(3, 1)
    assert many["shake128_kib"] < alone["shake128_kib"]
    assert all(three[name] == 2 * alone[name] for name in alone if name != "base_mult")
    assert three["base_mult"] == alone["base_mult"] + 4


def test_percentiles_are_runs() -> None:
    sample = Sample([5.0, 1.0, 4.0, 2.0, 3.0])
    assert (sample.median, sample.least) == (3.0, 1.0)
    assert [sample.percentile(p) for p in (1, 20, 21, 50, 99, 100)] == [1, 1, 2, 3, 5, 5]
    assert Sample([7.0]).row() == {"runs": 1, "min_ms": 7.0, "p50_ms": 7.0, "p99_ms": 7.0}


# -- targets and baselines


def test_every_target_is_of_a_figure_that_a_release_is_judged_by() -> None:
    """A name that no bench makes would be a target that nobody ever misses."""
    shipped = baseline.load()["rows"]
    for what, kind, players, batch in targets.TARGETS:
        name = Subject(what, kind, players, batch).name
        if name != "dkg schnorr/ed25519 players=3 batch=100":
            assert name in shipped
    assert {f"{s}/{c}" for s, c in SUITES} == {k.split()[-3] for k in shipped} - {"secp256k1"}


def row(ratio: float, *, target: float | None = None, multiplication: float = 37.0) -> Any:
    return {
        "name": "presign ecdsa/secp256k1 players=2 batch=100",
        "curve": "secp256k1",
        "least_ratio_to_floor": ratio,
        "floor_ms": 0.5,
        "target_ms": target,
        "microseconds": {"constant_time_mult": multiplication},
    }


def verdict(one: Any, then: int | None) -> bool | None:
    known = {} if then is None else {one["name"]: then}
    found = baseline.compare([one], {"made": "2000-01-01", "rows": known})
    return found[0]["ok"] if found else None


def test_check_allows_half_the_speed_and_no_less() -> None:
    assert verdict(row(3.99), 2000) is True
    assert verdict(row(4.01), 2000) is False
    # A target of 1 ms is 2 floors here: at most 4, whatever the baseline says.
    assert verdict(row(3.99, target=1.0), 9000) is True
    assert verdict(row(4.01, target=1.0), 9000) is False
    # On a machine at half the speed the same target is 2 ms.
    assert verdict(row(7.99, target=1.0, multiplication=74.0), 9000) is True
    assert verdict(row(8.01, target=1.0, multiplication=74.0), 9000) is False
    assert verdict(row(1.0), None) is None


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"rows": {"a": 0}}', '{"rows": {"a": 1.5}}', '{"rows": [1]}']
)
def test_a_broken_baseline_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "baseline.json"
    file.write_text(text)
    with pytest.raises(KeycairnError) as caught:
        baseline.load(file)
    assert caught.value.code is Code.MALFORMED


def test_a_baseline_reads_back(tmp_path: Path) -> None:
    file = tmp_path / "baseline.json"
    machine = {"cpu": "some", "python": "3.11"}
    file.write_text(baseline.text([row(2.5), {"name": "no ratio"}], machine, SystemClock()))
    assert baseline.load(file)["rows"] == {row(2.5)["name"]: 2500}


# -- the commands


@pytest.fixture
def one_row(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make ``bench all`` a single row of the test's choice."""

    def use(made: Any) -> None:
        monkeypatch.setattr(suite, "everything", lambda quick: iter([made]))

    return use


@dataclass
class Wrote:
    """A baseline file with one row."""

    file: Path

    @classmethod
    def of(cls, folder: Path, thousandths: int) -> Wrote:
        file = folder / "baseline.json"
        rows = {row(1.0)["name"]: thousandths}
        file.write_text(json.dumps({"made": "2026-01-01", "rows": rows}))
        return cls(file)


def test_check_ends_with_1_below_the_floor(
    keycairn: Callable[..., Any], one_row: Any, tmp_path: Path
) -> None:
    one_row(row(3.0))
    known = Wrote.of(tmp_path, 2000).file
    passed = keycairn("bench", "all", "--check", "--baseline", known, "--json")
    assert (passed.code, passed.json["check"]["ok"]) == (0, True)
    slow = Wrote.of(tmp_path, 1000).file
    failed = keycairn("bench", "all", "--check", "--baseline", slow, "--json")
    assert (failed.code, failed.json["check"]["ok"]) == (1, False)
    assert "presign ecdsa/secp256k1" in failed.err
    # Nothing to compare is no success.
    other = tmp_path / "other.json"
    other.write_text('{"made": "2026-01-01", "rows": {"something else": 1}}')
    assert keycairn("bench", "all", "--check", "--baseline", other, "--json").code == 1


def test_results_and_machine(keycairn: Callable[..., Any]) -> None:
    ran = keycairn("bench", "presign", "--batch", "1", "--curve", "secp256k1", "--json")
    assert ran.code == 0
    assert set(ran.json) == {"machine", "results"}
    assert {"cpu", "cpus", "python"} <= set(ran.json["machine"])
    (made,) = ran.json["results"]
    assert made["ms_per_presignature_per_party"] > 0


def test_processor_time_of_a_process() -> None:
    before = cpu_seconds(os.getpid())
    sum(range(3_000_000))
    assert 0 <= before <= cpu_seconds(os.getpid())
    with pytest.raises(OSError, match=r"No such file|no process"):
        cpu_seconds(2**22 + 1)


def test_the_stock_is_what_all_signers_of_a_set_have() -> None:
    ahead = [{"players": [1, 2], "count": 20}, {"players": [1, 3], "count": 7}]
    assert stock({1: ahead, 2: [{"players": [1, 2], "count": 12}], 3: []}) == 12
    assert stock({1: ahead, 2: ahead[:1], 3: ahead[1:]}) == 27
    assert stock({1: [], 2: []}) == 0
