"""What comes to light while a node becomes active, and what lying peers make of old words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from keycairn.errors import Abort, Code, KeycairnError
from keycairn.protocols import session
from keycairn.protocols.driver import _Runner
from keycairn.protocols.router import Mailbox
from keycairn.protocols.wire import encode
from keycairn.vault.control import TwinQuestion
from vault.fenced import Fenced
from vault.nodes import eventually


@pytest.fixture
async def vault(tmp_path: Path) -> AsyncIterator[Fenced]:
    async with Fenced.of(tmp_path) as made:
        made.pace = replace(made.pace, quiet=1000.0, answer=0.5)
        for service in made.services.values():
            service.fence.pace = made.pace
        yield made


async def test_R03_a_word_that_a_rejoin_gave_up_supersedes_nobody(vault: Fenced) -> None:
    """A lying peer shows an old word, of a process that began later in a history that is lost."""
    back = vault.copy(1)
    for _ in range(4):
        await vault.key()
    await vault.restart(1)
    old = vault.services[1].fence.said
    assert old is not None
    await vault.put_back(1, back)
    await vault.services[1].rejoin(without_witnesses=False)
    fence = vault.services[1].fence
    assert fence.started < old.started
    await fence._questioned(2, TwinQuestion(old))
    assert vault.state(1) == "ACTIVE"


async def test_R03_what_convicts_while_the_node_begins_stands(
    vault: Fenced, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peer that knows better is heard between the start event and the anchor (INV-14)."""
    await vault.stop(2)
    await vault.stop(3)
    back = vault.copy(1)
    await vault.put_back(1, back, None)
    assert vault.state(1) == "WAITING"
    fence, store = vault.services[1].fence, vault.stores[1]
    begin = store.begin_incarnation

    async def heard(*args: Any) -> Any:
        head = await begin(*args)
        fence.quarantine("witness", "a peer knows better")
        return head

    monkeypatch.setattr(store, "begin_incarnation", heard)
    await vault.start(2)
    await vault.start(3)
    await vault.becomes(1, "QUARANTINED")
    await asyncio.sleep(0.3)
    assert vault.state(1) == "QUARANTINED"
    assert vault.anchors[1].data is None, "no word of this history was said"
    with pytest.raises(KeycairnError):
        await store.audit("x", {})


async def test_INV11_a_ban_that_could_not_be_written_survives_the_rejoin(vault: Fenced) -> None:
    service = vault.services[1]
    service.fence.quarantine("clock", "a test")
    with pytest.raises(KeycairnError) as caught:
        await service._sessions.ban((2,), "cheated as the fence fell")
    assert caught.value.code is Code.QUARANTINED
    result = await service.rejoin(without_witnesses=False)
    assert result["state"] == "ACTIVE"
    assert service._sessions.banned(2)
    assert [b.peer for b in await vault.stores[1].bans()] == [2]
    await vault.restart(1)
    assert vault.services[1]._sessions.banned(2)


async def test_INV11_a_ban_shown_while_the_node_waits_is_heard(vault: Fenced) -> None:
    """A peer that was away at the rejoin shows its record to a node that may not write yet."""
    back, anchor = vault.copy(1), vault.anchors[1].data
    await vault.stop(2)
    await vault.services[1]._sessions.ban((2,), "test")
    await vault.all_recorded(1)
    await vault.stop(3)
    await vault.put_back(1, back, anchor)
    vault.services[1].fence.quarantine("clock", "a test")
    await vault.services[1].rejoin(without_witnesses=True)
    assert not vault.services[1]._sessions.banned(2)
    await vault.put_back(1, vault.copy(1), None)
    assert vault.state(1) == "WAITING"
    await vault.start(3)

    async def answered() -> bool:
        return 3 in vault.services[1].fence.answers

    await eventually(answered)
    await vault.start(2)
    await vault.becomes(1, "ACTIVE")

    async def banned() -> bool:
        return vault.services[1]._sessions.banned(2)

    await eventually(banned)
    await vault.all_recorded(1)
    said = vault.services[1].fence.said
    assert said is not None
    assert [b.peer for b in said.bans] == [2]


async def test_R03_no_message_leaves_a_session_of_a_fenced_node() -> None:
    """A step that ends in its thread after the fence fell sends nothing."""
    sent: list[bytes] = []

    async def send(_peer: int, frame: bytes) -> None:
        sent.append(frame)

    box = Mailbox(frozenset({2}))
    env = SimpleNamespace(link=SimpleNamespace(send=send), crash=lambda _: None, index=1)
    spec = SimpleNamespace(route=bytes(32), protocol="test", players=(1, 2))
    runner = _Runner(spec, env, (2,), box)  # type: ignore[arg-type]
    await runner._send_all(session.HELLO, lambda _: b"")
    assert len(sent) == 1
    box.fail(Abort(Code.QUARANTINED, "fenced"))
    with pytest.raises(Abort):
        await runner._send_all(session.BROADCAST, lambda _: b"a share")
    assert len(sent) == 1


async def test_a_peer_that_says_words_without_end_fills_no_disk(vault: Fenced) -> None:
    """Each is remembered, few are written; the newest is durable when the node has stopped."""
    store, service = vault.stores[3], vault.services[1]
    await vault.all_recorded(1)
    before = await store.check_audit()
    for number in range(120):
        await vault.stores[1].note_history("configured", {"number": number})
        await service.fence.publish()
        await vault.all_recorded(1)
    assert await store.check_audit() - before < 60
    said = service.fence.said
    await vault.services[3]._recorder.flush()
    assert said is not None
    assert await store.witness(1) == encode(said)
