"""R-59: what is installed is pinned by hash, and equally in the four locks."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SETS = ("recover", "demo", "test", "all")
SERVER = {"fastapi", "uvicorn", "sqlalchemy", "websockets", "httpx", "msgspec", "structlog"}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def blocks(name: str) -> dict[str, str]:
    """Of one lock: package -> its whole entry."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    entries = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]
    return {normal(re.split(r"==", entry, maxsplit=1)[0]): entry for entry in entries}


def pins(name: str) -> dict[str, str]:
    """Of one lock: package -> version."""
    return {
        package: re.split(r"==|[ ;]", entry, maxsplit=2)[1]
        for package, entry in blocks(name).items()
    }


def direct(extra: str | None) -> set[str]:
    """The packages that pyproject.toml asks for, with extras of our own followed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = {normal(re.match(r"[\w.-]+", d)[0]) for d in project["dependencies"]}  # type: ignore[index]
    for wanted in project["optional-dependencies"][extra] if extra else []:
        own = re.match(r"keycairn\[(.+)\]", wanted)
        if own:
            for name in own[1].split(","):
                found |= direct(name)
        else:
            found.add(normal(re.match(r"[\w.-]+", wanted)[0]))  # type: ignore[index]
    return found


@pytest.mark.parametrize("name", SETS)
def test_every_package_is_pinned_with_hashes(name: str) -> None:
    for package, entry in blocks(name).items():
        assert re.match(r"\S+==\S+( ;.*)? \\\n", entry), f"{package} is not pinned"
        assert re.findall(r"--hash=sha256:[0-9a-f]{64}", entry), f"{package} has no hash"


@pytest.mark.parametrize("name", SETS)
def test_no_address_or_path_is_recorded(name: str) -> None:
    for line in (ROOT / "requirements" / f"{name}.txt").read_text().splitlines():
        assert "://" not in line
        assert not line.startswith("-"), "no option lines (--index-url, --find-links)"
        assert not re.search(r"(^|\s)/", line), "no absolute path"


@pytest.mark.parametrize("name", SETS[:-1])
def test_the_locks_agree(name: str) -> None:
    assert pins(name).items() <= pins("all").items()


@pytest.mark.parametrize("name", SETS)
def test_each_lock_holds_what_pyproject_asks_for(name: str) -> None:
    assert direct(None if name == "recover" else name) <= set(pins(name)), "run requirements/update"


@pytest.mark.parametrize("name", SETS)
def test_the_build_backend_is_locked_too(name: str) -> None:
    assert {"hatchling", "editables", "setuptools"} <= set(pins(name))


def test_recovery_brings_no_server_packages() -> None:
    assert not SERVER & set(pins("recover"))
