"""Password and key file: what opens a keyring, and everything that must not (T-079)."""

from __future__ import annotations

import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag

from keycairn.encoding import canonical_cbor, decode_cbor, encode
from keycairn.encoding.transcript import registered_tags
from keycairn.encryptors import (
    ArgonParams,
    EncryptorConfig,
    Keyring,
    create_keyring,
    encryptor_of,
    open_keyring,
    read_secret,
    rotate,
)
from keycairn.errors import Code, KeycairnError
from keycairn.ports.seeded import SeededRng

CHEAP = ArgonParams(memory_kib=19 * 1024, iterations=2, lanes=1)


def password_config(path: Path, text: bytes = b"correct horse\n") -> EncryptorConfig:
    path.write_bytes(text)
    path.chmod(0o600)
    return EncryptorConfig("password", secret_file=path, argon=CHEAP)


@pytest.fixture
def config(tmp_path: Path) -> EncryptorConfig:
    return password_config(tmp_path / "password")


@pytest.fixture
def ring(config: EncryptorConfig) -> Keyring:
    return create_keyring(config, vault="v", node=2, rng=SeededRng(1))


def open_it(config: EncryptorConfig, data: bytes, vault: str = "v", node: int = 2) -> bytes:
    """Both data keys, one behind the other."""
    keys = open_keyring(config, data, vault=vault, node=node, rng=SeededRng(99))
    assert sorted(keys) == ["records", "shares"]
    return keys["records"].reveal() + keys["shares"].reveal()


def test_password_round_trip(config: EncryptorConfig, ring: Keyring) -> None:
    key = open_it(config, ring.encode())
    assert len(key) == 64
    assert key[:32] != key[32:]
    assert key[:32] not in ring.encode()
    assert key[32:] not in ring.encode()
    assert Keyring.decode(ring.encode()) == ring
    other = create_keyring(config, vault="v", node=2, rng=SeededRng(2))
    assert open_it(config, other.encode()) != key


@pytest.mark.parametrize("form", ["raw", "hex", "hex with line end"])
def test_key_file_round_trip(tmp_path: Path, form: str) -> None:
    key = bytes(range(1, 33))
    path = tmp_path / "master.key"
    path.write_bytes(
        {"raw": key, "hex": key.hex().encode(), "hex with line end": key.hex().encode() + b"\n"}[
            form
        ]
    )
    path.chmod(0o400)
    config = EncryptorConfig("keyfile", secret_file=path)
    assert read_secret(config).reveal() == key
    ring = create_keyring(config, vault="v", node=1, rng=SeededRng(1))
    assert sorted(ring.wrapped.parameters) == ["salt"]
    assert len(open_it(config, ring.encode(), node=1)) == 64


@pytest.mark.parametrize("content", [b"", b"x" * 31, b"x" * 33, b"zz" * 32, b"ab " * 21 + b"a"])
def test_a_key_file_of_another_form_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "master.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(KeycairnError) as caught:
        read_secret(EncryptorConfig("keyfile", secret_file=path))
    assert caught.value.code is Code.MALFORMED


def test_environment_and_credential(tmp_path: Path) -> None:
    by_env = EncryptorConfig("password", secret_env="KC_PW")
    assert read_secret(by_env, environ={"KC_PW": "pässword"}).reveal() == "pässword".encode()
    (tmp_path / "cred").write_bytes(b"from systemd")
    (tmp_path / "cred").chmod(0o400)
    by_credential = EncryptorConfig("password", secret_credential="cred")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert read_secret(by_credential, environ=environ).reveal() == b"from systemd"
    (tmp_path / "cred").chmod(0o440)
    assert read_secret(by_credential, environ=environ).reveal() == b"from systemd"
    (tmp_path / "cred").chmod(0o444)
    with pytest.raises(KeycairnError):
        read_secret(by_credential, environ=environ)
    for config in (by_env, by_credential, EncryptorConfig("password", secret_credential="../x")):
        with pytest.raises(KeycairnError) as caught:
            read_secret(config, environ={})
        assert caught.value.code is Code.NOT_FOUND


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601, 0o777])
def test_a_loose_secret_file_is_refused(config: EncryptorConfig, mode: int) -> None:
    assert config.secret_file is not None
    config.secret_file.chmod(mode)
    with pytest.raises(KeycairnError) as caught:
        read_secret(config)
    assert caught.value.code is Code.POLICY
    assert "chmod 600" in caught.value.next


