"""``keycairn init``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keycairn.cli.options import command, whole
from keycairn.cli.output import output
from keycairn.ports.system import SystemClock, SystemRng
from keycairn.vault.policy import DEFAULT_REQUIRE, parse, warnings_for


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "init")
    def init(
        directory: Annotated[Path, typer.Argument(help="a directory that doesn't exist yet")],
        nodes: Annotated[int, typer.Option("--nodes", parser=whole, help="how many nodes (n)")] = 3,
        threshold: Annotated[
            int,
            typer.Option("--threshold", parser=whole, help="how many may fall to an attacker (t)"),
        ] = 1,
        base_port: Annotated[
            int | None,
            typer.Option(
                "--base-port", parser=whole, help="first of 3 ports a node; default: free"
            ),
        ] = None,
        policy: Annotated[
            str, typer.Option("--policy", help="when a key counts as backed up")
        ] = DEFAULT_REQUIRE,
        database: Annotated[
            str,
            typer.Option(
                "--database",
                help="URL of each node's empty database on a server, {node} for its number",
            ),
        ] = "sqlite:///data/node.db",
        password_env: Annotated[
            str | None,
            typer.Option(
                "--database-password-env",
                help="environment variable with its password, {node} for the number",
            ),
        ] = None,
    ) -> None:
        """Make a local vault: n nodes, what their operators keep, and a client profile.

        threshold + 1 nodes sign. All nodes live in one directory of this machine: for trying it
        out, for tests and for the demo. (Setting up a single production node, `init --node`,
        comes with a later version; docs/configuration.md shows its node.toml.)
        """
        from keycairn.cli.layout import check_plan, create_vault

        plan = check_plan(directory, nodes, threshold, base_port, policy, database, password_env)
        with output.working("making keys and databases"):
            profile = create_vault(plan, SystemClock(), SystemRng())
        quorum = f"{threshold + 1}-of-{nodes} (t={threshold})"
        for warning in warnings_for(parse(policy), ("address", "sign")):
            output.note(f"warning: {warning}")
        result = {
            "directory": str(plan.directory),
            "vault": str(profile),
            "quorum": quorum,
            "nodes": nodes,
            "threshold": threshold,
            "base_port": plan.base_port,
            "policy": policy,
            "next": [f"keycairn vault up {directory}", f"export KEYCAIRN_VAULT={profile}"],
        }
        text = (
            f"made a {quorum} vault in {plan.directory}\n"
            f"  up to {threshold} of {nodes} nodes may fall to an attacker; {threshold + 1} sign\n"
            f"  a key may be used once this holds: {policy}\n"
            f"next: keycairn vault up {directory}\n"
            f"      export KEYCAIRN_VAULT={profile}"
        )
        output.result(result, text)
