"""Malicious provers: what they can do, and what earlier drafts let them do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ers.helpers import (
    CountingKey,
    document_of,
    make_key,
    part_of,
    prover_for,
    refused,
)
from keycairn.ers import prove, verify
from keycairn.ers.document import Document
from keycairn.ers.prove import Prover
from keycairn.ers.recover import open_part, recover
from keycairn.ers.verify import ExpectedKey, closed_leaves_of, verify_document, verify_part

A = make_key("key-a")


class Grinder(Prover):
    """Makes the first leaves unrecoverable and hopes that they all stay closed."""

    bad: dict[int, str] = {1: "garbage", 2: "other seed", 3: "other leaf"}  # noqa: RUF012

    def ciphertext(self, k: int, a: bytes, coins: bytes) -> bytes:
        kind = self.bad.get(k)
        if kind == "garbage":
            return b"\0" * 200 + bytes(range(56))
        if kind == "other seed":
            return super().ciphertext(k, bytes(32), coins)
        if kind == "other leaf":
            return super().ciphertext(k + 1, a, coins)
        return super().ciphertext(k, a, coins)


def grind(rsa, cls=Grinder, node=1):
    """A valid part with three bad closed leaves: about (136/55)^3 = 15 tries."""
    for attempt in range(400):
        part = prover_for([A], node, rsa, cls=cls, seed=attempt).run()
        try:
            verify_part(part, rsa=rsa)
        except Exception:  # noqa: S112
            continue
        return part, attempt
    raise AssertionError("grinding did not succeed")


def test_t100_ground_bad_leaves_still_recover(rsa_key) -> None:
    key = rsa_key()
    part, attempts = grind(key.public)
    assert attempts > 0  # most tries do not verify
    assert [leaf.k for leaf in closed_leaves_of(part)][:3] == [1, 2, 3]
    counting = CountingKey(key)
    opened = open_part(part, counting)
    assert opened is not None
    assert opened.tried == 4
    assert opened.shares[0].reveal() == A.shares[1].reveal()
    document = Document((part, part_of([A], 3, key.public)))
    assert recover(document, key)[0].private_key.reveal() == A.secret


def test_t100_leaf_with_wrong_masked_secret_does_not_verify(rsa_key) -> None:
    # z wrong in one closed leaf, A honest: the combination does not close.
    class Wrong(Prover):
        def masked(self, streams):
            zs = super().masked(streams)
            return [z[:31] + bytes([z[31] ^ 1]) + z[32:] for z in zs]

    rsa = rsa_key().public
    refused(lambda: verify_part(prover_for([A], 1, rsa, cls=Wrong).run(), rsa=rsa))


def test_broken_draft_h_of_closed_leaves_is_never_read(rsa_key) -> None:
    # A third party edits z of every closed leaf; h_k must be recomputed from it.
    rsa = rsa_key().public
    part = part_of([A], 1, rsa)
    step = len(part.leaves) // 55
    edited = bytearray(part.leaves)
    for leaf in range(55):
        edited[leaf * step + 256 + 40] ^= 1
    refused(lambda: verify_part(replace(part, leaves=bytes(edited)), rsa=rsa))
    # Adding e to the share and taking it off K keeps the plain sum of a leaf.
    q = A.statement.group.q
    shifted = bytearray(part.leaves)
    for leaf in range(55):
        for place, sign in ((256, 1), (288, -1)):
            at = leaf * step + place
            value = (int.from_bytes(shifted[at : at + 32], "big") + sign) % q
            shifted[at : at + 32] = value.to_bytes(32, "big")
    refused(lambda: verify_part(replace(part, leaves=bytes(shifted)), rsa=rsa))


def test_broken_draft_equal_coefficients_let_errors_cancel(
    rsa_key, monkeypatch: pytest.MonkeyPatch
) -> None:
    rsa = rsa_key().public
    assert refused(
        lambda: verify_part(prover_for([A], 1, rsa, shift=5).run(), rsa=rsa)
    ).detail["check"] == "challenge"  # fmt: skip
    # The attack is real: with rho = 1 for everything the same cheat verifies.
    for module in (prove, verify):
        monkeypatch.setattr(module, "coefficients", lambda ctx, c, h, b: [1] * b.size)
    verify_part(prover_for([A], 1, rsa, shift=5).run(), rsa=rsa)


def test_broken_draft_keys_come_from_the_caller(rsa_key) -> None:
    # An attacker's own key under the victim's key id and RSA key is a perfect document.
    rsa, attackers = rsa_key().public, rsa_key(2048, 1).public
    own = make_key("key-a", n=3, t=2)
    for document in (document_of([own], rsa), document_of([A], attackers)):
        report = verify_document(document)
        assert any(line.startswith("public_key of key-a") for line in report.not_checked)
        assert any(line.startswith("rsa_public_key") for line in report.not_checked)
        want = [ExpectedKey("key-a", A.statement.public_key)]
        refused(lambda d=document, w=want: verify_document(d, rsa=rsa, expected=w))


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
