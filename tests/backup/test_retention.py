"""Pruning against its rules, and schedules against a calendar."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keycairn.backup.retention import Keep, choose, read_keep
from keycairn.backup.schedule import parse_schedule
from keycairn.errors import Code, KeycairnError
from keycairn.vault.ports import BundleRow

START = datetime(2026, 3, 2, 12, tzinfo=UTC)  # a Monday
Keys = dict[str, tuple[int, bytes]]


def row(name: str, at: datetime, keys: Keys | None = None) -> BundleRow:
    us = int(at.timestamp()) * 1_000_000
    return BundleRow(name, f"/t/{name}", 1, us, us, "hashes", keys or {})


def daily(count: int) -> list[BundleRow]:
    """One a day, oldest first, named by their day."""
    days = [START + timedelta(days=n) for n in range(count)]
    return [row(d.strftime("%m-%d"), d) for d in days]


def test_the_last_daily_and_weekly_ones_stay() -> None:
    rows = [*daily(28), row("03-29-late", START + timedelta(days=27, hours=5))]
    found = choose(rows, Keep(last=1, daily=3, weekly=3), {}, lambda _: True)
    assert set(found.kept) == {"03-29-late", "03-28", "03-27", "03-22", "03-15"}
    assert found.kept["03-22"] == "newest of its week"
    assert len(found.pruned) == len(rows) - 5
    assert not found.bad


def test_the_newest_good_one_stays_whatever_the_numbers_say() -> None:
    rows = daily(9)
    bad = {"03-10", "03-09", "03-08"}
    found = choose(rows, Keep(last=2), {}, lambda r: r.sha256 not in bad)
    assert set(found.kept) == {"03-10", "03-09", "03-07"}
    assert {r.sha256 for r in found.bad} == bad
    # A bad bundle is never deleted as if it were one too many: somebody should look at it.
    assert not bad & {r.sha256 for r in found.pruned}


def test_the_last_that_holds_a_key_as_it_is_stays() -> None:
    rows = daily(9)
    now: Keys = {"a": (2, b"a2"), "b": (1, b"b1"), "gone": (1, b"x")}
    rows[1] = row("holds-b", START + timedelta(days=1), {"a": (1, b"a1"), "b": (1, b"b1")})
    rows[2] = row("holds-a", START + timedelta(days=2), {"a": (2, b"a2")})
    rows[3] = row("other-record", START + timedelta(days=3), {"b": (1, b"other")})
    rows[4] = row("rotten", START + timedelta(days=4), {"a": (2, b"a2"), "b": (1, b"b1")})
    found = choose(rows, Keep(last=1), now, lambda r: r.sha256 != "rotten")
    assert set(found.kept) == {"03-10", "holds-a", "holds-b"}
    assert "rotten" in {r.sha256 for r in found.bad}


def test_what_cannot_be_read_decides_nothing() -> None:
    def away(_: BundleRow) -> bool:
        raise KeycairnError(Code.UNAVAILABLE, "the target is not mounted")

    with pytest.raises(KeycairnError):
        choose(daily(3), Keep(last=1), {}, away)


KEYS = st.dictionaries(
    st.sampled_from("abc"), st.tuples(st.integers(1, 2), st.just(b"h")), max_size=3
)


@settings(max_examples=300)
@given(
    st.lists(st.tuples(st.integers(0, 2000), KEYS, st.booleans()), max_size=12),
    KEYS,
    st.builds(Keep, st.integers(1, 4), st.integers(0, 3), st.integers(0, 3)),
)
def test_no_good_last_bundle_ever_goes(
    made: list[tuple[int, Keys, bool]], wanted: Keys, keep: Keep
) -> None:
    rows = [row(f"{n}", START + timedelta(hours=h), k) for n, (h, k, _) in enumerate(made)]
    is_good = {f"{n}": ok for n, (_, _, ok) in enumerate(made)}
    found = choose(rows, keep, wanted, lambda r: is_good[r.sha256])
    gone = {r.sha256 for r in found.pruned}
    left = [r for r in rows if r.sha256 not in gone]
    assert not gone & set(found.kept)
    before, after = ([r for r in some if is_good[r.sha256]] for some in (rows, left))
    if before:
        assert max(r.created_us for r in after) == max(r.created_us for r in before)
    for key, held in wanted.items():
        covered = [r for r in before if r.keys.get(key) == held]
        assert not covered or any(r.keys.get(key) == held for r in after)


@pytest.mark.parametrize(
    "value", [0, -1, True, "10", 1.5, {"last": 0}, {"daily": -1}, {"hourly": 1}, {"last": True}, []]
)
def test_odd_numbers_are_refused(value: object) -> None:
    with pytest.raises(KeycairnError) as caught:
        read_keep(value)
    assert caught.value.code is Code.MALFORMED


def test_numbers_are_read() -> None:
    assert read_keep(7) == Keep(7)
    assert read_keep({"last": 3, "daily": 7, "weekly": 4}) == Keep(3, 7, 4)
    assert read_keep({"daily": 7}) == Keep(1, 7)


# -- schedules -------------------------------------------------------------------------------------


def us(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000


@pytest.mark.parametrize(
    ("schedule", "last", "due"),
    [
        ("30m", "2026-03-02T12:00", "2026-03-02T12:30"),
        ("6h", "2026-03-02T12:00", "2026-03-02T18:00"),
        ("1d", "2026-02-28T23:59", "2026-03-01T23:59"),
        ("15 3 * * *", "2026-03-02T12:00", "2026-03-03T03:15"),
        ("15 3 * * *", "2026-03-02T03:15", "2026-03-03T03:15"),
        ("0 */6 * * *", "2026-03-02T12:01", "2026-03-02T18:00"),
        ("0 4 * * 0", "2026-03-02T12:00", "2026-03-08T04:00"),
        ("0 4 29 2 *", "2026-03-02T12:00", "2028-02-29T04:00"),
        # The clock was put back: the bundle of the future counts as made now.
        ("6h", "2027-01-01T00:00", "2026-03-09T18:00"),
    ],
)
def test_the_next_time(schedule: str, last: str, due: str) -> None:
    now = us("2026-03-09T12:00")
    assert parse_schedule(schedule).due_us(us(last), now) == us(due)


def test_the_first_bundle_is_due_at_once() -> None:
    assert parse_schedule("1d").due_us(None, 5) == 5


def test_the_period_is_known() -> None:
    now = us("2026-03-02T12:00")
    assert parse_schedule("6h").period_seconds(now) == 6 * 3600
    assert parse_schedule("15 3 * * *").period_seconds(now) == 86400


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0h",
        "6",
        "6 h",
        "4m",
        "367d",
        "every day",
        "* * * *",
        "60 3 * * *",
        "* * * * * *",
        "@daily",
    ],
)
def test_odd_schedules_are_refused(text: str) -> None:
    with pytest.raises(KeycairnError) as caught:
        parse_schedule(text)
    assert caught.value.code is Code.MALFORMED
