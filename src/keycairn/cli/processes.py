"""The processes of a local vault: started detached, remembered by pid *and* start time.

``DIR/run/node1.json`` holds pid and start time, ``node1.log`` the node's log, ``node1.out`` what
it said of itself. A pid alone may belong to somebody else by now: nothing is signalled unless the
start time is the recorded one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keycairn.client.operator import OperatorClient
from keycairn.encoding.strict import decode_json
from keycairn.errors import Code, KeycairnError
from keycairn.node.config import NodeConfig
from keycairn.node.files import write_private

_START_SECONDS = 30.0
#: How long a node that listens may wait for its peers, and how long one that was restored, which
#: rejoins by itself once all of them answer.
_WAITING_SECONDS, _REJOIN_SECONDS = 10.0, 30.0
_STOP_SECONDS = 20.0
_POLL = 0.05
_FENCED = frozenset({"waiting", "quarantined"})
_ASK_SECONDS = 3.0


@dataclass(frozen=True)
class RecordedProcess:
    """The process of one node of a local vault, by what ``DIR/run`` says: enough to stop it."""

    index: int
    run: Path

    @property
    def log(self) -> Path:
        """Where the node's log goes."""
        return self.run / f"node{self.index}.log"

    @property
    def _record(self) -> Path:
        return self.run / f"node{self.index}.json"

    @property
    def _out(self) -> Path:
        return self.run / f"node{self.index}.out"

    def pid(self) -> int | None:
        """The running process, or None."""
        try:
            record = decode_json(self._record.read_bytes())
            pid, started = int(record["pid"]), record["started"]
        except (OSError, KeycairnError, KeyError, TypeError, ValueError):
            return None
        return pid if _start_time(pid) == started is not None else None

    async def stop(self) -> str:
        """Ask the process to end and wait: "stopped", "killed" (it took too long) or
        "not running"."""
        pid = self.pid()
        if pid is None:
            return "not running"
        self._signal(pid, signal.SIGTERM)
        if await self._gone(_STOP_SECONDS):
            return "stopped"
        self._signal(pid, signal.SIGKILL)
        await self._gone(5.0)
        return "killed"

    async def kill(self) -> None:
        """SIGKILL, as a power cut would; waits until it is gone."""
        pid = self.pid()
        if pid is not None:
            self._signal(pid, signal.SIGKILL)
            await self._gone(5.0)

    def _signal(self, pid: int, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    async def _gone(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.pid() is not None:
                    await asyncio.sleep(_POLL)
        return self.pid() is None


@dataclass(frozen=True)
class NodeProcess(RecordedProcess):
    """The same with its configuration: enough to start it."""

    config: NodeConfig

    async def start(self) -> int:
        """Start the node and wait until it can take requests, or says that it may not.

        Raises:
            KeycairnError: E_CONFLICT when it runs already; the node's own error, or
                E_UNAVAILABLE with the end of its log, when it does not come up; E_QUARANTINED
                when it runs, and is WAITING or QUARANTINED.
        """
        if (pid := self.pid()) is not None:
            raise KeycairnError(
                Code.CONFLICT,
                f"node {self.index} is running already (pid {pid})",
                next="keycairn vault down DIR",
                node=self.index,
            )
        self.run.mkdir(mode=0o700, exist_ok=True)
        command = [sys.executable, "-P", "-m", "keycairn.cli", "--json", "node", "run"]
        with (
            _private(self._out, "wb") as out,
            _private(self.log, "ab") as log,
        ):
            process = subprocess.Popen(
                [*command, "--config", str(self.config.file)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                start_new_session=True,
                cwd=self.config.home,
            )
        record = {"pid": process.pid, "started": _start_time(process.pid)}
        write_private(self._record, json.dumps(record).encode())
        try:
            await self._says(process, {"ready", *_FENCED}, _START_SECONDS)
        except TimeoutError:
            process.kill()
            process.wait()
            raise self._failed() from None
        await self.settle(process)
        return process.pid

    async def settle(self, process: subprocess.Popen[bytes] | None = None) -> None:
        """Wait while a node that listens may yet become active by itself.

        Raises:
            KeycairnError: E_QUARANTINED when it doesn't.
        """
        said = self.said()
        if said.get("event") == "ready":
            return
        waiting = said.get("event") == "waiting"
        with contextlib.suppress(TimeoutError):
            if waiting:
                await self._says(process, {"ready", "quarantined"}, _WAITING_SECONDS)
                said = self.said()
            if said.get("event") == "quarantined" and said.get("cause") == "restored":
                await self._says(process, {"ready"}, _REJOIN_SECONDS)
        said = self.said()
        if said.get("event") in _FENCED:
            raise KeycairnError(
                Code.QUARANTINED,
                f"node {self.index} runs and is {str(said['event']).upper()}: {said.get('why')}",
                not_lost="Its keys and shares are unchanged; it takes part in nothing for now.",
                next=str(said.get("next", "")),
                node=self.index,
                detail={"state": str(said["event"]).upper()},
            )

    async def _says(
        self, process: subprocess.Popen[bytes] | None, wanted: Collection[str], seconds: float
    ) -> None:
        async with asyncio.timeout(seconds):
            while self.said().get("event") not in wanted:
                if process is not None and process.poll() is not None:
                    raise self._failed()
                await asyncio.sleep(_POLL)

    def said(self) -> dict[str, Any]:
        """The last thing that the node said of itself; empty if it said nothing."""
        with contextlib.suppress(OSError, KeycairnError, IndexError):
            last = self._out.read_bytes().splitlines()[-1]
            line = decode_json(last, max_string=1 << 16)
            if isinstance(line, dict):
                return line
        return {}

    def _failed(self) -> KeycairnError:
        """Why it did not start: its own error object, or the end of its log."""
        with contextlib.suppress(OSError, KeycairnError):
            value = self.said()
            if "error" in value:
                error = KeycairnError.from_json(value)
                error.node = self.index
                return error
        tail: list[str] = []
        with contextlib.suppress(OSError):
            tail = self.log.read_text("utf-8", "replace").splitlines()[-5:]
        return KeycairnError(
            Code.UNAVAILABLE,
            f"node {self.index} did not come up" + (f": {tail[-1][:200]}" if tail else ""),
            not_lost="Its keys and shares are unchanged.",
            next=f"read {self.log}",
            node=self.index,
            detail={"log": tail},
        )

    async def peers(self) -> list[dict[str, Any]]:
        """What the node says about its peers; empty if it can't be asked."""
        try:
            async with asyncio.timeout(_ASK_SECONDS), OperatorClient.of(self.config) as node:
                return await node.peers()
        except (KeycairnError, TimeoutError):
            return []


async def wait_for_links(processes: list[NodeProcess], seconds: float) -> list[tuple[int, int]]:
    """Wait until all running nodes see each other; returns the pairs that don't."""
    running = {p.index: p for p in processes if p.pid() is not None}
    missing: list[tuple[int, int]] = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while True:
                views = await asyncio.gather(*(p.peers() for p in running.values()))
                missing = [
                    (i, j)
                    for i, view in zip(running, views, strict=True)
                    for j in running
                    if i != j and not any(v["index"] == j and v["up"] for v in view)
                ]
                if not missing:
                    return []
                await asyncio.sleep(0.1)
    return missing


def _private(path: Path, mode: str) -> Any:
    return open(path, mode, opener=lambda name, flags: os.open(name, flags, 0o600))


def _start_time(pid: int) -> str | None:
    """When a process started, in a form that only serves comparison; None if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
    except FileNotFoundError:
        return None if Path("/proc/self/stat").exists() else _ps_start_time(pid)
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    # A zombie (its parent has not asked for its end) does nothing any more.
    return None if fields[0] in "ZX" else fields[19]


def _ps_start_time(pid: int) -> str | None:
    # Systems without /proc.
    found = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    state, _, started = found.stdout.strip().partition(" ")
    return None if found.returncode or state.startswith("Z") else started.strip()
