"""The offline tool as a program: exit codes, errors, network, passphrases, other decryptors."""

from __future__ import annotations

import hashlib
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from Crypto.PublicKey import RSA
from cryptography.hazmat.primitives import serialization

from ers.helpers import document_of, make_key
from ers.test_kit import TWO
from keycairn.ers.network import interfaces_here
from keycairn.kit.offline import network
from keycairn.kit.offline.errors import ToolError
from kit.namespace import namespace
from kit.tool import PYTHON, error, gives, refuses, result, run

ONE_KEY = TWO.folder / "p256.json"
KEY = TWO.folder / "test-only-rsa-key.pem"


def test_it_refuses_while_a_network_is_up(tool: Path, tmp_path: Path) -> None:
    """E_POLICY, exit code 3, and nothing is read: the files need not even exist."""
    words = ["recover", "none.json", "--rsa-key", "none.pem", "--out", tmp_path / "o"]
    if interfaces_here():  # keycairn-recover's answer
        found = error(3, "E_POLICY", tool, *words)
        assert found["detail"]["interfaces"] == interfaces_here()
    done = subprocess.run(
        [*namespace(), PYTHON, "-I", tool, *words, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "E_NOT_FOUND" in done.stdout) == (4, True), done
    found = error(4, "E_NOT_FOUND", tool, *words, "--allow-network")
    assert "none.json" in found["message"]


@pytest.mark.parametrize(
    ("flags", "state", "refused"),
    [(1, "up", True), (1, "unknown", True), (1, "down", False), (0, "up", False), (9, "up", False)],
)
def test_which_interfaces_count(
    flags: int, state: str, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up, not loopback, and not without anything at the other end."""
    (tmp_path / "x0").mkdir()
    (tmp_path / "x0" / "ifindex").write_text("7\n")
    (tmp_path / "x0" / "operstate").write_text(state + "\n")
    monkeypatch.setattr(network, "SYS", str(tmp_path))
    monkeypatch.setattr(network, "_flags", lambda _: flags)
    monkeypatch.setattr("socket.if_nameindex", lambda: [(7, "x0")])
    assert network.interfaces_up() == (["x0"] if refused else [])
    # Another namespace's table does not say that a link is down here.
    monkeypatch.setattr("socket.if_nameindex", lambda: [(8, "x0")])
    assert network.interfaces_up() == (["x0"] if flags == 1 else [])


def test_not_knowing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: str) -> int:
        raise OSError

    monkeypatch.setattr(network, "_flags", unknown)
    with pytest.raises(ToolError, match="cannot tell") as caught:
        network.require_offline()
    assert caught.value.code == "E_POLICY"


def test_passphrases(tmp_path: Path) -> None:
    for name, text in (("right", "right\r\n"), ("wrong", "wrong")):
        (tmp_path / name).write_text(text, encoding="ascii", newline="")
    sealed = tmp_path / "sealed.pem"
    sealed.write_bytes(
        RSA.import_key(KEY.read_bytes()).export_key(
            format="PEM", passphrase="right", pkcs=8, protection="scryptAndAES256-CBC"
        )
    )
    recover = ["recover", ONE_KEY, "--allow-network", "--out", tmp_path / "o"]
    clear = ["--rsa-key", KEY]
    key = ["--rsa-key", sealed]
    refuses(2, "E_MALFORMED", *recover)
    refuses(2, "E_MALFORMED", *recover, *key, "--passphrase-file", tmp_path / "wrong")
    refuses(2, "E_MALFORMED", *recover, *clear, "--passphrase-file", tmp_path / "right")
    refuses(4, "E_NOT_FOUND", *recover, *key, "--passphrase-file", tmp_path / "none")
    assert not (tmp_path / "o").exists()
    gives(*recover, *key, "--passphrase-file", tmp_path / "right")
    found = refuses(3, "E_CONFLICT", *recover, *key, "--passphrase-file", tmp_path / "right")
    assert found["next"]


def test_another_rsa_key_and_other_expectations(rsa_key, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    out = ["--allow-network", "--out", tmp_path / "o"]
    other = TWO.folder / "test-only-rsa-4096-key.pem"
    found = refuses(5, "E_ERS_INVALID", "recover", ONE_KEY, "--rsa-key", other, *out)
    assert found["detail"]["check"] == "rsa"
    for option, check in (
        (["--label", "another"], "label"),
        (["--vault", "another"], "vault"),
        (["--public-key", "key-w=" + "02" * 33], "public key"),
        (["--public-key", "key-w=ed25519:" + TWO.keys("p256")[0]["public_key"]], "curve"),
        (["--record-hash", "key-w=" + "00" * 32], "record hash"),
        (["--public-key", "key-z=00"], "key id"),
        (["--rsa-public-key", TWO.folder / "rsa-4096-public-key.pem"], "rsa"),
    ):
        for words in (["verify", ONE_KEY], ["recover", ONE_KEY, "--rsa-key", KEY, *out]):
            assert refuses(5, "E_ERS_INVALID", *words, *option)["detail"]["check"] == check
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("raw", [True, False], ids=["raw-rsa", "oaep"])
def test_a_key_in_a_token_is_used_through_a_command(raw: bool, tmp_path: Path) -> None:
    """What pkcs11-tool does, by OpenSSL: ciphertext in, plaintext (or raw RSA) out."""
    options = (
        ["-pkeyopt", "rsa_padding_mode:none"]
        if raw
        else ["-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", "rsa_oaep_md:sha256"]
    )
    command = shlex.join(["openssl", "pkeyutl", "-decrypt", "-inkey", str(KEY), *options])
    words = ["recover", ONE_KEY, "--allow-network", "--out"]
    gives(*words, tmp_path / "a", "--decrypt-command", command)
    gives(*words, tmp_path / "b", "--rsa-key", KEY)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    for bad in ("false", "no-such-program-here", "true", "'", " "):
        refuses(1, "E_UNAVAILABLE", *words, tmp_path / "c", "--decrypt-command", bad)
    # The wrong key: no leaf has sound padding.
    refuses(5, "E_ERS_INVALID", *words, tmp_path / "c", "--decrypt-command", "cat")
    assert not (tmp_path / "c").exists()


def test_a_bad_part_is_left_out_when_asked(rsa_key, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """T-108: the culprit is named; t+1 good parts are enough."""
    key = make_key("key-1", chain_code=True)
    document = document_of([key], rsa_key().public, paths={"key-1": ["m/0/1"]})
    bad = replace(document.parts[0], siblings=bytes(len(document.parts[0].siblings)))
    faulty = tmp_path / "faulty.cbor"
    faulty.write_bytes(type(document)((bad, *document.parts[1:])).to_cbor())
    pem = tmp_path / "key.pem"
    pem.write_bytes(
        rsa_key()._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    words = ["recover", faulty, "--rsa-key", pem, "--allow-network", "--out", tmp_path / "o"]
    assert refuses(5, "E_ERS_INVALID", *words)["detail"]["node"] == 1
    done = gives(*words, "--skip-bad-parts")
    assert "node 1" in done["warnings"][0]
    assert done["recovered"][0]["children"] == 1


def test_wrong_use_ends_with_2(tool: Path) -> None:
    for words in ([], ["nothing"], ["recover"], ["verify", "--no-such"], ["sign", "--key", "x"]):
        assert run(tool, *words).returncode == 2
        error(2, "E_MALFORMED", tool, *words)
    for words in (["--help"], ["recover", "--help"]):
        done = run(tool, *words)
        assert (done.returncode, done.stderr) == (0, "")


def test_fingerprints(tool: Path) -> None:
    found = result(tool, "sheet", ONE_KEY)
    prints = {row["of"]: row["sha256"] for row in found["fingerprints"]}
    assert prints["this tool"] == hashlib.sha256(tool.read_bytes()).hexdigest()
    assert prints["RSA key"] == TWO.rsa.spki_sha256
    assert prints["document"] == TWO.expected["sha256"]["p256"]


def test_it_says_that_python_is_too_old(tool: Path, tmp_path: Path) -> None:
    """The start-up code itself is Python 2's too, and says what is missing."""
    code = "import sys; sys.version_info = (3, 7); import runpy; runpy.run_path(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, tool], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "Python 3.8 or newer is needed" in done.stderr
