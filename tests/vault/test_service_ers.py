"""Recovery keys and documents at a node: what is allowed, what counts, what comes back."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from keycairn.errors import Code, KeycairnError
from keycairn.protocols import session, wire
from keycairn.protocols.ers_session import PartMessage
from keycairn.vault.api import KeyView
from keycairn.vault.control import DocumentHere
from protocols.lockstep import replace
from protocols.network import BROADCAST, Copy
from vault.nodes import APP, Vault, answers_of, eventually, spki_of


async def refused(call: Any) -> KeycairnError:
    with pytest.raises(KeycairnError) as caught:
        await call
    return caught.value


async def status(vault: Vault, node: int, key: KeyView) -> str:
    (row,) = await vault.services[node].ers_status(APP, key.key_id)
    return str(row["status"])


# -- the allow-list (R-30, R-31) ---


async def test_t085_a_key_that_is_not_on_the_list_gets_nothing(
    vault: Vault, recovery_key: RSAPrivateKey
) -> None:
    key = await vault.key()
    before = await vault.digests()
    answers = await vault.document([key], recovery_key)
    assert answers.only(Code.KEY_NOT_ALLOWED)
    assert await vault.digests() == before
    await vault.allow(recovery_key, who=(1, 2))
    assert (await vault.document([key], recovery_key)).codes[3] is Code.KEY_NOT_ALLOWED
    assert await status(vault, 1, key) == "NONE"


async def test_a_key_counts_only_after_its_owner_answered(
    vault: Vault, recovery_key: RSAPrivateKey
) -> None:
    service = vault.services[1]
    challenges = await service.ers_key_add(spki_of(recovery_key), None, False)
    (view,) = await service.ers_key_list()
    assert view.state == "challenged"
    key = await vault.key()
    assert (await vault.document([key], recovery_key)).error(1).code is Code.KEY_NOT_ALLOWED

    good = answers_of(recovery_key, challenges)
    wrong: list[dict[str, Any]] = [{**good, "answers": [*good["answers"][:-1], "00" * 32]}]
    wrong += [{**good, "answers": good["answers"][::-1]}, {**good, "answers": []}]
    wrong += [{**good, "extra": 1}, {k: v for k, v in good.items() if k != "answers"}]
    for bad in wrong:
        error = await refused(service.ers_key_confirm(bad))
        assert error.code in (Code.BAD_PROOF, Code.MALFORMED), bad
    assert (await refused(service.ers_key_confirm({}))).code is Code.NOT_FOUND
    assert (await refused(service.ers_key_confirm({"rsa_spki_sha256": 7}))).code is Code.NOT_FOUND

    other = await vault.services[2].ers_key_add(spki_of(recovery_key), None, False)
    elsewhere = answers_of(recovery_key, other)
    assert (await refused(service.ers_key_confirm(elsewhere))).code is Code.BAD_PROOF
    assert (await service.ers_key_confirm(good)).state == "allowed"
    again = await refused(service.ers_key_confirm(good))
    assert again.code is Code.NOT_FOUND, "answers are used once"
    assert (
        await refused(service.ers_key_add(spki_of(recovery_key), None, False))
    ).code is Code.CONFLICT
    repeated = await service.ers_key_attest(good["rsa_spki_sha256"])
    assert (await service.ers_key_list())[0].state == "allowed"
    await service.ers_key_confirm(answers_of(recovery_key, repeated))


async def test_an_expired_or_removed_key_is_not_allowed_any_more(
    vault: Vault, recovery_key: RSAPrivateKey
) -> None:
    key = await vault.key()
    hour = 3600 * 1_000_000
    await vault.allow(recovery_key, expires_us=vault.clock.now_us() + hour)
    assert (await vault.document([key], recovery_key)).result
    vault.clock.ahead_us = hour
    error = (await vault.document([key], recovery_key)).error(1)
    assert error.code is Code.KEY_NOT_ALLOWED
    assert "expired" in error.message
    assert [v.state for v in await vault.services[1].ers_key_list()] == ["expired"]
    vault.clock.ahead_us = 0
    assert (await vault.document([key], recovery_key)).result
    sha = hashlib.sha256(spki_of(recovery_key)).hexdigest()
    only = await refused(vault.services[2].ers_key_remove(sha))
    assert only.code is Code.CONFLICT
    assert only.detail["keys"] == [key.key_id]
    await vault.services[2].ers_key_remove(sha, force=True)
    assert (await vault.document([key], recovery_key)).codes[2] is Code.KEY_NOT_ALLOWED
    assert await vault.services[2].ers_key_list() == []
    assert (await refused(vault.services[2].ers_key_remove("0" * 64))).code is Code.NOT_FOUND
    past = vault.services[2].ers_key_add(spki_of(recovery_key), vault.clock.now_us() - 1, False)
    assert (await refused(past)).code is Code.MALFORMED


async def test_keys_of_the_configuration_need_no_answers(
    tmp_path: Path, recovery_key: RSAPrivateKey
) -> None:
    spki = spki_of(recovery_key)
    for entry in (hashlib.sha256(spki).hexdigest(), base64.b64encode(spki).decode()):
        folder = tmp_path / entry[:8].replace("/", "_")
        folder.mkdir()
        async with Vault.of(folder, ers_allowed=(entry,)) as vault:
            (view,) = await vault.services[1].ers_key_list()
            assert (view.state, view.origin) == ("allowed", "config")
            key = await vault.key()
            assert (await vault.document([key], recovery_key)).result


async def test_t087_weak_rsa_keys_are_refused_at_the_door(vault: Vault) -> None:
    service = vault.services[1]
    small = rsa.generate_private_key(65537, 1024)  # noqa: S505
    three = rsa.generate_private_key(3, 2048)
    legacy = rsa.generate_private_key(65537, 2048)
    for bad, flag in ((small, True), (three, True), (legacy, False)):
        error = await refused(service.ers_key_add(spki_of(bad), None, flag))
        assert error.code is Code.WEAK_RSA
    assert await service.ers_key_add(spki_of(legacy), None, True)
    trailing = spki_of(legacy) + b"\0"
    assert (await refused(service.ers_key_add(trailing, None, True))).code in (
        Code.MALFORMED, Code.WEAK_RSA,
    )  # fmt: skip


# -- documents ---


async def test_bad_document_requests_are_refused(vault: Vault, recovery_key: RSAPrivateKey) -> None:
    await vault.allow(recovery_key)
    key = await vault.key()
    for keys, more, code in (
        ([key, key], {}, Code.MALFORMED),
        ([], {}, Code.MALFORMED),
        ([key], {"names": vault.names((1, 2))}, Code.BAD_INDEX),
        ([key], {"params": "nonsense"}, Code.ERS_INVALID),
        ([key], {"app": "other"}, Code.NOT_FOUND),
    ):
        answers = await vault.document(keys, recovery_key, **more)
        assert answers.codes[1] is code, (more, answers.by_node)


async def test_a_bad_part_names_its_maker_and_no_node_counts_the_document(
    vault: Vault, recovery_key: RSAPrivateKey
) -> None:
    """The bytes are the same for all, so every honest node comes to the same verdict."""
    await vault.allow(recovery_key)
    key = await vault.key()

    def tamper(copy: Copy) -> Iterable[Any] | None:
        if copy.sender != 3 or copy.frame.kind != BROADCAST or len(copy.frame.body) < 5000:
            return None

        part = bytearray(copy.body(PartMessage).part)
        part[len(part) // 2] ^= 1
        body = wire.encode(PartMessage(bytes(part)))
        frame = copy.frame
        hashed = session.body_hash(frame.sid, frame.step, 3, body)
        statement = session.broadcast_statement(frame.sid, frame.step, 3, hashed)
        signer = vault.services[3]._sessions._signer
        return [copy.but(body=body, signature=signer.sign(statement))]

    vault.change = tamper
    answers = await vault.document([key], recovery_key)
    vault.change = lambda _: None
    for node in (1, 2):
        # Player 3's own programme sees another part than it made, and may be the first to stop.
        assert answers.error(node).code in (Code.ERS_INVALID, Code.BAD_PROOF, Code.EQUIVOCATION)
        assert await status(vault, node, key) == "NONE"
        assert not list(vault.documents(node).glob("*"))
    assert (await vault.document([key], recovery_key)).result


async def empty(folder: Path) -> bool:
    return not list(folder.glob("*"))


async def test_a_lost_document_is_fetched_from_peers_and_verified_before_it_counts(
    vault: Vault, recovery_key: RSAPrivateKey
) -> None:
    await vault.allow(recovery_key)
    key = await vault.key()
    made = (await vault.document([key], recovery_key)).result
    (file,) = vault.documents(2).glob("*")
    good = file.read_bytes()
    await vault.stop(2)
    file.unlink()

    forged = 0

    def lie(_sender: int, receiver: int, note: Any) -> Iterable[Any] | None:
        nonlocal forged
        if receiver == 2 and isinstance(note, DocumentHere):
            forged += 1
            data = bytearray(note.data)
            data[len(data) // 2] ^= 1
            other = hashlib.sha256(bytes(data)).hexdigest()
            return [
                replace(note, data=bytes(data)),
                DocumentHere(other, bytes(data)),
                DocumentHere(made.sha256, b""),
                DocumentHere("0" * 64, note.data),
                DocumentHere("../../etc/passwd", note.data),
            ]
        return None

    vault.notes = lie
    await vault.start(2)

    async def lied() -> bool:
        return forged >= 2

    await eventually(lied)
    assert await status(vault, 2, key) == "NONE"
    assert (await vault.sign(key, (1, 2))).codes[2] is Code.KEY_NOT_BACKED_UP
    assert (await vault.sign(key, (1, 3))).result
    # Regression: what did not verify stayed in the store's directory.
    await eventually(lambda: empty(vault.documents(2)))

    vault.notes = lambda *_: None
    vault.reconnect(2)

    async def complete() -> bool:
        return await status(vault, 2, key) == "COMPLETE"

    await eventually(complete)
    (file,) = vault.documents(2).glob("*")
    assert file.read_bytes() == good
    assert (await vault.sign(key, (1, 2))).result


@pytest.mark.parametrize("damage", ["flipped", "cut", "emptied"])
async def test_a_damaged_document_does_not_count_after_a_restart_and_is_replaced(
    vault: Vault, recovery_key: RSAPrivateKey, damage: str
) -> None:
    await vault.allow(recovery_key)
    key = await vault.key()
    await vault.document([key], recovery_key)
    (file,) = vault.documents(1).glob("*")
    good = bytearray(file.read_bytes())
    await vault.stop(1)
    bad = {"flipped": bytes([good[0] ^ 1]) + good[1:], "cut": good[:-1], "emptied": b""}[damage]
    file.write_bytes(bad)
    await vault.start(1)

    async def complete() -> bool:
        return await status(vault, 1, key) == "COMPLETE"

    await eventually(complete)
    (file,) = vault.documents(1).glob("*")
    assert file.read_bytes() == bytes(good)
    assert (await vault.sign(key, (1, 3))).result


@pytest.mark.parametrize("harm", ["edited", "deleted", "directory deleted"])
async def test_a_document_touched_while_the_node_runs_stops_counting_and_is_fetched(
    vault: Vault, recovery_key: RSAPrivateKey, harm: str
) -> None:
    await vault.allow(recovery_key)
    key = await vault.key()
    made = (await vault.document([key], recovery_key)).result
    service = vault.services[1]
    assert await service.check_documents(whole=True) == []
    assert await service.check_documents(whole=False) == []
    (file,) = vault.documents(1).glob("*")
    good = file.read_bytes()
    if harm == "edited":
        file.write_bytes(bytes([good[0] ^ 1]) + good[1:])
    else:
        file.unlink()
    if harm == "directory deleted":
        file.parent.rmdir()
    vault.notes = lambda *_: []  # Nothing comes from peers yet.
    assert await service.check_documents(whole=False) == [made.sha256]
    assert await status(vault, 1, key) == "NONE"
    assert (await vault.sign(key, (1, 2))).codes[1] is Code.KEY_NOT_BACKED_UP

    vault.notes = lambda *_: None
    vault.reconnect(1)

    async def complete() -> bool:
        return await status(vault, 1, key) == "COMPLETE"

    await eventually(complete)
    assert file.read_bytes() == good
    assert await service.check_documents(whole=False) == []


async def test_a_document_mixes_curves_and_names_its_keys(
    vault: Vault, recovery_key: RSAPrivateKey
) -> None:
    await vault.allow(recovery_key)
    keys = [await vault.key("ecdsa"), *(await vault.create(count=3)).result]
    made = (await vault.document(keys, recovery_key, label="all of them")).result
    assert sorted(made.keys) == sorted(k.key_id for k in keys)
    assert made.parts == (1, 2, 3)
    for key in keys:
        assert (await vault.sign(key, (2, 3))).result
