"""A running node's own backups: schedule, pruning, registering, its part in a backup point."""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keycairn.backup.retention import Keep
from keycairn.backup.schedule import parse_schedule
from keycairn.cli.layout import check_plan, create_vault
from keycairn.client import OperatorClient
from keycairn.errors import Code, KeycairnError
from keycairn.node.config import NodeConfig, load_config
from keycairn.node.daemon import serve_node
from keycairn.node.schedule import Scheduler
from keycairn.ports.seeded import ManualClock, SeededRng
from keycairn.ports.system import SystemClock, SystemRng
from keycairn.vault.hold import CreationHold
from keycairn.vault.ports import BundleRow

CLOCK, RNG = SystemClock(), SystemRng()
HOUR = 3_600_000_000


@pytest.fixture
def config(tmp_path: Path, free_ports: Callable[[int], int]) -> NodeConfig:
    plan = check_plan(tmp_path / "v", 2, 1, free_ports(6), "ers or node_backup")
    create_vault(plan, CLOCK, RNG)
    return load_config(plan.directory / "node1" / "node.toml", {})


@asynccontextmanager
async def serving(config: NodeConfig, clock: Any = CLOCK) -> AsyncIterator[Any]:
    async with (
        serve_node(config, clock, RNG, lambda: None) as service,
        OperatorClient.of(config) as operator,
    ):
        yield service, operator


async def refused(code: Code, call: Any) -> KeycairnError:
    with pytest.raises(KeycairnError) as caught:
        await call
    assert caught.value.code is code
    return caught.value


# -- pruning --------------------------------------------------------------------------------------


async def test_pruning_removes_files_and_receipts_and_a_dry_run_neither(config: NodeConfig) -> None:
    config = replace(config, backup=replace(config.backup, keep=Keep(last=2)))
    async with serving(config) as (_, operator):
        made = [await operator.backup_create() for _ in range(4)]
        for _ in range(2):
            planned = await operator.backup_prune(dry_run=True)
            assert {b["sha256"] for b in planned["pruned"]} == {m["sha256"] for m in made[:2]}
        assert all(Path(m["bundle"]).exists() for m in made)
        done = await operator.backup_prune()
        assert {b["sha256"] for b in done["kept"]} == {m["sha256"] for m in made[2:]}
        assert [Path(m["bundle"]).exists() for m in made] == [False, False, True, True]
        assert {b["sha256"] for b in await operator.backups()} == {m["sha256"] for m in made[2:]}
        assert (await operator.backup_prune())["pruned"] == []


async def test_pruning_never_takes_the_last_good_bundle(config: NodeConfig) -> None:
    config = replace(config, backup=replace(config.backup, keep=Keep(last=1)))
    async with serving(config) as (_, operator):
        good, rotten = [await operator.backup_create() for _ in range(2)]
        path = Path(rotten["bundle"])
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        os.utime(path, ns=(0, 0))
        done = await operator.backup_prune()
        assert done["pruned"] == []
        assert [b["sha256"] for b in done["bad"]] == [rotten["sha256"]]
        assert Path(good["bundle"]).exists()


async def test_r03_pruning_from_a_database_put_back_removes_nothing(config: NodeConfig) -> None:
    """Which bundles may go is decided by an inventory; this one is older than the node."""
    config = replace(config, backup=replace(config.backup, keep=Keep(last=1)))
    assert isinstance(config.database, Path)
    async with serving(config) as (_, operator):
        made = [await operator.backup_create() for _ in range(2)]
        with closing(sqlite3.connect(config.database)) as db:
            older = db.serialize()
        made.append(await operator.backup_create())
        back = config.database.with_name("older.db")
        back.write_bytes(older)
        back.chmod(0o600)
        for suffix in ("-wal", "-shm"):
            config.database.with_name(config.database.name + suffix).unlink(missing_ok=True)
        back.replace(config.database)
        with suppress(KeycairnError):
            assert (await operator.backup_prune())["pruned"] == []
        assert all(Path(m["bundle"]).exists() for m in made)
        assert (await operator.status())["state"] == "QUARANTINED"


async def test_pruning_an_unmounted_target_removes_nothing(config: NodeConfig) -> None:
    config = replace(config, backup=replace(config.backup, keep=Keep(last=1)))
    async with serving(config) as (_, operator):
        made = [await operator.backup_create() for _ in range(3)]
        target = Path(made[0]["bundle"]).parent
        away = target.rename(target.with_name("away"))
        done = await operator.backup_prune()
        assert done["pruned"] == []
        assert done["failed"][0]["code"] == "E_UNAVAILABLE"
        assert len(list(away.glob("*.bundle"))) == 3


# -- registering ----------------------------------------------------------------------------------


