"""``keycairn vault``: the processes of a local vault."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from keycairn.cli.options import NodesOption, command, group, parse_nodes
from keycairn.cli.output import output
from keycairn.cli.processes import NodeProcess, wait_for_links
from keycairn.client import Vault, load_profile
from keycairn.errors import Code, KeycairnError, malformed
from keycairn.node.config import load_config

_LINK_SECONDS = 20.0
Directory = Annotated[Path, typer.Argument(help="directory of a local vault")]


def processes_of(directory: Path) -> dict[int, NodeProcess]:
    """The processes of a local vault by node; a node whose directory is gone is left out."""
    profile = load_profile(directory / "vault.toml")
    found = {}
    for node in profile.nodes:
        if node.config is not None and node.config.exists():
            config = load_config(node.config, {})
            found[node.index] = NodeProcess(config, directory.absolute() / "run")
    return found


def choose(directory: Path, nodes: str | None) -> list[NodeProcess]:
    """The processes that a command is about.

    Raises:
        KeycairnError: E_BAD_INDEX, E_NOT_FOUND for a node whose directory is gone.
    """
    found = processes_of(directory)
    players = load_profile(directory / "vault.toml").players
    chosen = parse_nodes(nodes)
    for index in chosen or ():
        if index not in players:
            raise KeycairnError(Code.BAD_INDEX, f"no node {index} in this vault")
        if index not in found:
            raise KeycairnError(
                Code.NOT_FOUND,
                f"node {index} has no node.toml: its directory is gone",
                next=f"keycairn node restore BUNDLE --into {directory / f'node{index}'} "
                f"--identity {directory / f'operator{index}' / 'backup-identity.age'}",
            )
    if not found:
        raise malformed(f"{directory} holds no local vault's nodes")
    return [found[i] for i in sorted(found) if chosen is None or i in chosen]


async def start(processes: list[NodeProcess]) -> None:
    """Start nodes at once; wait until each is ready and sees the others that run."""
    results = await asyncio.gather(*(p.start() for p in processes), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


def register(app: typer.Typer) -> None:
    """Add the group."""
    vault = group("vault", "Start, stop and look at the processes of a local vault.")
    app.add_typer(vault)

    @command(vault, "up")
    def up(directory: Directory, nodes: NodesOption = None) -> None:
        """Start the nodes as background processes; logs go to DIR/run."""

        async def work() -> dict[str, Any]:
            chosen = choose(directory, nodes)
            running = [p.index for p in chosen if p.pid() is not None]
            await start([p for p in chosen if p.index not in running])
            apart = await wait_for_links(list(processes_of(directory).values()), _LINK_SECONDS)
            if apart:
                i, j = apart[0]
                raise KeycairnError(
                    Code.PEER_TIMEOUT,
                    f"node {i} does not reach node {j} after {_LINK_SECONDS:g} seconds",
                    not_lost="The nodes run on and keep trying.",
                    next=f"read {directory}/run/node{i}.log and node{j}.log",
                    node=i,
                )
            return {
                "nodes": [
                    {"node": p.index, "pid": p.pid(), "api": p.config.api.url, "log": str(p.log)}
                    for p in chosen
                ],
                "already_running": running,
            }

        with output.working("starting nodes"):
            result = asyncio.run(work())
        lines = [f"node {n['node']}: {n['api']} (pid {n['pid']})" for n in result["nodes"]]
        output.result(result, "\n".join(lines))

    @command(vault, "down")
    def down(directory: Directory, nodes: NodesOption = None) -> None:
        """Stop the nodes; sessions that run get a few seconds to end."""

        async def work() -> list[dict[str, Any]]:
            chosen = choose(directory, nodes)
            ends = await asyncio.gather(*(p.stop() for p in chosen))
            return [{"node": p.index, "end": e} for p, e in zip(chosen, ends, strict=True)]

        with output.working("stopping nodes"):
            ends = asyncio.run(work())
        output.result({"nodes": ends}, "\n".join(f"node {e['node']}: {e['end']}" for e in ends))

    @command(vault, "status")
    def status(directory: Directory) -> None:
        """Show which nodes run, and whether each can finish a round."""
        rows = asyncio.run(_status(directory))
        lines = []
        for row in rows:
            state = "running" if row["running"] else "not running"
            health = "healthy" if row["health"]["ok"] else ", ".join(row["health"]["reasons"])
            lines.append(f"node {row['node']}: {state} (pid {row['pid'] or '-'}), {health}")
        output.result({"nodes": rows}, "\n".join(lines))


async def _status(directory: Path) -> list[dict[str, Any]]:
    profile = load_profile(directory / "vault.toml")
    found = processes_of(directory)
    async with Vault(profile) as vault:
        health = await vault.health()
    rows = []
    for node in profile.nodes:
        process = found.get(node.index)
        pid = None if process is None else process.pid()
        peers = [] if process is None or pid is None else await process.peers()
        rows.append(
            {
                "node": node.index,
                "running": pid is not None,
                "pid": pid,
                "api": node.url,
                "health": health[node.index],
                "peers_up": [p["index"] for p in peers if p["up"]],
                "directory": process is not None,
            }
        )
    return rows
