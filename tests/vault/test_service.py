"""A vault of three nodes: create, gate, document, address, signature; idempotency, who may what."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256

from keycairn.errors import Code, KeycairnError
from keycairn.ers.document import Document
from keycairn.vault.api import CreateKeys, KeyView, Sign, Signature, SignItem
from vault.nodes import APP, Vault, eventually


def check(key: KeyView, made: Signature, payload: bytes) -> None:
    """An independent library accepts the signature."""
    if key.scheme == "schnorr":
        Ed25519PublicKey.from_public_bytes(key.public_key).verify(made.signature, payload)
    else:
        public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), key.public_key)
        assert made.der is not None
        public.verify(made.der, payload, ec.ECDSA(utils.Prehashed(SHA256())))


# -- the story ---


@pytest.mark.parametrize("scheme", ["schnorr", "ecdsa"])
async def test_t081_create_gate_document_address_signature(
    vault: Vault, recovery_key: RSAPrivateKey, scheme: str
) -> None:
    created = await vault.create(scheme)
    key: KeyView = created.result[0]
    assert len({v[0].record_hash for v in created.by_node.values()}) == 1
    assert (key.state, key.backed_up, key.generation) == ("active", "no", 1)
    assert set(key.addresses.values()) == {None}
    assert key.public_key
    assert key.missing

    payload = b"\7" * 32
    refused = await vault.sign(key, (1, 2), payload)
    assert refused.only(Code.KEY_NOT_BACKED_UP)
    assert "ERS document" in refused.error(1).message
    for store in vault.stores.values():
        assert not await store.spends()

    await vault.allow(recovery_key)
    documents = await vault.document([key], recovery_key)
    assert len({d.sha256 for d in documents.by_node.values()}) == 1
    assert Document.load(documents.result.document).sha256 == documents.result.sha256

    shown = (await vault.ask(lambda s: s.show_key(APP, key.key_id, None))).by_node
    assert {v.backed_up for v in shown.values()} == {"yes"}
    assert len({tuple(sorted(v.addresses.items(), key=str)) for v in shown.values()}) == 1
    assert shown[1].addresses["solana" if scheme == "schnorr" else "ethereum"]
    for who in ((1, 2), (2, 3), (1, 2, 3)):
        signed = await vault.sign(key, who, payload)
        assert len({s.signature for s in signed.by_node.values()}) == 1
        check(key, signed.result, payload)
    status = (await vault.ask(lambda s: s.ers_status(APP, key.key_id))).by_node
    assert {s[0]["status"] for s in status.values()} == {"COMPLETE"}
    coverage = (await vault.ask(lambda s: s.coverage(APP, None))).by_node
    assert {c[0]["holds"] for c in coverage.values()} == {"yes"}


async def test_t081_each_node_decides_from_its_own_evidence(
    vault: Vault, recovery_key: RSAPrivateKey
) -> None:
    """A node without the document refuses, though its peers would sign."""
    key = await vault.key()
    await vault.allow(recovery_key)
    await vault.document([key], recovery_key)
    (row,) = await vault.stores[2].documents()
    await vault.stores[2].delete_document(row.sha256)
    request = Sign(vault.names((1, 2)), key.key_id, (SignItem(message=b"m"),))
    with pytest.raises(KeycairnError) as caught:
        await vault.services[2].sign(APP, request)
    assert caught.value.code is Code.KEY_NOT_BACKED_UP
    view = await vault.services[2].show_key(APP, key.key_id, None)
    assert set(view.addresses.values()) == {None}
    check(key, (await vault.sign(key, (1, 3))).result, b"message")


async def test_a_batch_is_one_session_and_lists_in_order(open_vault: Vault) -> None:
    keys = (await open_vault.create(count=5)).result
    assert len({k.key_id for k in keys}) == len({k.public_key for k in keys}) == 5
    listed = await open_vault.services[2].list_keys(APP, "", 3)
    rest = await open_vault.services[2].list_keys(APP, listed[-1].key_id, 10)
    assert [k.key_id for k in (*listed, *rest)] == sorted(k.key_id for k in keys)


# -- T-031: idempotency ---


async def test_t031_the_same_request_50_times_in_parallel_makes_one_key(open_vault: Vault) -> None:
    request = CreateKeys(open_vault.names(), "schnorr", "ed25519", 1)
    answers = await asyncio.gather(
        *[s.create_keys(APP, request) for _ in range(50) for s in open_vault.services.values()]
    )
    assert len(answers) == 150
    assert len({a[0].key_id for a in answers}) == 1
    for service in open_vault.services.values():
        assert len(await service.list_keys(APP, "", 100)) == 1


async def test_t031_a_later_retry_under_another_session_id_gives_the_same_key(
    open_vault: Vault,
) -> None:
    first = await open_vault.create(names=open_vault.names(request="once"))
    again = await open_vault.create(names=open_vault.names(request="once"))
    assert again.result[0].key_id == first.result[0].key_id
    other_app = await open_vault.create(app="other", names=open_vault.names(request="once"))
    assert other_app.result[0].key_id != first.result[0].key_id


@pytest.mark.parametrize("other", [{"count": 2}, {"threshold": 2}, {"scheme": "ecdsa"}], ids=str)
async def test_other_parameters_under_one_request_id_are_a_conflict(
    open_vault: Vault, other: dict[str, Any]
) -> None:
    names = open_vault.names(session="first", request="once")
    first = asyncio.create_task(open_vault.create(names=names))
    async with open_vault.held("first", frames=6):
        second = await open_vault.create(names=names, **other)
        assert second.only(Code.CONFLICT), "while the first request runs"
    assert (await first).result
    later = await open_vault.create(names=open_vault.names(request="once"), **other)
    assert later.only(Code.CONFLICT), "and when it is done"
    assert len(await open_vault.services[1].list_keys(APP, "", 10)) == 1


async def test_a_repeated_signature_request_gives_the_same_bytes_and_spends_no_second_nonce(
    open_vault: Vault,
) -> None:
    key = await open_vault.key()
    first = await open_vault.sign(key, names=open_vault.names((1, 2), request="pay"))
    again = await open_vault.sign(key, names=open_vault.names((1, 2), request="pay"))
    assert again.result == first.result
    assert len(await open_vault.stores[1].spends()) == 1


async def test_no_request_ever_gets_the_signature_of_another_message(open_vault: Vault) -> None:
    """Regression: a request in flight shared its outcome with every request of its id."""
    key = await open_vault.key()
    names = open_vault.names((1, 2), session="first", request="pay")
    first = asyncio.create_task(open_vault.sign(key, payload=b"one", names=names))
    async with open_vault.held("first"):
        for again in (names, open_vault.names((1, 2), request="pay")):
            second = await open_vault.sign(key, payload=b"two", names=again)
            assert second.only(Code.CONFLICT)
    check(key, (await first).result, b"one")
    later = await open_vault.sign(
        key, payload=b"two", names=open_vault.names((1, 2), request="pay")
    )
    assert later.only(Code.CONFLICT)


async def test_request_ids_are_unique_per_kind_of_request(
    open_vault: Vault, recovery_key: RSAPrivateKey
) -> None:
    """Regression: a signature and a document could not have the same request id."""
    key = (await open_vault.create(names=open_vault.names(request="r"))).result[0]
    assert (await open_vault.sign(key, names=open_vault.names((1, 2), request="r"))).result
    await open_vault.allow(recovery_key)
    names = open_vault.names(request="r")
    made = (await open_vault.document([key], recovery_key, names=names)).result
    again = open_vault.names(request="r")
    assert (await open_vault.document([key], recovery_key, names=again)).result == made
    other = open_vault.names(request="r")
    conflict = await open_vault.document([key], recovery_key, names=other, label="other")
    assert conflict.only(Code.CONFLICT)


async def test_t016_a_session_id_is_used_once_also_by_another_application(
    open_vault: Vault,
) -> None:
    key = await open_vault.key()
    names = open_vault.names((1, 2), session="same")
    assert (await open_vault.sign(key, names=names)).result
    again = open_vault.names((1, 2), session="same")
    replayed = await open_vault.sign(key, names=again)
    assert replayed.only(Code.SESSION_REPLAY)
    assert "session_id" in replayed.error(1).next
    for node in (1, 2):
        await open_vault.restart(node)
    fresh = await open_vault.sign(key, names=open_vault.names((1, 2), session="same"))
    assert fresh.result
    spends = await open_vault.stores[1].spends()
    assert len({s.base_r for s in spends}) == len(spends) == 2


# -- who may see and do what ---


async def test_a_foreign_key_gets_the_same_answer_as_a_missing_one(
    open_vault: Vault, recovery_key: RSAPrivateKey
) -> None:
    mine = await open_vault.key()
    await open_vault.allow(recovery_key)

    async def answers(app: str, key_id: str) -> list[dict[str, Any]]:
        key = KeyView(key_id, *[getattr(mine, f) for f in list(mine.__dataclass_fields__)[1:]])
        service, out = open_vault.services[1], []
        for call in (
            service.show_key(app, key_id, None),
            service.ers_status(app, key_id),
            service.coverage(app, key_id),
        ):
            with pytest.raises(KeycairnError) as caught:
                await call
            out.append(caught.value.to_json())
        out.append((await open_vault.sign(key, app=app)).error(1).to_json())
        out.append((await open_vault.document([key], recovery_key, app=app)).error(1).to_json())
        return out

    foreign = await answers("other", mine.key_id)
    missing = await answers("other", "key-" + "0" * 32)
    assert foreign == missing
    assert {a["error"]["code"] for a in foreign} == {"E_NOT_FOUND"}
    service = open_vault.services[1]
    assert await service.list_keys("other", "", 10) == []
    assert await service.coverage("other", None) == await service.ers_status("other", None) == []


async def test_operations_are_denied_unless_the_configuration_names_them(tmp_path: Path) -> None:
    async with Vault.of(tmp_path, operations=frozenset({"schnorr.create"}), policy="none") as vault:
        key = await vault.key()
        assert (await vault.sign(key)).only(Code.POLICY)
        assert (await vault.create("ecdsa")).only(Code.POLICY)


@pytest.mark.parametrize("policy", ["redundancy >= 2", "ers and redundancy >= 2"])
async def test_a_policy_that_n_and_t_cannot_satisfy_is_refused_at_creation(
    tmp_path: Path, policy: str
) -> None:
    async with Vault.of(tmp_path, policy=policy) as vault:
        before = await vault.digests()
        refused = await vault.create(threshold=1)
        assert refused.only(Code.POLICY)
        assert await vault.digests() == before


# -- health, peers, sessions ---


async def test_health_and_peers_say_who_can_be_reached(open_vault: Vault) -> None:
    service = open_vault.services[1]
    assert await service.health() == {"ok": True, "node": 1, "reasons": []}
    open_vault.network.take_down(3)
    assert (await service.health())["ok"]
    assert [p["up"] for p in await service.peers()] == [True, False]
    open_vault.network.take_down(2)
    health = await service.health()
    assert not health["ok"]
    assert "[2, 3]" in health["reasons"][0]
    for node in (2, 3):
        open_vault.network.bring_up(node)

    async def set_up() -> bool:
        return all(p["setup"] and p["incarnation"] for p in await service.peers())

    await eventually(set_up)
    assert {p["incarnation"] for p in await service.peers()} == {
        open_vault.services[i].incarnation.hex() for i in (2, 3)
    }


async def test_a_peer_that_is_down_is_named_and_others_go_on(tmp_path: Path) -> None:
    async with Vault.of(tmp_path, policy="none", session_seconds=1.0) as vault:
        key, other = await vault.key(), await vault.key("ecdsa")
        await vault.stop(3)
        for k in (key, other):
            blocked, fine = await asyncio.gather(vault.sign(k, (1, 3)), vault.sign(k, (1, 2)))
            assert blocked.codes == {1: Code.PEER_TIMEOUT}
            assert blocked.error(1).detail["waiting_for"] == [3]
            check(k, fine.result, b"message" if k.scheme == "schnorr" else b"\1" * 32)


async def test_a_node_that_refuses_tells_the_others_at_once(tmp_path: Path) -> None:
    """A long limit: without being told, the others would wait for it."""
    async with Vault.of(tmp_path, policy="none", session_seconds=120.0) as vault:
        key = await vault.key()
        vault.parameters["operations"] = frozenset()
        await vault.restart(2)
        answers = await asyncio.wait_for(vault.sign(key, (1, 2)), 30)
        assert answers.codes == {1: Code.POLICY, 2: Code.POLICY}
        assert answers.error(1).detail["reported_by"] == 2
        assert not await vault.stores[1].spends()


async def test_what_became_of_a_session_is_told_to_its_application_only(open_vault: Vault) -> None:
    names = open_vault.names(session="mine")
    assert (await open_vault.create(names=names)).result
    service = open_vault.services[1]
    assert (await service.session(APP, "mine"))["state"] == "done"
    await open_vault.stop(3)
    await open_vault.create(names=open_vault.names(session="failed"))
    failed = await service.session(APP, "failed")
    assert failed["state"] == "failed"
    assert failed["error"]["code"] == "E_PEER_TIMEOUT"
    for app, name in (("other", "mine"), (APP, "unknown")):
        with pytest.raises(KeycairnError) as caught:
            await service.session(app, name)
        assert caught.value.code is Code.NOT_FOUND


async def test_too_many_sessions_are_refused_and_the_next_one_is_not(tmp_path: Path) -> None:
    async with Vault.of(tmp_path, policy="none", max_sessions=1, session_seconds=20.0) as vault:
        key = await vault.key()
        slow = asyncio.create_task(vault.sign(key, names=vault.names((1, 2), session="slow")))
        async with vault.held("slow"):
            assert (await vault.sign(key)).only(Code.RATE_LIMIT)
        assert (await slow).result
        assert (await vault.sign(key)).result
