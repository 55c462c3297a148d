"""A receipt is evidence only while the stored bundle is what was written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from keycairn.cli.layout import check_plan, create_vault
from keycairn.client import OperatorClient
from keycairn.errors import Code, KeycairnError
from keycairn.node.config import NodeConfig, load_config
from keycairn.node.daemon import serve_node
from keycairn.ports.system import SystemClock, SystemRng

CLOCK, RNG = SystemClock(), SystemRng()


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keycairn.node.backups._LOOK_SECONDS", 0.01)


@pytest.fixture
def config(tmp_path: Path, free_ports: Callable[[int], int]) -> NodeConfig:
    plan = check_plan(tmp_path / "v", 2, 1, free_ports(6), "ers or node_backup")
    create_vault(plan, CLOCK, RNG)
    return load_config(plan.directory / "node1" / "node.toml", {})


async def bundles(config: NodeConfig) -> list[str]:
    async with OperatorClient.of(config) as operator:
        return [b["sha256"] for b in await operator.backups()]


@pytest.mark.parametrize("harm", ["deleted", "flipped", "truncated"])
async def test_a_bundle_that_is_gone_or_changed_stops_counting_at_the_next_look(
    config: NodeConfig, harm: str
) -> None:
    async with serve_node(config, CLOCK, RNG, lambda: None):
        async with OperatorClient.of(config) as operator:
            kept = await operator.backup_create()
            lost = await operator.backup_create()
        assert set(await bundles(config)) == {kept["sha256"], lost["sha256"]}
    path = Path(lost["bundle"])
    if harm == "deleted":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data if harm == "flipped" else data[:-1])
    async with serve_node(config, CLOCK, RNG, lambda: None):
        for _ in range(200):
            if await bundles(config) == [kept["sha256"]]:
                return
        pytest.fail("the damaged bundle still counts")


async def soon(config: NodeConfig, wanted: set[str]) -> None:
    for _ in range(400):
        if set(await bundles(config)) == wanted:
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"not {wanted}")


async def test_evidence_that_is_touched_while_the_node_runs_stops_counting_soon(
    config: NodeConfig,
) -> None:
    async with (
        serve_node(config, CLOCK, RNG, lambda: None),
        OperatorClient.of(config) as operator,
    ):
        made = [(await operator.backup_create()) for _ in range(2)]
        first, second = (Path(m["bundle"]) for m in made)
        gone, edited = (m["sha256"] for m in made)
        await asyncio.sleep(0.05)
        assert set(await bundles(config)) == {gone, edited}
        away = first.rename(first.with_name("away"))
        await soon(config, {edited})
        kept = second.read_bytes()
        second.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        await soon(config, set())
        # As when a file system was not mounted for a while, and is.
        away.rename(first)
        second.write_bytes(kept)
        await soon(config, {gone, edited})


async def test_a_target_that_is_not_mounted_is_doubt_and_neither_yes_nor_no(
    config: NodeConfig,
) -> None:
    async with serving(config) as (service, operator):
        made = await operator.backup_create()
        assert service.unreadable == set()
    target = Path(made["bundle"]).parent
    away = target.rename(target.with_name("elsewhere"))
    # Known before the first request is taken; the receipt itself stays.
    async with serving(config) as (service, operator):
        assert service.unreadable == {made["sha256"]}
        assert await bundles(config) == [made["sha256"]]
        with pytest.raises(KeycairnError) as refused:
            await operator.backup_create()
        assert refused.value.code is Code.UNAVAILABLE
        assert not target.exists()
    # The empty directory of a mount point is no lost bundle either.
    target.mkdir()
    async with serving(config) as (service, _):
        assert service.unreadable == {made["sha256"]}
    target.rmdir()
    async with serving(config) as (service, _):
        assert service.unreadable == {made["sha256"]}
        away.rename(target)
        await until(lambda: service.unreadable == set())


async def until(done: Callable[[], bool]) -> None:
    for _ in range(400):
        if done():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it did not come about")


@asynccontextmanager
async def serving(config: NodeConfig) -> AsyncIterator[Any]:
    async with (
        serve_node(config, CLOCK, RNG, lambda: None) as service,
        OperatorClient.of(config) as operator,
    ):
        yield service, operator


async def test_one_target_of_two_away_is_said_and_the_other_is_written(
    tmp_path: Path, config: NodeConfig
) -> None:
    text = config.file.read_text()
    config.file.write_text(text.replace("targets = [", f'targets = ["{tmp_path}/usb", ', 1))
    two = load_config(config.file, {})
    async with serving(two) as (_, operator):
        made = await operator.backup_create()
        assert [f["target"] for f in made["failed"]] == [f"{tmp_path}/usb"]
        assert made["failed"][0]["code"] == "E_UNAVAILABLE"
        assert await bundles(two) == [made["sha256"]]


async def test_a_disk_that_fills_is_a_finding_before_it_stops_the_node(
    config: NodeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        serve_node(config, CLOCK, RNG, lambda: None),
        OperatorClient.of(config) as operator,
    ):
        assert (await operator.status())["findings"] == []
        monkeypatch.setattr("keycairn.node.space._LOW_BYTES", 1 << 62)
        found = (await operator.status())["findings"]
        assert {f["where"] for f in found} == {
            str(config.data_directory),
            str(config.ers_store),
        }
        assert all("free space" in f["next"] for f in found)
