"""The offline tool's own primitives against the libraries that the rest of the project uses."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from Crypto.Hash import RIPEMD160, keccak
from Crypto.PublicKey import RSA
from cryptography.hazmat.primitives import padding as block_padding
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from keycairn.curves import GROUPS
from keycairn.curves.addresses import addresses as their_addresses
from keycairn.curves.derivation import derive
from keycairn.curves.pem import private_key_pem
from keycairn.encoding import SecretBytes, SecretScalar, canonical_cbor
from keycairn.errors import KeycairnError
from keycairn.ers import oaep, rsakeys
from keycairn.ers.rsa import RsaPublicKey
from keycairn.ers.sign import sign_ed25519
from keycairn.ers.wallets import extended_key, wif
from keycairn.kit import offline
from keycairn.kit.offline import addresses, aes, curves, eddsa, encoding, forms, pem, rsa
from keycairn.kit.offline.derivation import SCHEMES, child_at
from keycairn.kit.offline.errors import ToolError
from keycairn.ports.seeded import SeededRng
from keycairn.ports.system import SystemRng

FOLDER = Path(offline.__file__).parent
few = settings(max_examples=20, deadline=None)
keys = st.sampled_from([16, 24, 32]).flatmap(lambda n: st.binary(min_size=n, max_size=n))
block = st.binary(min_size=16, max_size=16)
scalars = st.integers(min_value=1, max_value=2**252)
indices = st.integers(min_value=0, max_value=2**31 - 1)


def test_it_imports_the_standard_library_and_itself_only() -> None:
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(), feature_version=(3, 8))):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1
                assert node.module is None or (FOLDER / f"{node.module}.py").exists()
            elif isinstance(node, ast.ImportFrom):
                assert node.module in sys.stdlib_module_names
            elif isinstance(node, ast.Import):
                assert {alias.name for alias in node.names} <= sys.stdlib_module_names
            # Nothing that runs what it reads.
            elif isinstance(node, ast.Name):
                assert node.id not in {"eval", "exec", "compile", "__import__"}


def test_an_auditor_reads_it_in_an_afternoon() -> None:
    lines = {path.name: len(path.read_text().splitlines()) for path in FOLDER.glob("*.py")}
    assert max(lines.values()) < 520, lines
    assert sum(lines.values()) < 3600, lines


@few
@given(keys, block)
def test_aes(key: bytes, data: bytes) -> None:
    ours = aes.AES(key)
    theirs = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305
    sealed = theirs.update(data)
    assert ours.encrypt(data) == sealed
    assert ours.decrypt(sealed) == data


@few
@given(keys, block, st.binary(max_size=100))
def test_cbc(key: bytes, iv: bytes, data: bytes) -> None:
    padder = block_padding.PKCS7(128).padder()
    padded = padder.update(data) + padder.finalize()
    sealed = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor().update(padded)
    assert aes.cbc_decrypt(key, iv, sealed) == data


@few
@given(keys, st.binary(min_size=12, max_size=12), st.binary(max_size=99), st.binary(max_size=50))
def test_gcm(key: bytes, nonce: bytes, data: bytes, more: bytes) -> None:
    sealed = AESGCM(key).encrypt(nonce, data, more)
    assert aes.gcm_decrypt(key, nonce, sealed, more) == data
    assert aes.gcm_decrypt(key, nonce, sealed, more + b"x") is None
    for i in (0, len(sealed) - 1):
        bad = sealed[:i] + bytes([sealed[i] ^ 1]) + sealed[i + 1 :]
        assert aes.gcm_decrypt(key, nonce, bad, more) is None
    assert aes.gcm_decrypt(key, nonce, sealed[:15], more) is None


@pytest.mark.parametrize("name", curves.CURVES)
@few
@given(a=scalars, b=scalars)
def test_curves(name: str, a: int, b: int) -> None:
    ours, theirs = curves.CURVES[name], GROUPS[name]
    assert ours.q == theirs.q
    assert ours.public(a) == theirs.base_mul(a).encode()
    assert ours.encode_scalar(a) == theirs.encode_scalar(a)
    assert ours.scalar(ours.encode_scalar(a)) == a
    point = ours.decode(ours.public(b))
    assert ours.encode(ours.mul(point, a)) == theirs.base_mul(a * b % theirs.q).encode()
    total = ours.add(ours.base_mul(a), point)
    assert ours.encode(total) == theirs.base_mul((a + b) % theirs.q).encode()
    doubled = ours.add(point, point)
    assert ours.encode(doubled) == theirs.base_mul(2 * b % theirs.q).encode()
    assert ours.is_zero(ours.add(point, ours.neg(point)))
    assert ours.is_zero(ours.base_mul(ours.q))
    assert ours.encode(ours.add(ours.zero, point)) == ours.encode(ours.add(point, ours.zero))


@pytest.mark.parametrize("name", curves.CURVES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_points_are_refused_where_the_library_refuses_them(name: str, data: st.DataObject) -> None:
    size = curves.CURVES[name].point_len
    raw = data.draw(st.binary(min_size=size - 1, max_size=size + 1))
    if name != "ed25519" and data.draw(st.booleans()):
        raw = bytes([2 + (raw[0] & 1)]) + raw[1:]
    small = [bytes(32), b"\1" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f", b"\xff" * 32]
    raw = data.draw(st.sampled_from([raw, *small])) if name == "ed25519" else raw
    try:
        theirs = GROUPS[name].decode_point(raw).encode()
    except KeycairnError:
        theirs = None
    try:
        ours = curves.CURVES[name].encode(curves.CURVES[name].decode(raw))
    except ToolError:
        ours = None
    assert ours == theirs


@few
@given(st.binary(min_size=0, max_size=190), st.binary(min_size=32, max_size=32))
def test_oaep(message: bytes, coins: bytes) -> None:
    size = 256
    padded = oaep.encode(message, coins, size)
    assert rsa.oaep_decode(padded) == message
    for i in (0, 1, 40, 255):
        bad = padded[:i] + bytes([padded[i] ^ 1]) + padded[i + 1 :]
        assert rsa.oaep_decode(bad) is None
        with pytest.raises(KeycairnError):
            oaep.decode(bad)


def test_rsa_encryption_and_decryption(rsa_key) -> None:  # type: ignore[no-untyped-def]
    theirs: RsaPublicKey = rsa_key().public
    ours = rsa.load(theirs.spki)
    rng = SeededRng("oaep")
    for n in (0, 66, 190):
        message, coins = rng.bytes(n), rng.bytes(32)
        sealed = theirs.encrypt(message, coins)
        assert ours.encrypt(message, coins) == sealed
        assert rsa_key().decrypt(sealed) == message
    assert ours.name == theirs.spki_sha256


@pytest.mark.parametrize("bits", [2048, 3072, 4096])
def test_the_checks_of_rsa_keys_pass_good_ones(bits: int, private_key) -> None:  # type: ignore[no-untyped-def]
    public = private_key(bits).public_key()
    raw = public.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert rsa.load(raw).n == public.public_numbers().n
    with pytest.raises(ToolError):
        rsa.load(raw + b"\0")


PROTECTIONS = [
    "PBKDF2WithHMAC-SHA1AndAES128-CBC",
    "PBKDF2WithHMAC-SHA1AndAES192-CBC",
    "PBKDF2WithHMAC-SHA256AndAES256-CBC",
    "PBKDF2WithHMAC-SHA512AndAES256-CBC",
    "PBKDF2WithHMAC-SHA384AndAES192-CBC",
    "scryptAndAES128-CBC",
    "scryptAndAES256-CBC",
]


@pytest.mark.parametrize("protection", PROTECTIONS)
def test_encrypted_private_keys(protection: str, private_key) -> None:  # type: ignore[no-untyped-def]
    key = private_key(2048)
    plain = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    text = RSA.import_key(plain).export_key(
        format="PEM", passphrase="right", pkcs=8, protection=protection,
        prot_params={"iteration_count": 1024},
    )  # fmt: skip
    sealed = rsa.load(_spki(key)).encrypt(b"message", bytes(32))
    assert pem.is_encrypted(text)
    assert pem.load_private(text, b"right").decrypt(sealed) == b"message"
    for wrong in (b"wrong", b"right\n", b""):
        with pytest.raises(ToolError, match="wrong passphrase"):
            pem.load_private(text, wrong)
    with pytest.raises(ToolError, match="encrypted"):
        pem.load_private(text, None)
    for cut in range(0, len(text), 97):
        with pytest.raises(ToolError):
            pem.load_private(text[:cut], b"right")


def _spki(key) -> bytes:  # type: ignore[no-untyped-def]
    encoding, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    raw: bytes = key.public_key().public_bytes(encoding, form)
    return raw


def test_private_keys_of_other_tools(tmp_path: Path, private_key) -> None:  # type: ignore[no-untyped-def]
    """What keycairn-recover makes, what OpenSSL makes, PKCS #1."""
    made, public = rsakeys.generate(3072, "pass wörd".encode(), SystemRng())
    sealed = pem.load_public(public).encrypt(b"m", bytes(32))
    assert pem.load_private(made, "pass wörd".encode()).decrypt(sealed) == b"m"
    key = private_key(2048)
    old = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    sealed = rsa.load(_spki(key)).encrypt(b"m", bytes(32))
    assert pem.load_private(old, None).decrypt(sealed) == b"m"
    (tmp_path / "key.pem").write_bytes(old)
    new = tmp_path / "new.pem"
    for option in (
        ["-scrypt"],
        ["-v2", "aes-256-cbc"],
        ["-v2", "aes256", "-v2prf", "hmacWithSHA512"],
    ):
        subprocess.run(
            ["openssl", "pkcs8", "-topk8", *option, "-passout", "pass:right"]  # noqa: RUF005
            + ["-in", tmp_path / "key.pem", "-out", new],
            check=True,
            capture_output=True,
        )
        assert pem.load_private(new.read_bytes(), b"right").decrypt(sealed) == b"m"
    legacy = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.BestAvailableEncryption(b"right"),
    )
    with pytest.raises(ToolError, match="old encrypted form") as caught:
        pem.load_private(legacy, b"right")
    assert "openssl pkcs8" in caught.value.advice


