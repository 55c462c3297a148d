"""Make .venv from a hash-locked requirements file, or bring it up to date.

Usage: ensure_venv.py SET, where SET is recover, demo, test or all, each holding the one before.
Standard library only. Does nothing, quickly, when .venv already satisfies SET.

A stamp inside .venv says from what it was made. It is emptied before packages are changed and
written last, so an interrupted run is seen, and .venv made anew. One run at a time: each holds a
lock on the repository's directory, which the system frees when its holder dies.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "keycairn-stamp.json"
SETS = ("recover", "demo", "test", "all")
# A test oracle that comes as source only. Plain Python, built with our locked setuptools.
SOURCE_ONLY = "embit"


def say(text: str) -> None:
    print(f"keycairn: {text}", file=sys.stderr, flush=True)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def lock_of(name: str) -> Path:
    return ROOT / "requirements" / f"{name}.txt"


def venv_works() -> bool:
    """False when .venv is missing, half made or broken (say, by an upgrade of Python)."""
    try:
        subprocess.run([PYTHON, "-I", "-c", "import pip"], capture_output=True, check=True)
    except (OSError, subprocess.SubprocessError):
        return False
    return True


def stamp_for(name: str) -> dict[str, str]:
    """What the stamp says when .venv holds set ``name`` and nothing has changed since."""
    return {
        "set": name,
        "lock": sha256(lock_of(name)),
        "project": sha256(ROOT / "pyproject.toml"),
        # A venv cannot be moved: its scripts and the editable install name this directory.
        "root": str(ROOT),
        "python": os.path.realpath(PYTHON),
    }


def read_stamp() -> dict[str, str]:
    try:
        stamp = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def write_stamp(stamp: dict[str, str]) -> None:
    fresh = STAMP.with_suffix(".new")
    fresh.write_text(json.dumps(stamp, indent=1) + "\n")
    fresh.replace(STAMP)


def larger(a: str, b: str) -> str:
    return max(a, b, key=SETS.index)


def is_current(stamp: dict[str, str], wanted: str) -> bool:
    name = stamp.get("set")
    return (
        name in SETS
        and larger(name, wanted) == name
        and stamp == stamp_for(name)
        and os.access(PYTHON, os.X_OK)
    )


def run(*command: str | Path) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, cwd=ROOT)
    if done.returncode != 0:
        say("could not make .venv; the reason stands above. No file outside .venv was changed.")
        sys.exit(1)


def pip(*args: str | Path) -> None:
    # Twice quiet: errors only.
    options = ("--no-input", "--disable-pip-version-check", "-qq", "--progress-bar", "off")
    run(PYTHON, "-I", "-m", "pip", "install", *options, *args)


def make(wanted: str) -> None:
    stamp = read_stamp()
    # Once grown to a larger set, .venv stays there: ./demo after ./test takes nothing away.
    name = larger(stamp["set"], wanted) if stamp.get("set") in SETS else wanted
    now = stamp_for(name)
    unfinished = STAMP.exists() and "set" not in stamp
    moved = any(stamp.get(what, now[what]) != now[what] for what in ("root", "python"))

    if unfinished or moved or not venv_works():
        make_empty(name)
        stamp = {}
    elif stamp.get("lock") != now["lock"]:
        say(f"bringing .venv up to date (set: {name}) ...")

    if stamp.get("lock") != now["lock"]:
        write_stamp({})
        install_requirements(name)
        write_stamp({**stamp_for(name), "project": "not yet"})
    pip("--no-deps", "--no-build-isolation", "--editable", ROOT)
    write_stamp(stamp_for(name))


def make_empty(name: str) -> None:
    try:
        import ensurepip  # noqa: F401
    except ImportError:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        say(f"{sys.executable} cannot make virtual environments: it lacks ensurepip.")
        say(f"On Debian and Ubuntu: apt-get install python3-venv (or python{version}-venv)")
        sys.exit(1)
    say(f"making .venv with Python {sys.version.split()[0]} (set: {name}) ...")
    run(sys.executable, "-I", "-m", "venv", "--clear", VENV)


def install_requirements(name: str) -> None:
    # Wheels with known hashes: no compiler is needed.
    options = ["--require-hashes", "--only-binary", ":all:"]
    if SOURCE_ONLY in lock_of(name).read_text():
        # What builds goes in first (it is in the smallest set), so that nothing without a hash
        # is fetched for a build.
        pip(*options, "-r", lock_of("recover"))
        options += ["--no-binary", SOURCE_ONLY, "--no-build-isolation"]
    pip(*options, "-r", lock_of(name))


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1] not in SETS:
        sys.exit(f"usage: ensure_venv.py {'|'.join(SETS)}")
    wanted = sys.argv[1]
    if is_current(read_stamp(), wanted):
        return
    lock = os.open(ROOT, os.O_RDONLY)  # held until this process ends
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("another run is making .venv; waiting for it ...")
        fcntl.flock(lock, fcntl.LOCK_EX)
    if not is_current(read_stamp(), wanted):
        make(wanted)


if __name__ == "__main__":
    main()
