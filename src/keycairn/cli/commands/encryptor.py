"""``keycairn encryptor``: does it work, and move away from it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from keycairn.cli.options import command, group
from keycairn.cli.output import output
from keycairn.client import OperatorClient
from keycairn.errors import Code, KeycairnError
from keycairn.node.config import NodeConfig, load_config

Config = Annotated[Path, typer.Option("--config", help="node.toml of the node")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    encryptor = group("encryptor", "What wraps a node's master key: check it, rotate it.")
    app.add_typer(encryptor)

    @command(encryptor, "check")
    def check(config: Config) -> None:
        """Reach the encryptor, open the node's keyring with it, wrap and unwrap a fresh key.

        Asks the running node. If none runs, this process does it itself, with its own environment:
        before a start, and (with no database there yet) before a restore. Changes nothing.
        """
        result = asyncio.run(_check(load_config(config, {})))
        found = result["encryptor"]
        about = ", ".join(f"{k} {v}" for k, v in found.items() if k != "kind" and v)
        opens = {True: "opens the database", None: "there is no database to open yet"}
        lines = [f"{found['kind']}: {about}", f"reached; {opens[result['opens']]}; round trip ok"]
        lines += [f"note: {note}" for note in result["notes"]]
        output.result(result, "\n".join(lines))

    @command(encryptor, "rotate")
    def rotate(
        config: Config,
        to_config: Annotated[
            Path | None,
            typer.Option(
                "--to-config", help="TOML file (mode 0600) with the new [encryptor] section"
            ),
        ] = None,
    ) -> None:
        """Give the node a new master key, under the same encryptor or that of --to-config.

        The running node does it while it serves; if none runs, this process does. In one step or
        not at all; node.toml gets the new section. Older bundles still need the old encryptor:
        make a new bundle, and keep the old secret or key until the last of them is gone.
        """
        target = None if to_config is None else to_config.absolute()
        with output.working("rotating"):
            result = asyncio.run(_rotate(load_config(config, {}), target))
        words = "moved to" if result["moved"] else "new master key under"
        lines = [f"{words} {result['to']['kind']}"]
        lines += [f"next: {n}" for n in result["next"]]
        output.result(result, "\n".join(lines))


async def _check(config: NodeConfig) -> dict[str, Any]:
    from keycairn.node.storage import check_stopped
    from keycairn.ports.system import SystemClock, SystemRng

    try:
        async with OperatorClient.of(config) as running:
            return await running.encryptor_check()
    except KeycairnError as exc:
        if not _is_stopped(exc, config):
            raise
    return await asyncio.to_thread(check_stopped, config, SystemClock(), SystemRng())


async def _rotate(config: NodeConfig, target: Path | None) -> dict[str, Any]:
    from keycairn.node.encryptor import NodeEncryptor
    from keycairn.node.storage import open_node
    from keycairn.ports.system import SystemClock, SystemRng

    try:
        async with OperatorClient.of(config) as running:
            return await running.encryptor_rotate(target)
    except KeycairnError as exc:
        if not _is_stopped(exc, config):
            raise
    clock, rng = SystemClock(), SystemRng()
    # The lock decides: if a node does run after all, this is E_CONFLICT.
    async with open_node(config, clock, rng) as (settled, store):
        return await NodeEncryptor(settled, store, clock, rng).rotate(target)


def _is_stopped(error: KeycairnError, config: NodeConfig) -> bool:
    """Whether the node was not reached at all, rather than that its encryptor is away."""
    return error.code is Code.UNAVAILABLE and not config.token_file.exists()
