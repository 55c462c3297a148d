"""Which bundles stay: the last few, one a day, one a week, and never too few.

Two rules stand above the numbers. The newest *good* bundle of a node stays, and so does the newest
good one that holds a key at the generation and with the record that the node has now. "Good" is
found out by reading the stored copy, not by believing a receipt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from keycairn.errors import malformed
from keycairn.vault.ports import BundleRow

MOST = 100_000
#: Levels of receipts for bundles that this program wrote; others are the operator's own dumps.
OWN_LEVELS = ("hashes", "trial")


@dataclass(frozen=True)
class Keep:
    """``[backup] keep``: the ``last`` newest, and the newest of each of so many days and weeks."""

    last: int = 10
    daily: int = 0
    weekly: int = 0


def read_keep(value: Any) -> Keep:
    """``keep = 10`` or ``keep = { last = 3, daily = 7, weekly = 4 }``.

    Raises:
        KeycairnError: E_MALFORMED.
    """
    given = {"last": value} if type(value) is int else value
    names = ("last", "daily", "weekly")
    good = isinstance(given, Mapping) and set(given) <= set(names)
    good = good and all(type(n) is int and 0 <= n <= MOST for n in given.values())
    if not good or given.get("last", 1) < 1:
        raise malformed(
            "[backup] keep must be a number from 1, or { last, daily, weekly } with numbers"
        )
    return Keep(given.get("last", 1), given.get("daily", 0), given.get("weekly", 0))


@dataclass(frozen=True)
class Choice:
    """What stays, with the reason; what may go; what is not good. Newest first, each."""

    kept: Mapping[str, str]  # SHA-256 -> reason
    pruned: tuple[BundleRow, ...]
    bad: tuple[BundleRow, ...]


def choose(
    rows: Iterable[BundleRow],
    keep: Keep,
    wanted: Mapping[str, tuple[int, bytes]],
    good: Callable[[BundleRow], bool],
) -> Choice:
    """Decide over the bundles of one node in one target.

    Args:
        rows: receipts.
        keep: the operator's numbers.
        wanted: this node's keys with generation and record hash, as they are now.
        good: reads a stored bundle; asked only where the answer matters. It may raise
            E_UNAVAILABLE: then nothing can be decided, and nothing goes.
    """
    newest = sorted(rows, key=lambda row: (row.created_us, row.sha256), reverse=True)
    verdicts: dict[str, bool] = {}

    def is_good(row: BundleRow) -> bool:
        if row.sha256 not in verdicts:
            verdicts[row.sha256] = good(row)
        return verdicts[row.sha256]

    kept: dict[str, str] = {}
    for row in newest[: keep.last]:
        kept[row.sha256] = f"one of the last {keep.last}"
    _periods(newest, keep.daily, "%Y-%m-%d", "newest of its day", kept)
    _periods(newest, keep.weekly, "%G-W%V", "newest of its week", kept)
    for row in newest:
        if is_good(row):
            kept.setdefault(row.sha256, "the newest good bundle")
            break
    _cover(newest, wanted, is_good, kept)
    bad = tuple(row for row in newest if verdicts.get(row.sha256) is False)
    pruned = tuple(row for row in newest if row.sha256 not in kept and row not in bad)
    return Choice(kept, pruned, bad)


def _periods(
    newest: Sequence[BundleRow], count: int, form: str, reason: str, kept: dict[str, str]
) -> None:
    seen: set[str] = set()
    for row in newest:
        if len(seen) == count:
            return
        moment = datetime.fromtimestamp(row.created_us // 1_000_000, UTC)
        period = moment.strftime(form)
        if period not in seen:
            seen.add(period)
            kept.setdefault(row.sha256, reason)


def _cover(
    newest: Sequence[BundleRow],
    wanted: Mapping[str, tuple[int, bytes]],
    is_good: Callable[[BundleRow], bool],
    kept: dict[str, str],
) -> None:
    """Every key stays in a good bundle, if it is in one: first in those that stay anyway."""
    bare = set(wanted)

    def covers(row: BundleRow) -> set[str]:
        return {k for k in bare if row.keys.get(k) == wanted[k]}

    for row in [r for r in newest if r.sha256 in kept]:
        held = covers(row)
        if held and is_good(row):
            bare -= held
    for row in newest:
        held = covers(row) if row.sha256 not in kept else set()
        if held and is_good(row):
            kept[row.sha256] = f"the last that holds {len(held)} of this node's keys as they are"
            bare -= held
