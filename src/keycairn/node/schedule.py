"""The node's own backups: when the next is due, what became of the last, and what is said about it.

A failed run is tried again after a while, longer each time; the failure is a finding and a metric
until a bundle is made. The newest bundle that is older than two periods is an alarm, whoever was to
make it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from keycairn.backup.schedule import Schedule
from keycairn.errors import Code, KeycairnError
from keycairn.node.logs import exception_fields, logger
from keycairn.ports import Clock, Rng, randbelow
from keycairn.vault.ports import BundleRow

#: Between two looks at the clock: it may be put forward or back at any time.
_TICK_SECONDS = 5.0
_FIRST_RETRY, _LAST_RETRY = 60, 3600
#: Without a schedule, somebody else makes bundles; then this is the age of an alarm.
_ALARM_SECONDS = 7 * 86400
_GRACE_SECONDS = 3600
_MICRO = 1_000_000


@dataclass(frozen=True)
class Failure:
    """Why there is no newer bundle."""

    at_us: int
    code: str
    message: str
    next: str


class Scheduler:
    """Runs :attr:`work` when it is due.

    Args:
        schedule: of the configuration, or None: then only age and failures are watched.
        jitter_seconds: a run is late by up to this, drawn anew for each.
        good: the good receipts, newest first.
        work: makes the bundles and prunes.
    """

    def __init__(
        self,
        schedule: Schedule | None,
        jitter_seconds: int,
        clock: Clock,
        rng: Rng,
        good: Callable[[], Awaitable[Sequence[BundleRow]]],
        work: Callable[[], Awaitable[Any]],
    ) -> None:
        self._schedule = schedule
        self._jitter_seconds = jitter_seconds
        self._clock = clock
        self._rng = rng
        self._good = good
        self._work = work
        self._jitter_us = self._draw()
        self._retry_us: int | None = None
        self._failures = 0
        self.failures_total = 0
        self.failure: Failure | None = None

    def _draw(self) -> int:
        return randbelow(self._rng, self._jitter_seconds * _MICRO + 1)

    def failed(self, error: KeycairnError) -> None:
        """Note that a bundle could not be made."""
        now = self._clock.now_us()
        wait = min(_FIRST_RETRY << min(self._failures, 10), _LAST_RETRY)
        self._failures += 1
        self.failures_total += 1
        self._retry_us = now + wait * _MICRO
        self.failure = Failure(now, error.code.value, error.message, error.next)

    def succeeded(self) -> None:
        """Note that a bundle was made."""
        self._failures = 0
        self._retry_us = None
        self.failure = None
        self._jitter_us = self._draw()

    async def due_us(self) -> int | None:
        """When the next run is due, in microseconds since the epoch; None without a schedule."""
        if self._schedule is None:
            return None
        good = await self._good()
        now = self._clock.now_us()
        if self._retry_us is not None:
            return min(self._retry_us, now + _LAST_RETRY * _MICRO)  # the clock may be put back
        if not good:
            return now
        return self._schedule.due_us(good[0].created_us, now) + self._jitter_us

    async def run(self) -> None:
        """For as long as the node runs."""
        while True:
            try:
                due = await self.due_us()
                if due is not None and self._clock.now_us() >= due:
                    await self._once()
            except KeycairnError as exc:
                # The database is away: nothing can be backed up now, and the node says so itself.
                logger().warning("backup", code=exc.code.value)
            await asyncio.sleep(_TICK_SECONDS)

    async def _once(self) -> None:
        before = self.failures_total
        try:
            await self._work()
        except KeycairnError as exc:
            if self.failures_total == before:
                self.failed(exc)
            logger().warning(
                "finding", finding="scheduled backup failed", code=exc.code.value, next=exc.next
            )
        except Exception as exc:
            # Whatever it is, the next run must come: nobody watches a schedule that has died.
            word = type(exc).__name__
            self.failed(KeycairnError(Code.UNAVAILABLE, f"an error nobody expected: {word}"))
            logger().error("stray", **exception_fields(exc))

    async def state(self) -> dict[str, Any]:
        """``{newest, age_seconds, bundles, schedule, due_us, failure, failures}`` and findings."""
        good = await self._good()
        now = self._clock.now_us()
        age = None if not good else max(0, (now - good[0].created_us) // _MICRO)
        failure = self.failure
        return {
            "newest": None if not good else good[0].location,
            "created_us": None if not good else good[0].created_us,
            "age_seconds": age,
            "bundles": len(good),
            "schedule": None if self._schedule is None else self._schedule.text,
            "due_us": await self.due_us(),
            "failures": self.failures_total,
            "failure": None
            if failure is None
            else {
                "at_us": failure.at_us,
                "code": failure.code,
                "message": failure.message,
                "next": failure.next,
            },
            "findings": self._findings(age, now),
        }

    def _findings(self, age: int | None, now_us: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        if self.failure is not None:
            found.append(
                {
                    "finding": "no new bundle",
                    "why": f"{self.failure.message} [{self.failure.code}]",
                    "next": self.failure.next or "keycairn backup create",
                }
            )
        limit = _ALARM_SECONDS
        if self._schedule is not None:
            limit = 2 * self._schedule.period_seconds(now_us) + _GRACE_SECONDS
        if age is not None and age > limit:
            found.append(
                {
                    "finding": "newest bundle is old",
                    "hours": age // 3600,
                    "next": "keycairn backup create",
                }
            )
        return found
