"""``keycairn vault``: the processes of a local vault."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from keycairn.cli.local import LocalVault, local_vault
from keycairn.cli.options import NodesOption, command, group
from keycairn.cli.output import output
from keycairn.cli.processes import NodeProcess, wait_for_links
from keycairn.client import NodeProfile, Vault
from keycairn.errors import Code, KeycairnError

_LINK_SECONDS = 20.0
_PARTIAL = 7
Directory = Annotated[Path, typer.Argument(help="directory of a local vault")]


async def start(processes: list[NodeProcess]) -> None:
    """Start nodes at once; wait until each is ready and sees the others that run."""
    results = await asyncio.gather(*(p.start() for p in processes), return_exceptions=True)
    faults = [result for result in results if isinstance(result, BaseException)]
    # One that does not run says more than one that waits for it.
    faults.sort(key=lambda f: isinstance(f, KeycairnError) and f.code is Code.QUARANTINED)
    if faults:
        raise faults[0]


def register(app: typer.Typer) -> None:
    """Add the group."""
    vault = group("vault", "Start, stop and look at the processes of a local vault.")
    app.add_typer(vault)

    @command(vault, "up")
    def up(directory: Directory, nodes: NodesOption = None) -> int:
        """Start the nodes as background processes; logs go to DIR/run."""

        async def work() -> dict[str, Any]:
            vault = local_vault(directory)
            chosen = vault.chosen(nodes)
            if nodes is not None or not vault.ready:
                for index in chosen:
                    if index in vault.faults:
                        raise vault.faults[index]
            mine = [vault.ready[i] for i in chosen if i in vault.ready]
            running = [p.index for p in mine if p.pid() is not None]
            await start([p for p in mine if p.index not in running])
            await _see_each_other(directory, list(vault.ready.values()))
            return {
                "nodes": [
                    {"node": p.index, "pid": p.pid(), "api": p.config.api.url, "log": str(p.log)}
                    for p in mine
                ],
                "already_running": running,
                "left_out": [
                    {"node": i, "why": fault.message, "next": fault.next}
                    for i, fault in vault.faults.items()
                    if i in chosen
                ],
            }

        with output.working("starting nodes"):
            result = asyncio.run(work())
        lines = [f"node {n['node']}: {n['api']} (pid {n['pid']})" for n in result["nodes"]]
        for left in result["left_out"]:
            lines += [f"node {left['node']}: left out, {left['why']}", f"  next: {left['next']}"]
        output.result(result, "\n".join(lines))
        return _PARTIAL if result["left_out"] else 0

    @command(vault, "down")
    def down(directory: Directory, nodes: NodesOption = None) -> None:
        """Stop the nodes; sessions that run get a few seconds to end."""

        async def work() -> list[dict[str, Any]]:
            vault = local_vault(directory)
            chosen = [vault.recorded(i) for i in vault.chosen(nodes)]
            ends = await asyncio.gather(*(p.stop() for p in chosen))
            return [{"node": p.index, "end": e} for p, e in zip(chosen, ends, strict=True)]

        with output.working("stopping nodes"):
            ends = asyncio.run(work())
        output.result({"nodes": ends}, "\n".join(f"node {e['node']}: {e['end']}" for e in ends))

    @command(vault, "status")
    def status(directory: Directory) -> None:
        """Show which nodes run, whether each can finish a round, and what helps if not."""
        rows = asyncio.run(_status(local_vault(directory)))
        lines = []
        for row in rows:
            state = "running" if row["running"] else "not running"
            health = "healthy" if row["health"]["ok"] else ", ".join(row["health"]["reasons"])
            lines.append(f"node {row['node']}: {state} (pid {row['pid'] or '-'}), {health}")
            lines += [f"  next: {row['next']}"] if row["next"] else []
        output.result({"nodes": rows}, "\n".join(lines))


async def _see_each_other(directory: Path, processes: list[NodeProcess]) -> None:
    apart = await wait_for_links(processes, _LINK_SECONDS)
    if not apart:
        return
    i, j = apart[0]
    ended = [p.index for p in processes if p.index in (i, j) and p.pid() is None]
    if ended:
        raise KeycairnError(
            Code.UNAVAILABLE,
            f"node {ended[0]} was stopped, or ended, while the others waited for it",
            not_lost="Its keys and shares are unchanged.",
            next=f"keycairn vault up {directory}, or read {directory}/run/node{ended[0]}.log",
            node=ended[0],
        )
    raise KeycairnError(
        Code.PEER_TIMEOUT,
        f"node {i} does not reach node {j} after {_LINK_SECONDS:g} seconds",
        not_lost="The nodes run on and keep trying.",
        next=f"read {directory}/run/node{i}.log and node{j}.log",
        node=i,
    )


async def _status(vault: LocalVault) -> list[dict[str, Any]]:
    async with Vault(vault.profile) as client:
        health = await client.health()
    rows = (_row(vault, node, health[node.index]) for node in vault.profile.nodes)
    return list(await asyncio.gather(*rows))


async def _row(vault: LocalVault, node: NodeProfile, health: dict[str, Any]) -> dict[str, Any]:
    process = vault.ready.get(node.index)
    fault = vault.faults.get(node.index)
    pid = vault.recorded(node.index).pid()
    peers = [] if process is None or pid is None else await process.peers()
    reasons, next_step = list(health.get("reasons", ())), ""
    if fault is not None:
        reasons, next_step = [fault.message], fault.next
    elif pid is None:
        reasons = ["it was stopped, or ended without being asked to"]
        next_step = f"keycairn vault up {vault.directory} --nodes {node.index}"
    elif process is not None and process.config.api.url != node.url:
        reasons = [f"vault.toml says {node.url}, but it listens at {process.config.api.url}"]
        next_step = f"correct the url of node {node.index} in {vault.profile.file}"
    elif not health.get("reached", True):
        next_step = (
            f"read {vault.run}/node{node.index}.log; keycairn vault down {vault.directory} "
            f"--nodes {node.index}, then keycairn vault up {vault.directory}"
        )
    elif not health.get("ok") and process is not None:
        config = f"--config {process.config.file}"
        next_step = f"keycairn node status {config}; keycairn node peers {config}"
    health = {**health, "reasons": reasons}
    return {
        "node": node.index,
        "running": pid is not None,
        "pid": pid,
        "api": node.url,
        "health": health,
        "peers_up": [p["index"] for p in peers if p["up"]],
        "directory": node.config is not None and node.config.exists(),
        "next": next_step,
    }
