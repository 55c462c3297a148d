"""Proof of possession: the owner of an RSA key shows that it can decrypt (R-30).

A node encrypts eight random challenges; the owner answers with ``keycairn-recover prove``. The
answer must not turn the owner into a decryption service: an attacker could send a leaf of an ERS
document as a challenge. So the owner answers only if the plaintext names this use, and gives
out a hash of it, never the plaintext.
"""

from __future__ import annotations

import hmac
import json
import re
from dataclasses import dataclass
from typing import Any

from keycairn.encoding import canonical_json, decode_hex, decode_json, digest, tag
from keycairn.errors import Code, KeycairnError, malformed
from keycairn.ers.decrypt import BadLeaf, Decryptor
from keycairn.ers.rsa import RsaPublicKey
from keycairn.ports import Rng

_PURPOSE = tag("ers/possession")
_ANSWER = tag("ers/possession-answer")
_EXPECT = tag("ers/possession-expected")

COUNT = 8
CHALLENGES_FORMAT = "keycairn-rsa-challenges"
ANSWERS_FORMAT = "keycairn-rsa-answers"
VERSION = 1
_MAX_ALL = 1 << 22  # 255 sets for RSA-4096


@dataclass(frozen=True)
class Challenges:
    """Eight challenges for one RSA key.

    Attributes:
        public_json: what the owner gets; no secret in it.
        expected: tagged hashes of the right answers. The node keeps them; they do not help
            anyone to answer.
        rsa_spki_sha256: the key, hex.
        nonce: 32 random bytes that name this set.
    """

    public_json: bytes
    expected: tuple[bytes, ...]
    rsa_spki_sha256: str
    nonce: bytes


def _purpose(spki_sha256: str, nonce: bytes, i: int) -> bytes:
    return digest(_PURPOSE, spki_sha256, nonce, i)


def _bad(message: str) -> KeycairnError:
    return KeycairnError(
        Code.BAD_PROOF,
        message,
        not_lost="The key was not registered.",
        next="ask for new challenges with `keycairn ers key add`",
    )


def make_challenges(key: RsaPublicKey, rng: Rng) -> Challenges:
    """Encrypt eight random challenges to ``key``.

    Each plaintext is 64 bytes: a hash that names use, key, set and position, and 32 random
    bytes. An answer is a tagged hash of the plaintext.
    """
    nonce = rng.bytes(32)
    ciphertexts: list[str] = []
    expected: list[bytes] = []
    for i in range(COUNT):
        plain = _purpose(key.spki_sha256, nonce, i) + rng.bytes(32)
        ciphertexts.append(key.encrypt(plain, rng.bytes(32)).hex())
        expected.append(digest(_EXPECT, digest(_ANSWER, plain)))
    public = {
        "format": CHALLENGES_FORMAT,
        "version": VERSION,
        "rsa_spki_sha256": key.spki_sha256,
        "nonce": nonce.hex(),
        "challenges": ciphertexts,
    }
    return Challenges(canonical_json(public), tuple(expected), key.spki_sha256, nonce)


def _read(data: bytes, kind: str, items: str) -> dict[str, Any]:
    value = decode_json(data, max_bytes=1 << 16)
    names = {"format", "version", "rsa_spki_sha256", "nonce", items}
    if not isinstance(value, dict) or set(value) != names or value["format"] != kind:
        raise malformed(f"not a {kind} file")
    if type(value["version"]) is not int or value["version"] != VERSION:
        raise malformed("this version of the file is not known here")
    decode_hex(value["rsa_spki_sha256"], length=32, what="rsa_spki_sha256")
    decode_hex(value["nonce"], length=32, what="nonce")
    if not isinstance(value[items], list) or len(value[items]) != COUNT:
        raise malformed(f"a file has exactly {COUNT} {items}")
    return value


def answer(challenges_json: bytes, private_key: Decryptor) -> bytes:
    """The owner's side: decrypt and answer. Returns the answers file (JSON).

    Raises:
        KeycairnError: E_MALFORMED for another kind of file; E_BAD_PROOF if the challenges are
            for another key, do not decrypt, or are not challenges at all (then nothing of any
            plaintext is given out).
    """
    value = _read(challenges_json, CHALLENGES_FORMAT, "challenges")
    public = private_key.public
    if value["rsa_spki_sha256"] != public.spki_sha256:
        raise _bad("the challenges are for another RSA key")
    nonce = bytes.fromhex(value["nonce"])
    answers: list[str] = []
    for i, text in enumerate(value["challenges"]):
        raw = decode_hex(text, length=public.size, what="challenge")
        try:
            plain = private_key.decrypt(raw)
        except BadLeaf as exc:
            raise _bad("a challenge does not decrypt under this key") from exc
        want = _purpose(public.spki_sha256, nonce, i)
        if len(plain) != 64 or not hmac.compare_digest(plain[:32], want):
            raise _bad("a ciphertext is not a challenge for this key")
        answers.append(digest(_ANSWER, plain).hex())
    return canonical_json(
        {
            "format": ANSWERS_FORMAT,
            "version": VERSION,
            "rsa_spki_sha256": public.spki_sha256,
            "nonce": value["nonce"],
            "answers": answers,
        }
    )


def answer_all(data: bytes, private_key: Decryptor) -> bytes:
    """The owner's side for what ``keycairn ers key add`` gave: one set of challenges, or its
    whole result (``--json``) with those of one node or of several.

    Returns:
        The answers file (JSON): that of :func:`answer` for one set, else
        ``{"answers": {node: that of its set}}``.

    Raises:
        KeycairnError: as :func:`answer`.
    """
    value = decode_json(data, max_bytes=_MAX_ALL)
    sets = value.get("challenges") if isinstance(value, dict) else None
    if not isinstance(sets, dict):
        return answer(data, private_key)
    if "format" in sets:
        return answer(canonical_json(sets), private_key)
    if not sets or not all(re.fullmatch("[1-9][0-9]{0,2}", node) for node in sets):
        raise malformed(f"not a {CHALLENGES_FORMAT} file")
    answers = {node: answer(canonical_json(one), private_key) for node, one in sets.items()}
    return canonical_json({"answers": {node: json.loads(one) for node, one in answers.items()}})


def check_answers(challenges: Challenges, answers_json: bytes) -> None:
    """The node's side: all eight answers are right.

    Raises:
        KeycairnError: E_MALFORMED for another kind of file, E_BAD_PROOF otherwise.
    """
    value = _read(answers_json, ANSWERS_FORMAT, "answers")
    if (
        value["rsa_spki_sha256"] != challenges.rsa_spki_sha256
        or value["nonce"] != challenges.nonce.hex()
    ):
        raise _bad("the answers are for other challenges")
    good = True
    for text, want in zip(value["answers"], challenges.expected, strict=True):
        given = decode_hex(text, length=32, what="answer")
        good &= hmac.compare_digest(digest(_EXPECT, given), want)
    if not good:
        raise _bad("the answers are not right: the key's owner cannot decrypt")
