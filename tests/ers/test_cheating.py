"""Malicious provers: what they can do, and what earlier drafts let them do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ers import second_verifier
from ers.helpers import (
    CountingKey,
    document_of,
    make_key,
    part_of,
    prover_for,
    refused,
)
from keycairn.ers import prove, verify
from keycairn.ers.challenge import closed_leaves
from keycairn.ers.document import Document, Part
from keycairn.ers.leaf import Leaves
from keycairn.ers.prove import Prover
from keycairn.ers.recover import open_part, recover
from keycairn.ers.rsa import RsaPublicKey, parse_spki
from keycairn.ers.verify import ExpectedKey, closed_leaves_of, verify_document, verify_part

A = make_key("key-a")


class Grinder(Prover):
    """Makes its first leaves unrecoverable, and hopes that they all stay closed."""

    bad = 3

    def ciphertext(self, k: int, a: bytes, coins: bytes) -> bytes:
        if k > self.bad:
            return super().ciphertext(k, a, coins)
        if k % 3 == 0:  # garbage
            return b"\0" * 200 + bytes(range(56))
        if k % 3 == 1:  # of another seed
            return super().ciphertext(k, bytes(32), coins)
        return super().ciphertext(k + 1, a, coins)  # of another leaf


def with_bad_leaves(count: int) -> type[Grinder]:
    return type("Grinder", (Grinder,), {"bad": count})


def grind(rsa, count: int, params: str, node: int = 1) -> tuple[Part, int]:
    """A valid part whose leaves 1 to ``count`` are bad, and how many challenges it took.

    The box is the cheapest thing to vary: it enters the challenge and nothing before it, and no
    verifier can look into it. A try costs one hash.
    """
    prover = prover_for([A], node, rsa, cls=with_bad_leaves(count), params=params)
    wanted, tries, real = set(range(1, count + 1)), 0, prove.challenge

    def search(ctx: bytes, box: bytes, *rest: Any) -> bytes:
        nonlocal tries
        while True:
            tries += 1
            prover.box = box[:-8] + tries.to_bytes(8, "big")
            e = real(ctx, prover.box, *rest)
            if wanted <= set(closed_leaves(e, prover.context.params)):
                return e

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prove, "challenge", search)
        return prover.run(), tries


@pytest.mark.parametrize(
    ("params", "count"),
    [("fast", g) for g in range(1, 9)] + [("balanced", g) for g in range(1, 4)],
)
def test_t100_ground_bad_leaves_still_recover(params: str, count: int, rsa_key) -> None:
    key = rsa_key()
    part, tries = grind(key.public, count, params)
    verify_part(part, rsa=key.public)
    p = part.context.params
    # About (N/tau)^g challenges: 1,390 for fast with eight, 620 for balanced with three.
    assert tries < 30 * (p.leaves / p.closed) ** count
    assert [leaf.k for leaf in closed_leaves_of(part)][:count] == list(range(1, count + 1))
    counting = CountingKey(key)
    opened = open_part(part, counting)
    assert opened is not None
    assert opened.tried == count + 1
    assert opened.shares[0].reveal() == A.shares[1].reveal()
    # Chain codes come from the other part: this one's box was ground away.
    document = Document((part, part_of([A], 3, key.public, params=params)))
    [back] = recover(document, key)
    assert back.private_key.reveal() == A.secret
    assert back.chain_code is not None
    assert A.chain_code is not None
    assert back.chain_code.reveal() == A.chain_code.reveal()


@pytest.mark.parametrize("params", ["fast", "balanced"])
def test_t100_bad_leaves_that_were_not_ground_are_refused(params: str, rsa_key) -> None:
    rsa = rsa_key().public
    for count in range(1, 21):
        refusals = 0
        for seed in range(3 if params == "fast" else 2):
            cls = with_bad_leaves(count)
            part = prover_for([A], 1, rsa, cls=cls, seed=seed, params=params).run()
            closed = {leaf.k for leaf in closed_leaves_of(part)}
            if set(range(1, count + 1)) <= closed:  # luck; of one bad leaf, tau/N of the time
                verify_part(part, rsa=rsa)
                continue
            refused(lambda p=part: verify_part(p, rsa=rsa))
            refusals += 1
        assert refusals >= (1 if count > 1 else 0)


def test_t100_leaf_with_wrong_masked_secret_does_not_verify(rsa_key) -> None:
    # z wrong in one closed leaf, A honest: the combination does not close.
    class Wrong(Prover):
        def masked(self, streams):
            zs = super().masked(streams)
            return [z[:31] + bytes([z[31] ^ 1]) + z[32:] for z in zs]

    rsa = rsa_key().public
    refused(lambda: verify_part(prover_for([A], 1, rsa, cls=Wrong).run(), rsa=rsa))


def test_broken_draft_h_of_closed_leaves_is_never_read(
    rsa_key, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The draft read h_k of closed leaves from the document. A third party then shifts two masked
    secrets so that their combination stays: the draft accepts, and nothing recovers."""
    key = rsa_key()
    rsa, part = key.public, part_of([A], 1, key.public)
    honest = {leaf.k: leaf for leaf in closed_leaves_of(part)}
    [[rho_a, rho_k]] = second_verifier.verify(Document((part,)).to_cbor())[0]["rho"]
    q, step = A.statement.group.q, len(part.leaves) // 55
    shifted = bytearray(part.leaves)
    for leaf in range(55):
        for place, error in ((256, rho_k), (288, -rho_a)):
            at = leaf * step + place
            value = (int.from_bytes(shifted[at : at + 32], "big") + error) % q
            shifted[at : at + 32] = value.to_bytes(32, "big")
    attacked = replace(part, leaves=bytes(shifted))
    assert refused(lambda: verify_part(attacked, rsa=rsa)).detail["check"] == "challenge"

    real = Leaves.commitment
    with monkeypatch.context() as draft:
        draft.setattr(
            Leaves, "commitment", lambda self, k, z, salt: real(self, k, honest[k].z, salt)
        )
        verify_part(attacked, rsa=rsa)
    assert open_part(attacked, CountingKey(key)) is None
    assert open_part(part, CountingKey(key)) is not None


