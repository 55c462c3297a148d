"""What a command says and where: results on stdout, everything else on stderr.

With ``--json`` stdout gets exactly one object, the result or the error. Progress is drawn only on
a terminal.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from keycairn.errors import KeycairnError

EXIT_CODES = """Exit codes: 0 done · 1 failed (not available, or a peer ended it) · 2 wrong use or
malformed input · 3 refused by policy or state · 4 no such key, wrong credential · 5 something
stored or signed is not valid · 6 a node or peer did not answer in time · 7 partial, or can't tell ·
130 interrupted. With --json (at any place): one JSON object on stdout."""


class Output:
    """Where the running command's result goes. One per process, set up by ``run``."""

    def __init__(self) -> None:
        self.json = False

    def result(self, value: Mapping[str, Any], text: str | None = None) -> None:
        """Print the result: the object, or ``text``, or a plain rendering of the object."""
        if self.json:
            print(json.dumps(value, ensure_ascii=False))
        else:
            print(render(value) if text is None else text)

    def error(self, error: KeycairnError) -> None:
        """Print an error: the object on stdout, or sentences on stderr."""
        if self.json:
            print(json.dumps(error.to_json(), ensure_ascii=False))
            return
        named = error.node is None or f"node {error.node}" in error.message
        where = "" if named else f" (node {error.node})"
        lines = [f"keycairn: {error.message}{where} [{error.code.value}]"]
        if error.not_lost:
            lines.append(f"  not lost: {error.not_lost}")
        if error.next:
            lines.append(f"  next: {error.next}")
        print("\n".join(lines), file=sys.stderr)

    def note(self, text: str) -> None:
        """A line for a human, on stderr."""
        print(text, file=sys.stderr, flush=True)

    @contextmanager
    def working(self, text: str) -> Iterator[None]:
        """Show that something takes time; nothing without a terminal."""
        console = Console(stderr=True)
        if self.json or not console.is_terminal:
            yield
            return
        with console.status(text):
            yield

    @contextmanager
    def counting(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """A progress bar with rate and time left; call it with (done, all). Nothing without a
        terminal."""
        console = Console(stderr=True)
        if self.json or not console.is_terminal:
            yield lambda _done, _total: None
            return
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
        ) as bars:
            task = bars.add_task(what)
            yield lambda done, total: bars.update(task, completed=done, total=total)


output = Output()


def render(value: Any, indent: str = "") -> str:
    """A plain rendering of a result: ``name: value`` lines, lists indented."""
    lines: list[str] = []
    if isinstance(value, Mapping):
        for name, item in value.items():
            if isinstance(item, (Mapping, list)) and item:
                lines += [f"{indent}{name}:", render(item, indent + "  ")]
            else:
                lines.append(f"{indent}{name}: {_scalar(item)}")
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            if isinstance(item, Mapping):
                body = render(item, indent + "  ")
                lines.append(f"{indent}- {body.strip()}")
            else:
                lines.append(f"{indent}- {_scalar(item)}")
    else:
        lines.append(f"{indent}{_scalar(value)}")
    return "\n".join(lines)


def _scalar(value: Any) -> str:
    if value is None:
        return "-"
    if value is True or value is False:
        return "yes" if value else "no"
    if isinstance(value, (list, dict)):
        return "-"
    return str(value).rstrip("\n").replace("\n", "\n    ")
