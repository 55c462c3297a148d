"""The ``keycairn`` command.

``main`` is the entry point: it runs a command, prints exactly one JSON object with ``--json``, and
turns every failure into the documented error and exit code (docs/errors.md).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from keycairn.cli.output import output
from keycairn.errors import Code, KeycairnError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    # `keycairn` is installed with the base package too, which has no server stack.
    try:
        from keycairn.cli.run import run
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.split(".")[0] == "keycairn":
            raise
        error = KeycairnError(
            Code.UNAVAILABLE,
            f"this command needs the package {exc.name}, which is not installed",
            next="pip install 'keycairn[node]' (keycairn-recover works without it)",
        )
        output.json = "--json" in words
        output.error(error)
        return error.exit_code
    return run(words)
