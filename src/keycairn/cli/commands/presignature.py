"""``keycairn presignature``: what nodes have made ahead, and dropping it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    parse_nodes,
    with_vault,
)
from keycairn.cli.output import output
from keycairn.errors import KeycairnError, malformed

Key = Annotated[str | None, typer.Argument(help="key id")]
All = Annotated[bool, typer.Option("--all", help="all keys")]
_PARTIAL = 7
_COUNTS = ("key_id", "players", "protocol", "count", "target", "low_water", "storage")


def _which(key: str | None, every: bool) -> str | None:
    """The key id, or None for all keys; E_MALFORMED unless one of them was asked for."""
    if (key is None) == (not every):
        raise malformed("give a key id, or --all")
    return key


def _rows(
    key: str | None, config: Path | None, vault: Path | None, nodes: str | None
) -> tuple[list[dict[str, Any]], Mapping[int, KeycairnError]]:
    found: Mapping[int, Sequence[Mapping[str, Any]]]
    if config is not None:
        found, failed = every_operator(config, None, nodes, lambda n, _: n.presignatures(key))
    else:
        found, failed = with_vault(vault, lambda v: v.presignatures(key, parse_nodes(nodes)))
    return [{"node": i, **row} for i, rows in sorted(found.items()) for row in rows], failed


def _report(name: str, rows: list[Any], failed: Mapping[int, KeycairnError], text: str) -> int:
    errors = [{"node": i, **error.to_json()["error"]} for i, error in sorted(failed.items())]
    lines = [text] + [f"node {e['node']}: FAILED, {e['message']} [{e['code']}]" for e in errors]
    output.result({name: rows, "failed": errors}, "\n".join(lines))
    return _PARTIAL if failed else 0


def _line(row: Mapping[str, Any]) -> str:
    players = ",".join(map(str, row["players"]))
    return (
        f"node {row['node']}: {row['key_id']} with {players}: {row['count']} of {row['target']} "
        f"({row['protocol']}, {row['storage']})"
    )


def register(app: typer.Typer) -> None:
    """Add the group."""
    presignature = group(
        "presignature",
        "What nodes have made ahead to sign with. --config: one node, as its operator; --vault: "
        "all nodes, as the application. Exit code 7 if a node did not take part.",
    )
    app.add_typer(presignature)

    @command(presignature, "list")
    def list_(
        key: Key = None,
        every: All = False,
        config: ConfigOption = None,
        nodes: NodesOption = None,
        vault: VaultOption = None,
    ) -> int:
        """List presignatures by key, signers and node, with their ids, oldest first."""
        rows, failed = _rows(_which(key, every), config, vault, nodes)
        lines = [text for row in rows for text in (_line(row), *(f"  {i}" for i in row["ids"]))]
        return _report("presignatures", rows, failed, "\n".join(lines) or "none")

    @command(presignature, "count")
    def count(
        key: Key = None,
        every: All = False,
        config: ConfigOption = None,
        nodes: NodesOption = None,
        vault: VaultOption = None,
    ) -> int:
        """Count presignatures by key, signers and node."""
        rows, failed = _rows(_which(key, every), config, vault, nodes)
        counted = [{"node": row["node"], **{k: row[k] for k in _COUNTS}} for row in rows]
        return _report("presignatures", counted, failed, "\n".join(map(_line, rows)) or "none")

    @command(presignature, "delete")
    def delete(
        key: Key = None,
        every: All = False,
        config: ConfigOption = None,
        nodes: NodesOption = None,
        vault: VaultOption = None,
    ) -> int:
        """Drop presignatures, and what is being made. Others are made as they are needed.

        Never needed after a restart or a restore: none survives either. Repeating it is safe.
        """
        wanted = _which(key, every)
        done: Mapping[int, Mapping[str, Any]]
        if config is not None:
            done, failed = every_operator(
                config, None, nodes, lambda n, _: n.delete_presignatures(wanted)
            )
        else:
            done, failed = with_vault(
                vault, lambda v: v.delete_presignatures(wanted, parse_nodes(nodes))
            )
        rows = [{"node": i, "key_id": wanted, **answer} for i, answer in sorted(done.items())]
        lines = [f"node {row['node']}: {row['deleted']} deleted" for row in rows]
        return _report("deleted", rows, failed, "\n".join(lines))
