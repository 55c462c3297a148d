"""The life of ERS keys and documents in a running vault: made by themselves, partial, stale,
verified again, and an RSA key that can't be retired while keys depend on it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from keycairn.encoding import SecretScalar
from keycairn.errors import Code, KeycairnError
from keycairn.ers.decrypt import SoftwareKey
from keycairn.ers.document import Document, Part
from keycairn.ers.recover import recover
from keycairn.ers.verify import verify_document
from keycairn.protocols import ers_session
from keycairn.vault import ers_auto
from keycairn.vault.api import KeyView
from keycairn.vault.control import DocumentInvite
from keycairn.vault.ers_state import key_status, only_under
from keycairn.vault.ports import DocumentRow
from protocols.network import BROADCAST, Copy
from vault.nodes import APP, Vault, answers_of, eventually, spki_of

_DAY = 86_400 * 1_000_000


def name_of(key: RSAPrivateKey) -> str:
    return hashlib.sha256(spki_of(key)).hexdigest()


@pytest.fixture(scope="module")
def successor() -> RSAPrivateKey:
    return rsa.generate_private_key(65537, 3072)


@pytest.fixture
async def watching(
    tmp_path: Path, recovery_key: RSAPrivateKey, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Vault]:
    """Three nodes that make documents by themselves; waiting is short."""
    monkeypatch.setattr(ers_auto, "TURN_SECONDS", 1.0)
    monkeypatch.setattr(ers_auto, "PARTIAL_SECONDS", 0.5)
    monkeypatch.setattr(ers_auto, "_FIRST_PAUSE", 0.2)
    monkeypatch.setattr(ers_auto, "_BUSY_PAUSE", 0.1)
    async with Vault.of(tmp_path, policy="ers", ers_automatic=True) as made:
        await made.allow(recovery_key)
        yield made


async def row_of(vault: Vault, node: int, key: KeyView) -> dict[str, Any]:
    (row,) = await vault.services[node].ers_status(APP, key.key_id)
    return row


async def until(vault: Vault, node: int, key: KeyView, status: str) -> None:
    async def there() -> bool:
        return (await row_of(vault, node, key))["status"] == status

    await eventually(there)


async def stored(vault: Vault, node: int) -> list[DocumentRow]:
    return list(await vault.stores[node].documents())


# -- made by themselves ------------------------------------------------------------------------


async def test_inv8_a_batch_gets_one_document_without_its_client(watching: Vault) -> None:
    """The creating client is gone before any document exists."""
    calls = asyncio.ensure_future(watching.create("ecdsa", count=3))

    async def known() -> bool:
        return all([len(await s.keys()) == 3 for s in watching.stores.values()])

    await eventually(known)
    calls.cancel()
    keys = await watching.services[1].list_keys(APP, "", 100)
    for node in watching.players:
        for key in keys:
            await until(watching, node, key, "COMPLETE")
    rows = {node: await stored(watching, node) for node in watching.players}
    assert {len(found) for found in rows.values()} == {1}, "one document for the whole batch"
    assert len({found[0].sha256 for found in rows.values()}) == 1
    assert len(rows[1][0].keys) == 3
    assert (await watching.sign(keys[0])).result
    assert await watching.services[1].automatic.findings() == []


async def test_the_next_holder_takes_over_from_a_coordinator_that_does_nothing(
    watching: Vault,
) -> None:
    watching.services[1].automatic.active = False  # it neither invites nor follows
    watching.services[1].automatic.stop()
    key = await watching.key()
    invited = 0

    def count(sender: int, _receiver: int, note: Any) -> Iterable[Any] | None:
        nonlocal invited
        if isinstance(note, DocumentInvite):
            invited += 1
            assert sender == 2
        return [note]

    watching.notes = count

    async def tried() -> bool:
        return invited >= 2

    await eventually(tried)
    watching.notes = lambda _s, _r, note: [note]
    await watching.restart(1)
    for node in watching.players:
        await until(watching, node, key, "COMPLETE")


async def test_keys_that_were_there_before_the_rsa_key_are_made_up_for(
    tmp_path: Path, recovery_key: RSAPrivateKey
) -> None:
    async with Vault.of(tmp_path, policy="ers or redundancy >= 1", ers_automatic=True) as vault:
        keys = [await vault.key(), await vault.key("ecdsa")]
        findings = await vault.services[1].automatic.findings()
        assert "no RSA key" in findings[0]["why"]
        await vault.allow(recovery_key)
        for key in keys:
            for node in vault.players:
                await until(vault, node, key, "COMPLETE")
        assert await vault.services[1].automatic.findings() == []


async def test_no_document_is_made_where_the_policy_does_not_name_ers(
    tmp_path: Path, recovery_key: RSAPrivateKey
) -> None:
    async with Vault.of(tmp_path, policy="node_backup", ers_automatic=True) as vault:
        await vault.allow(recovery_key)
        key = await vault.key()
        assert not vault.services[1].automatic.active
        assert (await row_of(vault, 1, key))["status"] == "NONE"


# -- partial (T-108) -----------------------------------------------------------------------------


async def test_t108_one_node_absent_leaves_a_partial_document_and_the_rest_follows(
    watching: Vault, recovery_key: RSAPrivateKey
) -> None:
    before = watching.notes
    watching.notes = lambda _s, _r, n: [] if isinstance(n, DocumentInvite) else [n]
    key = await watching.key()
    await watching.stop(3)
    watching.notes = before
    for node in (1, 2):
        await until(watching, node, key, "PARTIAL")
    row = await row_of(watching, 1, key)
    assert (row["have"], row["parts"], row["players"]) == (2, 3, [1, 2])
    assert "player 3" in row["why"]
    # INV-8: no yes for the policy; but t+1 parts do recover.
    assert (await watching.sign(key, (1, 2))).codes[1] is Code.KEY_NOT_BACKED_UP
    (document,) = await stored(watching, 1)
    assert not document.complete
    data = await watching.services[1].documents.data(document.sha256)
    report = verify_document(Document.load(data), rsa=Document.load(data).context.rsa())
    assert report.keys[0].status == "PARTIAL 2/3"
    assert report.keys[0].recoverable
    (recovered,) = recover(Document.load(data), SoftwareKey(recovery_key))
    assert recovered.statement.public_key == key.public_key
    assert isinstance(recovered.private_key, SecretScalar)
    # No second one while nothing changed, and the complete one once the holder is back.
    await asyncio.sleep(1.0)
    assert len(await stored(watching, 1)) == 1
    await watching.start(3)
    for node in watching.players:
        await until(watching, node, key, "COMPLETE")
    assert (await watching.sign(key, (1, 2))).result


async def test_t108_a_bad_part_names_its_maker_and_is_left_out(
    watching: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = ers_session.make_part

    def liar(**arguments: Any) -> Part:
        part = honest(**arguments)
        if arguments["node"] != 3:
            return part
        return replace(part, leaves=bytes([*part.leaves[:-1], part.leaves[-1] ^ 1]))

    monkeypatch.setattr(ers_session, "make_part", liar)
    key = await watching.key()
    await until(watching, 1, key, "PARTIAL")
    assert (await row_of(watching, 1, key))["players"] == [1, 2]
    assert (await watching.sign(key, (1, 2))).codes[1] is Code.KEY_NOT_BACKED_UP
    (blamed,) = watching.services[1].automatic._blamed
    assert blamed == 3


async def test_a_partial_document_is_asked_for_by_name_and_needs_t_plus_1(
    vault: Vault, recovery_key: RSAPrivateKey
) -> None:
    await vault.allow(recovery_key)
    key = await vault.key()
    some = (await vault.document([key], recovery_key, names=vault.names((1, 2)))).codes
    assert some[1] is Code.BAD_INDEX, "unless it is asked for"
    few = (await vault.document([key], recovery_key, names=vault.names((1,)), partial=True)).codes
    assert few[1] is Code.BAD_INDEX
    made = await vault.document([key], recovery_key, names=vault.names((1, 2)), partial=True)
    assert made[1].parts == (1, 2)
    assert (await row_of(vault, 2, key))["status"] == "PARTIAL"
    assert (await row_of(vault, 3, key))["status"] == "NONE"


# -- invitations are not trusted -------------------------------------------------------------------


async def test_t103_an_invitation_under_an_rsa_key_that_is_not_listed_gets_no_bytes(
    watching: Vault, successor: RSAPrivateKey, recovery_key: RSAPrivateKey
) -> None:
    key = await watching.key()
    await until(watching, 2, key, "COMPLETE")
    sent: list[int] = []

    def watch(copy: Copy) -> None:
        if copy.frame.kind == BROADCAST and len(copy.frame.body) > 5000:
            sent.append(copy.sender)

    watching.change = watch
    automatic = watching.services[2].automatic
    good = DocumentInvite(
        "ers-auto/1/" + "0" * 32, (key.key_id,), (key.record_hash,), spki_of(successor), (1, 2, 3)
    )
    bad = [
        good,
        # Complete here already: nothing to make, whoever asks.
        wire_replace(good, rsa_spki=spki_of(recovery_key)),
        wire_replace(good, name="ers-auto/3/" + "0" * 32),
        wire_replace(good, name="anything"),
        wire_replace(good, key_ids=(key.key_id,) * 2, record_hashes=(key.record_hash,) * 2),
        wire_replace(good, record_hashes=(bytes(32),)),
        wire_replace(good, record_hashes=()),
        wire_replace(good, key_ids=("nothing",)),
        wire_replace(good, players=(2, 3)),
        wire_replace(good, players=(1, 2, 9)),
        wire_replace(good, rsa_spki=b"junk"),
    ]
    for number, invite in enumerate(bad):
        name = f"ers-auto/1/{number:032x}" if invite.name == good.name else invite.name
        await automatic._invited(1, wire_replace(invite, name=name))
        assert not automatic._busy, invite
    await asyncio.sleep(0.2)
    assert sent == []
    assert len(await stored(watching, 2)) == 1


def wire_replace(message: DocumentInvite, **changes: Any) -> DocumentInvite:
    import msgspec

    return msgspec.structs.replace(message, **changes)


# -- stale, and RSA keys that go ----------------------------------------------------------------


async def test_a_key_under_a_removed_rsa_key_is_stale_and_counts_no_more(
    vault: Vault, recovery_key: RSAPrivateKey, successor: RSAPrivateKey
) -> None:
    """R-31: the operator says that nobody is meant to open what lies under this key."""
    await vault.allow(recovery_key)
    key = await vault.key()
    await vault.document([key], recovery_key)
    assert (await row_of(vault, 1, key))["rsa_keys"] == [name_of(recovery_key)]
    service = vault.services[1]
    with pytest.raises(KeycairnError) as refused:
        await service.ers_key_remove(name_of(recovery_key))
    assert refused.value.code is Code.CONFLICT
    assert "ers rotate" in refused.value.next
    await service.ers_key_remove(name_of(recovery_key), force=True)
    row = await row_of(vault, 1, key)
    assert (row["status"], row["have"]) == ("STALE", 0)
    assert "taken off" in row["why"]
    assert (await vault.sign(key, (1, 2))).codes[1] is Code.KEY_NOT_BACKED_UP
    assert (await row_of(vault, 2, key))["status"] == "COMPLETE", "each node has its own list"
    await vault.restart(1)
    assert (await vault.sign(key, (1, 2))).codes[1] is Code.KEY_NOT_BACKED_UP
    await vault.allow(successor)
    await vault.document([key], successor)
    assert (await row_of(vault, 1, key))["status"] == "COMPLETE"
    assert (await vault.sign(key, (1, 2))).result
    # Covered elsewhere, the old key goes without a word.
    await vault.services[2].ers_key_remove(name_of(recovery_key))


async def test_several_rsa_keys_count_side_by_side(
    vault: Vault, recovery_key: RSAPrivateKey, successor: RSAPrivateKey
) -> None:
    await vault.allow(recovery_key)
    await vault.allow(successor)
    key = await vault.key()
    for one in (recovery_key, successor):
        await vault.document([key], one)
    row = await row_of(vault, 3, key)
    assert row["rsa_keys"] == [name_of(recovery_key), name_of(successor)]
    assert row["rsa_spki_sha256"] == name_of(successor)


async def test_t107_a_document_of_an_older_record_is_stale(
    vault: Vault, recovery_key: RSAPrivateKey
) -> None:
    await vault.allow(recovery_key)
    key = await vault.key()
    await vault.document([key], recovery_key)
    row = await vault.stores[1].key(key.key_id)
    (document,) = await stored(vault, 1)
    assert row is not None
    standing = {document.spki_sha256: "allowed"}
    older = {key.key_id: (key.generation - 1, bytes(32))}
    other = {key.key_id: (key.generation, bytes(32))}
    for keys, word in ((older, "generation"), (other, "another record")):
        made = DocumentRow(
            document.sha256, document.path, document.spki_sha256, "", True, keys, 1, 1
        )
        found = key_status(row, [made], standing, lambda _: ())
        assert found.status == "STALE"
        assert word in found.why
        # What counts no more is no reason to keep the RSA key... but a current one is.
        assert key_status(row, [document, made], standing, lambda _: ()).status == "COMPLETE"
    for state, expected in (("expired", "COMPLETE"), ("challenged", "STALE"), ("removed", "STALE")):
        found = key_status(row, [document], {document.spki_sha256: state}, lambda _: ())
        assert found.status == expected
    assert key_status(row, [document], {}, lambda _: ()).status == "STALE"
    assert only_under(document.spki_sha256, [document]) == document.keys


# -- attestation ---------------------------------------------------------------------------------


async def test_a_proof_of_possession_grows_old_and_is_repeated(
    tmp_path: Path, recovery_key: RSAPrivateKey
) -> None:
    async with Vault.of(tmp_path, policy="none", ers_attest_days=30) as vault:
        await vault.allow(recovery_key)
        service = vault.services[1]
        (view,) = await service.ers_key_list()
        assert (view.attestation, view.attested_days) == ("good", 0)
        vault.clock.passed = 30 * _DAY // 1_000_000
        (view,) = await service.ers_key_list()
        assert (view.attestation, view.attested_days) == ("overdue", 30)
        (found,) = [
            f for f in (await service.status())["findings"] if f["finding"] == "ers key attestation"
        ]
        assert "30 days" in found["why"]
        assert found["next"] == f"keycairn ers key attest {name_of(recovery_key)}"
        challenges = await service.ers_key_attest(name_of(recovery_key))
        await service.ers_key_confirm(answers_of(recovery_key, challenges))
        (view,) = await service.ers_key_list()
        assert (view.attestation, view.attested_days) == ("good", 0)
        assert not [f for f in (await service.status())["findings"] if "ers" in f["finding"]]


async def test_a_configured_key_that_nobody_proved_is_a_finding(
    tmp_path: Path, recovery_key: RSAPrivateKey
) -> None:
    entry = name_of(recovery_key)
    async with Vault.of(tmp_path, policy="none", ers_allowed=(entry,)) as vault:
        findings = (await vault.services[1].status())["findings"]
        (found,) = [f for f in findings if f["finding"] == "ers key attestation"]
        assert "never" in found["why"]


# -- verified again ------------------------------------------------------------------------------


async def test_documents_are_verified_again_from_the_stored_copy(
    vault: Vault, recovery_key: RSAPrivateKey
) -> None:
    await vault.allow(recovery_key)
    key = await vault.key()
    await vault.document([key], recovery_key)
    documents = vault.services[1].documents
    (first,) = await stored(vault, 1)
    assert await documents.reverify(_DAY) == []
    assert (await stored(vault, 1))[0].verified_us == first.verified_us, "not due"
    vault.clock.passed = 2 * _DAY // 1_000_000
    assert await documents.reverify(_DAY) == []
    assert (await stored(vault, 1))[0].verified_us >= first.verified_us + 2 * _DAY
    # Bytes that have the hash of their name and whose proof doesn't hold: nobody can tell any more.
    data = bytearray(await documents.data(first.sha256))
    data[-1] ^= 1
    bad = hashlib.sha256(bytes(data)).hexdigest()
    (vault.documents(1) / f"{bad}.kcers").write_bytes(bytes(data))
    await vault.stores[1].delete_document(first.sha256)
    forged = DocumentRow(
        bad, "x", first.spki_sha256, first.label, True, first.keys, first.created_us, 1
    )
    await vault.stores[1].put_document(forged)
    assert await documents.reverify(_DAY) == [bad]
    assert list(documents.unsound) == [bad]
    refused = (await vault.sign(key, (1, 2))).error(1)
    assert refused.code is Code.KEY_NOT_BACKED_UP
    assert refused.detail["holds"] == "cant_tell"
