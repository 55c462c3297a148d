"""Attacks on recovery documents at whole nodes, named after what the attacker wants."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from keycairn.errors import Code, KeycairnError
from keycairn.ers.document import Document, Part
from keycairn.ers.prove import make_part
from keycairn.ers.rsa import load_rsa_public_key
from keycairn.protocols.ers_session import statement_of
from keycairn.protocols.session import Frame
from keycairn.vault.api import KeyView
from keycairn.vault.control import DocumentHere
from protocols.network import BROADCAST, CONFIRM, Copy
from vault.nodes import VAULT, Vault, spki_of


def files(vault: Vault, node: int) -> int:
    return len(list(vault.documents(node).glob("*")))


async def part_of(vault: Vault, node: int, key: KeyView, rsa: RSAPrivateKey, label: str) -> Part:
    """What a node can prove at any time about its own share."""
    held = await vault.stores[node].key_share(key.key_id)
    return make_part(
        rsa=load_rsa_public_key(spki_of(rsa)),
        vault=VAULT,
        node=node,
        label=label,
        keys=[statement_of(held.record)],
        shares=[held.share],
        chain_codes=[held.chain_code],
        rng=vault.rng,
    )


async def give(vault: Vault, document: Document) -> None:
    """Player 3 sends node 1 a document that nobody asked for."""
    here = DocumentHere(document.sha256, document.to_cbor())
    await vault.services[1]._documents._received(3, here)


async def test_t103_a_key_removed_during_the_call_gets_no_part(
    vault: Vault, recovery_key: RSAPrivateKey
) -> None:
    await vault.allow(recovery_key)
    key = await vault.key()
    sent: list[int] = []

    def watch(copy: Copy) -> Iterable[Frame] | None:
        if copy.frame.kind == BROADCAST:
            sent.append(copy.sender)
        return None

    vault.change = watch
    names = vault.names(session="race")
    call = asyncio.create_task(vault.document([key], recovery_key, names=names))
    async with vault.held("race", step=CONFIRM, frames=6):
        sha = hashlib.sha256(spki_of(recovery_key)).hexdigest()
        await vault.services[2].ers_key_remove(sha)
    answers = await call
    assert answers.codes[2] is Code.KEY_NOT_ALLOWED
    assert None not in answers.codes.values()
    assert 2 not in sent
    assert [files(vault, node) for node in vault.players] == [0, 0, 0]


async def test_a_peer_cannot_fill_the_store_with_documents_that_verify(
    vault: Vault, recovery_key: RSAPrivateKey
) -> None:
    """Its own part made anew, the others' from an earlier document: valid, and new each time."""
    await vault.allow(recovery_key)
    key = await vault.key()
    made = (await vault.document([key], recovery_key)).result
    good = Document.load(made.document)
    other = await part_of(vault, 3, key, recovery_key, "")
    honest = [p for p in good.parts if p.node != 3]
    await give(vault, Document((*honest, other)))
    await give(vault, Document((*good.parts, other)))
    assert files(vault, 1) == 1
    assert [d.sha256 for d in await vault.stores[1].documents()] == [made.sha256]


async def test_a_peer_cannot_store_a_document_of_its_own_part_alone(
    vault: Vault, recovery_key: RSAPrivateKey
) -> None:
    await vault.allow(recovery_key)
    key = await vault.key()
    await give(vault, Document((await part_of(vault, 3, key, recovery_key, "mine"),)))
    assert files(vault, 1) == 0
    assert await vault.stores[1].documents() == []


async def test_a_removal_says_when_the_configuration_still_allows_the_key(
    vault: Vault, recovery_key: RSAPrivateKey
) -> None:
    sha = hashlib.sha256(spki_of(recovery_key)).hexdigest()
    await vault.stop(2)
    vault.parameters["ers_allowed"] = (sha,)
    service = await vault.start(2)
    with pytest.raises(KeycairnError) as caught:
        await service.ers_key_remove(sha)
    assert caught.value.code is Code.CONFLICT
    assert "stays allowed" in caught.value.not_lost


async def test_new_challenges_do_not_undo_a_removal(
    vault: Vault, recovery_key: RSAPrivateKey
) -> None:
    """Two of the operator's calls at the same moment."""
    await vault.allow(recovery_key, (1,))
    service = vault.services[1]
    sha = hashlib.sha256(spki_of(recovery_key)).hexdigest()
    await asyncio.gather(
        service.ers_key_attest(sha), service.ers_key_remove(sha), return_exceptions=True
    )
    assert await service.ers_key_list() == []
