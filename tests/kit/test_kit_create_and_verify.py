"""Making kits, verifying them by both programs, and everything that is refused."""

from __future__ import annotations

import hashlib
import json
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pypdfium2
import pytest
import zxingcpp
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import pkcs12

from ers.test_kit import TWO
from keycairn.kit.offline import kitfile, meeting
from keycairn.kit.offline.errors import ToolError
from kit.making import LABEL, document, fails, make, unpacked, works
from kit.tool import gives, refuses, result

PEM, DER = serialization.Encoding.PEM, serialization.Encoding.DER
PKCS8, PKCS1 = (
    serialization.PrivateFormat.PKCS8,
    serialization.PrivateFormat.TraditionalOpenSSL,
)
OPENSSH, CLEAR = serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
SEALED = serialization.BestAvailableEncryption(b"passphrase")


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("made"))[0]


def test_both_programs_verify_it_as_zip_and_as_folder(
    kit: Path, tool: Path, tmp_path: Path
) -> None:
    folder = unpacked(kit, tmp_path / "u")
    ours = [works("kit", "verify", kit), works("kit", "verify", folder)]
    theirs = [result(tool, "verify", kit), result(folder / kitfile.TOOL, "verify")]
    assert ours[0] == ours[1]
    fingerprint = hashlib.sha256((folder / kitfile.SUMS).read_bytes()).hexdigest()
    for found in theirs:
        assert found["kits"][0]["fingerprint"] == ours[0]["fingerprint"] == fingerprint
        assert found["kits"][0]["label"] == LABEL
        assert [d["sha256"] for d in found["documents"]] == [TWO.expected["sha256"]["all"]]
        assert all(key["status"] == "COMPLETE" for key in found["documents"][0]["keys"])
    tool_sha256 = hashlib.sha256((folder / kitfile.TOOL).read_bytes()).hexdigest()
    assert theirs[1]["tool_sha256"] == theirs[1]["kits"][0]["tool_sha256"] == tool_sha256
    assert ours[0]["tool"] == "this version's"
    assert any("fingerprint" in text for text in ours[0]["not_checked"])
    # What the caller knows is compared.
    assert works("kit", "verify", kit, "--fingerprint", fingerprint)
    assert gives("verify", kit, "--fingerprint", fingerprint)["not_checked"] == []
    fails(5, "E_STORE_INTEGRITY", "kit", "verify", kit, "--fingerprint", "0" * 64)
    refuses(5, "E_STORE_INTEGRITY", "verify", kit, "--fingerprint", "0" * 64)
    wrong = "key-a=" + "02" * 33
    fails(5, "E_ERS_INVALID", "kit", "verify", kit, "--public-key", wrong)
    refuses(5, "E_ERS_INVALID", "verify", kit, "--public-key", wrong)
    refuses(5, "E_ERS_INVALID", "verify", kit, "--public-key", "key-z=02")


def test_the_same_documents_give_the_same_bytes(kit: Path, tmp_path: Path) -> None:
    assert make(tmp_path)[0].read_bytes() == kit.read_bytes()


def test_operating_system_tools_check_it(kit: Path, tmp_path: Path) -> None:
    folder = unpacked(kit, tmp_path / "u")
    done = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd=folder, capture_output=True, text=True, check=True
    )
    assert done.stdout.count(": OK\n") == 5


def test_the_page_names_what_is_compared(kit: Path, tmp_path: Path) -> None:
    folder = unpacked(kit, tmp_path / "u")
    found = works("kit", "verify", kit)
    pdf = pypdfium2.PdfDocument(folder / kitfile.PAGE)
    text = " ".join("\n".join(p.get_textpage().get_text_range() for p in pdf).split())
    codes = {code.text for p in pdf for code in zxingcpp.read_barcodes(p.render(scale=2).to_pil())}
    rsa = hashlib.sha256(TWO.rsa.spki).hexdigest()
    prints = [found["fingerprint"], found["tool_sha256"], rsa, found["documents"][0]["sha256"]]
    readme = (folder / kitfile.README).read_text(encoding="utf-8")
    for value in prints:
        assert " ".join(value[i : i + 4] for i in range(0, 64, 4)) in text
        assert value in codes
        assert value in readme
    rows = json.loads((folder / kitfile.PUBLIC).read_text())["keys"]
    for row in rows:
        assert row["public_key"] in text
        assert all(address in text for address in row["addresses"].values())
        assert next(iter(row["addresses"].values()), row["public_key"]) in codes
    assert LABEL in text
    assert "python3 -I keycairn-offline.pyz recover" in text


