"""A vault of real processes for tests: made with the commands an operator uses, killed at will."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import tomli_w

from databases import SERVERS, renew
from keycairn.client import OperatorClient, Vault
from keycairn.node.config import load_config

PROGRAM = (sys.executable, "-m", "keycairn.cli")
START_SECONDS = 30.0


def keycairn(
    *words: str, env: dict[str, str] | None = None, check: bool = True, seconds: float = 120
) -> dict[str, Any]:
    """Run a command with ``--json`` in a process of its own; returns its one JSON object.

    The exit code is added as ``exit``; with ``check`` it must be 0. It may take ``seconds``.
    """
    done = subprocess.run(
        [sys.executable, "-m", "keycairn.cli", *words, "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, **(env or {})},
        timeout=seconds,
        check=False,
    )
    lines = done.stdout.strip().splitlines()
    assert len(lines) == 1, f"{words}: not one JSON object: {done.stdout!r} {done.stderr[-2000:]}"
    answer: dict[str, Any] = json.loads(lines[0])
    if check:
        assert done.returncode == 0, f"{words}: exit {done.returncode}: {answer}"
    answer["exit"] = done.returncode
    return answer


@dataclass
class NodeProcess:
    """One ``keycairn node run``."""

    config: Path
    process: subprocess.Popen[str]
    log: IO[str]
    lines: list[str] = field(default_factory=list)
    ready: threading.Event = field(default_factory=threading.Event)

    def _read(self) -> None:
        stdout = self.process.stdout
        assert stdout is not None
        for line in stdout:
            self.lines.append(line)
            if '"ready"' in line:
                self.ready.set()

    def wait_ready(self) -> None:
        """Wait for the ready line; fails with the log's end if the process dies first."""
        for _ in range(int(START_SECONDS / 0.02)):
            if self.ready.wait(0.02):
                return
            if self.process.poll() is not None:
                break
        text = Path(self.log.name).read_text(encoding="utf-8")[-3000:]
        raise AssertionError(f"node did not start (exit {self.process.poll()}):\n{text}")