async def test_a_bundle_that_was_never_booked_is_found_and_adopted(
    config: NodeConfig, tmp_path: Path
) -> None:
    async with serving(config) as (service, operator):
        made = await operator.backup_create()
        # As a node that was killed between the last byte and the receipt would leave it.
        await service._store.delete_bundle(made["sha256"])
    async with serving(config) as (_, operator):
        assert await operator.backups() == []
        state = await operator.backup_status()
        [loose] = [f for f in state["findings"] if f["finding"] == "bundle without a receipt"]
        assert loose["where"] == made["bundle"]
        assert loose["next"].startswith(f"keycairn backup register {made['bundle']}")
        for _ in range(2):
            row = await operator.backup_register(made["bundle"])
            assert (row["sha256"], row["level"], row["counts"]) == (made["sha256"], "hashes", True)
        assert [b["sha256"] for b in await operator.backups()] == [made["sha256"]]
        # A trial that the operator made is kept in the receipt, also when it is booked again.
        assert (await operator.backup_verified(made["sha256"]))["level"] == "trial"
        assert (await operator.backup_register(made["bundle"]))["level"] == "trial"
        await refused(Code.NOT_FOUND, operator.backup_verified("00" * 32))
        damaged = tmp_path / "damaged.bundle"
        damaged.write_bytes(Path(made["bundle"]).read_bytes()[:-1])
        await refused(Code.STORE_INTEGRITY, operator.backup_register(str(damaged)))
        assert len(await operator.backups()) == 1


async def test_another_nodes_bundle_is_not_adopted(config: NodeConfig) -> None:
    other = load_config(config.home.parent / "node2" / "node.toml", {})
    async with serving(other) as (_, operator):
        theirs = await operator.backup_create()
    async with serving(config) as (_, operator):
        await refused(Code.CONFLICT, operator.backup_register(theirs["bundle"]))
        assert await operator.backups() == []


async def test_a_dump_of_the_operators_own_tools_is_noted_and_is_no_evidence(
    config: NodeConfig, tmp_path: Path
) -> None:
    dump = tmp_path / "node1.sql"
    dump.write_text("-- PostgreSQL database dump")
    async with serving(config) as (_, operator):
        row = await operator.backup_register(str(dump), dump=True)
        assert (row["level"], row["verified"], row["counts"]) == ("external", False, False)
        # It is neither the newest good bundle nor anything that pruning may touch.
        assert (await operator.backup_status())["bundles"] == 0
        made = await operator.backup_create()
        await operator.backup_prune()
        assert dump.exists()
        await refused(Code.MALFORMED, operator.backup_register(made["bundle"], dump=True))
        elsewhere = "s3://bucket/x.bundle?endpoint=https://example.org"
        await refused(Code.POLICY, operator.backup_register(elsewhere))
        await refused(Code.NOT_FOUND, operator.backup_register(str(tmp_path / "no"), dump=True))


# -- schedules ------------------------------------------------------------------------------------


