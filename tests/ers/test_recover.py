"""Recovery from every subset, with every kind of RSA key."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
from cryptography.hazmat.primitives import serialization

from ers.helpers import CountingKey, document_of, make_key, part_of, prover_for, refused
from keycairn.errors import Code
from keycairn.ers.decrypt import RawRsaDecryptor, SoftwareKey
from keycairn.ers.document import Document
from keycairn.ers.prove import Prover
from keycairn.ers.recover import recover
from keycairn.ers.verify import verify_document


@pytest.mark.parametrize("bits", [2048, 3072, 4096])
@pytest.mark.parametrize(("n", "t"), [(2, 1), (3, 1), (3, 2), (5, 2)])
def test_t096_every_subset_of_parts_recovers(n: int, t: int, bits: int, rsa_key) -> None:
    key = rsa_key(bits)
    keys = [
        make_key("ecdsa", "secp256k1", n, t),
        make_key("eddsa", "ed25519", n, t),
        make_key("passkey", "p256", n, t),
        make_key("plain", "secp256k1", n, t, chain_code=False),
    ]
    parts = {i: part_of(keys, i, key.public) for i in range(1, n + 1)}
    whole = Document(tuple(parts.values()))
    assert verify_document(whole, rsa=key.public).complete
    for subset in combinations(parts, t + 1):
        document = Document.load(Document(tuple(parts[i] for i in subset)).to_cbor())
        counting = CountingKey(key)
        recovered = recover(document, counting, expected=[k.expected for k in keys])
        assert counting.count == t + 1  # one RSA decryption per part for the whole batch
        for mine, back in zip(keys, recovered, strict=True):
            assert back.private_key.reveal() == mine.secret
            assert back.public_key == mine.statement.public_key
            code = mine.chain_code.reveal() if mine.chain_code else None
            assert (back.chain_code.reveal() if back.chain_code else None) == code
            assert back.nodes == subset
            assert not back.chain_code_lost
            assert str(mine.secret) not in repr(back)
    for subset in combinations(parts, t):
        document = Document(tuple(parts[i] for i in subset))
        error = refused(lambda d=document: recover(d, key))
        assert error.detail["check"] == "parts"
        assert str(t + 1) in error.message


SMALL_RSA = [2048, *(pytest.param(bits, marks=pytest.mark.full) for bits in (3072, 4096))]


@pytest.mark.parametrize("bits", SMALL_RSA)
@pytest.mark.parametrize("curve", ["secp256k1", "p256", "ed25519"])
@pytest.mark.parametrize(("n", "t"), [(2, 1), (3, 1), (3, 2), (5, 2)])
def test_t096_single_keys_of_every_curve_recover(
    n: int, t: int, curve: str, bits: int, rsa_key
) -> None:
    """K is on the key's own curve here; with and without a chain code."""
    key = rsa_key(bits)
    for code in (True, False):
        mine = make_key(f"one-{code}", curve, n, t, chain_code=code)
        parts = {i: part_of([mine], i, key.public) for i in range(1, n + 1)}
        for subset in combinations(parts, t + 1):
            document = Document.load(Document(tuple(parts[i] for i in subset)).to_json())
            (back,) = recover(document, key, expected=[mine.expected])
            assert back.private_key.reveal() == mine.secret
            assert (back.chain_code is not None) is code
            assert back.paths == ()


def test_a_batch_of_many_keys_recovers(rsa_key) -> None:
    key = rsa_key()
    curves = ("ed25519", "secp256k1", "p256")
    keys = [make_key(f"k{i}", curves[i % 3]) for i in range(45)]
    document = document_of(keys, key.public, (1, 3))
    back = recover(Document.load(document.to_json()), key)
    assert [k.private_key.reveal() for k in back] == [k.secret for k in keys]
    assert [k.key_id for k in back] == [f"k{i}" for i in range(45)]


def test_an_older_generation_still_recovers(rsa_key) -> None:
    key = rsa_key()
    old = make_key("key-a", generation=1)
    document = document_of([old], key.public, (1, 2))
    assert recover(document, key)[0].private_key.reveal() == old.secret
    assert verify_document(document).keys[0].statement.generation == 1


