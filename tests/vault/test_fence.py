"""The fence with whole nodes: databases that are put back, anchors that are lost (R-03, R-04)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keycairn.errors import Code, KeycairnError
from keycairn.vault.api import KeyView
from keycairn.vault.control import ReadyNote, WitnessNote
from keycairn.vault.fence.pace import Pace
from keycairn.vault.ports import BanRow
from vault.fenced import Fenced
from vault.nodes import eventually

HOUR_US = 3_600_000_000


@pytest.fixture
async def vault(tmp_path: Path) -> AsyncIterator[Fenced]:
    async with Fenced.of(tmp_path) as made:
        yield made


def no_rejoin(vault: Fenced) -> None:
    """Nodes rejoin only when they are told to."""
    vault.pace = replace(vault.pace, quiet=1000.0, answer=0.5)
    for service in vault.services.values():
        service.fence.pace = vault.pace


async def refused(vault: Fenced, node: int) -> None:
    """The node takes part in nothing, and writes nothing."""
    service, store = vault.services[node], vault.stores[node]
    head, anchor = await store.history_head(), vault.anchors[node].data
    with pytest.raises(KeycairnError) as caught:
        await service.list_keys("app", "", 10)
    assert caught.value.code is Code.QUARANTINED
    assert caught.value.next
    answers = await vault.create()
    assert answers.error(node).code is Code.QUARANTINED
    with pytest.raises(KeycairnError) as caught:
        await store.audit("x", {})
    assert caught.value.code is Code.QUARANTINED
    assert not (await service.health())["ok"]
    assert (await store.history_head(), vault.anchors[node].data) == (head, anchor)


async def test_R03_a_database_put_back_is_caught_by_the_anchor_alone(vault: Fenced) -> None:
    back = vault.copy(1)
    key = await vault.key()
    await vault.stop(2)
    await vault.stop(3)
    await vault.put_back(1, back)
    assert (vault.state(1), vault.cause(1)) == ("QUARANTINED", "witness")
    assert "anchor" in vault.services[1].fence.standing.why
    await refused(vault, 1)
    assert key.key_id


async def test_INV14_twenty_restarts_forget_nothing(vault: Fenced) -> None:
    """Four events back: whatever convicts the node is still there after any number of starts."""
    no_rejoin(vault)
    back = vault.copy(1)
    for _ in range(2):
        await vault.key()  # READY, then the certificate
    await vault.put_back(1, back)
    whys = set()
    for _ in range(20):
        await vault.restart(1)
        assert vault.state(1) == "QUARANTINED"
        whys.add(vault.services[1].fence.standing.why)
    assert len(whys) == 1
    assert "4 changes" in whys.pop()
    assert vault.copy(1)[:16] == back[:16]


async def test_INV14_database_and_anchor_back_are_caught_by_a_peer(vault: Fenced) -> None:
    no_rejoin(vault)
    back, anchor = vault.copy(1), vault.anchors[1].data
    await vault.key()
    await vault.all_recorded(1)
    await vault.put_back(1, back, anchor)
    await vault.becomes(1, "QUARANTINED")
    assert "player" in vault.services[1].fence.standing.why


async def test_INV14_alone_it_acts_and_is_caught_at_first_contact(vault: Fenced) -> None:
    """One start without peers; the peer that knows better comes back later."""
    no_rejoin(vault)
    back, anchor = vault.copy(1), vault.anchors[1].data
    await vault.key()
    await vault.all_recorded(1)
    for node in (2, 3):
        vault.network.take_down(node)
    await vault.put_back(1, back, anchor)
    assert vault.state(1) == "ACTIVE", "nobody is there who knows better"
    # It grows past what was lost: lengths alone would say nothing.
    for _ in range(5):
        await vault.stores[1].note_history("test", {})
        await vault.services[1].fence.publish()
    held = vault.services[3]._recorder.held(1)
    vault.network.bring_up(3)
    await vault.becomes(1, "QUARANTINED")
    assert vault.services[3]._recorder.held(1) == held, "the longer history overwrote nothing"
    await refused(vault, 1)


async def test_R03_no_anchor_waits_for_peers_and_goes_on(vault: Fenced) -> None:
    await vault.stop(2)
    await vault.stop(3)
    back = vault.copy(1)
    await vault.put_back(1, back, None)
    assert vault.state(1) == "WAITING"
    await refused(vault, 1)
    await vault.restart(1)
    assert vault.state(1) == "WAITING"
    await vault.start(2)
    await eventually(lambda: answered(vault, 1, 1))
    assert vault.state(1) == "WAITING", "min(t+1, n-1) = 2 must answer"
    await vault.start(3)
    await vault.becomes(1, "ACTIVE")
    assert await vault.key()


async def answered(vault: Fenced, node: int, count: int) -> bool:
    return len(vault.services[node].fence.answers) >= count


async def test_R03_an_anchor_older_than_an_hour_waits(vault: Fenced) -> None:
    await vault.stop(2)
    await vault.stop(3)
    await vault.stop(1)
    vault.clock.ahead_us += 2 * HOUR_US
    await vault.start(1)
    assert vault.state(1) == "WAITING"
    await vault.start(2)
    await vault.start(3)
    for node in (1, 2, 3):
        await vault.becomes(node, "ACTIVE")
    assert await vault.key()


@pytest.mark.parametrize("damage", [b"", b"x", "flip", "other"])
async def test_R03_a_damaged_anchor_counts_as_missing(vault: Fenced, damage: Any) -> None:
    await vault.stop(2)
    await vault.stop(3)
    await vault.stop(1)
    data = vault.anchors[1].data
    assert data is not None
    if damage == "flip":
        vault.anchors[1].data = data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]
    elif damage == "other":
        vault.anchors[1].data = vault.anchors[2].data
    else:
        vault.anchors[1].data = damage
    await vault.start(1)
    assert vault.state(1) == "WAITING"
    findings = (await vault.services[1].status())["findings"]
    assert any(f["finding"] == "anchor" for f in findings)


async def test_R04_an_operators_rejoin_takes_over_bans(vault: Fenced) -> None:
    """A ban that the database lost comes back from the node's own witness (INV-11)."""
    no_rejoin(vault)
    key = await vault.key()
    back = vault.copy(1)
    await vault.services[1]._sessions.ban((2,), "a failed check")
    await vault.all_recorded(1)
    before = vault.services[1].incarnation
    await vault.put_back(1, back)
    assert vault.state(1) == "QUARANTINED"
    status = await vault.services[1].status()
    assert status["state"] == "QUARANTINED"
    assert "rejoin" in status["next"]
    result = await vault.services[1].rejoin(without_witnesses=False)
    assert result["state"] == "ACTIVE"
    assert (result["era"], result["missing"]) == (2, None)
    assert [b["peer"] for b in result["bans"]] == [2]
    assert vault.services[1].incarnation != before
    [ban] = [b for b in await vault.stores[1].bans() if b.lifted_us is None]
    assert ban.peer == 2
    assert (await vault.sign(key, (1, 2))).error(1).code is Code.PEER_BANNED
    assert (await vault.sign(key, (1, 3))).result
    # A restart finds a history that contains everything: no new quarantine.
    await vault.restart(1)
    assert vault.state(1) == "ACTIVE"
    with pytest.raises(KeycairnError) as caught:
        await vault.services[1].rejoin(without_witnesses=False)
    assert caught.value.code is Code.CONFLICT


