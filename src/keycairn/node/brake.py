"""A brake on wrong secrets (T-079): tries of one node's encryptor, counted in a small file.

Whoever has the database guesses elsewhere, without this. It is for restart loops: a supervisor
that starts a node with a wrong PIN every five seconds locks the token, and one with a wrong token
fills the service's log. After three failures in a row there is a wait, doubled each time up to an
hour. Whoever corrects node.toml or the secret's file need not wait.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from keycairn.errors import Code, KeycairnError
from keycairn.node.config import NodeConfig
from keycairn.node.files import write_private
from keycairn.ports import Clock

FREE_TRIES = 3
FIRST_WAIT = 15
LONGEST_WAIT = 3600
_FILE = "encryptor.failed"
#: What a wrong secret gives, depending on the kind.
_WRONG = (Code.STORE_INTEGRITY, Code.AUTHN)


@contextmanager
def braked(config: NodeConfig, clock: Clock) -> Iterator[None]:
    """One try of the encryptor: refused if it comes too soon after failures, counted if it fails.

    Raises:
        KeycairnError: E_RATE_LIMIT, before anything was tried.
    """
    path = config.data_directory / _FILE
    failures, last_us = _read(path)
    if failures and _touched_since(config, last_us):
        failures = 0
    left = _wait(failures) - (clock.now_us() - last_us) // 1_000_000
    # A clock that was put back does not make the wait longer than it is.
    if failures > FREE_TRIES and 0 < left <= LONGEST_WAIT:
        raise KeycairnError(
            Code.RATE_LIMIT,
            f"the encryptor was tried {failures} times with a secret that does not open the "
            f"database; the next try is in {left} seconds",
            not_lost="Nothing was tried now; what is stored stays sealed.",
            next="correct [encryptor] in node.toml, or the secret: then there is no wait",
            node=config.index,
            detail={"failures": failures, "seconds": left},
        )
    try:
        yield
    except KeycairnError as exc:
        if exc.code in _WRONG:
            # A full disk must not hide what is wrong.
            with contextlib.suppress(KeycairnError):
                _write(path, failures + 1, clock.now_us())
        raise
    if failures or path.exists():
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _wait(failures: int) -> int:
    beyond = failures - FREE_TRIES - 1
    return 0 if beyond < 0 else min(FIRST_WAIT << min(beyond, 16), LONGEST_WAIT)


def _touched_since(config: NodeConfig, at_us: int) -> bool:
    files = [config.file]
    if config.encryptor.secret_file is not None:
        files.append(config.encryptor.secret_file)
    for file in files:
        with contextlib.suppress(OSError):
            if file.stat().st_mtime_ns // 1000 > at_us:
                return True
    return False


def _read(path: Path) -> tuple[int, int]:
    try:
        found = json.loads(path.read_text("ascii"))
        failures, at_us = found["failures"], found["at_us"]
    except (OSError, ValueError, KeyError, TypeError):
        return 0, 0
    good = all(type(v) is int and 0 <= v < 1 << 62 for v in (failures, at_us))
    return (failures, at_us) if good else (0, 0)


def _write(path: Path, failures: int, at_us: int) -> None:
    write_private(path, json.dumps({"failures": failures, "at_us": at_us}).encode() + b"\n")