def test_raw_rsa_token_recovers(rsa_key, private_key) -> None:
    key, numbers = rsa_key(), private_key(2048).private_numbers()
    n, d = numbers.public_numbers.n, numbers.d
    token = RawRsaDecryptor(
        key.public, lambda c: pow(int.from_bytes(c, "big"), d, n).to_bytes(256, "big")
    )
    mine = make_key("key-a")
    assert recover(document_of([mine], key.public), token)[0].private_key.reveal() == mine.secret


def test_a_token_error_stops_the_recovery(rsa_key) -> None:
    key = rsa_key()
    document = document_of([make_key("key-a")], key.public)
    for limit in (0, 1, 2):
        token = CountingKey(key, limit)
        refused(lambda t=token: recover(document, t), Code.UNAVAILABLE)
        assert token.count == limit


class LyingBox(Prover):
    """Puts other chain codes into the box; the proof itself is honest."""

    def __init__(self, context, rsa, secrets, chain_codes, fresh, ledger) -> None:
        super().__init__(context, rsa, secrets, [bytes(32)] * len(chain_codes), fresh, ledger)


class Unrecoverable(Prover):
    """Encrypts nonsense in every leaf: no verifier accepts it."""

    def ciphertext(self, k: int, a: bytes, coins: bytes) -> bytes:
        return super().ciphertext(k, bytes(32), coins)


def test_chain_code_comes_from_the_honest_box(rsa_key) -> None:
    key, mine = rsa_key(), make_key("key-a")
    # An honest context, so that the parts combine: only the box lies.
    liar = prover_for([mine], 1, key.public, cls=LyingBox).run()
    honest = part_of([mine], 2, key.public)
    assert mine.chain_code is not None
    back = recover(Document((liar, honest)), key)[0]
    assert back.chain_code is not None
    assert back.chain_code.reveal() == mine.chain_code.reveal()
    warnings: list[str] = []
    second = prover_for([mine], 3, key.public, cls=LyingBox, seed=1).run()
    back = recover(Document((liar, second)), key, warn=warnings.append)[0]
    assert back.chain_code is None
    assert back.chain_code_lost
    assert back.private_key.reveal() == mine.secret
    assert "chain code" in warnings[0]


def test_t090_prover_that_encrypts_nonsense_is_named(rsa_key) -> None:
    key, mine = rsa_key(), make_key("key-a")
    bad = prover_for([mine], 2, key.public, cls=Unrecoverable).run()
    document = Document((part_of([mine], 1, key.public), bad))
    error = refused(lambda: recover(document, key))
    assert error.detail["node"] == 2


def test_private_keys_from_pem(private_key) -> None:
    raw = private_key(2048)

    def pem(encryption, form=serialization.PrivateFormat.PKCS8) -> bytes:
        return raw.private_bytes(serialization.Encoding.PEM, form, encryption)

    plain = pem(serialization.NoEncryption())
    sealed = pem(serialization.BestAvailableEncryption(b"pass"))
    old = pem(serialization.NoEncryption(), serialization.PrivateFormat.TraditionalOpenSSL)
    same = {SoftwareKey.from_pem(p, w).public for p, w in
            ((plain, None), (sealed, b"pass"), (old, None))}  # fmt: skip
    assert len(same) == 1
    for data, word in ((sealed, None), (sealed, b"wrong"), (plain, b"pass"), (b"", None),
                       (b"x", None)):  # fmt: skip
        error = refused(lambda d=data, w=word: SoftwareKey.from_pem(d, w), Code.MALFORMED)
        assert "pass" not in error.message.replace("passphrase", "")


def test_parts_beyond_the_threshold_must_agree(rsa_key) -> None:
    key, mine = rsa_key(), make_key("key-a", n=5, t=2)
    document = document_of([mine], key.public, (1, 2, 3, 4, 5))
    assert recover(document, key)[0].nodes == (1, 2, 3, 4, 5)
    # A sharing of too high a degree never reaches decryption.
    high = make_key("key-a", n=5, t=3)
    claimed = replace(high.statement, threshold=2)
    parts = [prover_for([high], i, key.public, statements=[claimed], seed=i).run()
             for i in (1, 2, 3)]  # fmt: skip
    counting = CountingKey(key)
    error = refused(lambda: recover(Document(tuple(parts)), counting))
    assert error.detail["check"] == "polynomial"
    assert counting.count == 0
