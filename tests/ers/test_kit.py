"""The published kits of both versions: both verifiers agree with every ``expect:`` line."""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ers import second_verifier
from ers.helpers import CountingKey, refused
from keycairn.ers.decrypt import SoftwareKey
from keycairn.ers.document import Document
from keycairn.ers.leaf import Leaves
from keycairn.ers.recover import open_part, recover
from keycairn.ers.rsa import RsaPublicKey, load_rsa_public_key
from keycairn.ers.verify import ExpectedKey, closed_leaves_of, verify_document

KEY_FIELDS = ("curve", "public_key", "generation", "record_hash")


@dataclass(frozen=True)
class Fault:
    """A fault file: what the caller gives, what must be said, the faulty bytes."""

    checks: list[str]
    data: bytes
    rsa: RsaPublicKey | None
    label: str | None
    vault: str | None
    node: int | None
    keys: list[tuple[Any, ...]]

    @property
    def expected(self) -> list[ExpectedKey]:
        return [ExpectedKey(key_id, **dict([fact] if fact else [])) for key_id, *fact in self.keys]


@dataclass(frozen=True)
class Kit:
    """A folder of published files."""

    version: int
    folder: Path

    @cached_property
    def rsa(self) -> RsaPublicKey:
        return self.rsa_key("rsa-public-key.pem")

    @cached_property
    def expected(self) -> dict[str, Any]:
        value = json.loads(self.read("expected.json"))
        assert isinstance(value, dict)
        return value

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def rsa_key(self, name: str) -> RsaPublicKey:
        return load_rsa_public_key(self.read(name), allow_2048=True)

    def rsa_of(self, document: str) -> RsaPublicKey:
        bits = document.rpartition("-")[2]
        return self.rsa_key(f"rsa-{bits}-public-key.pem") if bits.isdigit() else self.rsa

    def private(self, document: str = "all") -> SoftwareKey:
        bits = document.rpartition("-")[2]
        stem = f"rsa-{bits}" if bits.isdigit() else "rsa"
        return SoftwareKey.from_pem(self.read(f"test-only-{stem}-key.pem"))

    def keys(self, document: str) -> list[dict[str, Any]]:
        """Expected keys of ``all`` (and ``one``) or of another document."""
        name = "all" if document == "one" else document
        return [k for k in self.expected["keys"] if k.get("document", "all") == name]

    def fault(self, name: str) -> Fault:
        text = self.read(f"faults/{name}.txt").decode().splitlines()
        lines = [(field, value.strip()) for field, _, value in (x.partition(":") for x in text)]
        start = next((i for i, line in enumerate(lines) if line[0] == "offset"), len(lines))
        head = dict(lines[:start])
        assert head["expect"] == "invalid"
        data = self.read(head["base"])
        for i in range(len(lines) - 3, start - 1, -3):  # from the end: offsets stay right
            assert [field for field, _ in lines[i : i + 3]] == ["offset", "old", "new"]
            offset, old, new = (value for _, value in lines[i : i + 3])
            at, length = int(offset), len(old) // 2
            assert data[at : at + length].hex() == old
            data = data[:at] + bytes.fromhex(new) + data[at + length :]
        rsa = head.get("given-rsa-public-key", "rsa-public-key.pem")
        return Fault(
            checks=head["check"].split(" or "),
            data=data,
            rsa=None if rsa == "none" else self.rsa_key(rsa),
            label=head.get("given-label"),
            vault=head.get("given-vault"),
            node=int(head["node"]) if "node" in head else None,
            keys=[_given(value) for field, value in lines[:start] if field == "given-key"],
        )


def _given(line: str) -> tuple[Any, ...]:
    key_id, *fact = line.split(" ")
    if not fact:
        return (key_id,)
    name, value = fact
    assert name in KEY_FIELDS
    if name == "generation":
        return key_id, name, int(value)
    return key_id, name, value if name == "curve" else bytes.fromhex(value)


ONE, TWO = (Kit(i, Path(__file__).with_name(name)) for i, name in ((1, "kit"), (2, "kit-2")))
BOTH = pytest.mark.parametrize("kit", [ONE, TWO], ids=["version-1", "version-2"])
VALID = [
    (kit, f"{name}.{form}")
    for kit, names in ((ONE, ("all", "one")), (TWO, ("all", "one", "p256")))
    for name in names
    for form in ("cbor", "json")
] + [(TWO, "five-2048.cbor"), (TWO, "compact-4096.cbor")]
FAULTS = [(kit, p.stem) for kit in (ONE, TWO) for p in sorted((kit.folder / "faults").iterdir())]
COMPLETE = ("all", "compact-4096")


@pytest.mark.parametrize(("kit", "file"), VALID, ids=lambda v: getattr(v, "version", v))
def test_t096_valid_documents(kit: Kit, file: str) -> None:
    data, name = kit.read(file), file.split(".")[0]
    document, keys, rsa = Document.load(data), kit.keys(name), kit.rsa_of(name)
    wanted = [ExpectedKey(k["key_id"], bytes.fromhex(k["public_key"]), k["curve"]) for k in keys]
    report = verify_document(document, rsa=rsa, expected=wanted, label=kit.expected["label"])
    assert document.context.version == kit.version
    assert report.sha256 == kit.expected["sha256"][name]
    assert report.complete is (name in COMPLETE)
    assert (document.to_json() if file.endswith("json") else document.to_cbor()) == data
    second = {k["key_id"]: (k["curve"], bytes.fromhex(k["public_key"])) for k in keys}
    label = kit.expected["label"]
    second_verifier.verify(data, spki=rsa.spki, label=label, expected=second)


