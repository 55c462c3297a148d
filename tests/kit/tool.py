"""The offline tool in a process of its own: the system's Python, with nothing installed."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from keycairn.kit import pyz
from keycairn.kit.offline.tool import main

#: Not the one of the virtual environment, where there is another.
PYTHON = shutil.which("python3", path="/usr/bin:/usr/local/bin") or sys.executable


def write_tool(folder: Path) -> Path:
    """Pack the tool there."""
    path = folder / "keycairn-offline.pyz"
    path.write_bytes(pyz.build())
    return path


def run(tool: Path, *words: object, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run it with an empty environment."""
    return subprocess.run(
        [PYTHON, "-I", "-S", str(tool), *map(str, words)],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin"},
        stdin=subprocess.DEVNULL,
        timeout=120,
        check=False,
        **more,
    )


def result(tool: Path, *words: object) -> dict[str, Any]:
    """The one JSON object of a run that must work."""
    done = run(tool, *words, "--json")
    assert done.returncode == 0, done
    assert done.stdout.count("\n") == 1
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def error(exit_code: int, code: str, tool: Path, *words: object) -> dict[str, Any]:
    """The error object of a run that must fail so."""
    done = run(tool, *words, "--json")
    assert done.returncode == exit_code, done
    assert "Traceback" not in done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["error"]
    assert found["code"] == code, found
    return found


def _inside(*words: object) -> tuple[int, dict[str, Any]]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([*map(str, words), "--json"])
    assert out.getvalue().count("\n") == 1, out.getvalue() + err.getvalue()
    return code, json.loads(out.getvalue())


def gives(*words: object) -> dict[str, Any]:
    """The same as :func:`result` in this process: Python compiles a zipapp at every start."""
    code, answer = _inside(*words)
    assert code == 0, answer
    return answer


def refuses(exit_code: int, code: str, *words: object) -> dict[str, Any]:
    """The same as :func:`error` in this process."""
    status, answer = _inside(*words)
    found: dict[str, Any] = answer["error"]
    assert (status, found["code"]) == (exit_code, code), found
    return found
