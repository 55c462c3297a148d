"""``keycairn coverage``."""

from __future__ import annotations

from typing import Annotated

import typer

from keycairn.cli.options import VaultOption, command, with_vault
from keycairn.cli.output import output

_PARTIAL = 7


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "coverage")
    def coverage(
        key: Annotated[str | None, typer.Argument(help="key id; default: all")] = None,
        vault: VaultOption = None,
    ) -> int:
        """Per key: by what is it backed up, at every node, and does the policy hold.

        Exit code 0 even if a key isn't backed up (see `holds`), 7 if a node could not be asked.
        """
        rows = with_vault(vault, lambda v: v.coverage(key))
        lines = []
        for row in rows:
            methods = ", ".join(f"{m} {v['answer']}" for m, v in row["methods"].items())
            lines.append(f"{row['key_id']}  holds: {row['holds']}  ({row['require']})  {methods}")
            lines += [f"  missing  {m}" for m in row["missing"]]
            if any(r["require"] == "none" for r in row["nodes"].values()):
                lines.append("  BACKUP POLICY IS NONE: a lost node may mean a lost key")
        output.result({"keys": rows}, "\n".join(lines) or "no keys")
        return _PARTIAL if any(row["holds"] == "cant_tell" for row in rows) else 0
