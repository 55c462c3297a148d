"""``keycairn ers verify --all``: the documents of very many keys, and an answer for each key."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from keycairn.cli import ers_workers
from keycairn.cli.ers_places import place
from keycairn.cli.options import read_file
from keycairn.cli.output import output
from keycairn.errors import malformed
from keycairn.ers.bulk import CANT_TELL, NO, YES, Entry, Ledger, read_expected
from keycairn.ers.files import write_new
from keycairn.ers.rsa import load_rsa_public_key
from keycairn.ports import Clock, Rng
from keycairn.ports.system import SystemClock, SystemRng

_LISTED = 100
_MAX_EXPECTED = 1 << 30
_EVERY = 10.0  # seconds between lines of progress where there is no terminal


@dataclass(frozen=True)
class Plan:
    """What ``ers verify --all`` was asked for.

    Attributes:
        where: a directory or ``s3://…``.
        workers: processes; 1 is this one, 0 as many as there are CPUs.
        cluster: a Dask scheduler's address.
        resume: the state file.
        sample: look at so many documents only, drawn at random.
        expected: file with the expected keys.
        report: file for a line of JSON per key.
        rsa: RSA public key files.
    """

    where: str
    rsa: Sequence[Path]
    expected: Path | None = None
    workers: int = 0
    cluster: str | None = None
    resume: Path | None = None
    sample: int | None = None
    report: Path | None = None


class _Pace:
    """How far it is, on stderr: a bar on a terminal, else a line now and then."""

    def __init__(self, total: int, clock: Clock) -> None:
        self._clock, self._total = clock, total
        self._began = self._said = clock.monotonic()
        self._documents = self._keys = 0
        console = Console(stderr=True)
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
        self._bar = Progress(*columns, TimeRemainingColumn(), console=console)
        self._task = self._bar.add_task("", total=total, rate="")
        self._live = console.is_terminal
        if self._live:
            self._bar.start()

    def step(self, keys: int) -> None:
        self._documents += 1
        self._keys += keys
        now = self._clock.monotonic()
        passed = max(now - self._began, 1e-9)
        rate = f"{self._documents / passed:.1f} documents/s, {self._keys / passed:.0f} keys/s"
        if self._live:
            self._bar.update(self._task, advance=1, rate=rate)
        elif now - self._said >= _EVERY:
            self._said = now
            left = (self._total - self._documents) * passed / self._documents
            output.note(f"{self._documents} of {self._total} documents, {rate}, {left:.0f} s left")

    def stop(self) -> dict[str, Any]:
        if self._live:
            self._bar.stop()
        passed = self._clock.monotonic() - self._began
        per = {
            "documents_per_second": round(self._documents / passed, 1) if passed else 0,
            "keys_per_second": round(self._keys / passed) if passed else 0,
        }
        return {"seconds": round(passed, 1), "verified_now": self._documents, **per}


def verify_all(plan: Plan) -> int:
    """Look at all documents and print the summary; returns the exit code (0, 5 or 7)."""
    clock, rng = SystemClock(), SystemRng()
    if plan.workers < 0 or plan.workers > 256:
        raise malformed("--workers takes 1 to 256, or 0 for as many as there are CPUs")
    if plan.sample is not None and plan.sample < 1:
        raise malformed("--sample takes a number of documents, from 1")
    if plan.sample is not None and plan.resume is not None:
        raise malformed("--sample draws other documents each time: give it without --resume")
    spkis = [load_rsa_public_key(read_file(f, 1 << 16), allow_2048=True).spki for f in plan.rsa]
    wanted = b"" if plan.expected is None else read_file(plan.expected, _MAX_EXPECTED)
    with ExitStack() as stack:
        ledger = Ledger(plan.resume or "", _settings(plan, spkis, wanted))
        stack.callback(ledger.close)
        ledger.expect(read_expected(wanted) if wanted else ())
        del wanted
        entries = list(place(plan.where).entries())
        of = len(entries)
        if plan.sample is not None:
            entries = _drawn(entries, plan.sample, rng)
        ledger.keep_only(entry.name for entry in entries)
        todo = [entry for entry in entries if not ledger.has(entry)]
        pace = _Pace(len(todo), clock)
        try:
            for entry, finding in _found(plan, todo, spkis):
                ledger.note(entry, finding)
                pace.step(len(finding["keys"]))
        finally:
            figures = pace.stop()
        return _answer(plan, ledger, figures | {"resumed": len(entries) - len(todo)}, of)


def _settings(plan: Plan, spkis: Sequence[bytes], wanted: bytes) -> str:
    names = [hashlib.sha256(raw).hexdigest() for raw in (*sorted(spkis), wanted)]
    return json.dumps({"all": plan.where, "sha256": names})


def _drawn(entries: list[Entry], count: int, rng: Rng) -> list[Entry]:
    # The least of random numbers: every set of that many is equally likely.
    ranked = sorted(entries, key=lambda _: rng.bytes(16))
    return sorted(ranked[:count], key=lambda entry: entry.name)


def _found(
    plan: Plan, todo: Iterable[Entry], spkis: Sequence[bytes]
) -> Iterator[ers_workers.Finding]:
    if plan.cluster is not None:
        return ers_workers.in_cluster(plan.where, todo, spkis, plan.cluster)
    workers = plan.workers or os.cpu_count() or 1
    if workers == 1:
        return ers_workers.here(plan.where, todo, spkis)
    return ers_workers.in_processes(plan.where, todo, spkis, workers)


def _answer(plan: Plan, ledger: Ledger, figures: dict[str, Any], of: int) -> int:
    documents = ledger.documents()
    # A document that nobody could read, or that was not drawn, may be the one that has the key.
    missing = NO if plan.sample is None and not documents[CANT_TELL] else CANT_TELL
    if plan.sample is not None and documents[CANT_TELL] == 0:
        missing = ""  # not asked
    counts = {YES: 0, NO: 0, CANT_TELL: 0}
    statuses: dict[str, int] = {}
    listed: list[dict[str, str]] = []
    lines: list[bytes] = []
    for row in ledger.keys(missing=missing):
        if not row["answer"]:
            continue
        counts[row["answer"]] += 1
        word = row["status"].split(" ")[0] or "INVALID"
        statuses[word] = statuses.get(word, 0) + 1
        if row["answer"] != YES and len(listed) < _LISTED:
            listed.append(row)
        if plan.report is not None:
            lines.append(json.dumps(row).encode() + b"\n")
    if plan.report is not None:
        write_new(plan.report, b"".join(lines), 0o644)
    answer = NO if counts[NO] or documents[NO] else YES
    if answer == YES and (counts[CANT_TELL] or documents[CANT_TELL] or not counts[YES]):
        answer = CANT_TELL
    result = {
        "answer": answer,
        "documents": documents | {"in_place": of},
        "keys": counts,
        "statuses": statuses,
        "not_yes": {"keys": listed, "documents": ledger.troubles(_LISTED)},
        "report": None if plan.report is None else str(plan.report),
        "sample": plan.sample,
        **figures,
    }
    output.result(result)
    return {YES: 0, NO: 5, CANT_TELL: 7}[answer]