async def test_R04_a_lifted_ban_is_not_taken_over(vault: Fenced) -> None:
    no_rejoin(vault)
    service = vault.services[1]
    back = vault.copy(1)
    await service._sessions.ban((2,), "a failed check")
    await service.unban(2)
    await vault.all_recorded(1)
    await vault.put_back(1, back)
    result = await vault.services[1].rejoin(without_witnesses=False)
    assert result["bans"] == []
    assert not vault.services[1]._sessions.banned(2)


async def test_R04_unattended_when_all_peers_answer(vault: Fenced) -> None:
    back = vault.copy(1)
    key = await vault.key()
    await vault.stop(3)
    await vault.put_back(1, back)
    await asyncio.sleep(1.0)
    assert vault.state(1) == "QUARANTINED", "one peer is missing"
    await vault.start(3)
    await vault.becomes(1, "ACTIVE")
    assert (await vault.stores[1].history_head()).era == 2
    # The key made meanwhile is behind here, and others sign without this node.
    await eventually(lambda: behind(vault, 1, key.key_id))
    findings = (await vault.services[1].status())["findings"]
    [finding] = [f for f in findings if f["finding"] == "behind"]
    assert finding["key_ids"] == [key.key_id]
    assert (await vault.sign(key, (2, 3))).result
    assert (await vault.key()).state == "active"


async def behind(vault: Fenced, node: int, key_id: str) -> bool:
    return any(key_id in row.key_ids for row in await vault.stores[node].behind())


