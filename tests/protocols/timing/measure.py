"""Prints the table of docs/protocols/timing.md: worst of three runs for each path.

    python tests/protocols/timing/measure.py [--runs 3] [--samples N] [PART OF A NAME …]

Takes about five minutes on one core. On a machine that does other things the resolution gets
coarser; a signal does not appear by that.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path as File

if __name__ == "__main__":
    sys.path.insert(0, str(File(__file__).parents[2]))

from protocols.timing.paths import PATHS
from protocols.timing.welch import THRESHOLD, Path, Result, measure

HEAD = "| path | claimed | samples a run | µs | \\|t\\|, three runs | seen from, ns |"


def line(path: Path, runs: Sequence[Result], samples: int) -> str:
    """A row of the table."""
    ts = ", ".join(f"{r.t:.1f}" for r in runs)
    mark = "" if max(r.t for r in runs) < THRESHOLD else " **signal**"
    return (
        f"| {path.name} | {'yes' if path.claimed else 'no'} | {samples:,} | "
        f"{runs[0].microseconds:.1f} | {ts}{mark} | {max(r.resolution for r in runs):.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--samples", type=int)
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    print(HEAD)
    print("| --- | --- | --- | --- | --- | --- |")
    for path in PATHS:
        if args.names and not any(name in path.name for name in args.names):
            continue
        runs = [measure(path, run, args.samples) for run in range(args.runs)]
        print(line(path, runs, args.samples or path.samples), flush=True)


if __name__ == "__main__":
    main()