def rewritten(kit: Path, out: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """The same zip with other members."""
    with zipfile.ZipFile(kit) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out


def members(kit: Path) -> list[str]:
    with zipfile.ZipFile(kit) as archive:
        return archive.namelist()


def test_every_changed_missing_or_added_member_is_noticed(kit: Path, tmp_path: Path) -> None:
    def flipped(data: bytes) -> bytes:
        return data[:50] + bytes([data[50] ^ 1]) + data[51:]

    changes: list[Callable[[dict[str, bytes]], None]] = []
    for name in members(kit):
        if name != kitfile.MANIFEST:
            changes.append(lambda f, n=name: f.update({n: flipped(f[n])}))  # type: ignore[misc]
        changes.append(lambda f, n=name: f.pop(n))  # type: ignore[misc]
    changes.append(lambda f: f.update({"more.txt": b"more"}))
    changes.append(lambda f: f.update({"../escape": b"out"}))
    for i, change in enumerate(changes):
        bad = rewritten(kit, tmp_path / f"{i}.zip", change)
        with pytest.raises(ToolError) as caught:
            kitfile.open_kit(str(bad))
        assert caught.value.code == "E_STORE_INTEGRITY", i
    # Once through both programs, as a user meets it.
    fails(5, "E_STORE_INTEGRITY", "kit", "verify", bad)
    refuses(5, "E_STORE_INTEGRITY", "verify", bad)
    cut = tmp_path / "cut.zip"
    for part in (3, 1000, 60_000):
        cut.write_bytes(kit.read_bytes()[:-part])
        with pytest.raises(ToolError):
            kitfile.open_kit(str(cut))


def _manifest(files: dict[str, bytes]) -> None:
    """A forger's: hashes, sums and fingerprint made anew."""
    files[kitfile.SUMS] = kitfile.sums(
        {n: d for n, d in files.items() if n not in (kitfile.MANIFEST, kitfile.SIGNATURE)}
    )
    body = json.loads(files[kitfile.MANIFEST])
    body["fingerprint"] = hashlib.sha256(files[kitfile.SUMS]).hexdigest()
    body["files"] = {
        n: {"sha256": hashlib.sha256(d).hexdigest(), "size": len(d)}
        for n, d in files.items()
        if n not in (kitfile.MANIFEST, kitfile.SIGNATURE)
    }
    files[kitfile.MANIFEST] = json.dumps(body).encode()


def test_a_forged_manifest_does_not_help(kit: Path, tmp_path: Path) -> None:
    """Proofs, public data and addresses are checked whatever the manifest says; and then the
    fingerprint is another."""

    def forged(change: Callable[[dict[str, bytes]], None]) -> Path:
        def both(files: dict[str, bytes]) -> None:
            change(files)
            _manifest(files)

        out = tmp_path / f"{len(list(tmp_path.iterdir()))}.zip"
        return rewritten(kit, out, both)

    def public(files: dict[str, bytes], old: bytes, new: bytes) -> None:
        assert old in files[kitfile.PUBLIC]
        files[kitfile.PUBLIC] = files[kitfile.PUBLIC].replace(old, new)

    [name] = [n for n in members(kit) if n.startswith("documents/")]
    bad = TWO.read("cancelling-errors.cbor")
    other_key = TWO.read("p256.json")
    a = TWO.expected["keys"][0]["public_key"].encode()
    address = b"0x9780B83CBd11368664eBc7F68B4Ff1f41bDCa19D"
    for change, code in (
        (lambda f: f.update({name: f[name].replace(b"kit lab", b"kit lib")}), "E_ERS_INVALID"),
        (lambda f: f.update({name: bad}), "E_ERS_INVALID"),
        (lambda f: f.update({name: other_key}), "E_STORE_INTEGRITY"),
        (lambda f: public(f, a, b"02" + a[2:]), "E_STORE_INTEGRITY"),
        (lambda f: public(f, address, b"0x" + b"00" * 20), "E_STORE_INTEGRITY"),
        (lambda f: f.pop(name), "E_STORE_INTEGRITY"),
        (lambda f: f.update({"key.pem": TWO.read("test-only-rsa-key.pem")}), "E_POLICY"),
    ):
        path = forged(change)
        exit_code = 3 if code == "E_POLICY" else 5
        for found in (
            refuses(exit_code, code, "verify", path),
            fails(exit_code, code, "kit", "verify", path),
        ):
            assert found["message"]
    # What can't be told from inside: only the fingerprint on paper tells.
    fingerprint = works("kit", "verify", kit)["fingerprint"]
    path = forged(lambda f: f.update({kitfile.README: b"Send the key to us."}))
    assert gives("verify", path)["kits"][0]["fingerprint"] == fingerprint
    path = forged(lambda f: f.update({kitfile.TOOL: b"#!/bin/sh\n"}))
    refuses(5, "E_STORE_INTEGRITY", "verify", path, "--fingerprint", fingerprint)


def test_a_label_cannot_steer_a_terminal(kit: Path, tmp_path: Path) -> None:
    """The manifest is not under the fingerprint: whoever hands out a kit can write a label."""
    for i, label in enumerate(["\x1b[2J", "a\nvalid: True", "\u202eb", "x" * 257, None, 7]):

        def change(files: dict[str, bytes], label: object = label) -> None:
            body = json.loads(files[kitfile.MANIFEST])
            files[kitfile.MANIFEST] = json.dumps({**body, "label": label}).encode()

        bad = rewritten(kit, tmp_path / f"{i}.zip", change)
        refuses(5, "E_STORE_INTEGRITY", "verify", bad)


def test_a_fingerprint_says_nothing_about_documents_beside_the_kit(
    kit: Path, tmp_path: Path
) -> None:
    mark = gives("verify", kit)["kits"][0]["fingerprint"]
    assert gives("verify", kit, "--fingerprint", mark)["not_checked"] == []
    beside = tmp_path / "p256.json"
    beside.write_bytes(TWO.read("p256.json"))
    found = gives("verify", kit, beside, "--fingerprint", mark)["not_checked"]
    assert "rsa_public_key: taken from the document" in found
    assert any(text.startswith("public_key of ") for text in found)
    assert not any("fingerprint" in text for text in found)


def test_a_private_key_among_the_kits_documents_is_seen(kit: Path, tmp_path: Path) -> None:
    folder = unpacked(kit, tmp_path / "out")
    (folder / "documents" / "mine.pem").write_bytes(TWO.read("test-only-rsa-key.pem"))
    refuses(3, "E_POLICY", "verify", folder)


def test_a_signed_kit_names_its_signer(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "sign.pem").write_bytes(key.private_bytes(PEM, PKCS8, CLEAR))
    kit, made = make(tmp_path, "--sign-key", tmp_path / "keys" / "sign.pem")
    signer = key.public_key().public_bytes_raw().hex()
    other = Ed25519PrivateKey.generate().public_key().public_bytes_raw().hex()
    assert made["signer"] == signer
    for found in (
        works("kit", "verify", kit, "--signer", signer),
        gives("verify", kit, "--signer", signer)["kits"][0],
    ):
        assert found["signer"] == signer
    fails(5, "E_SIG_INVALID", "kit", "verify", kit, "--signer", other)
    refuses(5, "E_SIG_INVALID", "verify", kit, "--signer", other)

    def forged(files: dict[str, bytes]) -> None:
        files[kitfile.README] += b"more"
        _manifest(files)

    bad = rewritten(kit, tmp_path / "bad.zip", forged)
    fails(5, "E_SIG_INVALID", "kit", "verify", bad)
    refuses(5, "E_SIG_INVALID", "verify", bad)
    bare = rewritten(kit, tmp_path / "bare.zip", lambda f: f.pop(kitfile.SIGNATURE) and None)
    fails(5, "E_SIG_INVALID", "kit", "verify", bare, "--signer", signer)


def private_files(private_key: Callable[..., object]) -> dict[str, bytes]:
    key = private_key(2048)
    write = key.private_bytes  # type: ignore[attr-defined]
    return {
        "plain": write(PEM, PKCS8, CLEAR),
        "sealed": write(PEM, PKCS8, SEALED),
        "pkcs1": write(PEM, PKCS1, CLEAR),
        "legacy": write(PEM, PKCS1, SEALED),
        "openssh": write(PEM, OPENSSH, CLEAR),
        "der": write(DER, PKCS8, CLEAR),
        "der-sealed": write(DER, PKCS8, SEALED),
        "der-pkcs1": write(DER, PKCS1, CLEAR),
        "p12": pkcs12.serialize_key_and_certificates(b"x", key, None, None, SEALED),  # type: ignore[arg-type]
        "in-text": b"my key:\n\n" + write(PEM, PKCS8, CLEAR),
    }


def test_private_keys_are_known_when_seen(private_key: Callable[..., object]) -> None:
    for name, data in private_files(private_key).items():
        assert meeting.holds_private_key(data), name
    public = TWO.read("rsa-public-key.pem")
    ed25519 = Ed25519PrivateKey.generate().private_bytes(PEM, PKCS8, CLEAR)
    for data in (public, TWO.rsa.spki, TWO.read("all.cbor"), TWO.read("all.json"), ed25519, b""):
        assert not meeting.holds_private_key(data)


def test_no_kit_beside_or_with_an_rsa_private_key(
    private_key: Callable[..., object], kit: Path, tmp_path: Path
) -> None:
    """R-31's neighbour: a document and its RSA private key meet only in recovery."""
    files = private_files(private_key)
    for name in ("sealed", "der"):
        place = tmp_path / name
        place.mkdir()
        (place / "x").write_bytes(files[name])
        good = document(tmp_path / "in")
        create = ["kit", "create", "--documents"]
        found = fails(3, "E_POLICY", *create, good, "--out", place / "KIT.zip")
        assert "RSA private key" in found["message"]
        fails(3, "E_POLICY", *create, place / "x", "--out", tmp_path / "KIT.zip")
        beside = place / "document.json"
        beside.write_bytes(good.read_bytes())
        fails(3, "E_POLICY", *create, beside, "--out", tmp_path / "KIT.zip")
        key = ["--rsa-public-key", place / "x"]
        fails(3, "E_POLICY", *create, good, *key, "--out", tmp_path / "KIT.zip")
        assert not (tmp_path / "KIT.zip").exists()
        fails(3, "E_POLICY", "kit", "verify", kit, *key)
        # The offline tool, likewise.
        refuses(3, "E_POLICY", "verify", place / "x")
        refuses(3, "E_POLICY", "verify", kit, *key)
        refuses(3, "E_POLICY", "verify", kit, "--rsa-key", place / "x")
        folder = unpacked(kit, tmp_path / f"unpacked-{name}")
        (folder / "notes.txt").write_bytes(b"mine")
        assert gives("verify", folder)["kits"][0]["other_files"] == ["notes.txt"]
        (folder / "x").write_bytes(files[name])
        for words in (["verify", folder], ["recover", folder, "--out", tmp_path / "o"]):
            allow = ["--allow-network"] if words[0] == "recover" else []
            refuses(3, "E_POLICY", *words, *allow)


def test_what_no_kit_is_made_of(tmp_path: Path) -> None:
    good = document(tmp_path / "in")
    bad = document(tmp_path / "in", "cancelling-errors.cbor")
    one = document(tmp_path / "in", "one.cbor")
    words_ = tmp_path / "in" / "words.txt"
    words_.write_bytes(b"words")
    out = tmp_path / "KIT.zip"
    for code, exit_code, words in (
        ("E_ERS_INVALID", 5, ["--documents", bad]),
        ("E_ERS_INVALID", 5, ["--documents", good, bad]),
        ("E_ERS_INVALID", 5, ["--documents", one]),  # t+1 parts are needed
        ("E_ERS_INVALID", 5, ["--documents", good, "--label", "a\x1b[2Jb"]),
        ("E_ERS_INVALID", 5, ["--documents", words_]),
        ("E_NOT_FOUND", 4, ["--documents", tmp_path / "none"]),
        ("E_MALFORMED", 2, []),
        ("E_MALFORMED", 2, ["key-a"]),
        ("E_MALFORMED", 2, ["--documents", good, "--all"]),
        ("E_MALFORMED", 2, ["--documents", good, "--sign-key", words_]),
    ):
        fails(exit_code, code, "kit", "create", *words, "--out", out)
        assert not out.exists()
    out.write_bytes(b"mine")
    fails(3, "E_CONFLICT", "kit", "create", "--documents", good, "--out", out)
    assert out.read_bytes() == b"mine"
    fails(4, "E_NOT_FOUND", "kit", "verify", tmp_path / "in")
