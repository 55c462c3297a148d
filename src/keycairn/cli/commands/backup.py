"""``keycairn backup``: node bundles."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from keycairn.cli.options import (
    ConfigOption,
    NodesOption,
    VaultOption,
    command,
    each_operator,
    group,
    node_configs,
)
from keycairn.cli.output import output

_LATER = "comes with a later version"


def register(app: typer.Typer) -> None:
    """Add the group."""
    backup = group("backup", f"Node bundles. (prune, register and status {_LATER}s.)")
    app.add_typer(backup)

    @command(backup, "create")
    def create(
        config: ConfigOption = None, nodes: NodesOption = None, vault: VaultOption = None
    ) -> None:
        """Write a bundle of a running node, read it back, and let it count as evidence.

        --config F: one node. --vault F: all nodes of a local vault.
        """
        configs = node_configs(config, vault, nodes)
        with output.working("writing bundles"):
            made = each_operator(configs, lambda n, _: n.backup_create())
        lines = [
            f"node {m['node']}: {m['bundle']} ({m['size']} bytes, {m['keys']} keys, verified)"
            for m in made
        ]
        output.result(_one_or_all(made, "bundles", config), "\n".join(lines))

    @command(backup, "list")
    def list_(
        config: ConfigOption = None, nodes: NodesOption = None, vault: VaultOption = None
    ) -> None:
        """List the receipts of a node's bundles, newest first."""
        configs = node_configs(config, vault, nodes)
        found = each_operator(configs, lambda n, _: n.backups())
        rows = [
            {"node": c.index, **row} for c, rows in zip(configs, found, strict=True) for row in rows
        ]
        lines = [f"node {r['node']}: {r['bundle']} {r['sha256']} {r['keys']} keys" for r in rows]
        output.result({"backups": rows}, "\n".join(lines) or "no bundles")

    @command(backup, "verify")
    def verify(
        bundle: Annotated[Path, typer.Argument(help="the stored bundle")],
        identity: Annotated[
            Path | None, typer.Option("--identity", help="age identity; makes a trial possible")
        ] = None,
        secret_file: Annotated[
            Path | None,
            typer.Option("--secret-file", help="master key or password file, to prove each share"),
        ] = None,
        public_key: Annotated[
            str | None, typer.Option("--public-key", help="the node's identity key, hexadecimal")
        ] = None,
        level: Annotated[
            str | None,
            typer.Option("--level", help="manifest, hashes or trial (default with --identity)"),
        ] = None,
        config: ConfigOption = None,
        vault: VaultOption = None,
    ) -> None:
        """Verify a stored bundle, reading nothing but the stored file."""
        from keycairn.cli.bundles import verify_stored

        work = verify_stored(bundle, identity, secret_file, public_key, level, config, vault)
        output.result(asyncio.run(work))


def _one_or_all(rows: list[dict[str, Any]], name: str, config: Path | None) -> dict[str, Any]:
    """One node's result as it is (--config); several in a list (--vault)."""
    return rows[0] if config is not None else {name: rows}
