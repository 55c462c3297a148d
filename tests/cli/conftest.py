"""The command line as its users have it: a process, an exit code, one JSON object."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from keycairn.cli import main


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one object on stdout."""
        assert self.out.count("\n") == 1, self.out
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value

    @property
    def error(self) -> str:
        """The error's code, its object being complete."""
        error = self.json["error"]
        assert set(error) == {"code", "message", "not_lost", "next", "node", "detail"}
        return str(error["code"])


def in_process(*words: object, env: dict[str, str] | None = None) -> Ran:
    """Run a command in this process: the same words in, the same text out, much sooner."""
    out, err = io.StringIO(), io.StringIO()
    clean = {k: v for k, v in os.environ.items() if not k.startswith("KEYCAIRN_")}
    with (
        patch.dict(os.environ, clean | (env or {}), clear=True),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        code = main([str(w) for w in words])
    return Ran(code, out.getvalue(), err.getvalue())


def as_process(
    *words: object, env: dict[str, str] | None = None, module: str = "keycairn.cli"
) -> Ran:
    """Run a command in a process of its own."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("KEYCAIRN_")}
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, words)],
        capture_output=True,
        text=True,
        env=clean | (env or {}),
        timeout=120,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Ran(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def keycairn() -> Callable[..., Ran]:
    return in_process


@pytest.fixture(scope="session")
def process() -> Callable[..., Ran]:
    return as_process


@pytest.fixture(scope="session")
def vault(
    tmp_path_factory: pytest.TempPathFactory, free_ports: Callable[[int], int]
) -> Iterator[Path]:
    """A running vault of three nodes, shared by the tests of this folder."""
    directory = tmp_path_factory.mktemp("cli") / "vault"
    made = in_process("--json", "init", directory, "--base-port", free_ports(9))
    assert made.code == 0, made.out
    for i in (1, 2, 3):
        # A node whose peers were refused by their users waits as long as a session may last.
        config = directory / f"node{i}" / "node.toml"
        config.write_text(config.read_text() + "[limits]\nsession_seconds = 8\n")
    try:
        up = in_process("vault", "up", directory, "--json")
        assert up.code == 0, up.out
        yield directory
    finally:
        in_process("vault", "down", directory)