class LocalVault:
    """A vault in a directory; its nodes are children of the test process."""

    def __init__(self, directory: Path, *, nodes: int, threshold: int, base_port: int) -> None:
        self.directory = directory
        self.players = tuple(range(1, nodes + 1))
        self.threshold = threshold
        self.base_port = base_port
        self.running: dict[int, NodeProcess] = {}

    @classmethod
    def create(
        cls,
        directory: Path,
        *,
        base_port: int,
        nodes: int = 3,
        threshold: int = 1,
        policy: str = "ers or node_backup",
        test_profile: bool = False,
        session_seconds: int | None = None,
        database: str | None = None,
        password_env: str | None = None,
    ) -> LocalVault:
        """``keycairn init``, then what the test wants different in node.toml.

        Args:
            database: URL with ``{node}`` for the number; see :func:`node_databases`.
            password_env: the environment variable with its password.
        """
        keycairn(
            "init",
            str(directory),
            "--nodes",
            str(nodes),
            "--threshold",
            str(threshold),
            "--base-port",
            str(base_port),
            "--policy",
            policy,
            *(["--database", database] if database else []),
            *(["--database-password-env", password_env] if password_env else []),
        )
        vault = cls(directory, nodes=nodes, threshold=threshold, base_port=base_port)
        for i in vault.players:
            with vault.editing(i) as config:
                if test_profile:
                    config["vault"]["profile"] = "test"
                if session_seconds is not None:
                    config.setdefault("limits", {})["session_seconds"] = session_seconds
        return vault

    # -- files ------------------------------------------------------------------------------

    def node_directory(self, i: int) -> Path:
        return self.directory / f"node{i}"

    def operator(self, i: int) -> Path:
        return self.directory / f"operator{i}"

    def config(self, i: int) -> Path:
        return self.node_directory(i) / "node.toml"

    @property
    def profile(self) -> Path:
        return self.directory / "vault.toml"

    def toml(self, i: int) -> dict[str, Any]:
        """Node ``i``'s node.toml as it stands."""
        return tomllib.loads(self.config(i).read_text(encoding="utf-8"))

    def editing(self, i: int) -> _Editing:
        """``with vault.editing(1) as config:`` changes node 1's node.toml."""
        return _Editing(self.config(i))

    # -- processes --------------------------------------------------------------------------

    def start(
        self,
        *which: int,
        crash_at: str | None = None,
        wait: bool = True,
        program: Sequence[str] = PROGRAM,
    ) -> None:
        """Start nodes (all by default) and wait until they are ready.

        Args:
            program: what stands for ``keycairn``: a node that lies is another program.
        """
        chosen = which or self.players
        for i in chosen:
            self.running[i] = self._spawn(i, crash_at, program)
        if wait:
            for i in chosen:
                self.running[i].wait_ready()

    def _spawn(self, i: int, crash_at: str | None, program: Sequence[str]) -> NodeProcess:
        logs = self.directory / "logs"
        logs.mkdir(exist_ok=True)
        log = (logs / f"node{i}.log").open("a", encoding="utf-8")
        env = {**os.environ, "PYTHONUNBUFFERED": "1"}
        if crash_at is not None:
            env["KEYCAIRN_CRASH_AT"] = crash_at
        process = subprocess.Popen(
            [*program, "node", "run", "--config", str(self.config(i))],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=env,
        )
        node = NodeProcess(self.config(i), process, log)
        threading.Thread(target=node._read, daemon=True).start()
        return node

    def kill(self, i: int) -> None:
        """SIGKILL, at once."""
        node = self.running.pop(i)
        node.process.send_signal(signal.SIGKILL)
        node.process.wait(10)
        node.log.close()

    def reap(self, i: int, seconds: float = 20.0) -> int:
        """Wait for a node that ends by itself (a crash point); returns its exit status."""
        node = self.running.pop(i)
        status = node.process.wait(seconds)
        node.log.close()
        return status

    def alive(self, i: int) -> bool:
        node = self.running.get(i)
        return node is not None and node.process.poll() is None

    def stop(self) -> None:
        """SIGTERM to all, SIGKILL to whoever does not listen."""
        nodes = list(self.running.values())
        self.running.clear()
        for node in nodes:
            if node.process.poll() is None:
                node.process.terminate()
        for node in nodes:
            try:
                node.process.wait(15)
            except subprocess.TimeoutExpired:
                node.process.kill()
                node.process.wait(10)
            node.log.close()

    def lose(self, i: int) -> None:
        """The disaster: the node's machine is gone with its database, its operator's safe is not.

        A database on a server is empty afterwards, as a new one would be.
        """
        if i in self.running:
            self.kill(i)
        url = self.toml(i)["database"]["url"] if self.config(i).exists() else ""
        if url.partition(":")[0] in SERVERS:
            renew(url)
        shutil.rmtree(self.node_directory(i))

    # -- clients ----------------------------------------------------------------------------

    def client(self) -> Vault:
        return Vault.open(self.profile)

    async def linked(self, *which: int, seconds: float = 20.0) -> None:
        """Wait until the given nodes say that they can finish a round with each other."""
        chosen = which or self.players

        configs = [load_config(self.config(i), {}) for i in chosen]

        async def all_up() -> bool:
            for config in configs:
                async with OperatorClient.of(config) as node:
                    up = {p["index"] for p in await node.peers() if p["up"]}
                if not set(chosen) - {config.index} <= up:
                    return False
            return True

        async with asyncio.timeout(seconds):
            while not await all_up():
                await asyncio.sleep(0.05)

    def newest_bundle(self, i: int) -> Path:
        # The names tell seconds: two of one second would be in the order of their hashes.
        found = (self.operator(i) / "backups").glob("*.bundle")
        bundles = sorted(found, key=lambda p: p.stat().st_mtime_ns)
        assert bundles, f"node {i} has no bundle"
        return bundles[-1]


class _Editing:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> dict[str, Any]:
        self.value = tomllib.loads(self.path.read_text(encoding="utf-8"))
        return self.value

    def __exit__(self, *_: object) -> None:
        self.path.write_text(tomli_w.dumps(self.value), encoding="utf-8")
        self.path.chmod(0o600)