@pytest.mark.parametrize(
    ("kit", "name"),
    [(ONE, "all.json"), *((TWO, f) for f in ("all.json", "p256.json", "five-2048.cbor"))],
    ids=lambda v: getattr(v, "version", v),
)
def test_recovery_gives_the_expected_keys(kit: Kit, name: str) -> None:
    stem = name.split(".")[0]
    document, keys = Document.load(kit.read(name)), kit.keys(stem)
    for back, want in zip(recover(document, kit.private(stem)), keys, strict=True):
        assert (back.key_id, back.curve) == (want["key_id"], want["curve"])
        scalar = back.statement.group.encode_scalar(back.private_key.reveal())
        assert scalar.hex() == want["private_key"]
        code = back.chain_code.reveal().hex() if back.chain_code else None
        assert code == want["chain_code"]
        assert back.paths == (tuple(want["paths"]) if kit.version == 2 else None)


@pytest.mark.parametrize(("kit", "name"), FAULTS, ids=lambda v: getattr(v, "version", v))
def test_t097_t105_faults(kit: Kit, name: str) -> None:
    fault = kit.fault(name)
    given = {"label": fault.label, "vault": fault.vault}
    error = refused(
        lambda: verify_document(
            Document.load(fault.data), rsa=fault.rsa, expected=fault.expected, **given
        )
    )
    assert error.detail["check"] in fault.checks
    assert fault.node is None or error.detail["node"] == fault.node
    spki = fault.rsa.spki if fault.rsa else None
    with pytest.raises(second_verifier.Invalid):
        second_verifier.verify(fault.data, spki=spki, facts=fault.keys, **given)


#: Classes of bad input about documents, and one about the RSA keys in them (security, J).
CLASSES = {"T-087", "T-097", "T-099", "T-101", "T-102", "T-105", "T-107", "T-108"}


def test_every_class_of_bad_input_has_files_and_every_file_is_listed() -> None:
    page = (Path(__file__).parents[2] / "docs" / "ers-test-kit.md").read_text()
    found = set()
    for path in sorted((TWO.folder / "faults").iterdir()):
        lines = path.read_text().splitlines()
        assert lines[0] == "expect: invalid"
        kind = lines[1].removeprefix("class: ")
        found.add(kind)
        assert f"| {kind} | `{path.stem}` |" in page
    assert found == CLASSES
    for name in TWO.folder.iterdir():
        assert name.is_dir() or f"`{name.name}`" in page or name.name == "README.md"


@BOTH
def test_cancelling_errors_are_refused(kit: Kit) -> None:
    data = kit.read("cancelling-errors.cbor")
    error = refused(lambda: verify_document(Document.load(data), rsa=kit.rsa))
    assert error.detail["check"] == "challenge"
    with pytest.raises(second_verifier.Invalid):
        second_verifier.verify(data, spki=kit.rsa.spki)


def test_a_bad_ledger_costs_nothing_but_its_paths() -> None:
    data = TWO.read("bad-ledger.cbor")
    document = Document.load(data)
    verify_document(document, rsa=TWO.rsa)
    second_verifier.verify(data, spki=TWO.rsa.spki)
    opened = open_part(document.parts[0], CountingKey(TWO.private()))  # type: ignore[arg-type]
    assert opened is not None
    assert opened.ledger is None
    assert len(opened.chain_codes) == 3


def test_parts_of_both_versions_do_not_mix() -> None:
    old, new = (Document.load(kit.read("one.cbor")).parts[0] for kit in (ONE, TWO))
    error = refused(lambda: Document((old, new)))
    assert error.detail["check"] == "mixed version"


def _hkdf(salt: bytes, material: bytes, info: bytes, blocks: int) -> bytes:
    """RFC 5869 with SHA-256, by hand."""
    key, out, last = hmac.digest(salt, material, hashlib.sha256), b"", b""
    for i in range(1, blocks + 1):
        last = hmac.digest(key, last + info + bytes([i]), hashlib.sha256)
        out += last
    return out


@pytest.mark.parametrize("name", ["all", "p256"])
def test_the_box_is_the_format_pages(name: str) -> None:
    """Section 7.5 step by step: K out of a leaf, keys, nonce, chain codes, ledger."""
    key, document = TWO.private(), Document.load(TWO.read(f"{name}.cbor"))
    for part in document.parts:
        context, leaf = part.context, closed_leaves_of(part)[0]
        plain = key.decrypt(leaf.ciphertext)
        assert plain[:34] == context.ctx + leaf.k.to_bytes(2, "big")
        bundle = next(b for b in context.bundles if b.has_k)
        at = 48 * (bundle.size - 1)
        stream = Leaves(context, key.public).pads(leaf.k, plain[34:], bundle)
        pad = int.from_bytes(stream[at : at + 48], "big")
        place = 32 * (bundle.start + bundle.size - 1)
        k = (int.from_bytes(leaf.z[place : place + 32], "big") - pad) % bundle.group.q
        info = b"KCT1" + (7).to_bytes(2, "big") + b"ers/box" + (1).to_bytes(2, "big")
        keys = _hkdf(context.ctx, k.to_bytes(32, "big"), info, 2)
        nonce, sealed = part.box[:12], part.box[12:]
        inside = AESGCM(keys[:32]).decrypt(nonce, sealed, context.ctx)
        assert nonce == hmac.digest(keys[32:], inside, hashlib.sha256)[:12]
        codes = [k["chain_code"] for k in TWO.keys(name) if k["chain_code"]]
        assert inside[: 32 * len(codes)].hex() == "".join(codes)
        ledger = cbor2.loads(inside[32 * len(codes) :])
        for entry, want in zip(ledger, TWO.keys(name), strict=True):
            assert entry == sorted(entry)
            assert set(entry) <= set(want["paths"])
