"""When the next bundle is due: an interval, or a cron line in UTC.

Pure functions of times. The loop that waits is the node's (``node/schedule.py``).
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from keycairn.errors import KeycairnError, malformed

_INTERVAL = re.compile(r"([1-9][0-9]{0,5})(m|h|d)\Z")
_UNITS = {"m": 60, "h": 3600, "d": 86400}
_MICRO = 1_000_000
_SHORTEST, _LONGEST = 5 * 60, 366 * 86400


@dataclass(frozen=True)
class Schedule:
    """Exactly one of both is set. ``seconds`` is an interval, ``cron`` a line of five fields."""

    text: str
    seconds: int | None = None
    cron: str | None = None

    def due_us(self, last_us: int | None, now_us: int) -> int:
        """When the next bundle is due, in microseconds since the epoch.

        Args:
            last_us: when the newest bundle was made; None if there is none.
            now_us: a bundle from the future (the clock was put back) counts as made now.
        """
        if last_us is None:
            return now_us
        last_us = min(last_us, now_us)
        if self.seconds is not None:
            return last_us + self.seconds * _MICRO
        return _next(self.cron or "", last_us)

    def period_seconds(self, now_us: int) -> int:
        """Seconds from one run to the next, about now."""
        if self.seconds is not None:
            return self.seconds
        first = _next(self.cron or "", now_us)
        return (_next(self.cron or "", first) - first) // _MICRO


def parse_schedule(text: str) -> Schedule:
    """``30m``, ``6h``, ``1d``, or a cron line like ``15 3 * * *``.

    Raises:
        KeycairnError: E_MALFORMED, also for an interval under five minutes.
    """
    found = _INTERVAL.match(text)
    if found:
        seconds = int(found.group(1)) * _UNITS[found.group(2)]
        if not _SHORTEST <= seconds <= _LONGEST:
            raise _bad(text)
        return Schedule(text, seconds=seconds)
    if len(text.split()) != 5 or not _croniter().is_valid(text):
        raise _bad(text)
    return Schedule(text, cron=" ".join(text.split()))


def _bad(text: str) -> KeycairnError:
    return malformed(
        f"[backup] schedule {text!r} is neither an interval of 5 minutes or more (30m, 6h, 1d) nor "
        "a cron line of five fields (15 3 * * *, in UTC)"
    )


def _croniter() -> Any:
    # Loaded by those who have a cron line, not by every command.
    return importlib.import_module("croniter").croniter


def _next(cron: str, base_us: int) -> int:
    base = datetime.fromtimestamp(base_us // _MICRO, UTC)
    found: datetime = _croniter()(cron, base).get_next(datetime)
    return int(found.timestamp()) * _MICRO
