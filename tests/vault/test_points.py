"""Backup points led over the links: whole services, and a node's part that writes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from keycairn.errors import Code, KeycairnError
from keycairn.node.points import Points
from keycairn.vault.control import PointAnswer, PointAsk
from keycairn.vault.points import LEAP, PeerPoints
from vault.nodes import Vault, eventually

AT_WILL = PeerPoints(True, 0)


@dataclass
class Copies:
    """The bundles of one node: a real part of a point over a maker that only takes notes."""

    newest: int = 0
    made: list[int] = field(default_factory=list)
    led_by: list[int] = field(default_factory=list)
    fail: KeycairnError | None = None
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    async def create(self, point: Any, taken: Any) -> dict[str, Any]:
        await self.go_on.wait()
        if self.fail is not None:
            raise self.fail
        taken()
        self.made.append(point.number)
        self.newest = point.number
        return {"sha256": "ab" * 32, "keys": 3, "size": 100}

    async def known(self) -> int:
        return self.newest

    async def led(self, peer: int) -> None:
        self.led_by.append(peer)


@asynccontextmanager
async def joined(
    folder: Path, policy: PeerPoints = AT_WILL
) -> AsyncIterator[tuple[Vault, dict[int, Copies]]]:
    async with Vault.of(folder, policy="none") as vault:
        copies = {}
        for i, service in vault.services.items():
            copies[i] = Copies()
            copies[i].go_on.set()
            part = Points(service.creation, copies[i].create, copies[i].known, led=copies[i].led)
            part.join(service.points, policy, i)

        async def connected() -> bool:
            others = len(copies) - 1
            return all(
                [known.state for known in s._exchange.peers.values()] == ["ACTIVE"] * others
                for s in vault.services.values()
            )

        await eventually(connected)
        yield vault, copies


async def refused(code: Code, node: int | None, work: Any) -> KeycairnError:
    with pytest.raises(KeycairnError) as caught:
        await work
    assert (caught.value.code, caught.value.node) == (code, node), caught.value
    assert caught.value.next
    return caught.value


async def all_free(vault: Vault) -> None:
    """Wait until no node holds back creations: a release is on its way when the leader ends."""

    async def over() -> bool:
        return not any(s.creation.held for s in vault.services.values())

    await eventually(over, 3)


async def test_any_node_leads_and_numbers_only_grow(tmp_path: Path) -> None:
    async with joined(tmp_path) as (vault, copies):
        copies[3].newest = 41
        for number, leader in ((42, 1), (43, 2), (44, 3), (45, 1)):
            made = await vault.services[leader].points.lead()
            assert (made["point"], made["why"], made["failed"]) == (number, "", [])
            assert [b["node"] for b in made["bundles"]] == [1, 2, 3]
            assert {b["sha256"] for b in made["bundles"]} == {"ab" * 32}
            await all_free(vault)
        assert all(c.made == [42, 43, 44, 45] for c in copies.values())
        # A node tidies up after others' points only.
        assert copies[1].led_by == [2, 3]


async def test_creation_waits_at_all_nodes_while_any_copies_and_signing_does_not(
    tmp_path: Path,
) -> None:
    async with joined(tmp_path) as (vault, copies):
        key = await vault.key()
        copies[2].go_on.clear()
        leading = asyncio.create_task(vault.services[1].points.lead())

        async def all_held() -> bool:
            return all(s.creation.held for s in vault.services.values())

        await eventually(all_held)
        creating = asyncio.create_task(vault.create())
        assert (await vault.sign(key)).result.signature
        assert not creating.done()
        copies[2].go_on.set()
        assert (await leading)["point"] == 1
        assert (await creating).result


async def test_two_leaders_at_once_make_no_half_point(tmp_path: Path) -> None:
    async with joined(tmp_path) as (vault, copies):
        for _ in range(10):
            found = await asyncio.gather(
                *(vault.services[i].points.lead() for i in (1, 2)), return_exceptions=True
            )
            won = [f for f in found if isinstance(f, dict)]
            assert len(won) <= 1
            for lost in (f for f in found if not isinstance(f, dict)):
                assert isinstance(lost, KeycairnError)
                assert lost.code is Code.CONFLICT

            await all_free(vault)
            if won:
                assert won[0]["point"] is not None, won[0]["why"]
            # No number was given twice, and each is at all nodes or at none.
            assert copies[1].made == copies[2].made == copies[3].made
            assert len(set(copies[1].made)) == len(copies[1].made)
        assert (await vault.services[3].points.lead())["point"] == len(copies[1].made)


async def test_a_leader_that_says_no_more_holds_nobody_beyond_the_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keycairn.node.points.LONGEST", 1.0)
    monkeypatch.setattr("keycairn.vault.hold.LONGEST", 1.0)
    async with joined(tmp_path, policy=PeerPoints(True, 3600)) as (vault, copies):
        # The leader dies after the hold: nothing of it leaves any more, "release" included.
        vault.notes = lambda sender, receiver, note: (
            [] if sender == 1 and isinstance(note, PointAsk) and note.step != "hold" else [note]
        )
        leading = asyncio.create_task(vault.services[1].points.lead())

        async def all_held() -> bool:
            return all(s.creation.held for s in vault.services.values())

        await eventually(all_held)
        async with asyncio.timeout(5):
            assert (await vault.create()).result
        leading.cancel()
        assert copies[2].made == copies[3].made == []
        # The bundle that the leader made of itself bears a number; the next is larger.
        vault.notes = lambda *a: [a[2]]
        await asyncio.wait([leading])
        made = await vault.services[2].points.lead()
        assert made["point"] == copies[1].newest == 2


async def test_a_follower_that_fails_half_way_makes_it_no_point(tmp_path: Path) -> None:
    async with joined(tmp_path) as (vault, copies):
        copies[3].fail = KeycairnError(Code.UNAVAILABLE, "/secret/path is full")
        made = await vault.services[1].points.lead()
        assert made["point"] is None
        assert [b["node"] for b in made["bundles"]] == [1, 2]
        assert [(f["node"], f["code"]) for f in made["failed"]] == [(3, "E_UNAVAILABLE")]
        assert "/secret" not in str(made)
        await all_free(vault)
        copies[3].fail = None
        assert (await vault.services[1].points.lead())["point"] == 2


async def test_a_copy_that_outlasts_its_hold_is_no_part_of_a_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keycairn.node.points.LONGEST", 0.5)
    monkeypatch.setattr("keycairn.vault.hold.LONGEST", 0.5)
    async with joined(tmp_path) as (vault, copies):
        copies[2].go_on.clear()
        leading = asyncio.create_task(vault.services[1].points.lead())
        await asyncio.sleep(0.9)
        copies[2].go_on.set()
        made = await leading
        assert made["point"] is None
        assert "node 2's copy took longer" in made["why"]
        assert len(made["bundles"]) == 3


@pytest.mark.parametrize(
    ("policy", "code"),
    [(PeerPoints(False, 0), Code.POLICY), (PeerPoints(True, 3600), Code.RATE_LIMIT)],
)
async def test_a_node_writes_for_peers_only_by_its_own_policy(
    tmp_path: Path, policy: PeerPoints, code: Code
) -> None:
    """A malicious peer must not fill disks, nor hold back creations for good."""
    async with joined(tmp_path, policy=policy) as (vault, copies):
        if code is Code.RATE_LIMIT:
            assert (await vault.services[1].points.lead())["point"] == 1
        before = {i: list(c.made) for i, c in copies.items()}
        for _ in range(3):
            await refused(code, 2, vault.services[1].points.lead())
            await all_free(vault)
        assert {i: c.made for i, c in copies.items()} == before
        if code is Code.RATE_LIMIT:
            # Another peer has its own allowance.
            assert (await vault.services[2].points.lead())["point"] == 2


async def test_a_peer_that_only_holds_is_slowed_down(tmp_path: Path) -> None:
    async with joined(tmp_path, policy=PeerPoints(True, 3600)) as (vault, copies):
        said: list[Any] = []
        vault.notes = lambda _s, _r, note: (said.append(note), [note])[1]
        exchange = vault.services[1]._exchange
        for n in range(20):
            mark = bytes([n]) * 16
            await exchange.send(2, PointAsk(mark, "hold", 0))
            await exchange.send(2, PointAsk(mark, "release", 0))

        def answers() -> list[str]:
            return [a.code for a in said if isinstance(a, PointAnswer)]

        async def all_answered() -> bool:
            return len(answers()) == 20

        await eventually(all_answered)
        assert answers() == ["", *["E_RATE_LIMIT"] * 19]
        assert copies[2].made == []


async def test_steps_out_of_order_or_of_another_peers_point_do_nothing(tmp_path: Path) -> None:
    async with joined(tmp_path) as (vault, copies):
        said: list[tuple[int, PointAnswer]] = []

        def listen(sender: int, receiver: int, note: Any) -> list[Any]:
            if isinstance(note, PointAnswer):
                said.append((receiver, note))
            return [note]

        vault.notes = listen
        mark = b"m" * 16
        one, three = vault.services[1]._exchange, vault.services[3]._exchange

        async def ask(exchange: Any, *asks: PointAsk) -> list[str]:
            said.clear()
            for each in asks:
                await exchange.send(2, each)

            async def answered() -> bool:
                return len(said) >= len(asks)

            await eventually(answered)
            return [a.code for _, a in said]

        conflict = Code.CONFLICT.value
        assert (
            await ask(one, PointAsk(mark, "take", 1), PointAsk(mark, "result", 1)) == [conflict] * 2
        )
        assert await ask(one, PointAsk(mark, "hold", 0)) == [""]
        # Another peer can neither use the mark nor end the hold.
        assert await ask(three, PointAsk(mark, "take", 1)) == [conflict]
        await three.send(2, PointAsk(mark, "release", 0))
        assert await ask(three, PointAsk(b"n" * 16, "hold", 0)) == [conflict]
        assert vault.services[2].creation.held
        # Numbers that a liar might choose.
        copies[2].newest = 7
        bad = [0, -1, LEAP + 1, (1 << 63) - 1]
        codes = await ask(one, *(PointAsk(mark, "take", n) for n in bad))
        assert codes == [conflict] * len(bad)
        assert copies[2].made == []
        # Marks and steps that are none get no answer at all, and break nothing.
        await one.send(2, PointAsk(b"short", "hold", 0))
        await one.send(2, PointAsk(mark, "burn", 0))
        await one.send(2, PointAsk(mark, "release", 0))
        await all_free(vault)


async def test_a_peer_that_lies_about_numbers_uses_none_up(tmp_path: Path) -> None:
    async with joined(tmp_path) as (vault, copies):
        copies[3].newest = (1 << 53) - 1
        await refused(Code.CONFLICT, 3, vault.services[1].points.lead())
        await all_free(vault)
        assert copies[1].made == copies[2].made == []


async def test_banned_and_quarantined_nodes_take_part_in_none(tmp_path: Path) -> None:
    async with joined(tmp_path) as (vault, copies):
        await vault.services[2]._sessions.ban((1,), "test")
        await refused(Code.PEER_BANNED, 2, vault.services[1].points.lead())
        await refused(Code.PEER_BANNED, 1, vault.services[2].points.lead())
        vault.services[3].fence.quarantine("test", "somebody put back a database")
        await refused(Code.QUARANTINED, 3, vault.services[3].points.lead())
        assert all(c.made == [] for c in copies.values())
        await all_free(vault)


async def test_a_node_that_waits_or_is_quarantined_lets_nobody_lead_it(tmp_path: Path) -> None:
    async with joined(tmp_path) as (vault, copies):
        vault.services[3].fence.quarantine("test", "somebody put back a database")
        await refused(Code.QUARANTINED, 3, vault.services[1].points.lead())
        await all_free(vault)
        assert all(c.made == [] for c in copies.values())


async def test_without_all_nodes_there_is_no_point_and_nothing_is_held(tmp_path: Path) -> None:
    async with joined(tmp_path) as (vault, copies):
        await vault.stop(3)

        async def down() -> bool:
            return not vault.services[1]._link.is_up(3)

        await eventually(down)
        await refused(Code.PEER_TIMEOUT, 3, vault.services[1].points.lead())
        await all_free(vault)
        assert copies[1].made == copies[2].made == []
