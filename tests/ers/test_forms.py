"""What comes out of recovery, as strangers' libraries read it: every form, every child."""

from __future__ import annotations

import hmac
import json
import random
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import eth_keyfile
import pytest
from bip_utils import (
    Bip32ChainCode,
    Bip32KeyData,
    Bip32PrivateKey,
    Bip32Slip10Nist256p1,
    Bip32Slip10Secp256k1,
    EthAddrEncoder,
    P2TRAddrEncoder,
    P2WPKHAddrEncoder,
    WifDecoder,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from embit import bip32 as embit_bip32
from embit import ec as embit_ec
from embit import script as embit_script
from embit.descriptor import Descriptor
from embit.descriptor.checksum import checksum as embit_checksum
from eth_account import Account
from solders.pubkey import Pubkey
from solders.signature import Signature

from curves import oracle
from ers.helpers import document_of, make_key, refused
from keycairn.curves import ED25519, P256, SECP256K1, bip340, ecdsa
from keycairn.curves.addresses import addresses
from keycairn.curves.derivation import derive
from keycairn.encoding import SecretBytes, SecretScalar
from keycairn.errors import Code
from keycairn.ers import children as children_module
from keycairn.ers.children import Child, children
from keycairn.ers.forms import FORMS, forms_of, require_forms, write_keys
from keycairn.ers.keyfile import load_key, render
from keycairn.ers.keystore import keystore
from keycairn.ers.recover import RecoveredKey, recover
from keycairn.ers.signer import Signer
from keycairn.ers.wallets import MAX_GAP, checksum, descriptors, extended_key, wif
from keycairn.ports.seeded import SeededRng

BIP340 = "schnorr", "secp256k1"
KINDS = [("ecdsa", "secp256k1"), BIP340, ("ecdsa", "p256"), ("schnorr", "ed25519")]
EACH = pytest.mark.parametrize(("scheme", "curve"), KINDS)


def recovered(scheme: str, curve: str, paths: tuple[str, ...] | None = ()) -> RecoveredKey:
    """A key as recovery gives it."""
    made = make_key(f"{scheme} {curve}", curve)
    protocol = "frost-bip340" if (scheme, curve) == BIP340 else made.statement.protocol
    statement = replace(made.statement, scheme=scheme, protocol=protocol)
    return RecoveredKey(statement, SecretScalar(made.secret), made.chain_code, (1, 2), paths)


def random_paths(count: int, seed: str) -> list[str]:
    rnd = random.Random(seed)
    index = [lambda: rnd.randrange(2**31), lambda: rnd.randrange(50), lambda: 2**31 - 1]
    return [
        "/".join(["m", *(str(rnd.choice(index)()) for _ in range(rnd.choice((1, 2, 2, 3, 5))))])
        for _ in range(count)
    ]


def derived(key: RecoveredKey, paths: list[str]) -> list[Child]:
    s, code = key.statement, key.chain_code
    assert code is not None
    return children(s.curve, s.scheme, key.private_key, code, paths)


def indices(path: str) -> list[int]:
    return [int(i) for i in path.split("/")[1:]]


# -- addresses of 1,000 derived paths, as four other libraries have them

COUNT = pytest.mark.parametrize(
    "count", [pytest.param(100, id="100"), pytest.param(1000, id="1000", marks=pytest.mark.full)]
)


def _embit_child(key: RecoveredKey, path: str) -> embit_bip32.HDKey:
    text = json.loads(render(key, frozenset({"xprv"})))["xprv"]
    node = embit_bip32.HDKey.from_string(text)
    for index in indices(path):
        node = node.child(index)
    return node


@COUNT
def test_children_of_an_ecdsa_key_have_the_addresses_of_embit_eth_account_and_bip_utils(
    count: int,
) -> None:
    key = recovered("ecdsa", "secp256k1")
    assert key.chain_code is not None
    data = Bip32KeyData(chain_code=Bip32ChainCode(key.chain_code.reveal()))
    root = Bip32Slip10Secp256k1.FromPrivateKey(
        SECP256K1.encode_scalar(key.private_key.reveal()), data
    )
    for child in derived(key, random_paths(count, "ecdsa")):
        private = SECP256K1.encode_scalar(child.private_key.reveal())
        theirs = _embit_child(key, child.path)
        assert theirs.key.secret == private
        assert theirs.key.wif() == wif(child.private_key)
        assert embit_script.p2wpkh(theirs).address() == child.addresses["bitcoin_p2wpkh"]
        assert Account.from_key(private).address == child.addresses["ethereum"]
        other = root
        for index in indices(child.path):
            other = other.ChildKey(index)
        assert other.PrivateKey().Raw().ToBytes() == private
        public = other.PublicKey()
        assert EthAddrEncoder.EncodeKey(public.KeyObject()) == child.addresses["ethereum"]
        segwit = P2WPKHAddrEncoder.EncodeKey(public.KeyObject(), hrp="bc")
        assert segwit == child.addresses["bitcoin_p2wpkh"]
        assert set(child.addresses) == {"ethereum", "bitcoin_p2wpkh"}
        assert public.RawCompressed().ToBytes() == child.public_key


@COUNT
def test_children_of_a_bip340_key_have_the_addresses_of_embit_and_bip_utils(count: int) -> None:
    key = recovered(*BIP340)
    for child in derived(key, random_paths(count, "bip340")):
        theirs = _embit_child(key, child.path)
        assert theirs.key.secret == SECP256K1.encode_scalar(child.private_key.reveal())
        assert embit_script.p2tr(theirs).address() == child.addresses["bitcoin_p2tr"]
        public = theirs.to_public().key.sec()
        assert public == child.public_key
        assert P2TRAddrEncoder.EncodeKey(public, hrp="bc") == child.addresses["bitcoin_p2tr"]
        assert set(child.addresses) == {"bitcoin_p2tr"}


@COUNT
def test_children_of_a_p256_key_are_those_of_bip_utils(count: int) -> None:
    key = recovered("ecdsa", "p256")
    assert key.chain_code is not None
    data = Bip32KeyData(chain_code=Bip32ChainCode(key.chain_code.reveal()))
    raw = P256.encode_scalar(key.private_key.reveal())
    root = Bip32Slip10Nist256p1.FromPrivateKey(raw, data)
    for child in derived(key, random_paths(count, "p256")):
        other = root
        for index in indices(child.path):
            other = other.ChildKey(index)
        private: Bip32PrivateKey = other.PrivateKey()
        assert private.Raw().ToBytes() == P256.encode_scalar(child.private_key.reveal())
        assert other.PublicKey().RawCompressed().ToBytes() == child.public_key
        assert child.addresses == {}


@COUNT
def test_children_of_an_ed25519_key_have_the_addresses_of_solders(count: int) -> None:
    """No other library derives them; that each scalar has its public key, plain integers say."""
    key = recovered("schnorr", "ed25519")
    for child in derived(key, random_paths(count, "ed25519")):
        point = oracle.EDWARDS.mul(child.private_key.reveal())
        assert oracle.EDWARDS.encode(point) == child.public_key
        assert str(Pubkey(child.public_key)) == child.addresses["solana"]
        assert set(child.addresses) == {"solana"}


def test_r44_a_child_whose_public_key_would_be_another_does_not_come_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = children_module.derive

    def lying(*args: Any) -> Any:
        found = real(*args)
        return replace(found, tweak=found.tweak + 1)

    monkeypatch.setattr(children_module, "derive", lying)
    error = refused(lambda: derived(recovered("ecdsa", "secp256k1"), ["m/1"]))
    assert error.detail["check"] == "child"


def test_a_path_of_the_ledger_without_a_key_costs_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = children_module.derive

    def none_at_seven(*args: Any) -> Any:
        if args[-1] == "m/7":
            raise children_module.KeycairnError(Code.BAD_SCALAR, "there is no key at this path")
        return real(*args)

    monkeypatch.setattr(children_module, "derive", none_at_seven)
    key, said = recovered("ecdsa", "secp256k1"), []
    assert key.chain_code is not None
    found = children(
        "secp256k1", "ecdsa", key.private_key, key.chain_code, ["m/6", "m/7", "m/8"], said.append
    )
    assert [child.path for child in found] == ["m/6", "m/8"]
    assert said == ["the ledger names m/7, where there is no key"]


# -- texts for wallets


def test_wif_and_extended_keys_as_embit_and_bip_utils_read_them() -> None:
    rnd = random.Random(3)
    for _ in range(50):
        x, code = SecretScalar(rnd.randrange(1, SECP256K1.q)), SecretBytes(rnd.randbytes(32))
        private = SECP256K1.encode_scalar(x.reveal())
        assert embit_ec.PrivateKey.from_wif(wif(x)).secret == private
        assert WifDecoder.Decode(wif(x))[0] == private
        made = extended_key(x, code)
        xprv = made.xprv.reveal().decode()
        theirs = embit_bip32.HDKey.from_string(xprv)
        assert (theirs.key.secret, theirs.chain_code, theirs.depth) == (private, code.reveal(), 0)
        assert theirs.to_public().to_string() == made.xpub
        assert Bip32Slip10Secp256k1.FromExtendedKey(xprv).PublicKey().ToExtended() == made.xpub


def test_bip32_vector_1_is_written_as_the_standard_writes_it() -> None:
    seeded = hmac.digest(b"Bitcoin seed", bytes(range(16)), "sha512")
    x, code = SecretScalar(int.from_bytes(seeded[:32], "big")), seeded[32:]
    made = extended_key(x, SecretBytes(code))
    assert made.xprv.reveal() == (
        b"xprv9s21ZrQH143K3QTDL4LXw2F7HEK3wJUD2nW2nRk4stbPy6cq3jPPqjiChkVvvNKmPGJxWUtg6LnF5kejMRNNU"
        b"3TGtRBeJgk33yuGBxrMPHi"
    )
    assert made.xpub == (
        "xpub661MyMwAqRbcFtXgS5sYJABqqG9YLmC4Q1Rdap9gSE8NqtwybGhePY2gZ29ESFjqJoCu1Rupje8YtGqsefD265T"
        "Mg7usUDFdp6W1EGMcet8"
    )


def test_descriptor_checksums_of_the_standard() -> None:
    """BIP-380's vectors, and random texts as embit has them."""
    assert checksum("raw(deadbeef)") == "89f8spxm"
    with pytest.raises(ValueError, match="not found"):
        checksum("raw(Ü)")
    rnd = random.Random(4)
    for _ in range(50):
        text = "".join(rnd.choices("abcxyzXYZ0189()[]'/*<>;", k=rnd.randrange(1, 200)))
        assert checksum(text) == embit_checksum(text)


@pytest.mark.parametrize("scheme", ["ecdsa", "schnorr"])
def test_descriptors_give_every_address_of_the_ledger(scheme: str) -> None:
    paths = ["m", "m/3", "m/0/0", "m/0/1", "m/0/7", "m/0/2000000000", "m/1/5", "m/84/0/0/9"]
    key = recovered(scheme, "secp256k1", tuple(paths))
    assert key.chain_code is not None
    xprv = extended_key(key.private_key, key.chain_code).xprv.reveal().decode()
    made = descriptors(scheme, xprv, paths)
    found = set()
    for entry in made:
        assert entry["timestamp"] == 0
        body, check = entry["desc"].split("#")
        assert embit_checksum(body) == check
        theirs = Descriptor.from_string(body)
        if "*" in body:
            first, last = entry["range"]
            found |= {theirs.derive(i).address() for i in range(first, last + 1)}
        else:
            assert "range" not in entry
            found.add(theirs.derive(0).address())
    name = {"ecdsa": "bitcoin_p2wpkh", "schnorr": "bitcoin_p2tr"}[scheme]
    assert {child.addresses[name] for child in derived(key, paths)} <= found
    assert [e["range"] for e in made if "range" in e] == [[0, 7]]  # 2000000000 stands alone
    public = extended_key(key.private_key, key.chain_code).xpub
    for private_entry, entry in zip(made, descriptors(scheme, public, paths), strict=True):
        assert "xprv" in private_entry["desc"]
        assert "xprv" not in entry["desc"]
    alone = descriptors(scheme, wif(key.private_key))
    assert Descriptor.from_string(alone[0]["desc"].split("#")[0]).address() in found


def test_ranges_of_descriptors_stay_small() -> None:
    far = [f"m/0/{i * (MAX_GAP - 1)}" for i in range(300)]
    ranges = [entry["range"] for entry in descriptors("ecdsa", "KEY", far) if "range" in entry]
    assert len(ranges) == 3
    assert all(last - first < 100_000 for first, last in ranges)
    covered = {i for first, last in ranges for i in range(first, last + 1)}
    assert {i * (MAX_GAP - 1) for i in range(300)} <= covered


def test_a_keystore_opens_in_eth_keyfile_and_eth_account() -> None:
    key = recovered("ecdsa", "secp256k1")
    secret = SECP256K1.encode_scalar(key.private_key.reveal())
    password = "pässwörd \u1234"
    made = keystore(key.private_key, SecretBytes(password.encode()), SeededRng(1))
    body = json.loads(made)
    assert eth_keyfile.decode_keyfile_json(body, password.encode()) == secret
    assert bytes(Account.decrypt(body, password)) == secret
    assert "0x" + body["address"] == Account.from_key(secret).address.lower()
    assert body["crypto"]["kdfparams"]["n"] == 1 << 18
    with pytest.raises(ValueError, match="MAC mismatch"):
        eth_keyfile.decode_keyfile_json(body, b"another")
    assert made != keystore(key.private_key, SecretBytes(password.encode()), SeededRng(2))
    refused(lambda: keystore(key.private_key, SecretBytes(b""), SeededRng(1)), Code.MALFORMED)


# -- the files


def _write(tmp_path: Path, *keys: RecoveredKey, **options: Any) -> list[dict[str, Any]]:
    settings: dict[str, Any] = {"forms": FORMS, "password": None, "rng": SeededRng(5)}
    return write_keys(tmp_path / "out", keys, **(settings | options))


@EACH
def test_every_form_that_a_key_has_is_a_file_of_its_own(
    scheme: str, curve: str, tmp_path: Path
) -> None:
    key = recovered(scheme, curve, ("m/0/5", "m/1"))
    [entry] = _write(tmp_path, key, password=SecretBytes(b"pw"))
    want = {"json", "children"}
    want |= {"pem"} if curve != "ed25519" else set()
    want |= {"descriptors"} if curve == "secp256k1" else set()
    want |= {"keystore"} if (scheme, curve) == ("ecdsa", "secp256k1") else set()
    assert set(entry["files"]) == want
    for file in (tmp_path / "out").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    body = json.loads(Path(entry["file"]).read_text())
    assert body["private_key"] == key.statement.group.encode_scalar(key.private_key.reveal()).hex()
    for form in ("wif", "xprv", "xpub"):
        assert (body[form] is not None) is (curve == "secp256k1")
    assert ("NOT an RFC 8032 seed" in body["private_key_encoding"]) is (curve == "ed25519")
    if "pem" in want:
        loaded: Any = load_pem_private_key(Path(entry["files"]["pem"]).read_bytes(), None)
        assert loaded.private_numbers().private_value == key.private_key.reveal()
    table = json.loads(Path(entry["files"]["children"]).read_text())
    assert [row["path"] for row in table["children"]] == ["m/0/5", "m/1"]
    for row, child in zip(table["children"], derived(key, ["m/0/5", "m/1"]), strict=True):
        assert row["public_key"] == child.public_key.hex()
        assert row["addresses"] == child.addresses
        raw = bytes.fromhex(row["private_key"])
        assert key.statement.group.decode_scalar(raw) == child.private_key.reveal()
    read = load_key(Path(entry["file"]).read_bytes())
    assert read.paths == ("m/0/5", "m/1")
    assert read.chain_code is not None


@EACH
def test_only_the_forms_that_were_asked_for(scheme: str, curve: str, tmp_path: Path) -> None:
    key = recovered(scheme, curve, ("m/1",))
    [entry] = _write(tmp_path, key, forms=["wif"])
    assert set(entry["files"]) == {"json"}
    text = Path(entry["file"]).read_text()
    assert json.loads(text)["xprv"] is None
    assert "PRIVATE KEY" not in text
    assert (json.loads(text)["wif"] is not None) is (curve == "secp256k1")


def test_a_key_without_its_chain_code_has_what_needs_none(tmp_path: Path) -> None:
    key = replace(recovered("ecdsa", "secp256k1", ("m/1",)), chain_code=None)
    [entry] = _write(tmp_path, key)
    assert set(entry["files"]) == {"json", "pem", "descriptors"}
    body = json.loads(Path(entry["file"]).read_text())
    assert (body["xprv"], body["xpub"], body["chain_code_lost"]) == (None, None, True)
    [only] = json.loads(Path(entry["files"]["descriptors"]).read_text())
    address = Descriptor.from_string(only["desc"].split("#")[0]).address()
    assert address == body["addresses"]["bitcoin_p2wpkh"]


def test_a_form_that_no_key_has_is_refused_before_anything_else() -> None:
    keys = [recovered("schnorr", "ed25519").statement, recovered("ecdsa", "p256").statement]
    for form in ("wif", "xprv", "descriptors", "keystore"):
        refused(lambda f=form: require_forms([f], keys), Code.MALFORMED)
    require_forms(["json", "pem", "children"], keys)
    assert "keystore" not in forms_of(*BIP340, True)


def test_names_of_keys_never_meet(tmp_path: Path) -> None:
    """Whatever key ids a vault has: no key's file is another key's."""
    first = recovered("ecdsa", "secp256k1", ("m/1",))
    keys = [
        replace(first, statement=replace(first.statement, key_id=name))
        for name in ("a", "a.children", "a/children", "a_children", "a/../b", "\u00e4")
    ]
    entries = _write(tmp_path, *keys)
    files = [path for entry in entries for path in entry["files"].values()]
    assert len(set(files)) == len(files) == len(list((tmp_path / "out").iterdir()))
    assert {Path(file).parent for file in files} == {tmp_path / "out"}


# -- the signer


@EACH
@pytest.mark.parametrize("path", ["m", "m/0/5"])
def test_the_signer_signs_for_the_key_and_its_children(
    scheme: str, curve: str, path: str, tmp_path: Path
) -> None:
    key = recovered(scheme, curve, (path,))
    [entry] = _write(tmp_path, key)
    signer = Signer.open(entry["file"], path)
    [child] = derived(key, [path])
    assert signer.public_key == child.public_key
    if scheme == "ecdsa":
        digest = bytes(range(32))
        made = signer.sign(digest)
        raw = bytes.fromhex(made["signature"])
        r, s = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
        ecdsa.verify(key.statement.group, child.public_key, digest, r, s)
        refused(lambda: signer.sign(digest[1:]), Code.MALFORMED)
    elif curve == "ed25519":
        signature = bytes.fromhex(signer.sign(b"hello")["signature"])
        Ed25519PublicKey.from_public_bytes(child.public_key).verify(signature, b"hello")
        assert Signature(signature).verify(Pubkey(child.public_key), b"hello")
    else:
        signature = bytes.fromhex(signer.sign(b"hello")["signature"])
        assert embit_ec.PublicKey.parse(child.public_key).schnorr_verify(
            embit_ec.SchnorrSig.parse(signature), b"hello".ljust(32)
        ) is (len(b"hello") == 32)
        bip340.verify(child.public_key, b"hello", signature)
        made = signer.sign(b"m" * 32, taproot=True)
        output = embit_bip32.HDKey(
            embit_ec.PublicKey.parse(child.public_key), bytes(32)
        ).taproot_tweak(b"")
        assert output.schnorr_verify(
            embit_ec.SchnorrSig.parse(bytes.fromhex(made["signature"])), b"m" * 32
        )
    if (scheme, curve) != BIP340:
        refused(lambda: signer.sign(bytes(32), taproot=True), Code.MALFORMED)


def test_r46_what_a_wallet_makes_of_the_scalar_is_another_account(tmp_path: Path) -> None:
    """Why the warning is there: a library takes the 32 bytes for a seed, and does not complain."""
    from solders.keypair import Keypair

    key = recovered("schnorr", "ed25519")
    scalar = ED25519.encode_scalar(key.private_key.reveal())
    assert bytes(Keypair.from_seed(scalar).pubkey()) != key.public_key


def test_a_child_needs_a_chain_code(tmp_path: Path) -> None:
    key = replace(recovered("ecdsa", "secp256k1"), chain_code=None)
    [entry] = _write(tmp_path, key)
    refused(lambda: Signer.open(entry["file"], "m/1"), Code.MALFORMED)
    refused(lambda: Signer.open(entry["file"] + "x"), Code.NOT_FOUND)


@pytest.mark.parametrize(
    "edit",
    [{"chain_code": "00"}, {"chain_code": 1}, {"paths": "m"}, {"paths": [1]}, {"scheme": "x"}],
    ids=str,
)
def test_an_edited_key_file_is_refused(edit: dict[str, Any]) -> None:
    body = json.loads(render(recovered("ecdsa", "secp256k1"), frozenset()))
    refused(lambda: load_key(json.dumps(body | edit).encode()), Code.MALFORMED)


def test_the_longest_ledger_fits_its_file(rsa_key: Callable[..., Any], tmp_path: Path) -> None:
    """10,000 paths of the longest kind: the file is read back."""
    longest = tuple("/".join(["m", *["2147483647"] * 7, str(2**31 - 1 - i)]) for i in range(10_000))
    key = recovered("ecdsa", "secp256k1", longest)
    assert len(load_key(render(key, frozenset(FORMS))).paths) == 10_000


def test_a_document_to_the_end(rsa_key: Callable[..., Any], tmp_path: Path) -> None:
    """From proof to child keys without anything made up in between."""
    keys = [make_key("e"), make_key("s", "ed25519"), make_key("p", "p256")]
    used = {"e": ["m/0/1", "m/0/2"], "s": ["m/9"], "p": ["m/1/1"]}
    document = document_of(keys, rsa_key().public, paths=used)
    entries = _write(tmp_path, *recover(document, rsa_key()))
    for made, entry in zip(keys, entries, strict=True):
        table = json.loads(Path(entry["files"]["children"]).read_text())
        group = made.statement.group
        for row in table["children"]:
            x = group.decode_scalar(bytes.fromhex(row["private_key"]))
            assert group.base_mul(x).encode().hex() == row["public_key"]
        assert [row["path"] for row in table["children"]] == used[made.statement.key_id]


@COUNT
def test_recovered_keys_have_the_vaults_addresses_in_strangers_libraries(
    count: int, rsa_key: Callable[..., Any], tmp_path: Path
) -> None:
    """From a document to wallets: what embit (keys and descriptors), eth-account and solders make
    of the recovered files, against the addresses that nodes show, from public data alone."""
    bip340_key = make_key("t")
    schnorr = replace(bip340_key.statement, scheme="schnorr", protocol="frost-bip340")
    keys = [make_key("e"), replace(bip340_key, statement=schnorr), make_key("s", "ed25519")]
    paths = [f"m/{i % 2}/{i // 2}" for i in range(count)]
    document = document_of(keys, rsa_key().public, paths={k.statement.key_id: paths for k in keys})
    entries = _write(tmp_path, *recover(document, rsa_key()))
    for key, entry in zip(keys, entries, strict=True):
        s = key.statement
        assert key.chain_code is not None
        code = key.chain_code.reveal()
        shown = {
            path: addresses(
                s.scheme, s.curve, derive(s.curve, s.scheme, s.public_key, code, path).public_key
            )
            for path in paths
        }
        body = json.loads(Path(entry["file"]).read_text())
        if s.curve == "ed25519":
            table = json.loads(Path(entry["files"]["children"]).read_text())["children"]
            assert {row["path"] for row in table} == set(paths)
            loaded = load_key(Path(entry["file"]).read_bytes())
            for row in table:
                public = Pubkey(bytes.fromhex(row["public_key"]))
                assert str(public) == shown[row["path"]]["solana"]
                signed = Signer.of(loaded, row["path"]).sign(b"a message")
                assert Signature(bytes.fromhex(signed["signature"])).verify(public, b"a message")
            continue
        root = embit_bip32.HDKey.from_string(body["xprv"])
        name = "bitcoin_p2tr" if s.scheme == "schnorr" else "bitcoin_p2wpkh"
        script = embit_script.p2tr if s.scheme == "schnorr" else embit_script.p2wpkh
        for path in paths:
            child = root
            for index in indices(path):
                child = child.child(index)
            assert script(child).address() == shown[path][name]
            if s.scheme == "ecdsa":
                assert Account.from_key(child.key.secret).address == shown[path]["ethereum"]
        found = set()
        for item in json.loads(Path(entry["files"]["descriptors"]).read_text()):
            theirs = Descriptor.from_string(item["desc"].split("#")[0])
            first, last = item.get("range", (0, 0))
            found |= {theirs.derive(i).address() for i in range(first, last + 1)}
        assert {row[name] for row in shown.values()} <= found
