"""Derivation against published vectors, two other libraries and plain integers; T-042."""

from __future__ import annotations

import hashlib
import hmac
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import base58
import pytest
from bip_utils import Bip32ChainCode, Bip32KeyData, Bip32Slip10Nist256p1, Bip32Slip10Secp256k1
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from embit import bip32 as embit_bip32
from embit import ec as embit_ec
from embit import script as embit_script

from curves import make_derivation
from keycairn.curves import ED25519, P256, SECP256K1, derivation, group
from keycairn.curves.derivation import MAX_DEPTH, MAX_TRIES, Derived, derive, parse_path
from keycairn.curves.polynomial import Polynomial, lagrange
from keycairn.errors import Code, KeycairnError
from keycairn.ports.seeded import SeededRng

RULES = [
    ("secp256k1", "ecdsa"),
    ("secp256k1", "schnorr"),
    ("p256", "ecdsa"),
    ("ed25519", "schnorr"),
]
EACH = pytest.mark.parametrize(("curve", "scheme"), RULES)
CODE = hashlib.sha256(b"chain code").digest()


def refused(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Code:
    with pytest.raises(KeycairnError) as caught:
        call(*args, **kwargs)
    return caught.value.code


def root(curve: str, k: int = 0xC0FFEE) -> bytes:
    return group(curve).base_mul(k).encode()


# -- published vectors: (parent public key, its chain code), index, (child's)


def _xpub(text: str) -> tuple[bytes, bytes]:
    raw = base58.b58decode_check(text)
    assert len(raw) == 78
    return raw[45:], raw[13:45]


# The unhardened steps of BIP-32's test vectors 1 and 2.
BIP32 = {
    "1: m/0'/1": (
        "xpub68Gmy5EdvgibQVfPdqkBBCHxA5htiqg55crXYuXoQRKfDBFA1WEjWgP6LHhwBZeNK1VTsfTFUHCdrfp1bgwQ9xv5ski8PX9rL2dZXvgGDnw",
        1,
        "xpub6ASuArnXKPbfEwhqN6e3mwBcDTgzisQN1wXN9BJcM47sSikHjJf3UFHKkNAWbWMiGj7Wf5uMash7SyYq527Hqck2AxYysAA7xmALppuCkwQ",
    ),
    "1: m/0'/1/2'/2": (
        "xpub6D4BDPcP2GT577Vvch3R8wDkScZWzQzMMUm3PWbmWvVJrZwQY4VUNgqFJPMM3No2dFDFGTsxxpG5uJh7n7epu4trkrX7x7DogT5Uv6fcLW5",
        2,
        "xpub6FHa3pjLCk84BayeJxFW2SP4XRrFd1JYnxeLeU8EqN3vDfZmbqBqaGJAyiLjTAwm6ZLRQUMv1ZACTj37sR62cfN7fe5JnJ7dh8zL4fiyLHV",
    ),
    "1: m/0'/1/2'/2/1000000000": (
        "xpub6FHa3pjLCk84BayeJxFW2SP4XRrFd1JYnxeLeU8EqN3vDfZmbqBqaGJAyiLjTAwm6ZLRQUMv1ZACTj37sR62cfN7fe5JnJ7dh8zL4fiyLHV",
        1000000000,
        "xpub6H1LXWLaKsWFhvm6RVpEL9P4KfRZSW7abD2ttkWP3SSQvnyA8FSVqNTEcYFgJS2UaFcxupHiYkro49S8yGasTvXEYBVPamhGW6cFJodrTHy",
    ),
    "2: m/0": (
        "xpub661MyMwAqRbcFW31YEwpkMuc5THy2PSt5bDMsktWQcFF8syAmRUapSCGu8ED9W6oDMSgv6Zz8idoc4a6mr8BDzTJY47LJhkJ8UB7WEGuduB",
        0,
        "xpub69H7F5d8KSRgmmdJg2KhpAK8SR3DjMwAdkxj3ZuxV27CprR9LgpeyGmXUbC6wb7ERfvrnKZjXoUmmDznezpbZb7ap6r1D3tgFxHmwMkQTPH",
    ),
    "2: m/0/2147483647'/1": (
        "xpub6ASAVgeehLbnwdqV6UKMHVzgqAG8Gr6riv3Fxxpj8ksbH9ebxaEyBLZ85ySDhKiLDBrQSARLq1uNRts8RuJiHjaDMBU4Zn9h8LZNnBC5y4a",
        1,
        "xpub6DF8uhdarytz3FWdA8TvFSvvAh8dP3283MY7p2V4SeE2wyWmG5mg5EwVvmdMVCQcoNJxGoWaU9DCWh89LojfZ537wTfunKau47EL2dhHKon",
    ),
    "2: m/0/2147483647'/1/2147483646'/2": (
        "xpub6ERApfZwUNrhLCkDtcHTcxd75RbzS1ed54G1LkBUHQVHQKqhMkhgbmJbZRkrgZw4koxb5JaHWkY4ALHY2grBGRjaDMzQLcgJvLJuZZvRcEL",
        2,
        "xpub6FnCn6nSzZAw5Tw7cgR9bi15UV96gLZhjDstkXXxvCLsUXBGXPdSnLFbdpq8p9HmGsApME5hQTZ3emM2rnY5agb9rXpVGyy3bdW6EEgAtqt",
    ),
}  # fmt: skip


@pytest.mark.parametrize("scheme", ["ecdsa", "schnorr"])
@pytest.mark.parametrize(("parent", "index", "child"), BIP32.values(), ids=BIP32)
def test_bip32_vectors(parent: str, index: int, child: str, scheme: str) -> None:
    got = derive("secp256k1", scheme, *_xpub(parent), f"m/{index}")
    assert (got.public_key, got.chain_code) == _xpub(child)


def test_bip32_vector_1_in_two_steps() -> None:
    parent, child = BIP32["1: m/0'/1/2'/2"][0], BIP32["1: m/0'/1/2'/2/1000000000"][2]
    got = derive("secp256k1", "ecdsa", *_xpub(parent), "m/2/1000000000")
    assert (got.public_key, got.chain_code) == _xpub(child)


# SLIP-10's vectors for nist256p1: parent private key, public key and chain code; index; child's.
SLIP10 = {
    "1: m/0'/1": (
        "6939694369114c67917a182c59ddb8cafc3004e63ca5d3b84403ba8613debc0c",
        "0384610f5ecffe8fda089363a41f56a5c7ffc1d81b59a612d0d649b2d22355590c",
        "3460cea53e6a6bb5fb391eeef3237ffd8724bf0a40e94943c98b83825342ee11",
        1,
        "284e9d38d07d21e4e281b645089a94f4cf5a5a81369acf151a1c3a57f18b2129",
        "03526c63f8d0b4bbbf9c80df553fe66742df4676b241dabefdef67733e070f6844",
        "4187afff1aafa8445010097fb99d23aee9f599450c7bd140b6826ac22ba21d0c",
    ),
    "1: m/0'/1/2'/2": (
        "694596e8a54f252c960eb771a3c41e7e32496d03b954aeb90f61635b8e092aa7",
        "0359cf160040778a4b14c5f4d7b76e327ccc8c4a6086dd9451b7482b5a4972dda0",
        "98c7514f562e64e74170cc3cf304ee1ce54d6b6da4f880f313e8204c2a185318",
        2,
        "5996c37fd3dd2679039b23ed6f70b506c6b56b3cb5e424681fb0fa64caf82aaa",
        "029f871f4cb9e1c97f9f4de9ccd0d4a2f2a171110c61178f84430062230833ff20",
        "ba96f776a5c3907d7fd48bde5620ee374d4acfd540378476019eab70790c63a0",
    ),
    "1: m/0'/1/2'/2/1000000000": (
        "5996c37fd3dd2679039b23ed6f70b506c6b56b3cb5e424681fb0fa64caf82aaa",
        "029f871f4cb9e1c97f9f4de9ccd0d4a2f2a171110c61178f84430062230833ff20",
        "ba96f776a5c3907d7fd48bde5620ee374d4acfd540378476019eab70790c63a0",
        1000000000,
        "21c4f269ef0a5fd1badf47eeacebeeaa3de22eb8e5b0adcd0f27dd99d34d0119",
        "02216cd26d31147f72427a453c443ed2cde8a1e53c9cc44e5ddf739725413fe3f4",
        "b9b7b82d326bb9cb5b5b121066feea4eb93d5241103c9e7a18aad40f1dde8059",
    ),
    "2: m/0": (
        "eaa31c2e46ca2962227cf21d73a7ef0ce8b31c756897521eb6c7b39796633357",
        "02c9e16154474b3ed5b38218bb0463e008f89ee03e62d22fdcc8014beab25b48fa",
        "96cd4465a9644e31528eda3592aa35eb39a9527769ce1855beafc1b81055e75d",
        0,
        "d7d065f63a62624888500cdb4f88b6d59c2927fee9e6d0cdff9cad555884df6e",
        "039b6df4bece7b6c81e2adfeea4bcf5c8c8a6e40ea7ffa3cf6e8494c61a1fc82cc",
        "84e9c258bb8557a40e0d041115b376dd55eda99c0042ce29e81ebe4efed9b86a",
    ),
    "2: m/0/2147483647'/1": (
        "96d2ec9316746a75e7793684ed01e3d51194d81a42a3276858a5b7376d4b94b9",
        "02f89c5deb1cae4fedc9905f98ae6cbf6cbab120d8cb85d5bd9a91a72f4c068c76",
        "f235b2bc5c04606ca9c30027a84f353acf4e4683edbd11f635d0dcc1cd106ea6",
        1,
        "974f9096ea6873a915910e82b29d7c338542ccde39d2064d1cc228f371542bbc",
        "03abe0ad54c97c1d654c1852dfdc32d6d3e487e75fa16f0fd6304b9ceae4220c64",
        "7c0b833106235e452eba79d2bdd58d4086e663bc8cc55e9773d2b5eeda313f3b",
    ),
    "2: m/0/2147483647'/1/2147483646'/2": (
        "da29649bbfaff095cd43819eda9a7be74236539a29094cd8336b07ed8d4eff63",
        "03cb8cb067d248691808cd6b5a5a06b48e34ebac4d965cba33e6dc46fe13d9b933",
        "5794e616eadaf33413aa309318a26ee0fd5163b70466de7a4512fd4b1a5c9e6a",
        2,
        "bb0a77ba01cc31d77205d51d08bd313b979a71ef4de9b062f8958297e746bd67",
        "020ee02e18967237cf62672983b253ee62fa4dd431f8243bfeccdf39dbe181387f",
        "3bfb29ee8ac4484f09db09c2079b520ea5616df7820f071a20320366fbe226a7",
    ),
    "derivation retry: m/28578'/33941": (
        "06f0db126f023755d0b8d86d4591718a5210dd8d024e3e14b6159d63f53aa669",
        "02519b5554a4872e8c9c1c847115363051ec43e93400e030ba3c36b52a3e70a5b7",
        "e94c8ebe30c2250a14713212f6449b20f3329105ea15b652ca5bdfc68f6c65c2",
        33941,
        "092154eed4af83e078ff9b84322015aefe5769e31270f62c3f66c33888335f3a",
        "0235bfee614c0d5b2cae260000bb1d0d84b270099ad790022c1ae0b2e782efe120",
        "9e87fe95031f14736774cd82f25fd885065cb7c358c1edf813c72af535e83071",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("k", "x", "c", "index", "k2", "x2", "c2"), SLIP10.values(), ids=SLIP10)
def test_slip10_vectors(k: str, x: str, c: str, index: int, k2: str, x2: str, c2: str) -> None:
    got = derive("p256", "ecdsa", bytes.fromhex(x), bytes.fromhex(c), f"m/{index}")
    assert got.public_key.hex() == x2
    assert got.chain_code.hex() == c2
    assert P256.base_mul(int(k, 16)).encode().hex() == x
    assert (int(k, 16) + got.tweak) % P256.q == int(k2, 16)


def test_the_retry_vector_does_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    """And bip-utils, which has no retry, goes another way: SLIP-10 is the reference here."""
    calls = _count(monkeypatch)
    _, x, c, index, _, x2, _ = SLIP10["derivation retry: m/28578'/33941"]
    derive("p256", "ecdsa", bytes.fromhex(x), bytes.fromhex(c), f"m/{index}")
    assert len(calls) == 2
    other = _bip_utils(Bip32Slip10Nist256p1, bytes.fromhex(x), bytes.fromhex(c), [index])
    assert other[0].hex() != x2


def _count(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bytes, bytes]]:
    real, calls = derivation._hmac_sha512, []

    def spy(key: bytes, data: bytes) -> bytes:
        calls.append((key, data))
        return real(key, data)

    monkeypatch.setattr(derivation, "_hmac_sha512", spy)
    return calls


# -- oracles


def _bip_utils(cls: Any, public: bytes, code: bytes, path: list[int]) -> tuple[bytes, bytes]:
    node = cls.FromPublicKey(public, Bip32KeyData(chain_code=Bip32ChainCode(code)))
    for index in path:
        node = node.ChildKey(index)
    return node.PublicKey().RawCompressed().ToBytes(), node.ChainCode().ToBytes()


def _embit(public: bytes, code: bytes, path: list[int]) -> tuple[bytes, bytes]:
    node = embit_bip32.HDKey(embit_ec.PublicKey.parse(public), code)
    for index in path:
        node = node.child(index)
    return node.key.sec(), node.chain_code


def _random_paths(seed: str, count: int) -> Iterator[tuple[int, bytes, list[int]]]:
    rnd = random.Random(seed)
    for n in range(count):
        depth = n % MAX_DEPTH + 1 if n < 40 else rnd.choice((1, 1, 2, 2, 3, 4, 5))
        path = [
            rnd.choice((rnd.randrange(2**31), rnd.randrange(100), 0, 2**31 - 1))
            for _ in range(depth)
        ]
        yield rnd.randrange(1, 2**255), rnd.randbytes(32), path


def _text(path: list[int]) -> str:
    return "/".join(["m", *map(str, path)])


def _against_oracles(curve: str, count: int) -> None:
    for k, code, path in _random_paths(curve, count):
        public = group(curve).base_mul(k).encode()
        got = derive(curve, "ecdsa", public, code, _text(path))
        mine = (got.public_key, got.chain_code)
        if curve == "secp256k1":
            assert mine == _bip_utils(Bip32Slip10Secp256k1, public, code, path)
            assert mine == _embit(public, code, path)
        else:
            assert mine == _bip_utils(Bip32Slip10Nist256p1, public, code, path)
        assert group(curve).base_mul(k + got.tweak).encode() == got.public_key


ORACLES = pytest.mark.parametrize("curve", ["secp256k1", "p256"])


@ORACLES
def test_t042_1000_random_paths_agree_with_other_libraries(curve: str) -> None:
    """bip-utils for both curves, embit for BIP-32. Without a retry on the way, SLIP-10's P-256 is
    what bip-utils does; one step in 2^32 would differ."""
    _against_oracles(curve, 1000)


@pytest.mark.full
@ORACLES
def test_t042_10000_random_paths_agree_with_other_libraries(curve: str) -> None:
    _against_oracles(curve, 10_000)


def test_bip86_wallet_finds_the_addresses_of_a_bip340_key() -> None:
    """BIP-86's first receiving address, from its account's xpub."""
    account = _xpub(
        "xpub6BgBgsespWvERF3LHQu6CnqdvfEvtMcQjYrcRzx53QJjSxarj2afYWcLteoGVky7D3UKDP9QyrLprQ3VCECoY49yfdDEHGCtMMj92pReUsQ"
    )
    got = derive("secp256k1", "schnorr", *account, "m/0/0")
    internal = "cc8a4bc64d897bddc5fbc2f670f7a8ba0b386779106cf1223c6fc5d7cd6fc115"
    assert got.public_key[1:].hex() == internal
    address = embit_script.p2tr(embit_ec.PublicKey.parse(got.public_key)).address()
    assert address == "bc1p5cyxnuxmeuwuvkwfem96lqzszd02n6xdcjrs20cac6yqjjwudpxqkedrcr"


def test_bip340_children_depend_on_the_plain_point_with_its_sign() -> None:
    point = SECP256K1.base_mul(77)
    one, two = (
        derive("secp256k1", "schnorr", p.encode(), CODE, "m/1")
        for p in (point, SECP256K1.neg(point))
    )
    assert one.tweak != two.tweak
    assert one == derive("secp256k1", "ecdsa", point.encode(), CODE, "m/1")


# -- our rule for Ed25519


GOLDEN = json.loads(make_derivation.FILE.read_text(encoding="ascii"))


def test_golden_vectors_are_what_the_second_implementation_makes() -> None:
    assert make_derivation.make() == GOLDEN


@pytest.mark.parametrize("case", GOLDEN["valid"], ids=lambda c: c["path"])
def test_ed25519_golden_vectors(case: dict[str, str]) -> None:
    raw = {name: bytes.fromhex(text) for name, text in case.items() if name != "path"}
    got = derive("ed25519", "schnorr", raw["public_key"], raw["chain_code"], case["path"])
    assert ED25519.encode_scalar(got.tweak) == raw["tweak"]
    assert got.public_key == raw["child_public_key"]
    assert got.chain_code == raw["child_chain_code"]
    x = ED25519.decode_scalar(raw["private_key"])
    assert ED25519.base_mul(x + got.tweak).encode() == raw["child_public_key"]


@pytest.mark.parametrize("case", GOLDEN["error"], ids=lambda c: ascii(c["path"]))
def test_golden_errors(case: dict[str, str]) -> None:
    for curve, scheme in RULES:
        assert refused(derive, curve, scheme, root(curve), CODE, case["path"]) == case["code"]


def test_any_t_plus_1_shifted_ed25519_shares_sign_for_the_child() -> None:
    """Shares x_i + tweak, no message between the holders; the verifier is OpenSSL's."""
    q = ED25519.q
    f = Polynomial.random(ED25519, 2, SeededRng("shares"))
    shares = {i: f.evaluate(i).reveal() for i in range(1, 6)}
    public = ED25519.base_mul(f.coefficients[0].reveal())
    child = derive("ed25519", "schnorr", public.encode(), CODE, "m/7/3")
    verifier = Ed25519PublicKey.from_public_bytes(child.public_key)
    message = b"spend"
    for players in ([1, 2, 3], [2, 4, 5], [1, 3, 4, 5], [1, 2, 3, 4, 5]):
        nonces = {i: 1000003 * i + 17 for i in players}
        big_r = ED25519.add([ED25519.base_mul(n) for n in nonces.values()]).encode()
        hashed = hashlib.sha512(big_r + child.public_key + message).digest()
        c = int.from_bytes(hashed, "little") % q
        weights = {i: lagrange(ED25519, players, i) for i in players}
        assert sum(weights.values()) % q == 1
        z = sum(nonces[i] + c * weights[i] * (shares[i] + child.tweak) for i in players)
        verifier.verify(big_r + ED25519.encode_scalar(z), message)
        # Each holder's commitment moves along: X_i + tweak*G.
        for i in players:
            moved = ED25519.add([ED25519.base_mul(shares[i]), ED25519.base_mul(child.tweak)])
            assert moved == ED25519.base_mul(shares[i] + child.tweak)


@EACH
def test_shifted_shares_interpolate_to_the_childs_private_key(curve: str, scheme: str) -> None:
    g = group(curve)
    f = Polynomial.random(g, 1, SeededRng(curve))
    public = g.base_mul(f.coefficients[0].reveal()).encode()
    child = derive(curve, scheme, public, CODE, "m/0/5")
    for players in ([1, 2], [1, 3], [2, 3]):
        x = sum(lagrange(g, players, i) * (f.evaluate(i).reveal() + child.tweak) for i in players)
        assert g.base_mul(x).encode() == child.public_key


@EACH
def test_a_path_is_its_steps_and_the_root_is_itself(curve: str, scheme: str) -> None:
    public = root(curve)
    assert derive(curve, scheme, public, CODE, "m") == Derived(0, public, CODE)
    whole = derive(curve, scheme, public, CODE, "m/3/1/4/1")
    total, key, code = 0, public, CODE
    for index in (3, 1, 4, 1):
        part = derive(curve, scheme, key, code, f"m/{index}")
        total, key, code = (total + part.tweak) % group(curve).q, part.public_key, part.chain_code
    assert whole == Derived(total, key, code)
    seen = {derive(curve, scheme, public, CODE, p).public_key for p in ("m/0", "m/1", "m/0/0", "m")}
    assert len(seen) == 4
    other = derive(curve, scheme, public, bytes(32), "m/3/1/4/1")
    assert other.public_key != whole.public_key


def test_derived_values_do_not_print_what_links_keys() -> None:
    got = derive("p256", "ecdsa", root("p256"), CODE, "m/1")
    assert str(got.tweak) not in repr(got)
    assert got.chain_code.hex() not in repr(got)
    assert repr(got.chain_code) not in repr(got)
    assert got.public_key == P256.decode_point(got.public_key).encode()


# -- T-042: bad paths, forced failures, bounded loops


def test_parse_path() -> None:
    assert parse_path("m") == ()
    assert parse_path("m/0/5") == (0, 5)
    assert parse_path("m/2147483647") == (2**31 - 1,)
    longest = _text([2**31 - 1] * MAX_DEPTH)
    assert parse_path(longest) == (2**31 - 1,) * MAX_DEPTH


BAD_PATHS: dict[str, object] = {
    "hardened '": "m/0'",
    "hardened h": "m/44h/0",
    "hardened H": "m/0/0H",
    "hardened, typographic": "m/0\u2019",
    "hardened by value": f"m/{2**31}",
    "2^32 - 1": f"m/{2**32 - 1}",
    "2^32": f"m/{2**32}",
    "2^64": f"m/{2**64}",
    "2^32, then valid": f"m/{2**32}/0",
    "5,000 digits": "m/" + "1" * 5000,
    "depth 256": _text([0] * 256),
    "depth 255": _text([0] * 255),
    "one step too deep": _text([0] * (MAX_DEPTH + 1)),
    "too deep and too long": _text([2**31 - 1] * (MAX_DEPTH + 1)),
    "empty": "",
    "slash": "/",
    "empty segment at the end": "m/",
    "empty segment inside": "m/0//5",
    "empty segment at the start": "m//0",
    "trailing slash": "m/0/",
    "no root": "0/5",
    "no root, slash": "/0/5",
    "upper-case root": "M/0",
    "root twice": "m/m/0",
    "leading zero": "m/05",
    "two zeros": "m/00",
    "plus": "m/+5",
    "minus": "m/-1",
    "minus zero": "m/-0",
    "space before": " m/0",
    "space inside": "m/ 0",
    "space after": "m/0 ",
    "line break": "m/0\n",
    "line break, root": "m\n",
    "NUL": "m/0\x00",
    "underscore": "m/1_0",
    "hexadecimal": "m/0x10",
    "exponent": "m/1e3",
    "fraction": "m/1.0",
    "Arabic digit": "m/\u0663",
    "full-width digit": "m/\uff11",
    "superscript digit": "m/\u00b2",
    "mathematical digit": "m/\U0001d7d9",
    "full-width slash": "m\uff0f0",
    "wildcard": "m/*",
    "lone surrogate": "m/\ud800",
    "bytes": b"m/0",
    "none": None,
    "number": 0,
    "list": [0, 5],
    "tuple": ("m", 0),
}


@pytest.mark.parametrize("path", BAD_PATHS.values(), ids=BAD_PATHS)
def test_t042_bad_paths(path: object) -> None:
    assert refused(parse_path, path) is Code.MALFORMED
    for curve, scheme in RULES:
        assert refused(derive, curve, scheme, root(curve), CODE, path) is Code.MALFORMED


@pytest.mark.parametrize("path", ["m/0'", "m/01", "m/2147483648", "n/0", "m/", "m" + "/0" * 9])
def test_t081_a_bad_path_is_answered_with_a_good_one(path: str) -> None:
    with pytest.raises(KeycairnError) as caught:
        parse_path(path)
    assert caught.value.not_lost
    assert parse_path(caught.value.next.split(":")[0].split()[-1]) == (0, 5)


@pytest.mark.parametrize(
    ("curve", "scheme"),
    [
        ("ed25519", ""), ("ed25519", "ecdsa"), ("ed25519", "eddsa"), ("ed25519", "Schnorr"),
        ("ed25519", None), ("p256", "schnorr"), ("p384", "ecdsa"), ("", "ecdsa"), (None, None),
        ("secp256k1", ""), (["secp256k1"], "ecdsa"),
    ],
)  # fmt: skip
def test_t042_pairs_without_a_documented_rule(curve: Any, scheme: Any) -> None:
    known = curve if curve in ("ed25519", "p256", "secp256k1") else "secp256k1"
    assert refused(derive, curve, scheme, root(known), CODE, "m/0") is Code.MALFORMED
    assert refused(derive, curve, scheme, root(known), CODE, "m") is Code.MALFORMED


@EACH
def test_wrong_public_keys_and_chain_codes(curve: str, scheme: str) -> None:
    good = root(curve)
    for path in ("m", "m/0"):
        for public in (b"", good[1:], good + b"\x00", bytes(len(good)), b"\xff" * len(good), None):
            assert refused(derive, curve, scheme, public, CODE, path) is Code.BAD_POINT
        for code in (b"", CODE[1:], CODE + b"\x00", None, CODE.hex(), bytearray(CODE)):
            assert refused(derive, curve, scheme, good, code, path) is Code.BAD_LENGTH


class Forced:
    """An HMAC that gives the listed left halves first, then the real one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *lefts: int) -> None:
        self.lefts, self.calls = list(lefts), []  # type: ignore[var-annotated]
        monkeypatch.setattr(derivation, "_hmac_sha512", self)

    def __call__(self, key: bytes, data: bytes) -> bytes:
        self.calls.append((key, data))
        real = hmac.new(key, data, "sha512").digest()
        if not self.lefts:
            return real
        return self.lefts.pop(0).to_bytes(32, "big") + real[32:]


def test_t042_bip32_child_that_is_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    q = SECP256K1.q
    for scheme in ("ecdsa", "schnorr"):
        for left in (q, q + 1, 2**256 - 1, q - 0xC0FFEE):  # the last: identity
            forced = Forced(monkeypatch, left)
            public = root("secp256k1")
            assert refused(derive, "secp256k1", scheme, public, CODE, "m/4/5") is Code.BAD_SCALAR
            assert len(forced.calls) == 1


@pytest.mark.parametrize("curve", ["secp256k1", "p256"])
def test_a_tweak_of_zero_is_valid_as_the_standards_have_it(
    curve: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Forced(monkeypatch, 0)
    got = derive(curve, "ecdsa", root(curve), CODE, "m/4")
    assert (got.tweak, got.public_key) == (0, root(curve))
    assert got.chain_code != CODE


def test_t042_slip10_retries_from_the_right_half(monkeypatch: pytest.MonkeyPatch) -> None:
    q, public, index = P256.q, root("p256"), (2**31 - 2).to_bytes(4, "big")
    for bad in (q, q + 1, 2**256 - 1, q - 0xC0FFEE):
        forced = Forced(monkeypatch, bad, bad)
        got = derive("p256", "ecdsa", public, CODE, f"m/{2**31 - 2}")
        first = hmac.new(CODE, public + index, "sha512").digest()
        second = hmac.new(CODE, b"\x01" + first[32:] + index, "sha512").digest()
        third = hmac.new(CODE, b"\x01" + second[32:] + index, "sha512").digest()
        assert [data for _, data in forced.calls] == [
            public + index,
            b"\x01" + first[32:] + index,
            b"\x01" + second[32:] + index,
        ]
        assert {key for key, _ in forced.calls} == {CODE}
        assert got.tweak == int.from_bytes(third[:32], "big")
        assert got.chain_code == third[32:]
        assert P256.base_mul(0xC0FFEE + got.tweak).encode() == got.public_key


def test_t042_slip10_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    forced = Forced(monkeypatch, *[2**256 - 1] * 1000)
    assert refused(derive, "p256", "ecdsa", root("p256"), CODE, "m/1/2") is Code.BAD_SCALAR
    assert len(forced.calls) == MAX_TRIES
    last = Forced(monkeypatch, *[2**256 - 1] * (MAX_TRIES - 1))
    derive("p256", "ecdsa", root("p256"), CODE, "m/1")
    assert len(last.calls) == MAX_TRIES


def test_t042_ed25519_child_that_is_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    q = ED25519.q
    for value in (0, q, 5 * q, q - 0xC0FFEE, 3 * q - 0xC0FFEE):
        out = value.to_bytes(48, "big") + bytes(32)
        monkeypatch.setattr(derivation, "xof", lambda n, *fields, out=out: out)
        assert (
            refused(derive, "ed25519", "schnorr", root("ed25519"), CODE, "m/4") is Code.BAD_SCALAR
        )