async def test_a_schedule_makes_bundles_and_prunes_them(
    config: NodeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keycairn.node.schedule._TICK_SECONDS", 0.01)
    clock = ManualClock(SystemClock().now_us())  # The node's anchor is of today.
    backup = replace(
        config.backup, schedule=parse_schedule("6h"), jitter_seconds=600, keep=Keep(last=2)
    )
    async with serving(replace(config, backup=backup), clock) as (_, operator):
        for count in (1, 2, 2):
            for _ in range(200):
                state = await operator.backup_status()
                if state["due_us"] > clock.now_us() and state["bundles"] == count:
                    break
                await asyncio.sleep(0.02)
            assert state["bundles"] == count, state
            late = state["due_us"] - state["created_us"] - 6 * HOUR
            assert 0 <= late <= 600_000_000
            text = await operator.metrics()
            [shown] = re.findall(r"^keycairn_backup_newest_timestamp_seconds (\S+)$", text, re.M)
            assert float(shown) == state["created_us"] // 1_000_000
            clock.advance(6 * 3600 - 1)
            await asyncio.sleep(0.1)
            assert (await operator.backup_status())["created_us"] == state["created_us"]
            clock.advance(601)


class Fake:
    """A scheduler over a list of receipts; ``broken`` makes its work fail."""

    def __init__(self, schedule: str | None) -> None:
        self.clock = ManualClock()
        self.rows: list[BundleRow] = []
        self.broken = False
        parsed = None if schedule is None else parse_schedule(schedule)
        self.scheduler = Scheduler(parsed, 300, self.clock, SeededRng(1), self.good, self.work)

    async def good(self) -> list[BundleRow]:
        return self.rows

    async def work(self) -> None:
        if self.broken:
            raise KeycairnError(Code.UNAVAILABLE, "the target is away", next="mount it")
        now = self.clock.now_us()
        self.rows.insert(0, BundleRow(str(now), "/t", 1, now, now, "hashes", {}))
        self.scheduler.succeeded()


async def test_failures_are_tried_again_ever_later_and_said_until_one_succeeds() -> None:
    fake = Fake("1d")
    fake.broken = True
    waits = []
    for _ in range(9):
        await fake.scheduler._once()
        due = await fake.scheduler.due_us()
        waits.append((due - fake.clock.now_us()) // 1_000_000)
        fake.clock.advance(waits[-1])
    assert waits == [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
    state = await fake.scheduler.state()
    assert state["failures"] == 9
    assert state["failure"]["code"] == "E_UNAVAILABLE"
    assert [f["finding"] for f in state["findings"]] == ["no new bundle"]
    fake.broken = False
    await fake.scheduler._once()
    state = await fake.scheduler.state()
    assert (state["failure"], state["findings"], state["failures"]) == (None, [], 9)


async def test_no_error_whatever_ends_the_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keycairn.node.schedule._TICK_SECONDS", 0.001)
    fake = Fake("1d")
    honest = fake.work
    calls = 0

    async def work() -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ZeroDivisionError
        await honest()

    fake.scheduler._work = work
    running = asyncio.create_task(fake.scheduler.run())
    for _ in range(500):
        await asyncio.sleep(0.002)
        if fake.rows:
            break
        fake.clock.advance(10)
    running.cancel()
    assert calls == 2
    assert fake.scheduler.failures_total == 1


async def test_an_old_bundle_is_an_alarm_with_and_without_a_schedule() -> None:
    for schedule, hours in (("6h", 13), (None, 7 * 24)):
        fake = Fake(schedule)
        assert (await fake.scheduler.state())["findings"] == []  # doctor says it: no bundle at all
        await fake.work()
        fake.clock.advance(hours * 3600)
        assert (await fake.scheduler.state())["findings"] == []
        fake.clock.advance(1)
        [finding] = (await fake.scheduler.state())["findings"]
        assert (finding["finding"], finding["hours"]) == ("newest bundle is old", hours)


async def test_a_clock_that_is_put_back_stops_no_schedule() -> None:
    fake = Fake("6h")
    await fake.work()
    fake.clock.advance(-300 * 24 * 3600)
    due = await fake.scheduler.due_us()
    assert 0 < due - fake.clock.now_us() <= 6 * HOUR + 300_000_000
    fake.scheduler.failed(KeycairnError(Code.UNAVAILABLE, "x"))
    fake.clock.advance(-300 * 24 * 3600)
    assert await fake.scheduler.due_us() - fake.clock.now_us() <= HOUR


# -- backup points --------------------------------------------------------------------------------


async def test_a_hold_delays_creations_and_ends_by_itself() -> None:
    hold = CreationHold()
    order: list[str] = []

    async def create(name: str) -> None:
        async with hold.creating():
            order.append(name)

    hold.hold(0.2)
    waiting = asyncio.create_task(create("held"))
    await asyncio.sleep(0.05)
    assert order == []
    with pytest.raises(KeycairnError) as second:
        hold.hold(1)
    assert second.value.code is Code.CONFLICT
    # Nobody releases it: whoever took it is dead.
    await asyncio.wait_for(waiting, 2)
    assert order == ["held"]
    assert hold.release() is False
    hold.hold(1000)
    assert hold.release() is True
    await asyncio.wait_for(create("free"), 1)


async def test_a_copy_waits_for_creations_that_run_but_not_for_ever() -> None:
    hold = CreationHold()
    end = asyncio.Event()

    async def create() -> None:
        async with hold.creating():
            await end.wait()

    running = asyncio.create_task(create())
    await asyncio.sleep(0)
    hold.hold(5)
    assert await hold.settled(0.05) == 1
    end.set()
    assert await hold.settled(1) == 0
    await running


async def test_the_steps_of_a_point_in_and_out_of_order(config: NodeConfig) -> None:
    mark = "ab" * 16
    async with serving(config) as (service, operator):
        take = {"number": 5, "id": mark}
        await refused(Code.CONFLICT, operator.backup_point("take", **take))
        await refused(Code.CONFLICT, operator.backup_point("result"))
        assert (await operator.backup_point("hold"))["newest"] == 0
        assert service.creation.held
        await refused(Code.CONFLICT, operator.backup_point("hold"))
        await refused(Code.MALFORMED, operator.backup_point("take", number=5))
        assert await operator.backup_point("take", **take) == {"held": True, "creating": 0}
        assert (await operator.backup_point("release")) == {"held": True}
        assert not service.creation.held
        made = await operator.backup_point("result")
        assert (made["point"], made["verified"]) == (5, True)
        assert (await operator.backup_status())["point"] == 5
        assert (await operator.backup_point("hold"))["newest"] == 5
        # The leader dies here: the hold ends, the node goes on.
        service.creation.release()
        assert (await operator.backup_create())["point"] is None
    async with serving(config) as (_, operator):
        assert (await operator.backup_status())["point"] == 5


async def test_a_point_at_a_node_that_cannot_write_is_an_error_and_holds_nothing(
    config: NodeConfig,
) -> None:
    away = replace(config.backup, targets=(str(config.home / "not-mounted"),))
    async with serving(replace(config, backup=away)) as (service, operator):
        await operator.backup_point("hold")
        await refused(Code.UNAVAILABLE, operator.backup_point("take", number=1, id="ab" * 16))
        await operator.backup_point("release")
        assert not service.creation.held
