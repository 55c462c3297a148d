"""Whether the time of a call depends on a secret: Welch's t-test, fixed against random secret.

As in Reparaz, Balasch, Verbauwhede, *Dude, is my code constant time?* (DATE 2017): calls with one
fixed secret and calls with random ones are mixed in random order, each is timed alone, and the two
samples are compared. Interrupts make the upper tail heavy, so the test is done on the whole and on
the fastest part below several percentiles of both samples together; the largest |t| counts. Above
4.5 the two means differ beyond reasonable doubt (p < 10^-5 for each test).

A small |t| proves nothing: it says that *this* difference of secrets was not visible *here* with
this many samples. :attr:`Result.resolution` says how small a difference would have been.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

THRESHOLD = 4.5
_PERCENTILES = (100.0, 98.0, 90.0, 75.0, 50.0)
_BLOCK = 256  # inputs that are made before a block of calls


@dataclass(frozen=True)
class Path:
    """One piece of the program.

    Attributes:
        name: for the table.
        claimed: whether it is claimed that its time does not depend on the secret.
        prepare: ``prepare(rnd, fixed)`` makes an input with the fixed or with a random secret, in
            the same way and from the same amount of randomness.
        call: what is timed.
        samples: in each run.
    """

    name: str
    claimed: bool
    prepare: Callable[[random.Random, bool], Any]
    call: Callable[[Any], object]
    samples: int


@dataclass(frozen=True)
class Result:
    """Of one run.

    Attributes:
        t: the largest |t| over all percentiles.
        microseconds: median of a call.
        resolution: the difference of means in nanoseconds at which |t| would have been 4.5, for
            the percentile with the least noise.
    """

    t: float
    microseconds: float
    resolution: float


def measure(path: Path, seed: object, samples: int | None = None) -> Result:
    """One run of a path."""
    rnd = random.Random(f"{path.name}/{seed}")
    count = samples or path.samples
    times = np.empty(count)
    kinds = np.empty(count, np.bool_)
    for _ in range(20):  # what is made once: tables, caches
        path.call(path.prepare(rnd, True))
    collecting = gc.isenabled()
    gc.disable()
    try:
        for start in range(0, count, _BLOCK):
            size = min(_BLOCK, count - start)
            order = [rnd.random() < 0.5 for _ in range(size)]
            inputs = [path.prepare(rnd, fixed) for fixed in order]
            for k, given in enumerate(inputs):
                begun = time.perf_counter_ns()
                path.call(given)
                times[start + k] = time.perf_counter_ns() - begun
            kinds[start : start + size] = order
            gc.collect(0)
    finally:
        if collecting:
            gc.enable()
    return _compare(times[kinds], times[~kinds])


def _compare(fixed: NDArray[np.float64], rest: NDArray[np.float64]) -> Result:
    both = np.concatenate([fixed, rest])
    worst, finest = 0.0, float("inf")
    for percentile in _PERCENTILES:
        limit = np.percentile(both, percentile)
        a, b = fixed[fixed <= limit], rest[rest <= limit]
        if min(len(a), len(b)) < 30:
            continue  # the samples hardly overlap: the other percentiles show it
        error = float((a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b)) ** 0.5)
        if error == 0:
            continue  # a clock of coarse steps: all the same
        worst = max(worst, abs(float(a.mean() - b.mean())) / error)
        finest = min(finest, THRESHOLD * error)
    return Result(worst, float(np.median(both)) / 1000, finest)
