"""Who looks at the documents: this process, processes of this machine, or a Dask cluster.

Each hands out small batches and no more of them than the workers can have in hand, so that memory
stays small however many documents there are. A cluster's workers are believed: whoever runs them
could make them say yes to anything.
"""

from __future__ import annotations

import importlib
import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any

from keycairn.cli.ers_places import look_at
from keycairn.errors import Code, KeycairnError
from keycairn.ers.bulk import Entry

#: A batch ends at so many documents or bytes: a worker's answer is never far away.
BATCH = 16
_BATCH_BYTES = 8 << 20
_AHEAD = 3
Finding = tuple[Entry, dict[str, Any]]


def batches(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Entries in small batches."""
    batch: list[Entry] = []
    size = 0
    for entry in entries:
        batch.append(entry)
        size += entry.size
        if len(batch) >= BATCH or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def here(place: str, entries: Iterable[Entry], spkis: Sequence[bytes]) -> Iterator[Finding]:
    """One after the other, in this process."""
    for entry in entries:
        yield entry, look_at(place, [entry.name], spkis)[0]


def in_processes(
    place: str, entries: Iterable[Entry], spkis: Sequence[bytes], workers: int
) -> Iterator[Finding]:
    """In ``workers`` processes of this machine, which begin with nothing of this one's memory.

    Raises:
        KeycairnError: E_UNAVAILABLE if a worker was killed.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        todo = batches(entries)
        running: dict[Future[list[dict[str, Any]]], list[Entry]] = {}
        try:
            while True:
                for batch in islice(todo, workers * _AHEAD - len(running)):
                    names = [entry.name for entry in batch]
                    running[pool.submit(look_at, place, names, spkis)] = batch
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield from zip(running.pop(future), future.result(), strict=True)
        except BrokenProcessPool as exc:
            raise _died("a worker process was killed") from exc
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def in_cluster(
    place: str, entries: Iterable[Entry], spkis: Sequence[bytes], address: str
) -> Iterator[Finding]:
    """By the workers of a Dask scheduler; keycairn is installed there, and the place has the same
    name there.

    Raises:
        KeycairnError: E_UNAVAILABLE if the scheduler or its workers do not answer.
    """
    try:
        distributed: Any = importlib.import_module("distributed")
    except ImportError as exc:
        raise KeycairnError(
            Code.UNAVAILABLE,
            "--cluster needs the package distributed, which is not installed",
            next="pip install 'keycairn[cluster]'",
        ) from exc
    try:
        client = distributed.Client(address, timeout=10, set_as_default=False)
    except (OSError, TimeoutError) as exc:
        raise _died(f"no Dask scheduler answers at {address}") from exc
    with client:
        workers = max(1, len(client.scheduler_info(n_workers=-1)["workers"]))
        todo = batches(entries)
        running: deque[tuple[list[Entry], Any]] = deque()
        while True:
            for batch in islice(todo, 2 * workers * _AHEAD - len(running)):
                names = [entry.name for entry in batch]
                # pure=False: a batch is looked at again even if the cluster remembers its answer.
                running.append(
                    (batch, client.submit(look_at, place, names, list(spkis), pure=False))
                )
            if not running:
                return
            batch, future = running.popleft()
            try:
                found = future.result()
            except KeycairnError:
                raise
            except Exception as exc:  # whatever the cluster raises: killed workers, lost links
                raise _died(f"the cluster lost a batch ({type(exc).__name__})") from exc
            yield from zip(batch, found, strict=True)


def _died(what: str) -> KeycairnError:
    return KeycairnError(
        Code.UNAVAILABLE,
        what,
        not_lost="What was looked at so far is in the file that --resume names, if one was given.",
        next="run the same command again",
    )