def test_broken_draft_equal_coefficients_let_errors_cancel(
    rsa_key, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The draft had rho = 1 for every secret: errors e in the share and -e in K cancel."""
    key = rsa_key()
    attacked = prover_for([A], 1, key.public, shift=5).run()
    assert refused(lambda: verify_part(attacked, rsa=key.public)).detail["check"] == "challenge"
    with monkeypatch.context() as draft:
        for module in (prove, verify):
            draft.setattr(module, "coefficients", lambda ctx, c, h, b: [1] * b.size)
        attacked = prover_for([A], 1, key.public, shift=5).run()
        verify_part(attacked, rsa=key.public)
    assert open_part(attacked, CountingKey(key)) is None


def test_broken_draft_keys_come_from_the_caller(rsa_key) -> None:
    """The draft took the public key and the RSA key from the document: an attacker's own key under
    the victim's key id, or the victim's under the attacker's RSA key, is a perfect document."""
    rsa, attackers = rsa_key().public, rsa_key(2048, 1).public
    own = make_key("key-a", n=3, t=2)

    def draft(document: Document) -> list[str]:
        read = RsaPublicKey(*_numbers(document), document.context.rsa_spki)
        found = [ExpectedKey(k.key_id, k.public_key, k.curve) for k in document.keys]
        return list(verify_document(document, rsa=read, expected=found).not_checked)

    for document, check in (
        (document_of([own], rsa), "public key"),
        (document_of([A], attackers), "rsa"),
    ):
        # The draft accepts, and says of neither key that it was not checked.
        assert not any("public_key" in line for line in draft(document))
        # Ours says what it was not given, and refuses with it.
        report = verify_document(document)
        assert any(line.startswith("public_key of key-a") for line in report.not_checked)
        assert any(line.startswith("rsa_public_key") for line in report.not_checked)
        want = [ExpectedKey("key-a", A.statement.public_key)]
        error = refused(lambda d=document, w=want: verify_document(d, rsa=rsa, expected=w))
        assert error.detail["check"] == check


def _numbers(document: Document) -> tuple[int, int, int]:
    n, e = parse_spki(document.context.rsa_spki)
    return n, e, n.bit_length()


def test_t106_nothing_is_decrypted_before_the_document_verifies(rsa_key) -> None:
    key = rsa_key()
    document = document_of([A], key.public)
    broken = replace(document.parts[2], e=bytes(32))
    counting = CountingKey(key)
    refused(lambda: recover(Document((*document.parts[:2], broken)), counting))
    refused(lambda: recover(document, counting, label="another label"))
    refused(lambda: recover(document, counting, expected=[ExpectedKey("key-a", b"\2" * 33)]))
    refused(lambda: recover(document, CountingKey(rsa_key(2048, 1))))
    assert counting.count == 0
    # Leaves of one document spliced into another: not even asked of the RSA key.
    other = part_of([A], 1, key.public, seed=9)
    spliced = replace(document.parts[0], leaves=other.leaves)
    refused(lambda: recover(Document((spliced, document.parts[1])), counting))
    assert counting.count == 0
