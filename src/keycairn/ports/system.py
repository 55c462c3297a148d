"""The production adapters of the Rng and Clock ports: the operating system."""

from __future__ import annotations

import os
import time

from keycairn.errors import Code, KeycairnError


class SystemRng:
    """``os.urandom``. A failing source is an error, never a reason for a weaker one."""

    def bytes(self, n: int) -> bytes:
        try:
            out = os.urandom(n)
        except (OSError, NotImplementedError) as exc:
            raise KeycairnError(
                Code.RNG,
                "the operating system's random source failed",
                not_lost="Nothing was signed or created; keys and shares are unchanged.",
                next="check /dev/urandom and the kernel log, then start the node again",
            ) from exc
        if len(out) != n:
            raise KeycairnError(Code.RNG, "the random source returned too few bytes")
        return out


class SystemClock:
    """Wall clock in integer microseconds; monotonic clock for deadlines."""

    def now_us(self) -> int:
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        return time.monotonic()


class ProcessClock(SystemClock):
    """Measures work instead of time: ``monotonic`` is this process's processor time, all threads.

    For benches; a machine that others use as well disturbs it least.
    """

    def monotonic(self) -> float:
        return time.process_time()
