"""Password and key file: what opens a keyring, and everything that must not (T-079)."""

from __future__ import annotations

import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from keycairn.encoding import SecretBytes, canonical_cbor, decode_cbor
from keycairn.encryptors import (
    ArgonParams,
    EncryptorConfig,
    Keyring,
    create_keyring,
    open_data_key,
    read_secret,
    rewrap,
    unlock,
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
    return open_data_key(config, data, vault=vault, node=node).reveal()


def test_password_round_trip(config: EncryptorConfig, ring: Keyring) -> None:
    key = open_it(config, ring.encode())
    assert len(key) == 32
    assert key not in ring.encode()
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
    assert ring.argon is None
    assert len(open_it(config, ring.encode(), node=1)) == 32


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
        (EncryptorConfig("rot13", secret_env="X"), Code.POLICY),
        (EncryptorConfig("password", secret_env="X", secret_credential="Y"), Code.POLICY),
        (EncryptorConfig("password", secret_file=Path("/nonexistent/file")), Code.NOT_FOUND),
    ],
)
def test_wrong_configuration(config: EncryptorConfig, code: Code) -> None:
    with pytest.raises(KeycairnError) as caught:
        read_secret(config, environ={})
    assert caught.value.code is code


def edited(ring: Keyring, **changes: object) -> bytes:
    return canonical_cbor({**decode_cbor(ring.encode()), **changes})


def test_t079_every_failure_has_the_same_body(
    config: EncryptorConfig, ring: Keyring, tmp_path: Path
) -> None:
    other = create_keyring(config, vault="v", node=2, rng=SeededRng(9))
    wrong = password_config(tmp_path / "wrong", b"correct house")
    bodies = []
    for what, conf, data, vault, node in (
        ("wrong password", wrong, ring.encode(), "v", 2),
        ("costs lowered", config, edited(ring, argon=[19 * 1024, 3, 1]), "v", 2),
        ("lanes changed", config, edited(ring, argon=[19 * 1024, 2, 2]), "v", 2),
        ("salt swapped", config, edited(ring, salt=other.salt), "v", 2),
        ("wrapped key swapped", config, edited(ring, wrapped=other.wrapped), "v", 2),
        ("other vault", config, ring.encode(), "w", 2),
        ("other node", config, ring.encode(), "v", 3),
        ("moved with its label", config, edited(ring, node=3), "v", 3),
        ("kind changed", config, edited(ring, kind="keyfile", argon=None), "v", 2),
        ("argon missing", config, edited(ring, argon=None), "v", 2),
        ("below the bounds", config, edited(ring, argon=[8, 1, 1]), "v", 2),
        ("huge memory", config, edited(ring, argon=[1 << 31, 3, 4]), "v", 2),
        ("huge time", config, edited(ring, argon=[65536, 1 << 31, 4]), "v", 2),
        ("not integers", config, edited(ring, argon=[True, True, True]), "v", 2),
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


def test_t079_any_flipped_byte_is_noticed(config: EncryptorConfig, tmp_path: Path) -> None:
    key = tmp_path / "k"
    key.write_bytes(bytes(32))
    key.chmod(0o600)
    fast = EncryptorConfig("keyfile", secret_file=key)
    data = create_keyring(fast, vault="v", node=2, rng=SeededRng(1)).encode()
    for position in range(len(data)):
        broken = bytearray(data)
        broken[position] ^= 1 << (position % 8)
        with pytest.raises(KeycairnError) as caught:
            open_it(fast, bytes(broken))
        assert caught.value.code is Code.STORE_INTEGRITY


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
from keycairn.encoding import SecretBytes, canonical_cbor, decode_cbor
from keycairn.encryptors import Keyring, unlock
from keycairn.errors import KeycairnError
data = bytes.fromhex(sys.argv[1])
for memory in (1 << 21, 1 << 31, 1 << 62):
    edited = canonical_cbor({**decode_cbor(data), "argon": [memory, 3, 4]})
    try:
        unlock(Keyring.decode(edited), SecretBytes(b"x"), vault="v", node=2)
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
    assert len(open_it(config, ring.encode())) == 32
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 2 << 20


def test_change_of_password_keeps_the_data_key(
    config: EncryptorConfig, ring: Keyring, tmp_path: Path
) -> None:
    new = password_config(tmp_path / "new", b"another one")
    changed = rewrap(ring, read_secret(config), new, rng=SeededRng(5))
    assert open_it(new, changed.encode()) == open_it(config, ring.encode())
    with pytest.raises(KeycairnError):
        open_it(config, changed.encode())
    with pytest.raises(KeycairnError):
        rewrap(ring, SecretBytes(b"wrong"), new, rng=SeededRng(6))


def test_argon2id_is_the_one_of_rfc_9106(ring: Keyring) -> None:
    """The wrapping key by another implementation: PyNaCl's Argon2id has p = 1, as CHEAP has."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from nacl.pwhash import argon2id

    kek = argon2id.kdf(32, b"correct horse", ring.salt, opslimit=2, memlimit=19 * 1024 * 1024)
    data_key = AESGCM(kek).decrypt(ring.wrapped[:12], ring.wrapped[12:], ring.associated_data())
    assert data_key == unlock(ring, SecretBytes(b"correct horse"), vault="v", node=2).reveal()
