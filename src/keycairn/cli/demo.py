"""``./demo``: one command that shows what this project is for, and proves it.

    ./demo [--json] [--keep DIR] [--nodes N] [--threshold T]

Makes a vault of real processes, loses a node, gets it back, loses everything, and recovers the
keys offline. Exit code 0 only if every step was proved.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from keycairn.cli.layout import Plan, check_plan
from keycairn.cli.output import output
from keycairn.cli.story import Step, Story
from keycairn.errors import Code, KeycairnError, malformed
from keycairn.ports.system import SystemClock
from keycairn.vault.policy import DEFAULT_REQUIRE

_MAX_NODES = 9
_PLAIN_WIDTH = 120


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise malformed(f"wrong use: {message}; see ./demo --help")


@dataclass
class Done:
    """A step that ran."""

    name: str
    proved: str | None  # None: it was not
    seconds: float


class Teller:
    """Tells the story on stderr: a bar on a terminal, plain lines elsewhere."""

    def __init__(self, total: int) -> None:
        self._console = Console(stderr=True)
        self._total = total
        self._count = 0
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )
        self._task = self._progress.add_task("", total=total)

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Draw the bar for as long as the story runs."""
        with self._progress:
            yield

    def begins(self, step: Step) -> None:
        """A step begins."""
        self._count += 1
        self._progress.update(self._task, description=step.name)

    def ended(self, done: Done) -> None:
        """A step ended, proved or not."""
        mark = "ok" if done.proved is not None else "NOT PROVED"
        text = f"{self._count:>2}/{self._total} {done.name}: {done.proved or mark}"
        # soft_wrap: a log is not a terminal, its lines stay whole.
        self._console.print(
            f"{text} ({done.seconds:.1f} s)", markup=False, highlight=False, soft_wrap=True
        )
        self._progress.update(self._task, advance=1)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    output.json = "--json" in words
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupted)  # so that no node outlives its demo
    try:
        args = _parse(words)
        with _directory(args.keep) as directory:
            plan = check_plan(directory, args.nodes, args.threshold, None, DEFAULT_REQUIRE)
            return asyncio.run(_run(plan, kept=args.keep is not None))
    except KeycairnError as exc:
        output.error(exc)
        return exc.exit_code
    except KeyboardInterrupt:
        return 130


def _interrupted(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(prog="./demo", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave everything in DIR")
    parser.add_argument("--nodes", type=int, default=3, metavar="N", help="2 to 9, default 3")
    parser.add_argument("--threshold", type=int, default=1, metavar="T", help="default 1")
    args = parser.parse_args(words)
    if not 2 <= args.nodes <= _MAX_NODES:
        raise malformed(f"--nodes must be between 2 and {_MAX_NODES}")
    return args


@contextmanager
def _directory(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        yield keep
        return
    directory = Path(tempfile.mkdtemp(prefix="keycairn-demo-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def _run(plan: Plan, *, kept: bool) -> int:
    clock = SystemClock()
    story = Story(plan)
    teller = Teller(len(story.steps))
    began = clock.monotonic()
    done: list[Done] = []
    failure: KeycairnError | None = None
    try:
        with teller.telling():
            for step in story.steps:
                teller.begins(step)
                start = clock.monotonic()
                proved = None
                try:
                    proved = await step.act()
                except KeycairnError as exc:
                    failure = exc
                except ImportError as exc:
                    failure = KeycairnError(
                        Code.UNAVAILABLE,
                        f"the package {exc.name} is missing",
                        next="pip install 'keycairn[demo]', or run ./demo",
                    )
                done.append(Done(step.name, proved, clock.monotonic() - start))
                teller.ended(done[-1])
                if failure is not None:
                    break
    finally:
        await story.clean_up()
    seconds = clock.monotonic() - began
    _report(story, done, seconds, str(plan.directory) if kept else None, failure)
    return 0 if failure is None and len(done) == len(story.steps) else 1


def _report(
    story: Story,
    done: Sequence[Done],
    seconds: float,
    directory: str | None,
    failure: KeycairnError | None,
) -> None:
    if output.json:
        result: dict[str, Any] = {
            "steps": [
                {
                    "name": d.name,
                    "proved": d.proved is not None,
                    "seconds": round(d.seconds, 3),
                    "what": d.proved,
                }
                for d in done
            ],
            "keys": story.keys,
            "seconds": round(seconds, 3),
            "directory": directory,
        }
        if failure is not None:
            result |= failure.to_json()
        print(json.dumps(result, ensure_ascii=False))
        return
    table = Table()
    table.add_column("step", overflow="fold")
    table.add_column("what was proved", overflow="fold")
    table.add_column("seconds", justify="right")
    for d in done:
        table.add_row(d.name, d.proved or "NOT PROVED", f"{d.seconds:.1f}")
    table.add_row("", "all of it" if failure is None else "stopped here", f"{seconds:.1f}")
    Console(width=None if sys.stdout.isatty() else _PLAIN_WIDTH).print(table)
    if directory is not None:
        print(f"kept in {directory}")
    if failure is not None:
        output.error(failure)


if __name__ == "__main__":
    sys.exit(main())