@pytest.mark.parametrize(
    ("config", "code"),
    [
        (EncryptorConfig("password"), Code.POLICY),
        (EncryptorConfig("password", secret_env="X", secret_credential="Y"), Code.POLICY),
        (EncryptorConfig("password", secret_file=Path("/nonexistent/file")), Code.NOT_FOUND),
    ],
)
def test_wrong_configuration(config: EncryptorConfig, code: Code) -> None:
    with pytest.raises(KeycairnError) as caught:
        read_secret(config, environ={})
    assert caught.value.code is code


def test_a_kind_that_does_not_exist_is_refused_with_the_ones_that_do() -> None:
    with pytest.raises(KeycairnError) as caught:
        encryptor_of(EncryptorConfig("rot13", secret_env="X"), SeededRng(1))
    assert caught.value.code is Code.MALFORMED
    assert "transit" in caught.value.message


def edited(ring: Keyring, **changes: object) -> bytes:
    return canonical_cbor({**decode_cbor(ring.encode()), **changes})


def edited_costs(ring: Keyring, memory: object, iterations: object, lanes: object) -> bytes:
    costs = {"memory_kib": memory, "iterations": iterations, "lanes": lanes}
    return edited(ring, parameters={**ring.wrapped.parameters, **costs})


def test_t079_every_failure_has_the_same_body(
    config: EncryptorConfig, ring: Keyring, tmp_path: Path
) -> None:
    other = create_keyring(config, vault="v", node=2, rng=SeededRng(9))
    wrong = password_config(tmp_path / "wrong", b"correct house")
    parameters = ring.wrapped.parameters
    swapped = {**ring.data_keys, "shares": ring.data_keys["records"]}
    bodies = []
    for what, conf, data, vault, node in (
        ("wrong password", wrong, ring.encode(), "v", 2),
        ("costs lowered", config, edited_costs(ring, 19 * 1024, 3, 1), "v", 2),
        ("lanes changed", config, edited_costs(ring, 19 * 1024, 2, 2), "v", 2),
        (
            "salt swapped",
            config,
            edited(ring, parameters={**parameters, "salt": other.wrapped.parameters["salt"]}),
            "v",
            2,
        ),
        ("wrapped key swapped", config, edited(ring, wrapped=other.wrapped.body), "v", 2),
        ("data keys of another", config, edited(ring, data_keys=dict(other.data_keys)), "v", 2),
        ("one data key for both", config, edited(ring, data_keys=swapped), "v", 2),
        ("a data key missing", config, edited(ring, data_keys={}), "v", 2),
        ("other vault", config, ring.encode(), "w", 2),
        ("other node", config, ring.encode(), "v", 3),
        ("moved with its label", config, edited(ring, node=3), "v", 3),
        ("costs missing", config, edited(ring, parameters={"salt": parameters["salt"]}), "v", 2),
        ("more parameters", config, edited(ring, parameters={**parameters, "x": 1}), "v", 2),
        ("below the bounds", config, edited_costs(ring, 8, 1, 1), "v", 2),
        ("huge memory", config, edited_costs(ring, 1 << 31, 3, 4), "v", 2),
        ("huge time", config, edited_costs(ring, 65536, 1 << 31, 4), "v", 2),
        ("not integers", config, edited_costs(ring, True, True, True), "v", 2),
        ("format lowered", config, edited(ring, format=1), "v", 2),
        ("format zero", config, edited(ring, format=0), "v", 2),
        ("extra field", config, edited(ring, more=1), "v", 2),
        ("truncated", config, ring.encode()[:-1], "v", 2),
        ("empty", config, b"", "v", 2),
        ("long", config, bytes(1 << 20), "v", 2),
    ):
        with pytest.raises(KeycairnError) as caught:
            open_it(conf, data, vault, node)
        assert caught.value.code is Code.STORE_INTEGRITY, what
        bodies.append(caught.value.to_json())
    assert all(b == bodies[0] for b in bodies)


