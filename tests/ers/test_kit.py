"""The published kit: both verifiers agree with every ``expect:`` line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ers import second_verifier
from ers.helpers import refused
from keycairn.ers.decrypt import SoftwareKey
from keycairn.ers.document import Document
from keycairn.ers.recover import recover
from keycairn.ers.rsa import load_rsa_public_key
from keycairn.ers.verify import ExpectedKey, verify_document

KIT = Path(__file__).with_name("kit")
FAULTS = sorted(p.stem for p in (KIT / "faults").iterdir())
RSA = load_rsa_public_key((KIT / "rsa-public-key.pem").read_bytes())
EXPECTED = json.loads((KIT / "expected.json").read_text())
WANTED = [
    ExpectedKey(k["key_id"], bytes.fromhex(k["public_key"]), k["curve"]) for k in EXPECTED["keys"]
]


def _fault(name: str) -> tuple[str, bytes]:
    lines = (KIT / "faults" / f"{name}.txt").read_text().splitlines()
    fields = [line.split(":") for line in lines]
    assert [f[0] for f in fields[:3]] == ["expect", "check", "base"]
    expect, check, base = (f[1].strip() for f in fields[:3])
    assert expect == "invalid"
    data = (KIT / base).read_bytes()
    for i in range(len(fields) - 3, 2, -3):  # from the end, so that offsets stay right
        offset, old, new = (f[1].strip() for f in fields[i : i + 3])
        at, length = int(offset), len(old) // 2
        assert data[at : at + length].hex() == old
        data = data[:at] + bytes.fromhex(new) + data[at + length :]
    return check, data


@pytest.mark.parametrize("name", ["all.cbor", "all.json", "one.cbor", "one.json"])
def test_valid_documents(name: str) -> None:
    data = (KIT / name).read_bytes()
    document = Document.load(data)
    report = verify_document(document, rsa=RSA, expected=WANTED, label=EXPECTED["label"])
    assert report.sha256 == EXPECTED["sha256"][name[:3]]
    assert report.complete is (name[:3] == "all")
    keys = {k["key_id"]: (k["curve"], bytes.fromhex(k["public_key"])) for k in EXPECTED["keys"]}
    second_verifier.verify(data, spki=RSA.spki, label=EXPECTED["label"], expected=keys)


def test_recovery_gives_the_expected_keys() -> None:
    key = SoftwareKey.from_pem((KIT / "test-only-rsa-key.pem").read_bytes())
    document = Document.load((KIT / "all.json").read_bytes())
    for back, want in zip(recover(document, key), EXPECTED["keys"], strict=True):
        assert back.key_id == want["key_id"]
        scalar = back.statement.group.encode_scalar(back.private_key.reveal())
        assert scalar.hex() == want["private_key"]
        assert back.chain_code is not None
        assert back.chain_code.reveal().hex() == want["chain_code"]


@pytest.mark.parametrize("name", FAULTS)
def test_faults(name: str) -> None:
    check, data = _fault(name)
    error = refused(lambda: verify_document(Document.load(data), rsa=RSA))
    assert error.detail["check"] in check.split(" or ")
    with pytest.raises(second_verifier.Invalid):
        second_verifier.verify(data, spki=RSA.spki)


def test_cancelling_errors_are_refused() -> None:
    data = (KIT / "cancelling-errors.cbor").read_bytes()
    error = refused(lambda: verify_document(Document.load(data), rsa=RSA))
    assert error.detail["check"] == "challenge"
    with pytest.raises(second_verifier.Invalid):
        second_verifier.verify(data, spki=RSA.spki)
