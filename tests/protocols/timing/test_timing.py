"""Time that depends on secrets: docs/protocols/timing.md (T-112, and what DKLs23 claims).

The figures need --full, some minutes and a machine that has a core to spare; the harness itself is
tried on every run. ``pytest --full -s`` prints the table of the page.
"""

from __future__ import annotations

import random
from pathlib import Path as File

import pytest

from protocols.timing.measure import line
from protocols.timing.paths import PATHS
from protocols.timing.welch import THRESHOLD, Path, measure

PAGE = File(__file__).parents[3] / "docs" / "protocols" / "timing.md"


def _loop(bits: int) -> object:
    """Takes a little longer for every bit that is set."""
    total = 0
    for k in range(64):
        if bits >> k & 1:
            total += k * k
    return total


def _secret(rnd: random.Random, fixed: bool) -> int:
    drawn = rnd.getrandbits(64)
    return (1 << 63) | 1 if fixed else drawn | 1 << 63


def test_the_test_sees_a_branch_on_a_secret_and_nothing_in_a_constant() -> None:
    leaky = Path("a loop over bits", False, _secret, _loop, 4000)
    assert measure(leaky, 0).t > 20
    ts = [
        measure(Path("no secret at all", False, _secret, lambda _: _loop(5), 4000), k).t
        for k in range(3)
    ]
    assert sorted(ts)[1] < THRESHOLD


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.name)
def test_every_path_runs_with_either_kind_of_secret(path: Path) -> None:
    result = measure(path, "smoke", 40)
    assert result.microseconds > 0


def test_the_page_has_every_path_with_what_is_claimed_of_it() -> None:
    rows = [row.split("|") for row in PAGE.read_text(encoding="utf-8").splitlines()]
    named = {row[1].strip(): row[2].strip() for row in rows if len(row) == 8}
    for path in PATHS:
        assert named.get(path.name) == ("yes" if path.claimed else "no"), path.name


@pytest.mark.full
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.name)
def test_t112_no_claimed_path_tells_its_secret_by_time(path: Path) -> None:
    """Twice in three runs above the threshold is a signal; once may be chance or a busy machine.

    Of the paths that are not claimed, the controls must show: else the test sees nothing.
    """
    runs = [measure(path, run) for run in range(3)]
    print(f"\n{line(path, runs, path.samples)}")
    ts = sorted(r.t for r in runs)
    if path.claimed:
        assert ts[1] < THRESHOLD, f"|t| of three runs: {ts}"
    elif path.name.startswith("control"):
        assert ts[0] > THRESHOLD, f"|t| of three runs: {ts}"
