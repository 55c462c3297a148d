"""``keycairn-recover`` in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keycairn.ers
from keycairn.errors import Code

SRC = Path(keycairn.ers.__file__).parents[2]


def run(*args: object, code: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """Run the tool, or ``code``, with nothing but PATH in the environment and what is given."""
    start = ["-c", code] if code else ["-m", "keycairn.ers.cli"]
    return subprocess.run(
        [sys.executable, *start, *map(str, args)],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(SRC), **env},
        stdin=subprocess.DEVNULL,
        timeout=120,
        check=False,
    )


def result(*args: object, **env: str) -> dict[str, Any]:
    """The one JSON object of a run that must work."""
    done = run(*args, "--json", **env)
    assert done.returncode == 0, done
    assert done.stdout.count("\n") == 1
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def error(exit_code: int, code: Code, *args: object, **env: str) -> dict[str, Any]:
    """The error object of a run that must fail so."""
    done = run(*args, "--json", **env)
    assert done.returncode == exit_code, done
    body = json.loads(done.stdout)
    assert body["error"]["code"] == code.value, body
    assert "Traceback" not in done.stderr
    found: dict[str, Any] = body["error"]
    return found