async def test_R03_two_fail_overs_to_the_same_replica_with_a_rejoin_between(
    vault: Fenced,
) -> None:
    no_rejoin(vault)
    replica = vault.copy(1)
    await vault.key()
    for era in (2, 3):
        await vault.put_back(1, replica)
        assert vault.state(1) == "QUARANTINED"
        result = await vault.services[1].rejoin(without_witnesses=False)
        assert result["era"] == era


async def test_R04_two_quarantined_nodes_with_the_third_dead(vault: Fenced) -> None:
    """Both answer each other's questions, and are rejoined one after the other."""
    no_rejoin(vault)
    key = await vault.key()
    backs = {i: vault.copy(i) for i in (1, 2)}
    await vault.key()
    await vault.stop(3)
    for i in (1, 2):
        await vault.put_back(i, backs[i])
    for i in (1, 2):
        assert vault.state(i) == "QUARANTINED"
        await eventually(lambda i=i: answered(vault, i, 1))
    for i in (1, 2):
        result = await vault.services[i].rejoin(without_witnesses=False)
        assert (result["asked"], result["anchor"]) == ([3 - i], True)
    await eventually(lambda: signs(vault, key, (1, 2)))


async def signs(vault: Fenced, key: KeyView, who: tuple[int, ...]) -> bool:
    return set((await vault.sign(key, who)).codes.values()) == {None}


async def test_R04_without_anchor_and_peers_only_the_operator_can_say_go(vault: Fenced) -> None:
    no_rejoin(vault)
    back = vault.copy(1)
    await vault.key()
    await vault.stop(3)
    await vault.put_back(1, back, None)
    await eventually(lambda: answered(vault, 1, 1))
    with pytest.raises(KeycairnError) as caught:
        await vault.services[1].rejoin(without_witnesses=False)
    assert caught.value.code is Code.QUARANTINED
    assert "--without-witnesses" in caught.value.next
    result = await vault.services[1].rejoin(without_witnesses=True)
    assert result["state"] == "ACTIVE"
    assert result["missing"]["since_us"] > 0
    assert result["anchor"] is False, "the one that the rejoin itself wrote is no evidence"
    assert (await vault.stores[1].history_head()).era == 2


async def test_R03_all_restored_nodes_rejoin_by_themselves(vault: Fenced) -> None:
    key = await vault.key()
    backs = {i: vault.copy(i) for i in (1, 2, 3)}
    await vault.key()
    for i in (1, 2, 3):
        await vault.stop(i)
        vault.put(i, backs[i])
        vault.anchors[i].data = None
        mark(vault, i)
    for i in (1, 2, 3):
        await vault.start(i)
        assert (vault.state(i), vault.cause(i)) == ("QUARANTINED", "restored")
    for i in (1, 2, 3):
        await vault.becomes(i, "ACTIVE")
        assert (await vault.stores[i].history_head()).era >= 2
    assert (await vault.sign(key, (1, 2))).result
    assert (await vault.key()).state == "active"
    await vault.restart(1)
    assert vault.state(1) == "ACTIVE", "the mark is gone"


def mark(vault: Fenced, node: int) -> None:
    from keycairn.store.opening import mark_restored

    mark_restored(vault.database(node), "a bundle")


async def test_R03_a_live_roll_back_fences_the_running_node(vault: Fenced) -> None:
    """The database is put back under the process: T-052."""
    no_rejoin(vault)
    key = await vault.key()
    store = vault.stores[1]
    assert (await vault.sign(key, (1, 2))).result
    for callback in store._watchers:
        callback()
    assert (vault.state(1), vault.cause(1)) == ("QUARANTINED", "rollback")
    await refused(vault, 1)
    assert vault.services[1]._pools.all() == []
    result = await vault.services[1].rejoin(without_witnesses=False)
    assert result["era"] == 2
    assert (await vault.sign(key, (1, 2))).result


async def test_R03_a_clock_that_jumps_fences(vault: Fenced) -> None:
    key = await vault.key()
    fence = vault.services[1].fence
    for service in vault.services.values():
        service.fence.pace = replace(vault.pace, jump=Pace().jump)
    fence.check_clock(60.0, 59.0)
    fence.check_clock(5.0, 30.0)
    assert fence.active
    for node in (1, 2):
        vault.services[node].fence.check_clock(*((600.0, 5.0) if node == 1 else (-60.0, 5.0)))
        assert (vault.state(node), vault.cause(node)) == ("QUARANTINED", "clock")
    for node in (1, 2):
        await vault.becomes(node, "ACTIVE")
    assert (await vault.sign(key, (1, 2))).result


