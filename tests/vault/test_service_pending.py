"""Between READY and the certificate: what is lost, what comes back, what waits for ever (R-15)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from keycairn.errors import Code
from keycairn.protocols import session
from keycairn.protocols.session import Frame
from keycairn.vault import keys
from keycairn.vault.api import CreateKeys, KeyView
from keycairn.vault.control import ReadyNote, pack
from protocols.network import ABORT, BROADCAST, ECHO, READY, RECORD, RECORD_ECHO, Copy
from vault.nodes import APP, Vault, eventually


@pytest.fixture(autouse=True)
def _short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A creator waits only a moment for READY signatures that nobody will send."""
    monkeypatch.setattr(keys, "_WAIT_FOR_CERTIFICATE", 1.0)


def gives_up(copy: Copy) -> list[Frame]:
    """The frame as an abort notice: its sender leaves the session here."""
    return [copy.but(kind=ABORT, body=session.AbortNotice("E_UNAVAILABLE"), signature=b"")]


def loses_ready(vault: Vault, victim: int) -> None:
    """The last READY of player 3 never reaches the victim, nor does any note about it."""

    def change(copy: Copy) -> Iterable[Frame] | None:
        if (copy.sender, copy.receiver) == (3, victim) and copy.at(READY, BROADCAST):
            return gives_up(copy)
        return None

    def notes(_sender: int, receiver: int, note: Any) -> Iterable[Any] | None:
        return [] if receiver == victim and isinstance(note, ReadyNote) else None

    vault.change, vault.notes = change, notes


def leaves_before_ready(vault: Vault, loser: int) -> None:
    """A player stores nothing and promises nothing, though the others do."""

    def change(copy: Copy) -> Iterable[Frame] | None:
        if copy.receiver == loser and copy.at(RECORD_ECHO, ECHO):
            return gives_up(copy)
        return None

    vault.change = change


def stop_meddling(vault: Vault) -> None:
    vault.change, vault.notes = lambda _: None, lambda *_: None


async def active_at(vault: Vault, node: int, key_id: str) -> bool:
    return (await vault.services[node].show_key(APP, key_id, None)).state == "active"


async def pending_key(vault: Vault, node: int) -> KeyView:
    (view,) = await vault.services[node].list_keys(APP, "", 10)
    assert view.state == "pending"
    return view


async def test_a_lost_ready_leaves_the_key_pending_and_the_next_contact_completes_it(
    open_vault: Vault,
) -> None:
    vault = open_vault
    loses_ready(vault, 1)
    names = vault.names(request="create")
    created = await vault.create(names=names)
    assert created.codes == {1: Code.PEER_TIMEOUT, 2: None, 3: None}
    assert "keeps its shares" in created.error(1).not_lost
    key = created[2][0]

    pending = await pending_key(vault, 1)
    assert pending.key_id == key.key_id
    assert set(pending.addresses.values()) == {None}
    status = await vault.services[1].status()
    assert status["pending"] == [[key.key_id]]
    (finding,) = [f for f in status["findings"] if f["finding"] == "pending"]
    assert 3 in finding["waiting_for"]
    assert (await vault.sign(key, (1, 2))).codes[1] is Code.CONFLICT
    assert not await vault.stores[1].spends()

    stop_meddling(vault)
    vault.reconnect(1)
    await eventually(lambda: active_at(vault, 1, key.key_id))
    assert (await vault.services[1].status())["pending"] == []
    signed = await vault.sign(key, (1, 3))
    Ed25519PublicKey.from_public_bytes(key.public_key).verify(signed.result.signature, b"message")
    again = await vault.create(names=vault.names(request="create"))
    assert {a[0].key_id for a in again.by_node.values()} == {key.key_id}


async def test_a_restart_in_between_loses_nothing(open_vault: Vault) -> None:
    vault = open_vault
    loses_ready(vault, 1)
    created = await vault.create()
    key = created[2][0]
    await pending_key(vault, 1)
    stop_meddling(vault)
    await vault.restart(1)
    await eventually(lambda: active_at(vault, 1, key.key_id))
    assert (await vault.sign(key, (1, 2))).result