def test_ed25519_signatures() -> None:
    rng = SeededRng("eddsa")
    for i in range(5):
        x = int.from_bytes(rng.bytes(32), "big") % GROUPS["ed25519"].q
        public, message = GROUPS["ed25519"].base_mul(x).encode(), rng.bytes(i * 20)
        made = eddsa.sign(x, message)
        Ed25519PublicKey.from_public_bytes(public).verify(made, message)
        assert made == eddsa.sign(x, message)
        assert eddsa.is_valid(public, message, made)
        assert eddsa.is_valid(public, message, sign_ed25519(SecretScalar(x), message, rng))
        assert not eddsa.is_valid(public, message + b"x", made)
        for bad in (made[:-1], made + b"\0", made[:32] + b"\xff" * 32, bytes(64)):
            assert not eddsa.is_valid(public, message, bad)
    theirs = Ed25519PrivateKey.generate()
    raw = theirs.public_key().public_bytes_raw()
    assert eddsa.is_valid(raw, b"m", theirs.sign(b"m"))
    assert not eddsa.is_valid(b"\1" + bytes(31), b"m", b"\1" + bytes(63))


@few
@given(st.binary(max_size=300))
def test_hashes(data: bytes) -> None:
    assert addresses.keccak256(data) == keccak.new(digest_bits=256, data=data).digest()
    assert addresses.ripemd160(data) == RIPEMD160.new(data).digest()