def test_t079_another_kind_of_encryptor_is_named(config: EncryptorConfig, ring: Keyring) -> None:
    """Which kind it was stands in the keyring for all to read: saying so gives nothing away."""
    for conf, data in (
        (replace(config, kind="keyfile"), ring.encode()),
        (config, edited(ring, kind="keyfile")),
        (config, edited(ring, kind="aws-kms")),
    ):
        with pytest.raises(KeycairnError) as caught:
            open_it(conf, data)
        assert caught.value.code is Code.CONFLICT
        assert "encryptor rotate" in caught.value.next


def test_a_keyring_of_a_newer_version_is_not_called_damaged(
    config: EncryptorConfig, ring: Keyring
) -> None:
    with pytest.raises(KeycairnError) as caught:
        open_it(config, edited(ring, format=3))
    assert caught.value.code is Code.POLICY
    assert "newer" in caught.value.message


def test_t079_any_flipped_byte_is_noticed(config: EncryptorConfig, tmp_path: Path) -> None:
    key = tmp_path / "k"
    key.write_bytes(bytes(32))
    key.chmod(0o600)
    fast = EncryptorConfig("keyfile", secret_file=key)
    data = create_keyring(fast, vault="v", node=2, rng=SeededRng(1)).encode()
    codes = set()
    for position in range(len(data)):
        broken = bytearray(data)
        broken[position] ^= 1 << (position % 8)
        with pytest.raises(KeycairnError) as caught:
            open_it(fast, bytes(broken))
        codes.add(caught.value.code)
    # A flip in the kind, or one that makes the format a higher number, has an answer of its own.
    assert codes <= {Code.STORE_INTEGRITY, Code.CONFLICT, Code.POLICY}
    assert codes >= {Code.STORE_INTEGRITY, Code.CONFLICT}


@pytest.mark.parametrize(
    "argon",
    [
        ArgonParams(memory_kib=19 * 1024 - 1),
        ArgonParams(memory_kib=1024 * 1024 + 1),
        ArgonParams(iterations=1),
        ArgonParams(iterations=11),
        ArgonParams(lanes=0),
        ArgonParams(lanes=17),
    ],
)
def test_new_keyrings_stay_in_the_bounds(config: EncryptorConfig, argon: ArgonParams) -> None:
    with pytest.raises(KeycairnError) as caught:
        create_keyring(replace(config, argon=argon), vault="v", node=1, rng=SeededRng(1))
    assert caught.value.code is Code.POLICY


_HUGE = """
import re, sys
from keycairn.encoding import canonical_cbor, decode_cbor
from keycairn.encryptors import EncryptorConfig, open_keyring
from keycairn.errors import KeycairnError
from keycairn.ports.seeded import SeededRng
data = decode_cbor(bytes.fromhex(sys.argv[1]))
config = EncryptorConfig("password", secret_env="PW")
for memory in (1 << 21, 1 << 31, 1 << 62):
    edited = {**data, "parameters": {**data["parameters"], "memory_kib": memory}}
    try:
        open_keyring(config, canonical_cbor(edited), vault="v", node=2, rng=SeededRng(1),
                     environ={"PW": "correct horse"})
    except KeycairnError as exc:
        print(exc.code.value)
# Not ru_maxrss: that of a child counts what its parent, the whole test run, held at the fork.
print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""


def test_t079_huge_parameters_cost_no_memory(ring: Keyring) -> None:
    run = subprocess.run(
        [sys.executable, "-c", _HUGE, ring.encode().hex()],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    *codes, rss_kib = run.stdout.split()
    assert codes == ["E_STORE_INTEGRITY"] * 3
    assert int(rss_kib) < 150 * 1024


def test_default_cost_is_the_specified_one(config: EncryptorConfig) -> None:
    default = ArgonParams()
    assert (default.memory_kib, default.iterations, default.lanes) == (65536, 3, 4)
    ring = create_keyring(replace(config, argon=default), vault="v", node=2, rng=SeededRng(1))
    assert len(open_it(config, ring.encode())) == 64
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 2 << 20


def test_t080_a_rotation_keeps_the_data_keys_and_nothing_else(
    config: EncryptorConfig, ring: Keyring, tmp_path: Path
) -> None:
    new = password_config(tmp_path / "new", b"another one")
    made = rotate(ring.encode(), config, new, vault="v", node=2, rng=SeededRng(5))
    assert open_it(new, made.encode()) == open_it(config, ring.encode())
    assert made.wrapped.body != ring.wrapped.body
    assert not set(made.data_keys.values()) & set(ring.data_keys.values())
    with pytest.raises(KeycairnError):
        open_it(config, made.encode())
    wrong = password_config(tmp_path / "wrong", b"wrong")
    with pytest.raises(KeycairnError):
        rotate(ring.encode(), wrong, new, vault="v", node=2, rng=SeededRng(6))


def test_t080_the_old_master_key_opens_nothing_of_the_new_keyring(
    config: EncryptorConfig, ring: Keyring
) -> None:
    """Under the same encryptor too: the master key is a new one."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    made = rotate(ring.encode(), config, config, vault="v", node=2, rng=SeededRng(5))
    encryptor = encryptor_of(config, SeededRng(1))
    old = encryptor.unwrap(ring.wrapped, ring.binding).reveal()
    assert encryptor.unwrap(made.wrapped, made.binding).reveal() != old
    body = ring.data_keys["shares"]
    assert AESGCM(old).decrypt(body[:12], body[12:], ring.associated_data("shares"))
    body = made.data_keys["shares"]
    with pytest.raises(InvalidTag):
        AESGCM(old).decrypt(body[:12], body[12:], made.associated_data("shares"))


