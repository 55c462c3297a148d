"""A node that restarts on its files: a new incarnation, the same keys, nothing used twice."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keycairn.errors import Code, KeycairnError
from keycairn.vault.api import VaultParameters
from keycairn.vault.control import SetupInvite
from vault.nodes import APP, Vault, eventually


async def has_setup(vault: Vault, node: int, peer: int) -> bool:
    return any(p["index"] == peer and p["setup"] for p in await vault.services[node].peers())


@pytest.mark.parametrize("node", [1, 2, 3])
async def test_a_restarted_node_makes_new_setups_and_signs(open_vault: Vault, node: int) -> None:
    vault = open_vault
    keys = [await vault.key("schnorr"), await vault.key("ecdsa")]
    other = 1 if node == 3 else 3
    who = tuple(sorted((node, other)))
    for key in keys:
        assert (await vault.sign(key, who)).result
    before = vault.services[node].incarnation
    await vault.restart(node)
    assert vault.services[node].incarnation != before
    # At once, while links, incarnations and setups are still on their way.
    for key in keys:
        assert (await vault.sign(key, who)).result
    await eventually(lambda: has_setup(vault, other, node))
    spends = await vault.stores[node].spends()
    assert len({s.base_r for s in spends}) == len({s.presignature_id for s in spends}) == 4
    assert len({s.incarnation for s in spends}) == 2


async def test_all_nodes_at_once(open_vault: Vault) -> None:
    vault = open_vault
    keys = [await vault.key("schnorr"), await vault.key("ecdsa")]
    digests = await vault.digests()
    for node in vault.players:
        await vault.stop(node)
    for node in vault.players:
        await vault.start(node)
    assert await vault.digests() == digests
    for key in keys:
        shown = await vault.services[2].show_key(APP, key.key_id, None)
        assert shown.record_hash == key.record_hash
        assert (await vault.sign(key, (1, 2, 3))).result


async def test_a_setup_serves_many_signatures_and_dies_with_the_incarnation(
    open_vault: Vault,
) -> None:
    vault = open_vault
    key = await vault.key("ecdsa")
    for _ in range(3):
        assert (await vault.sign(key, (1, 2))).result
    setup = vault.services[1]._setups.get(2)
    assert setup is not None
    assert setup.ots_used > 0
    await vault.restart(2)
    assert (await vault.sign(key, (1, 2))).result
    assert setup.dead
    assert vault.services[1]._setups.get(2) is not setup


async def test_an_invitation_that_was_lost_with_the_connection_is_made_again(
    tmp_path: Path,
) -> None:
    """Regression: the inviter waited for its session's limit, and nobody began anew."""
    async with Vault.of(tmp_path, policy="none", session_seconds=120.0) as vault:
        lost = []

        def lose(_sender: int, receiver: int, note: Any) -> Iterable[Any] | None:
            if receiver == 2 and isinstance(note, SetupInvite):
                lost.append(note)
                return []
            return None

        vault.notes = lose
        await vault.restart(2)

        async def invited() -> bool:
            return bool(lost)

        await eventually(invited)
        assert not await has_setup(vault, 1, 2)
        vault.notes = lambda *_: None
        for _ in range(3):
            vault.reconnect(2)
        await eventually(lambda: has_setup(vault, 1, 2))
        await eventually(lambda: has_setup(vault, 2, 1))


async def test_a_stopped_node_is_named_and_the_service_after_it_works(open_vault: Vault) -> None:
    vault = open_vault
    key = await vault.key()
    await vault.stop(3)
    refused = await vault.create()
    assert set(refused.codes.values()) == {Code.PEER_TIMEOUT}
    assert refused.error(1).detail["waiting_for"] == [3]
    assert (await vault.sign(key, (1, 2))).result
    await vault.start(3)
    assert (await vault.create()).result


def test_the_parameters_of_a_node_are_deny_by_default() -> None:
    parameters = VaultParameters("v", 1, (1, 2), {})
    assert parameters.operations == frozenset()
    assert parameters.ers_allowed == ()
    assert parameters.policy == "ers or node_backup"
    assert set(parameters.gate) == {"address", "sign"}
    assert not parameters.test_profile


async def test_a_node_does_not_start_under_another_identity_key(tmp_path: Path) -> None:
    """Its peers would refuse it, and nothing on its own side would say why."""
    async with Vault.of(tmp_path) as vault:
        await vault.key()
        await vault.stop(2)
        kept, pins = vault._private[2], vault._pins
        vault._private[2] = vault.rng.bytes(32)
        other = Ed25519PrivateKey.from_private_bytes(vault._private[2])
        vault._pins = pins | {2: other.public_key().public_bytes_raw()}
        with pytest.raises(KeycairnError) as caught:
            await vault.start(2)
        assert caught.value.code is Code.CONFLICT
        assert "identity_key_file" in caught.value.next
        await vault.stop(2)
        vault._private[2], vault._pins = kept, pins
        await vault.start(2)


async def test_coverage_lists_all_keys_however_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keycairn.vault.keys._PAGE", 2)
    async with Vault.of(tmp_path) as vault:
        made = {k.key_id for k in (await vault.create(count=5)).result}
        rows = await vault.services[1].coverage(APP, None)
        assert {row["key_id"] for row in rows} == made
        assert len(await vault.services[1].ers_status(APP, None)) == 5


async def test_a_setup_begun_with_a_dead_incarnation_holds_up_none_with_the_next(
    open_vault: Vault,
) -> None:
    """The connection stays, as at a rejoin; the peer waits for what will never come."""
    vault = open_vault
    key = await vault.key("ecdsa")
    assert (await vault.sign(key, (1, 2))).result
    lost = "setup/1-2/" + "00" * 16
    await vault.services[1]._exchange.send(2, SetupInvite(lost))
    await eventually(lambda: _is(vault.services[2]._setups._making.get(1) == lost))
    service = vault.services[1]
    service.fence.quarantine("clock", "a test")
    await service.rejoin(without_witnesses=False)
    await eventually(lambda: has_setup(vault, 2, 1), 2.0)
    assert (await vault.sign(key, (1, 2))).result


async def _is(condition: bool) -> bool:
    return condition