@pytest.mark.parametrize(("scheme", "curve"), SCHEMES)
@settings(max_examples=10, deadline=None)
@given(x=scalars, code=st.binary(min_size=32, max_size=32), steps=st.lists(indices, max_size=4))
def test_children_addresses_and_forms(
    scheme: str, curve: str, x: int, code: bytes, steps: list[int]
) -> None:
    """R-44: the tool's children are those that nodes sign with."""
    public = GROUPS[curve].base_mul(x).encode()
    path = "/".join(["m", *map(str, steps)])
    child, want = child_at(curve, scheme, x, code, path), derive(curve, scheme, public, code, path)
    assert child.public_key == want.public_key
    assert child.x == (x + want.tweak) % GROUPS[curve].q
    found = {k: v for k, v in their_addresses(scheme, curve, child.public_key).items() if v}
    assert addresses.addresses(scheme, curve, child.public_key) == found
    assert forms.pem(curve, x) == private_key_pem(curve, x)
    if curve == "secp256k1":
        theirs = extended_key(SecretScalar(x), SecretBytes(code))
        assert addresses.xprv(x, code) == theirs.xprv.reveal().decode()
        assert addresses.xpub(public, code) == theirs.xpub
        assert addresses.wif(x) == wif(SecretScalar(x))


_simple = st.none() | st.integers(0, 2**64 - 1) | st.binary(max_size=40) | st.text(max_size=20)
_items = st.recursive(
    _simple, lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=5), v, max_size=4)
)


@settings(max_examples=100, deadline=None)
@given(_items)
def test_cbor(value: object) -> None:
    raw = canonical_cbor(value)
    assert encoding.to_cbor(value) == raw
    assert encoding.from_cbor(raw) == value
    for bad in (raw + b"\0", raw[:-1]):
        with pytest.raises(ToolError):
            encoding.from_cbor(bad)