#: Keyrings of format 1, as written before there were master keys, and the data key in them.
FIRST_FORMAT = {
    "password": (
        "a7646b696e646870617373776f7264646e6f6465026473616c7450032c0cced200c2e2c62dca00b9f4e962"
        "656172676f6e83194c000201657661756c74617666666f726d6174016777726170706564583c7c327a11a3"
        "a362ca1469e8083083ead563eb8603a42b6c70f620dd667f4b0de7129a35dc2961498be31b673014aebdf2"
        "255d95c72ffb13a07ccf4751"
    ),
    "keyfile": (
        "a7646b696e64676b657966696c65646e6f6465026473616c7450032c0cced200c2e2c62dca00b9f4e96265"
        "6172676f6ef6657661756c74617666666f726d6174016777726170706564583c7c327a11a3a362ca1469e8"
        "08fadef3297ab9f4ee75323da93706f1ea21d34c9d7a38f48eee7f88948536917c0272ecabfcaca3be8fb3"
        "a52d7c0a7a72"
    ),
}
FIRST_KEY = "04d426c447eb6043e154990aca7c1938d05dabe4cd3c01abe3fcbdc96a426913"


@pytest.mark.parametrize("kind", ["password", "keyfile"])
def test_a_keyring_of_the_first_format_still_opens_and_rotates(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"correct horse" if kind == "password" else bytes(range(1, 33)))
    path.chmod(0o600)
    config = EncryptorConfig(kind, secret_file=path, argon=CHEAP)
    data = bytes.fromhex(FIRST_FORMAT[kind])
    assert Keyring.decode(data).encode() == data
    assert open_it(config, data) == 2 * bytes.fromhex(FIRST_KEY)
    made = rotate(data, config, config, vault="v", node=2, rng=SeededRng(5))
    assert made.format == 2
    assert open_it(config, made.encode()) == 2 * bytes.fromhex(FIRST_KEY)


def test_argon2id_is_the_one_of_rfc_9106(config: EncryptorConfig, ring: Keyring) -> None:
    """The wrapping key by another implementation: PyNaCl's Argon2id has p = 1, as CHEAP has."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from nacl.pwhash import argon2id

    parameters = ring.wrapped.parameters
    salt = parameters["salt"]
    assert isinstance(salt, bytes)
    kek = argon2id.kdf(32, b"correct horse", salt, opslimit=2, memlimit=19 * 1024 * 1024)
    data = encode(
        registered_tags()["encryptor/keyring"], 2, "password", "v", 2, salt, [19 * 1024, 2, 1]
    )
    body = ring.wrapped.body
    master = AESGCM(kek).decrypt(body[:12], body[12:], data)
    encryptor = encryptor_of(config, SeededRng(1))
    assert master == encryptor.unwrap(ring.wrapped, ring.binding).reveal()
