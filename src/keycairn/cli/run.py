"""Running one command: words in, exit code out, every failure in the documented form."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence

import typer
from typer.exceptions import TyperException

from keycairn.cli.app import app
from keycairn.cli.output import output
from keycairn.errors import Code, KeycairnError

INTERRUPTED = 130


def run(words: Sequence[str]) -> int:
    """Run ``keycairn`` with these words; returns the exit code."""
    rest, output.json = _take_json(words)
    try:
        code = typer.main.get_command(app).main(
            args=rest, prog_name="keycairn", standalone_mode=False
        )
        return code if isinstance(code, int) else 0
    except KeycairnError as exc:
        return _fail(exc)
    except TyperException as exc:
        # Wrong use: an unknown option, a missing argument.
        text = exc.format_message() if hasattr(exc, "format_message") else str(exc)
        error = KeycairnError(Code.MALFORMED, text.rstrip("."), next="see `keycairn --help`")
        return _fail(error)
    except (KeyboardInterrupt, typer.Abort):
        output.note("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        return 1
    except Exception as exc:
        # A bug. Without --json the places help whoever reports it; values are not shown.
        if not output.json:
            for frame in traceback.extract_tb(exc.__traceback__)[-8:]:
                output.note(f"  at {frame.filename}:{frame.lineno} {frame.name}")
        return _fail(
            KeycairnError(
                Code.UNAVAILABLE,
                f"an error that this command did not expect ({type(exc).__name__})",
                not_lost="Keys and shares at the nodes are unchanged by it.",
                next="report it with the command that you ran",
            )
        )


def _take_json(words: Sequence[str]) -> tuple[list[str], bool]:
    """``--json`` may stand at any place before ``--``."""
    end = list(words).index("--") if "--" in words else len(words)
    rest = [w for w in words[:end] if w != "--json"]
    return rest + list(words[end:]), len(rest) != end


def _fail(error: KeycairnError) -> int:
    output.error(error)
    sys.stdout.flush()
    return error.exit_code
