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
        if code == INTERRUPTED:  # Typer's word for Ctrl-C; no command returns it.
            return _interrupted()
        return code if isinstance(code, int) else 0
    except KeycairnError as exc:
        return _fail(exc)
    except TyperException as exc:
        return _wrong_use(exc)
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
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


def _wrong_use(exc: TyperException) -> int:
    """An unknown option, a missing argument, a group without its command."""
    context = getattr(exc, "ctx", None)
    name = "keycairn" if context is None else context.command_path
    text = exc.format_message()
    if text.startswith("Usage:"):  # The parser's whole help text as its message.
        if not output.json:
            output.note(text)
            return 2
        text = f"{name} needs a command"
    return _fail(KeycairnError(Code.MALFORMED, text.rstrip("."), next=f"see `{name} --help`"))


def _interrupted() -> int:
    _fail(
        KeycairnError(
            Code.UNAVAILABLE,
            "interrupted",
            not_lost="What the nodes were asked for may still be done.",
            next="see what came of it: keycairn key list, backup list or ers status; a command "
            "that had a --request-id can be repeated with it",
        )
    )
    return INTERRUPTED


def _take_json(words: Sequence[str]) -> tuple[list[str], bool]:
    """``--json`` may stand at any place before ``--``."""
    end = list(words).index("--") if "--" in words else len(words)
    rest = [w for w in words[:end] if w != "--json"]
    return rest + list(words[end:]), len(rest) != end


def _fail(error: KeycairnError) -> int:
    output.error(error)
    sys.stdout.flush()
    return error.exit_code