async def test_a_retry_of_the_request_asks_for_the_missing_ready(open_vault: Vault) -> None:
    vault = open_vault
    loses_ready(vault, 1)
    created = await vault.create(names=vault.names(request="create"))
    assert created.codes[1] is Code.PEER_TIMEOUT
    stop_meddling(vault)
    again = await vault.create(names=vault.names(request="create"))
    assert {a[0].key_id for a in again.by_node.values()} == {created[2][0].key_id}
    assert await active_at(vault, 1, created[2][0].key_id)


async def test_a_ready_that_never_comes_is_listed_by_its_player_and_blocks_nothing(
    open_vault: Vault,
) -> None:
    vault = open_vault
    leaves_before_ready(vault, 3)
    names = vault.names(request="create")
    created = await vault.create(names=names)
    assert all(code is not None for code in created.codes.values())
    assert await vault.services[3].list_keys(APP, "", 10) == []
    stop_meddling(vault)

    retried = await vault.ask(lambda s: s.create_keys(APP, _creation(vault, "create")), (1, 2))
    for node in (1, 2):
        # Regression: players whose READY had come by note were named too.
        assert retried.error(node).detail["waiting_for"] == [3]
        assert retried.error(node).code is Code.PEER_TIMEOUT
        status = await vault.services[node].status()
        (finding,) = [f for f in status["findings"] if f["finding"] == "pending"]
        assert finding["waiting_for"] == [3]

    key = await vault.key()
    ecdsa = await vault.key("ecdsa")
    assert (await vault.sign(key, (1, 2))).result
    assert (await vault.sign(ecdsa, (1, 2, 3))).result
    vault.reconnect(3)
    await vault.restart(1)
    assert len((await vault.services[1].status())["pending"]) == 1
    assert (await vault.sign(key, (1, 3))).result


def _creation(vault: Vault, request: str) -> Any:
    return CreateKeys(vault.names(request=request), "schnorr", "ed25519", 1)


async def test_forged_ready_notes_activate_nothing(open_vault: Vault) -> None:
    vault = open_vault
    leaves_before_ready(vault, 3)
    await vault.create()
    stop_meddling(vault)
    pending = await pending_key(vault, 1)
    (batch,) = await vault.stores[1].pending_batches()
    forged = [
        ReadyNote(batch.batch_id, ((3, bytes(64)),), False),
        ReadyNote(batch.batch_id, ((3, b""),), False),
        ReadyNote(batch.batch_id, ((3, batch.ready[1]),), True),
        ReadyNote(batch.batch_id, ((-3, bytes(64)), (2**63, bytes(64)), (3, b"x")), True),
        ReadyNote(batch.batch_id, ((3, bytes(64)),) * 1000, True),
        ReadyNote(b"", ((3, bytes(64)),), True),
        ReadyNote(bytes(32), ((3, bytes(64)),), True),
    ]
    handled = asyncio.Event()

    def notes(sender: int, receiver: int, note: Any) -> Iterable[Any] | None:
        if (sender, receiver) == (1, 2) and isinstance(note, ReadyNote):
            handled.set()  # the answer to the last question below
        return None

    vault.notes = notes
    for note in (*forged, ReadyNote(batch.batch_id, (), True)):
        vault.network.inject(2, 1, pack(note))

    async def answered() -> bool:
        return handled.is_set()

    await eventually(answered)
    assert not await active_at(vault, 1, pending.key_id)
    (now,) = await vault.stores[1].pending_batches()
    assert set(now.ready) <= {1, 2}


async def test_t029_whoever_aborts_before_pending_has_no_trace_of_the_key(
    open_vault: Vault,
) -> None:
    vault = open_vault
    before = await vault.digests()
    for step in range(2, RECORD + 1):

        def change(copy: Copy, step: int = step) -> Iterable[Frame] | None:
            return gives_up(copy) if copy.sender == 3 and copy.frame.step == step else None

        vault.change = change
        created = await vault.create()
        assert created.codes[1] is not None
        assert created.codes[2] is not None
        for node in (1, 2):
            assert (await vault.digests())[node] == before[node]
            assert await vault.stores[node].pending_batches() == []