@pytest.mark.parametrize("era", [1, 2])
async def test_INV14_ready_for_an_unknown_batch(vault: Fenced, era: int) -> None:
    """A certificate that bears this node's READY for keys that it lacks, shown later by one peer
    only: in the first era it convicts, after a rejoin the keys are behind."""
    no_rejoin(vault)
    back, anchor = vault.copy(1), vault.anchors[1].data
    vault.notes = lambda sender, _, note: [] if isinstance(note, WitnessNote) else None
    key = await vault.key()
    row = await vault.stores[2].key(key.key_id)
    assert row is not None
    batch = await vault.stores[2].batch(row.batch_id)
    assert batch is not None
    await vault.put_back(1, back, anchor)
    assert vault.state(1) == "ACTIVE", "nobody was told"
    if era == 2:
        vault.services[1].fence.quarantine("witness", "a test")
        await vault.services[1].rejoin(without_witnesses=False)
        assert (await vault.stores[1].history_head()).era == era
    note = ReadyNote(batch.batch_id, tuple(sorted(batch.ready.items())), False)
    forged = ReadyNote(bytes(32), note.ready, False)
    for said in (forged, note):
        await vault.services[2]._exchange.send(1, said)
    if era == 1:
        await vault.becomes(1, "QUARANTINED")
        assert vault.cause(1) == "certificate"
    else:
        await eventually(lambda: behind(vault, 1, key.key_id))
        assert vault.state(1) == "ACTIVE"


async def test_R03_a_late_word_of_an_earlier_era_brings_its_ban(vault: Fenced) -> None:
    """A peer that was away at the rejoin comes back with a ban that only it recorded."""
    no_rejoin(vault)
    back = vault.copy(1)
    await vault.all_recorded(1)
    vault.network.take_down(2)
    ban = BanRow("ban-0123456789abcdef", 2, "a failed check", vault.clock.now_us())
    await vault.services[1]._sessions.ban_as([ban])
    await vault.all_recorded(1)
    await vault.stop(3)
    await vault.put_back(1, back, None)
    vault.network.bring_up(2)
    result = await vault.services[1].rejoin(without_witnesses=True)
    assert result["bans"] == []
    await vault.start(3)
    await eventually(lambda: banned(vault, 1, 2))
    assert vault.state(1) == "ACTIVE", "an old witness never quarantines a later era"
    await vault.all_recorded(1)


async def banned(vault: Fenced, node: int, peer: int) -> bool:
    return vault.services[node]._sessions.banned(peer)


async def test_signing_leaves_the_anchor_alone(vault: Fenced) -> None:
    key = await vault.key()
    writes = {i: vault.anchors[i].writes for i in (1, 2, 3)}
    for _ in range(3):
        assert (await vault.sign(key, (1, 2))).result
    assert {i: vault.anchors[i].writes for i in (1, 2, 3)} == writes
    await vault.create(count=20)
    assert vault.anchors[1].writes == writes[1] + 2, "READY and certificate of the whole batch"


async def test_INV14_ready_is_anchored_before_it_leaves(
    vault: Fenced, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that promised, died before the batch became active and lost both: its anchor knows,
    after any number of restarts, though no peer says a word."""
    no_rejoin(vault)
    back, written = vault.copy(1), []
    write = vault.anchors[1].write

    def remember(data: bytes) -> None:
        written.append(data)
        write(data)

    monkeypatch.setattr(vault.anchors[1], "write", remember)
    await vault.key()
    kinds = [row.kind for row in await vault.stores[1].history()]
    assert kinds[-2:] == ["ready", "keys"]
    promised = written[0]
    monkeypatch.undo()
    vault.network.take_down(2)
    vault.network.take_down(3)
    for _ in range(3):
        await vault.put_back(1, back, promised)
        assert (vault.state(1), vault.cause(1)) == ("QUARANTINED", "witness")


async def test_R03_an_anchor_that_cannot_be_written_stops_new_keys_only(vault: Fenced) -> None:
    key = await vault.key()
    anchor = vault.anchors[1]
    write = anchor.write

    def full(_: bytes) -> None:
        raise KeycairnError(Code.UNAVAILABLE, "no space left")

    anchor.write = full  # type: ignore[method-assign]
    names = vault.names()
    answers = await vault.create(names=names)
    assert answers.error(1).code is Code.UNAVAILABLE
    assert (await vault.sign(key, (1, 2))).result
    anchor.write = write  # type: ignore[method-assign]
    again = await vault.create(names=names)
    assert again.result[0].state == "active"
    said = vault.services[1].fence.said
    assert said is not None
    assert said.place == await vault.stores[1].history_head()
