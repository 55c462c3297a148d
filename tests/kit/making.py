"""Kits for the tests, made by the command line from published documents."""

from __future__ import annotations

import io
import json
import zipfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from ers.test_kit import TWO
from keycairn.cli import main

LABEL = "Trial vault, é"


def keycairn(*words: object) -> tuple[int, dict[str, Any]]:
    """Run ``keycairn`` in this process: exit code, and the one JSON object."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([*map(str, words), "--json"])
    assert out.getvalue().count("\n") == 1, out.getvalue() + err.getvalue()
    return code, json.loads(out.getvalue())


def works(*words: object) -> dict[str, Any]:
    """The result of a command that must work."""
    code, answer = keycairn(*words)
    assert code == 0, answer
    return answer


def fails(exit_code: int, code: str, *words: object) -> dict[str, Any]:
    """The error of a command that must fail so."""
    status, answer = keycairn(*words)
    found: dict[str, Any] = answer["error"]
    assert (status, found["code"]) == (exit_code, code), found
    return found


def document(folder: Path, name: str = "all.json") -> Path:
    """A published document, away from its RSA key."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(TWO.read(name))
    return path


def make(folder: Path, *more: object) -> tuple[Path, dict[str, Any]]:
    """A kit of the published documents of three keys, in a folder of its own."""
    out = folder / "kit" / "KIT.zip"
    out.parent.mkdir()
    words = ["--documents", document(folder / "in"), "--label", LABEL, "--out", out]
    return out, works("kit", "create", *words, *more)


def unpacked(kit: Path, folder: Path) -> Path:
    """The kit's folder, unzipped."""
    with zipfile.ZipFile(kit) as archive:
        archive.extractall(folder)
    return folder
