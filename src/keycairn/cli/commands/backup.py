"""``keycairn backup``: node bundles."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from keycairn.cli.options import (
    ConfigOption,
    NodesOption,
    VaultOption,
    command,
    every_operator,
    group,
)
from keycairn.cli.output import output
from keycairn.errors import KeycairnError

_PARTIAL = 7
SkipChecks = Annotated[
    bool, typer.Option("--skip-checks", help="don't run the checks of external items")
]
_LATER = "comes with a later version"


def register(app: typer.Typer) -> None:
    """Add the group."""
    backup = group("backup", f"Node bundles. (prune, register and status {_LATER}s.)")
    app.add_typer(backup)

    @command(backup, "create")
    def create(
        config: ConfigOption = None, nodes: NodesOption = None, vault: VaultOption = None
    ) -> int:
        """Write a bundle of a running node, read it back, and let it count as evidence.

        --config F: one node. --vault F: all nodes of a local vault; exit code 7 if some of them
        could not write theirs.
        """
        with output.working("writing bundles"):
            made, failed = every_operator(config, vault, nodes, lambda n, _: n.backup_create())
        lines = [
            f"node {m['node']}: {m['bundle']} ({m['size']} bytes, {m['keys']} keys, verified)"
            for m in made.values()
        ]
        away = [f for m in made.values() for f in m.get("failed", ())]
        lines += [f"{f['target']}: FAILED, {f['message']} [{f['code']}]" for f in away]
        code = _report(list(made.values()), failed, "bundles", config, lines)
        return _PARTIAL if away else code

    @command(backup, "list")
    def list_(
        config: ConfigOption = None, nodes: NodesOption = None, vault: VaultOption = None
    ) -> int:
        """List the receipts of a node's bundles, newest first."""
        found, failed = every_operator(config, vault, nodes, lambda n, _: n.backups())
        rows = [{"node": i, **row} for i, rows in found.items() for row in rows]
        lines = [f"node {r['node']}: {r['bundle']} {r['sha256']} {r['keys']} keys" for r in rows]
        return _report(rows, failed, "backups", None, lines or ["no bundles"])

    @command(backup, "verify")
    def verify(
        bundle: Annotated[str, typer.Argument(help="the stored bundle: a path, or s3://…")],
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
        skip_checks: SkipChecks = False,
        config: ConfigOption = None,
        vault: VaultOption = None,
    ) -> int:
        """Verify a stored bundle, reading nothing but the stored file.

        A trial also runs the checks of the external items, if the signer is known. Exit code 7 if
        one of them, or the proof of a share, fails.
        """
        from keycairn.cli.bundles import verify_stored

        work = verify_stored(
            bundle, identity, secret_file, public_key, level, config, vault, not skip_checks
        )
        result = asyncio.run(work)
        output.result(result)
        failed = any(item["answer"] == "failed" for item in result["external"])
        return _PARTIAL if failed or result["proofs_ok"] is False else 0


def _report(
    rows: list[dict[str, Any]],
    failed: Mapping[int, KeycairnError],
    name: str,
    config: Path | None,
    lines: list[str],
) -> int:
    """One node's result as it is (``config``); several in a list, and the nodes that failed."""
    errors = [{"node": i, **error.to_json()["error"]} for i, error in sorted(failed.items())]
    for e in errors:
        lines += [f"node {e['node']}: FAILED, {e['message']} [{e['code']}]", f"  next: {e['next']}"]
    text = "\n".join(lines)
    output.result(rows[0] if config is not None else {name: rows, "failed": errors}, text)
    return _PARTIAL if failed else 0
