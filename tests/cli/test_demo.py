"""``./demo`` itself: every step proved, nothing left running, one JSON object."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keycairn.cli.processes import _start_time

pytestmark = pytest.mark.slow
Run = Callable[..., Any]


def test_every_step_is_proved(process: Run, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    ran = process("--json", "--keep", kept, module="keycairn.cli.demo")
    result = ran.json
    assert ran.code == 0, result
    assert all(s["proved"] is True and s["seconds"] >= 0 for s in result["steps"])
    assert len(result["steps"]) == 17
    assert {k["scheme"] for k in result["keys"]} == {"ecdsa", "schnorr"}
    assert result["seconds"] < 60
    assert result["directory"] == str(kept)
    assert not (kept / "node1").exists()
    for record in (kept / "run").glob("*.json"):
        import json

        running = json.loads(record.read_text())
        assert _start_time(running["pid"]) != running["started"]


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (["--nodes", "1"], 2, "E_MALFORMED"),
        (["--nodes", "3", "--threshold", "3"], 2, "E_MALFORMED"),
        (["--nonsense"], 2, "E_MALFORMED"),
        (["--keep", "."], 3, "E_CONFLICT"),
    ],
)
def test_wrong_use(process: Run, words: list[str], code: int, error: str) -> None:
    ran = process(*words, "--json", module="keycairn.cli.demo")
    assert (ran.code, ran.error) == (code, error)
