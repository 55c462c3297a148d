"""The RSA key in a PKCS#11 token (SoftHSM): made there, shown to be there, and recovering.

SoftHSM offers OAEP with SHA-1 only, so it is the raw way; a token that offers OAEP with SHA-256,
and tokens that fail, are played by a small double.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from encryptors.components import SoftHsm, make_softhsm
from ers.helpers import document_of, make_key, refused
from ers.tool import error, result, run
from keycairn.encoding import SecretBytes
from keycairn.errors import Code
from keycairn.ers import token as token_module
from keycairn.ers.decrypt import BadLeaf, SoftwareKey, probe
from keycairn.ers.document import Document
from keycairn.ers.possession import check_answers, make_challenges
from keycairn.ers.recover import recover
from keycairn.ers.rsa import load_rsa_public_key
from keycairn.ers.sheet import groups
from keycairn.ers.token import TokenKey, token_key
from keycairn.ports.seeded import SeededRng

KEYS = [make_key("key-a"), make_key("key-b", "ed25519"), make_key("key-p", "p256")]
PIN = "98765432"


class Tool:
    """``keycairn-recover`` with a token, which its process finds by the environment."""

    def __init__(self, token: SoftHsm, pin_file: Path) -> None:
        self.token, self.pin_file = token, pin_file
        self.env = {"SOFTHSM2_CONF": str(token.conf)}

    def options(self, key: str, **other: object) -> list[object]:
        named = {
            "pkcs11-module": self.token.module,
            "token-label": self.token.token,
            "key-label": key,
            "pin-file": self.pin_file,
        } | {name.replace("_", "-"): value for name, value in other.items()}
        return [word for name, value in named.items() for word in (f"--{name}", value)]

    def result(self, *args: object) -> dict[str, Any]:
        return result(*args, **self.env)

    def error(self, exit_code: int, code: Code, *args: object) -> dict[str, Any]:
        return error(exit_code, code, *args, **self.env)

    def python(self, code: str) -> str:
        """Run Python beside the token; KEY, TOKEN and p11 are there."""
        start = (
            "import pkcs11 as p11\nfrom pkcs11 import Attribute as A, KeyType\n"
            f"TOKEN = next(iter(p11.lib({self.token.module!r}).get_tokens(token_label="
            f"{self.token.token!r})))\nSESSION = TOKEN.open(rw=True, user_pin={PIN!r})\n"
        )
        done = run(code=start + code, **self.env)
        assert done.returncode == 0, done
        return done.stdout


@pytest.fixture
def tool(tmp_path: Path) -> Tool:
    directory = tmp_path / "softhsm"
    directory.mkdir()
    pin = tmp_path / "pin"
    pin.write_text(PIN + "\n")
    pin.chmod(0o600)
    return Tool(make_softhsm(directory), pin)


def made_in(tool: Tool, folder: Path, label: str = "recovery", bits: int = 3072) -> dict[str, Any]:
    return tool.result("keygen", "--bits", bits, *tool.options(label), "--out", folder / "rsa.pub")


@pytest.mark.parametrize("bits", [3072, 4096])
def test_t096_keys_come_back_with_a_key_that_never_left_its_token(
    bits: int, tool: Tool, tmp_path: Path
) -> None:
    made = made_in(tool, tmp_path, bits=bits)
    assert made["mechanism"] == "CKM_RSA_X_509, OAEP in software"
    public = load_rsa_public_key((tmp_path / "rsa.pub").read_bytes())
    assert (public.bits, public.spki_sha256) == (bits, made["rsa_spki_sha256"])
    for line in groups(public.spki_sha256):
        assert line in made["sheet"]
    assert Path(made["sheet_file"]).read_text() == made["sheet"]
    assert {path.name for path in tmp_path.iterdir()} == {
        "rsa.pub", "rsa.pub.sheet.txt", "pin", "softhsm"
    }  # fmt: skip
    said = tool.python(
        "KEY = next(SESSION.get_objects({A.LABEL: 'recovery', A.CLASS: p11.ObjectClass.PRIVATE_KEY"
        "}))\nprint(*[int(KEY[a]) for a in (A.SENSITIVE, A.PRIVATE, A.DECRYPT, A.EXTRACTABLE, "
        "A.SIGN, A.UNWRAP)])"
    )
    assert said.split() == ["1", "1", "1", "0", "0", "0"]

    # The owner shows that it decrypts.
    challenges = make_challenges(public, SeededRng(1))
    (tmp_path / "challenges").write_bytes(challenges.public_json)
    tool.result("prove", "--challenges", tmp_path / "challenges", *tool.options("recovery"),
                "--out", tmp_path / "answers")  # fmt: skip
    check_answers(challenges, (tmp_path / "answers").read_bytes())
    shown = tool.result("fingerprint", *tool.options("recovery"), "--out", tmp_path / "again.pub")
    assert shown["rsa_spki_sha256"] == public.spki_sha256
    assert (tmp_path / "again.pub").read_bytes() == (tmp_path / "rsa.pub").read_bytes()

    (tmp_path / "all.json").write_bytes(document_of(KEYS, public).to_json())
    done = tool.result(tmp_path / "all.json", *tool.options("recovery"), "--out", tmp_path / "out",
                       "--allow-network")  # fmt: skip
    for key, entry in zip(KEYS, done["recovered"], strict=True):
        body = json.loads(Path(entry["file"]).read_text())
        assert body["private_key"] == key.statement.group.encode_scalar(key.secret).hex()
        assert stat.S_IMODE(Path(entry["file"]).stat().st_mode) == 0o600

    # A document that does not verify is not decrypted, and nothing comes out.
    data = bytearray((tmp_path / "all.json").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "bad.json").write_bytes(data)
    tool.error(5, Code.ERS_INVALID, tmp_path / "bad.json", *tool.options("recovery"),
               "--out", tmp_path / "none", "--allow-network")  # fmt: skip
    # Nor one for another RSA key.
    made_in(tool, _folder(tmp_path, "two"), "second")
    wrong = tool.error(5, Code.ERS_INVALID, tmp_path / "all.json", *tool.options("second"),
                       "--out", tmp_path / "none", "--allow-network")  # fmt: skip
    assert public.spki_sha256 in wrong["message"]
    assert not (tmp_path / "none").exists()


def _folder(parent: Path, name: str) -> Path:
    (parent / name).mkdir()
    return parent / name


def test_t096_software_and_token_open_the_same_document_for_every_pair_of_nodes(
    tool: Tool, tmp_path: Path, private_key: Callable[..., Any]
) -> None:
    """A key that was made outside and brought into the token; RSA-2048 of the legacy flag."""
    pem = tmp_path / "rsa.pem"
    pem.write_bytes(
        private_key(2048).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    subprocess.run(
        ["softhsm2-util", "--import", str(pem), "--token", tool.token.token, "--label", "old",
         "--id", "01", "--pin", PIN],
        env={**os.environ, **tool.env}, check=True, capture_output=True,
    )  # fmt: skip
    public = SoftwareKey(private_key(2048)).public
    for nodes in ((1, 2), (1, 3), (2, 3)):
        name = "-".join(map(str, nodes))
        (tmp_path / f"{name}.cbor").write_bytes(document_of(KEYS, public, nodes).to_cbor())
        files = []
        for way, options in (("hsm", tool.options("old")), ("pem", ["--rsa-key", pem])):
            out = tmp_path / f"{name}-{way}"
            tool.result(tmp_path / f"{name}.cbor", *options, "--out", out, "--allow-network")
            files.append({path.name: path.read_bytes() for path in out.iterdir()})
        assert files[0] == files[1]


def test_what_is_not_there_is_named(tool: Tool, tmp_path: Path) -> None:
    made_in(tool, tmp_path)
    show = "fingerprint"
    found = tool.error(4, Code.NOT_FOUND, show, *tool.options("other"))
    assert "no RSA private key other" in found["message"]
    found = tool.error(4, Code.NOT_FOUND, show, *tool.options("recovery", token_label="x"))
    assert tool.token.token in found["detail"]["tokens"]
    found = tool.error(4, Code.NOT_FOUND, show, *tool.options("recovery", pkcs11_module="/no.so"))
    assert "/no.so can't be loaded" in found["message"]
    tool.error(4, Code.NOT_FOUND, show, *tool.options("recovery", pin_file=tmp_path / "none"))
    tool.error(2, Code.MALFORMED, show, "--pkcs11-module", tool.token.module, "--key-label", "k")
    without = tool.options("recovery")[:-2]
    assert "--pin-file" in tool.error(2, Code.MALFORMED, show, *without)["message"]
    tool.error(2, Code.MALFORMED, show, *tool.options("recovery"), "--rsa-key", "f")
    tool.error(3, Code.CONFLICT, "keygen", *tool.options("recovery"), "--out", tmp_path / "new")
    tool.error(3, Code.CONFLICT, "keygen", *tool.options("new"), "--out", tmp_path / "rsa.pub")
    tool.error(2, Code.MALFORMED, "keygen", *tool.options("new"), "--out", tmp_path / "n",
               "--passphrase-file", tmp_path / "pin")  # fmt: skip
    # No key is left behind by what was refused.
    assert (
        "no RSA private key new"
        in tool.error(4, Code.NOT_FOUND, show, *tool.options("new"))["message"]
    )
    (tmp_path / "beside").mkdir()
    document = document_of(KEYS, load_rsa_public_key((tmp_path / "rsa.pub").read_bytes()))
    (tmp_path / "beside" / "d").write_bytes(document.to_cbor())
    tool.error(3, Code.POLICY, "keygen", *tool.options("new"), "--out", tmp_path / "beside" / "n")


def test_t079_a_wrong_pin_says_what_the_token_tells_of_the_tries(
    tool: Tool, tmp_path: Path
) -> None:
    made_in(tool, tmp_path)
    tool.pin_file.write_text("11111111\n")
    found = tool.error(4, Code.AUTHN, "fingerprint", *tool.options("recovery"))
    assert "does not say how many tries" in found["detail"]["tries"]
    assert "11111111" not in json.dumps(found)
    tool.pin_file.write_text(PIN)
    tool.result("fingerprint", *tool.options("recovery"))


def test_the_package_of_the_extra_is_asked_for(tool: Tool, tmp_path: Path) -> None:
    code = "import sys; sys.modules['pkcs11'] = None\nfrom keycairn.ers.cli import main\n"
    done = run("fingerprint", *tool.options("k"), "--json", code=code + "sys.exit(main())")
    found = json.loads(done.stdout)["error"]
    assert (done.returncode, found["code"]) == (1, "E_UNAVAILABLE")
    assert "keycairn[hsm]" in found["next"]


def test_two_keys_of_one_label_are_told_apart_by_the_document(tool: Tool, tmp_path: Path) -> None:
    """As after a rotation; without a document nobody can say which is meant."""
    made_in(tool, tmp_path)
    made_in(tool, _folder(tmp_path, "two"), "next")
    tool.python("for KEY in SESSION.get_objects({A.LABEL: 'next'}): KEY[A.LABEL] = 'recovery'")
    error_ = tool.error(3, Code.POLICY, "fingerprint", *tool.options("recovery"))
    assert "2 RSA private keys" in error_["message"]
    for number, folder in enumerate((tmp_path, tmp_path / "two")):
        public = load_rsa_public_key((folder / "rsa.pub").read_bytes())
        (folder / "d.cbor").write_bytes(document_of(KEYS, public, (1, 2)).to_cbor())
        done = tool.result(folder / "d.cbor", *tool.options("recovery"), "--allow-network",
                           "--out", tmp_path / f"out{number}")  # fmt: skip
        assert done["rsa_spki_sha256"] == public.spki_sha256


def test_a_key_that_may_not_decrypt_is_said_to_be_so(tool: Tool) -> None:
    tool.python(
        "SESSION.generate_keypair(KeyType.RSA, 3072, store=True, label='signs', "
        "private_template={A.DECRYPT: False, A.SIGN: True})"
    )
    found = tool.error(3, Code.POLICY, "fingerprint", *tool.options("signs"))
    assert found["detail"]["mechanisms"] == {"CKA_DECRYPT": "off"}
    assert "CKA_DECRYPT" in found["next"]


def test_a_token_without_either_mechanism_is_said_to_be_so(
    rsa_key: Callable[..., SoftwareKey],
) -> None:
    fake = FakeKey(rsa_key())
    fake.dead_after = 0
    found = refused(lambda: _opened(fake), Code.POLICY)
    assert found.detail["mechanisms"] == {
        "CKM_RSA_PKCS_OAEP": "Removed",
        "CKM_RSA_X_509": "Removed",
    }


def test_t087_a_weak_key_in_a_token_is_refused(tool: Tool) -> None:
    tool.python(
        "SESSION.generate_keypair(KeyType.RSA, 1024, store=True, label='weak', "
        "private_template={A.DECRYPT: True})"
    )
    assert tool.error(2, Code.WEAK_RSA, "fingerprint", *tool.options("weak"))["detail"] == {
        "check": "size"
    }


def test_a_key_that_asks_for_the_pin_each_time(tool: Tool) -> None:
    tool.python(
        "SESSION.generate_keypair(KeyType.RSA, 3072, store=True, label='card', "
        "private_template={A.DECRYPT: True, A.ALWAYS_AUTHENTICATE: True})"
    )
    tool.result("fingerprint", *tool.options("card"))


# -- a double: OAEP with SHA-256, errors of all kinds


class FakeError(Exception):
    pass


class Removed(FakeError):
    pass


class General(FakeError):
    pass


class FakeFlags:
    USER_PIN_LOCKED, USER_PIN_FINAL_TRY, USER_PIN_COUNT_LOW = 4, 2, 1


def _fake(**more: Any) -> Any:
    names = ("MODULUS", "PUBLIC_EXPONENT", "CLASS", "KEY_TYPE", "LABEL", "EXTRACTABLE", "SENSITIVE",
             "ALWAYS_AUTHENTICATE")  # fmt: skip
    return SimpleNamespace(
        Attribute=SimpleNamespace(**{name: name for name in names}),
        Mechanism=SimpleNamespace(RSA_PKCS_OAEP="oaep", RSA_X_509="raw", SHA256="sha256"),
        MGF=SimpleNamespace(SHA256="mgf-sha256"),
        ObjectClass=SimpleNamespace(PRIVATE_KEY="private"),
        KeyType=SimpleNamespace(RSA="rsa"),
        TokenFlag=FakeFlags,
        exceptions=SimpleNamespace(PKCS11Error=FakeError),
        **more,
    )


class FakeKey:
    """A key of a token that offers OAEP with SHA-256, and says "general error" for bad padding."""

    def __init__(self, key: SoftwareKey, *, oaep: bool = True) -> None:
        self.key, self.oaep = key, oaep
        self.calls: list[str] = []
        self.dead_after: int | None = None
        n = key.public.n
        self.attributes = {
            "MODULUS": n.to_bytes(key.public.size, "big"),
            "EXTRACTABLE": False,
            "SENSITIVE": True,
        }

    def __getitem__(self, name: str) -> Any:
        if name not in self.attributes:
            raise General
        return self.attributes[name]

    def decrypt(
        self, ciphertext: bytes, *, mechanism: str, mechanism_param: Any = None, **options: Any
    ) -> bytes:
        self.calls.append(mechanism)
        if self.dead_after is not None and len(self.calls) > self.dead_after:
            raise Removed
        if mechanism == "raw":
            numbers = self.key._key.private_numbers()
            c = int.from_bytes(ciphertext, "big")
            m = pow(c, numbers.d, numbers.public_numbers.n)
            return m.to_bytes(-(-m.bit_length() // 8), "big")  # drops leading zeros
        if not self.oaep or mechanism_param != ("sha256", "mgf-sha256", None):
            raise General
        try:
            return self.key.decrypt(ciphertext)
        except BadLeaf as exc:
            raise General from exc


def _opened(key: FakeKey) -> TokenKey:
    return TokenKey(_fake(), key, key.key.public, "double", PIN)


@pytest.mark.parametrize("oaep", [True, False])
def test_t096_both_ways_recover_and_use_the_token_once_a_part(
    oaep: bool, rsa_key: Callable[..., SoftwareKey]
) -> None:
    fake = FakeKey(rsa_key(), oaep=oaep)
    opened = _opened(fake)
    assert opened.raw is not oaep
    assert opened.how == (
        "CKM_RSA_PKCS_OAEP with SHA-256" if oaep else "CKM_RSA_X_509, OAEP in software"
    )
    assert not opened.leaves_token
    fake.calls.clear()
    back = recover(document_of(KEYS, rsa_key().public), opened)
    assert [key.private_key.reveal() for key in back] == [key.secret for key in KEYS]
    assert fake.calls == ["oaep" if oaep else "raw"] * 3


@pytest.mark.parametrize("oaep", [True, False])
def test_t106_every_kind_of_bad_leaf_looks_the_same(
    oaep: bool, rsa_key: Callable[..., SoftwareKey]
) -> None:
    """Wrong first byte, wrong label hash, no separator, another label: one exception, no text."""
    key = rsa_key()
    opened = _opened(FakeKey(key, oaep=oaep))
    n, size = key.public.n, key.public.size
    for em in (1, 1 << 8 * (size - 1), int.from_bytes(b"\0" + b"\x5a" * (size - 1), "big"), 0):
        with pytest.raises(BadLeaf) as caught:
            opened.decrypt(pow(em, key.public.e, n).to_bytes(size, "big"))
        assert caught.value.args == ()
    assert opened.decrypt(probe(key.public))


def test_t106_a_token_that_fails_is_not_a_bad_leaf(rsa_key: Callable[..., SoftwareKey]) -> None:
    """It is removed after the first part: recovery stops and says so, and does not go on trying."""
    fake = FakeKey(rsa_key())
    opened = _opened(fake)
    fake.dead_after = len(fake.calls) + 1
    before = len(fake.calls)
    found = refused(lambda: recover(document_of(KEYS, rsa_key().public), opened), Code.UNAVAILABLE)
    assert "Removed" in found.message
    assert found.exit_code == 1
    assert len(fake.calls) == before + 3  # the first leaf, the second, and the known ciphertext


def test_t096_leaves_that_were_ground_bad_are_passed_over_with_a_token(
    rsa_key: Callable[..., SoftwareKey],
) -> None:
    """Its "general error" for a wrong padding does not stop the recovery."""
    fake = FakeKey(rsa_key())
    opened = _opened(fake)
    real, bad = opened._decrypt, iter([True, True, False] + [False] * 99)

    def some_bad(ciphertext: bytes) -> bytes:
        if ciphertext != probe(rsa_key().public) and next(bad):
            raise General
        return real(ciphertext)

    opened._decrypt = some_bad  # type: ignore[method-assign]
    back = recover(document_of(KEYS, rsa_key().public), opened)
    assert [key.private_key.reveal() for key in back] == [key.secret for key in KEYS]


@contextmanager
def _library(monkeypatch: pytest.MonkeyPatch, flags: int) -> Iterator[list[str]]:
    pins: list[str] = []

    class FakeToken:
        label = "double"

        def __init__(self) -> None:
            self.flags = flags

        def open(self, *, rw: bool, user_pin: str) -> Any:
            pins.append(user_pin)
            raise type("PinIncorrect", (FakeError,), {})

    library = SimpleNamespace(get_tokens=lambda token_label=None: [FakeToken()])
    monkeypatch.setattr(token_module, "_library", lambda module: (_fake(), library))
    yield pins


@pytest.mark.parametrize(
    ("flags", "tried", "words"),
    [(4, 0, "locked"), (2, 0, "one try is left"), (1, 1, "wrong PINs were"), (0, 1, "no wrong")],
)
def test_t079_with_one_try_left_no_pin_is_tried(
    flags: int, tried: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def attempt() -> None:
        with token_key("module", "double", "k", SecretBytes(b"1234")):
            pass

    with _library(monkeypatch, flags) as pins:
        found = refused(attempt, Code.AUTHN)
    assert len(pins) == tried
    assert words in found.detail["tries"]
    assert "1234" not in str(found.to_json())


def test_documents_of_two_versions_of_a_document_are_still_one_log_in(
    rsa_key: Callable[..., SoftwareKey], tmp_path: Path
) -> None:
    """Two batches in one command: the token is opened once (nothing else asks for the PIN)."""
    fake = FakeKey(rsa_key())
    opened = _opened(fake)
    used = len(fake.calls)
    for document in (
        document_of(KEYS[:1], rsa_key().public, (1, 2)),
        Document(tuple(replace(p) for p in document_of(KEYS[1:], rsa_key().public, (2, 3)).parts)),
    ):
        recover(document, opened)
    assert len(fake.calls) == used + 4
