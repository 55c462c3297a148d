"""What every kind of encryptor must do, and must not; each against its real service."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from encryptors.components import configured, private
from keycairn.encoding import SecretBytes, canonical_cbor, decode_cbor
from keycairn.encryptors import (
    Binding,
    EncryptorConfig,
    Keyring,
    Wrapped,
    check_encryptor,
    create_keyring,
    describe_keyring,
    encryptor_of,
    open_keyring,
    rotate,
)
from keycairn.errors import Code, KeycairnError
from keycairn.ports.seeded import SeededRng

MASTER = SecretBytes(bytes(range(100, 132)))
HERE = Binding("vault-a", 3)


@dataclass(frozen=True)
class World:
    """One kind, configured right and wrong."""

    section: dict[str, Any]
    secret: str
    #: [encryptor] of another key of the same service.
    other: dict[str, Any]
    #: What makes the secret wrong, and the code that follows.
    wrong_secret: Code
    #: [encryptor] with a key that does not exist, and with a service that is away.
    no_key: dict[str, Any] | None = None
    away: dict[str, Any] | None = None

    @property
    def config(self) -> EncryptorConfig:
        return configured(self.section)


def _password(tmp: Path, _: pytest.FixtureRequest) -> World:
    secret = private(tmp / "secret", "correct horse battery\n")
    other = private(tmp / "other", "another battery\n")
    section = {"kind": "password", "secret_file": str(secret)}
    return World(
        section,
        "correct horse battery",
        {**section, "secret_file": str(other)},
        Code.STORE_INTEGRITY,
    )


def _keyfile(tmp: Path, _: pytest.FixtureRequest) -> World:
    secret = private(tmp / "secret", "ab" * 32)
    other = private(tmp / "other", "cd" * 32)
    section = {"kind": "keyfile", "secret_file": str(secret)}
    return World(section, "ab" * 32, {**section, "secret_file": str(other)}, Code.STORE_INTEGRITY)


def _transit(tmp: Path, request: pytest.FixtureRequest, **key: Any) -> World:
    bao = request.getfixturevalue("openbao")
    name = f"k-{tmp.name}".replace("_", "-")
    bao.make_key(name, **key)
    bao.make_key(f"{name}-other")
    # A policy for everything below the engine, "create" too: the trap must not spring even so.
    token = bao.make_token(
        name, more='path "transit/*" { capabilities = ["create", "update", "read"] }\n'
    )
    secret = private(tmp / "secret", token + "\n")
    section = bao.section(name, secret)
    return World(
        section,
        token,
        {**section, "key": f"{name}-other"},
        Code.AUTHN,
        no_key={**section, "key": f"{name}-typo"},
        away={**section, "address": "https://127.0.0.1:9"},
    )


def _derived(tmp: Path, request: pytest.FixtureRequest) -> World:
    return _transit(tmp, request, type="chacha20-poly1305", derived=True)


def _kms(tmp: Path, request: pytest.FixtureRequest) -> World:
    kms = request.getfixturevalue("kms")
    secret = private(tmp / "secret", "secret-access-key-of-the-tests\n")
    section = kms.section(kms.make_key(), secret)
    return World(
        section,
        "secret-access-key-of-the-tests",
        {**section, "key": kms.make_key()},
        Code.AUTHN,  # not asked of moto, which takes any key: test_awskms does
        no_key={**section, "key": "alias/typo"},
        away={**section, "endpoint": "http://127.0.0.1:9"},
    )


def _pkcs11(tmp: Path, request: pytest.FixtureRequest) -> World:
    hsm = request.getfixturevalue("softhsm")
    name = f"k-{tmp.name}"
    hsm.make_key(name)
    hsm.make_key(f"{name}-other")
    section = hsm.section(name, private(tmp / "secret", hsm.pin + "\n"))
    return World(
        section,
        hsm.pin,
        {**section, "key": f"{name}-other"},
        Code.AUTHN,
        no_key={**section, "key": f"{name}-typo"},
        away={**section, "token": "another-token"},
    )


WORLDS: dict[str, Callable[[Path, pytest.FixtureRequest], World]] = {
    "password": _password,
    "keyfile": _keyfile,
    "transit": _transit,
    "transit, derived": _derived,
    "aws-kms": _kms,
    "pkcs11": _pkcs11,
}


@pytest.fixture(params=WORLDS)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    return WORLDS[request.param](tmp_path, request)


def fails(code: Code, work: Callable[[], object]) -> KeycairnError:
    with pytest.raises(KeycairnError) as caught:
        work()
    assert caught.value.code is code, caught.value.message
    assert caught.value.not_lost
    assert caught.value.next
    return caught.value


def wrap(config: EncryptorConfig, binding: Binding = HERE, seed: int = 1) -> Wrapped:
    return encryptor_of(config, SeededRng(seed)).wrap(MASTER, binding)


def unwrap(config: EncryptorConfig, wrapped: Wrapped, binding: Binding = HERE) -> bytes:
    return encryptor_of(config, SeededRng(2)).unwrap(wrapped, binding).reveal()


def test_what_was_wrapped_comes_back_and_is_not_there_to_read(world: World) -> None:
    one, two = wrap(world.config), wrap(world.config, seed=3)
    for wrapped in (one, two):
        assert unwrap(world.config, wrapped) == MASTER.reveal()
        assert MASTER.reveal() not in wrapped.body
    assert one.body != two.body


@pytest.mark.parametrize("binding", [Binding("vault-b", 3), Binding("vault-a", 4)])
def test_t074_a_wrapped_key_of_another_vault_or_node_is_refused(
    world: World, binding: Binding
) -> None:
    wrapped = wrap(world.config)
    fails(Code.STORE_INTEGRITY, lambda: unwrap(world.config, wrapped, binding))


def test_every_part_of_the_ciphertext_counts(world: World) -> None:
    wrapped = wrap(world.config)
    body = wrapped.body
    for edited in (
        body[:-1],
        body + b"A",
        b"",
        body[: len(body) // 2] + bytes([body[len(body) // 2] ^ 1]) + body[len(body) // 2 + 1 :],
    ):
        fails(
            Code.STORE_INTEGRITY,
            lambda edited=edited: unwrap(world.config, Wrapped(wrapped.parameters, edited)),
        )


def test_another_key_of_the_same_service_does_not_open_it(world: World) -> None:
    """Whoever writes the database must not choose the key: it is the configured one."""
    wrapped = wrap(world.config)
    error = fails(Code.STORE_INTEGRITY, lambda: unwrap(configured(world.other), wrapped))
    if "key" in world.section:
        assert str(world.section["key"]) in error.message, "it says which key it was"


def test_t079_a_wrong_secret_is_told_apart_only_where_the_service_does(world: World) -> None:
    if world.section["kind"] == "aws-kms":
        pytest.skip("moto takes any secret access key; test_awskms asks the real client")
    wrapped = wrap(world.config)
    path = Path(world.section["secret_file"])
    wrong = "ef" * 32 if world.section["kind"] == "keyfile" else "not the secret"
    path.write_text(wrong)
    error = fails(world.wrong_secret, lambda: unwrap(world.config, wrapped))
    assert wrong not in json.dumps(error.to_json())
    path.write_text(world.secret)
    assert unwrap(world.config, wrapped) == MASTER.reveal()


def test_a_missing_secret_says_where_it_was_looked_for(world: World) -> None:
    wrapped = wrap(world.config)
    path = Path(world.section["secret_file"])
    path.unlink()
    error = fails(Code.NOT_FOUND, lambda: unwrap(world.config, wrapped))
    assert str(path) in error.message
    fails(Code.NOT_FOUND, lambda: wrap(world.config))


def test_a_missing_key_is_named_and_not_made(world: World) -> None:
    if world.no_key is None:
        pytest.skip("this kind has no keys by name")
    wrapped = wrap(world.config)
    config = configured(world.no_key)
    # Twice: a service that makes what is missing would have it by now.
    for _ in range(2):
        error = fails(Code.NOT_FOUND, lambda: wrap(config))
        assert world.no_key["key"] in error.message
        assert error.exit_code == 4
    fails(Code.NOT_FOUND, lambda: unwrap(config, wrapped))


def test_a_service_that_is_away(world: World) -> None:
    if world.away is None:
        pytest.skip("this kind is nowhere else")
    wrapped = wrap(world.config)
    config = configured(world.away)
    code = Code.NOT_FOUND if world.section["kind"] == "pkcs11" else Code.UNAVAILABLE
    for work in (lambda: wrap(config), lambda: unwrap(config, wrapped)):
        error = fails(code, work)
        assert error.exit_code == (4 if code is Code.NOT_FOUND else 1)


def test_nothing_that_is_shown_holds_the_secret(world: World) -> None:
    encryptor = encryptor_of(world.config, SeededRng(1))
    shown = json.dumps(encryptor.describe()) + repr(world.config) + repr(encryptor.notes())
    assert world.secret not in shown
    assert encryptor.describe()["kind"] == world.section["kind"]
    ring = create_keyring(world.config, vault="v", node=2, rng=SeededRng(1))
    assert world.secret.encode() not in ring.encode()
    assert describe_keyring(ring.encode())["kind"] == world.section["kind"]


def test_the_keyring_opens_rotates_and_is_of_one_piece(world: World) -> None:
    config = world.config

    def opened(data: bytes, config: EncryptorConfig = config) -> dict[str, bytes]:
        keys = open_keyring(config, data, vault="v", node=2, rng=SeededRng(9))
        return {kind: key.reveal() for kind, key in keys.items()}

    ring = create_keyring(config, vault="v", node=2, rng=SeededRng(1))
    data = ring.encode()
    assert Keyring.decode(data) == ring
    keys = opened(data)
    assert len(set(keys.values())) == 2
    again = rotate(data, config, config, vault="v", node=2, rng=SeededRng(2)).encode()
    moved = rotate(
        again, config, configured(world.other), vault="v", node=2, rng=SeededRng(3)
    ).encode()
    assert opened(again) == keys == opened(moved, configured(world.other))
    fails(Code.STORE_INTEGRITY, lambda: opened(moved))
    # Parts of two keyrings of the same node do not make a third.
    fields = decode_cbor(again)
    for name in ("wrapped", "parameters", "data_keys"):
        mixed = canonical_cbor(fields | {name: decode_cbor(data)[name]})
        if mixed != again:
            fails(Code.STORE_INTEGRITY, lambda mixed=mixed: opened(mixed))


def test_check_reaches_opens_and_round_trips(world: World) -> None:
    def check(config: EncryptorConfig, keyring: bytes | None) -> dict[str, Any]:
        report = check_encryptor(config, keyring, vault="v", node=2, rng=SeededRng(5))
        return report.to_json()

    ring = create_keyring(world.config, vault="v", node=2, rng=SeededRng(1)).encode()
    found = check(world.config, ring)
    assert (found["reached"], found["round_trip"], found["opens"]) == (True, True, True)
    assert found["notes"] == []
    assert check(world.config, None)["opens"] is None
    # A new secret wraps and unwraps well, and opens nothing that is there.
    fails(Code.STORE_INTEGRITY, lambda: check(configured(world.other), ring))
    assert check(configured(world.other), None)["round_trip"]
