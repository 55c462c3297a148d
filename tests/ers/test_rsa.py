"""RSA keys from outside, OAEP with given coins, and the proof of possession."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import replace

import pytest
from Crypto.Cipher import PKCS1_OAEP
from Crypto.Hash import SHA256
from Crypto.PublicKey import RSA
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding

from ers.helpers import make_key, part_of, refused
from ers.weak_rsa import BITS, WEAK, P, Q, prime
from keycairn.errors import Code
from keycairn.ers import oaep, rsa
from keycairn.ers.decrypt import BadLeaf, RawRsaDecryptor, SoftwareKey
from keycairn.ers.possession import answer, check_answers, make_challenges
from keycairn.ers.verify import closed_leaves_of
from keycairn.ports.seeded import SeededRng


@pytest.mark.parametrize("name", WEAK)
def test_t087_weak_rsa_keys_are_refused_within_a_second(name: str) -> None:
    n, e, check = WEAK[name]
    spki = rsa.encode_spki(n, e)
    for data in (spki, rsa.to_pem(spki)):
        rsa._load.cache_clear()
        start = time.perf_counter()
        error = refused(lambda d=data: rsa.load_rsa_public_key(d), Code.WEAK_RSA)
        assert time.perf_counter() - start < 1
        assert check is None or error.detail["check"] == check
        assert error.exit_code == 2


def test_t087_shared_factor_with_another_key() -> None:
    one, two = (
        rsa.load_rsa_public_key(rsa.encode_spki(P * r, 65537)) for r in (Q, prime(BITS // 2, 8))
    )
    other = rsa.load_rsa_public_key(
        rsa.encode_spki(prime(BITS // 2, 10) * prime(BITS // 2, 11), 65537)
    )
    rsa.check_distinct([one, other])
    rsa.check_distinct([])
    error = refused(lambda: rsa.check_distinct([other, one, two]), Code.WEAK_RSA)
    assert error.detail["keys"] == [one.spki_sha256, two.spki_sha256]


@pytest.mark.parametrize("bits", [2048, 3072, 4096])
def test_good_keys_load_and_re_encode_like_openssl(bits: int, private_key) -> None:
    public = private_key(bits).public_key()
    der, pem = (
        public.public_bytes(form, serialization.PublicFormat.SubjectPublicKeyInfo)
        for form in (serialization.Encoding.DER, serialization.Encoding.PEM)
    )
    rsa._load.cache_clear()
    start = time.perf_counter()
    key = rsa.load_rsa_public_key(der, allow_2048=True)
    assert time.perf_counter() - start < 1
    assert (key.bits, key.size, key.spki, rsa.to_pem(der)) == (bits, bits // 8, der, pem)
    assert rsa.load_rsa_public_key(pem, allow_2048=True) == key
    assert key.n == public.public_numbers().n


def test_t086_other_encodings_of_a_good_key_are_malformed(private_key) -> None:
    public = private_key(3072).public_key()
    spki = public.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    n = public.public_numbers().n
    long_form = b"\x30\x83\x00" + spki[2:4] + spki[4:]
    inner = rsa._der(0x30, rsa._der(2, b"\0\0" + n.to_bytes(384, "big")) + rsa._der_integer(65537))
    no_null = rsa._der(0x30, rsa._ALGORITHM[:1] + b"\x0b" + rsa._ALGORITHM[2:-2])
    negative = rsa._der(0x30, rsa._der(2, n.to_bytes(384, "big")) + rsa._der_integer(65537))
    text = base64.b64encode(spki)
    bad = [
        spki + b"\0",
        spki[:-1],
        long_form,
        rsa._der(0x30, rsa._ALGORITHM + rsa._der(3, b"\0" + inner)),
        rsa._der(0x30, rsa._ALGORITHM + rsa._der(3, b"\0" + negative)),
        rsa._der(0x30, no_null + spki[-400:]),
        public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1),
        public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.PKCS1),
        private_key(3072).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        b"", b"0", b"\x30\x84\xff\xff\xff\xff", b"\x30\x80", b"ssh-rsa AAAA", b"\x30" * 100,
        b"-----BEGIN PUBLIC KEY-----\n" + text[:-4] + b"\n-----END PUBLIC KEY-----\n",
        rsa.to_pem(spki) * 2,
        b"hello\n" + rsa.to_pem(spki),
        rsa.to_pem(spki).replace(b"A", b"*", 1),
    ]  # fmt: skip
    for data in bad:
        refused(lambda d=data: rsa.load_rsa_public_key(d), Code.MALFORMED)
    refused(lambda: rsa.load_rsa_public_key(bytes(20000)), Code.TOO_LARGE)
    for i in range(0, len(spki), 7):  # no single changed byte of the header is accepted
        changed = spki[:i] + bytes([spki[i] ^ 1]) + spki[i + 1 :]
        if i < 33 or i >= len(spki) - 5:
            with pytest.raises(Exception, match=r"E_MALFORMED|E_WEAK_RSA"):
                rsa.load_rsa_public_key(changed)


@pytest.mark.parametrize("bits", [2048, 3072, 4096])
def test_oaep_equals_pycryptodome_and_decrypts_with_cryptography(bits: int, private_key) -> None:
    key = private_key(bits)
    public = SoftwareKey(key).public
    theirs = RSA.construct((public.n, public.e))
    for i, length in enumerate((0, 1, 66, public.size - 66)):
        coins, message = bytes([i + 1]) * 32, bytes(range(256))[:length] * 1
        message = message.ljust(length, b"x")
        mine = public.encrypt(message, coins)
        cipher = PKCS1_OAEP.new(theirs, hashAlgo=SHA256, randfunc=lambda n, c=coins: c[:n])
        assert mine == cipher.encrypt(message)
        scheme = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
        assert key.decrypt(mine, scheme) == message
        assert oaep.decode(oaep.encode(message, coins, public.size)) == message
    with pytest.raises(ValueError, match="too long"):
        public.encrypt(bytes(public.size - 65), bytes(32))
    with pytest.raises(ValueError, match="coins"):
        public.encrypt(b"", bytes(31))


def test_oaep_decoding_refuses_every_changed_encoding() -> None:
    em = oaep.encode(b"message", b"c" * 32, 256)
    for i in range(0, 256, 5):
        changed = em[:i] + bytes([em[i] ^ 0x40]) + em[i + 1 :]
        refused(lambda c=changed: oaep.decode(c), Code.UNWRAP_FAILED)
    for raw in (b"", bytes(256), em[:60]):
        refused(lambda r=raw: oaep.decode(r), Code.UNWRAP_FAILED)


def test_t096_raw_rsa_token_decrypts_what_oaep_decrypts(private_key, rsa_key) -> None:
    numbers = private_key(2048).private_numbers()
    n, d = numbers.public_numbers.n, numbers.d
    key = rsa_key()
    token = RawRsaDecryptor(
        key.public, lambda c: pow(int.from_bytes(c, "big"), d, n).to_bytes(256, "big")
    )
    leaf = closed_leaves_of(part_of([make_key("a")], 1, key.public))[0]
    assert token.decrypt(leaf.ciphertext) == key.decrypt(leaf.ciphertext)
    with pytest.raises(BadLeaf):
        token.decrypt(bytes(255) + b"\x07")


def test_possession_is_proved_and_checked(rsa_key) -> None:
    for bits in (2048, 3072):
        key = rsa_key(bits)
        challenges = make_challenges(key.public, SeededRng(bits))
        answers = answer(challenges.public_json, key)
        check_answers(challenges, answers)
        # The node's expectation does not answer for the owner, and answers hold no plaintext.
        public = json.loads(challenges.public_json)
        forged = json.loads(answers)
        forged["answers"] = [h.hex() for h in challenges.expected]
        refused(
            lambda c=challenges, f=forged: check_answers(c, json.dumps(f).encode()), Code.BAD_PROOF
        )
        plain = key.decrypt(bytes.fromhex(public["challenges"][0]))
        assert plain.hex() not in answers.decode()
        assert plain[32:].hex() not in answers.decode()


def test_possession_refuses_wrong_answers_and_other_sets(rsa_key) -> None:
    key, other = rsa_key(), rsa_key(2048, 1)
    challenges = make_challenges(key.public, SeededRng(1))
    answers = json.loads(answer(challenges.public_json, key))
    for i in range(8):
        wrong = {**answers, "answers": list(answers["answers"])}
        wrong["answers"][i] = "00" * 32
        refused(lambda w=wrong: check_answers(challenges, json.dumps(w).encode()), Code.BAD_PROOF)
    again = make_challenges(key.public, SeededRng(2))
    refused(lambda: check_answers(again, json.dumps(answers).encode()), Code.BAD_PROOF)
    refused(lambda: answer(challenges.public_json, other), Code.BAD_PROOF)
    stolen = replace(challenges, rsa_spki_sha256=other.public.spki_sha256)
    refused(lambda: check_answers(stolen, json.dumps(answers).encode()), Code.BAD_PROOF)
    for change in (
        {"version": 2}, {"format": "x"}, {"answers": []}, {"answers": ["00"] * 8}, {"nonce": 5},
        {"answers": answers["answers"] * 2}, {"extra": 1}, {"answers": None},
    ):  # fmt: skip
        body = json.dumps({**answers, **change}).encode()
        refused(lambda b=body: check_answers(challenges, b), Code.MALFORMED)
    refused(lambda: check_answers(challenges, b"\xff"), Code.MALFORMED)


def test_possession_never_decrypts_a_leaf_of_a_document(rsa_key) -> None:
    key = rsa_key()
    leaf = closed_leaves_of(part_of([make_key("a")], 1, key.public))[0]
    challenges = json.loads(make_challenges(key.public, SeededRng(1)).public_json)
    challenges["challenges"][7] = leaf.ciphertext.hex()
    error = refused(lambda: answer(json.dumps(challenges).encode(), key), Code.BAD_PROOF)
    assert key.decrypt(leaf.ciphertext).hex() not in str(error.to_json())
    swapped = json.loads(make_challenges(key.public, SeededRng(1)).public_json)
    swapped["challenges"][0], swapped["challenges"][1] = swapped["challenges"][1::-1]
    refused(lambda: answer(json.dumps(swapped).encode(), key), Code.BAD_PROOF)
