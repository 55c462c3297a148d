"""A PKCS#11 token (SoftHSM): its PIN, its keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from encryptors.components import SoftHsm, configured, private
from encryptors.test_contract import MASTER, fails, unwrap, wrap
from keycairn.encryptors import encryptor_of
from keycairn.errors import Code
from keycairn.ports.seeded import SeededRng


@pytest.fixture
def pin_file(softhsm: SoftHsm, tmp_path: Path) -> Iterator[Path]:
    """The PIN; at the end the token's count of wrong ones is zero again."""
    yield private(tmp_path / "pin", softhsm.pin)
    softhsm.set_pin(softhsm.pin, softhsm.pin)


@pytest.mark.parametrize(
    ("label", "bits", "template", "words"),
    [
        ("extractable", 256, {"EXTRACTABLE": True}, "read out"),
        ("not-sensitive", 256, {"SENSITIVE": False}, "read out"),
        ("short", 128, {}, "256 bits"),
        ("no-encrypt", 256, {"ENCRYPT": False}, "does not do AES-GCM"),
    ],
)
def test_a_key_that_is_not_fit_wraps_nothing(
    softhsm: SoftHsm, pin_file: Path, label: str, bits: int, template: dict[str, bool], words: str
) -> None:
    softhsm.make_key(label, bits=bits, **template)
    config = configured(softhsm.section(label, pin_file))
    error = fails(Code.POLICY, lambda: wrap(config))
    assert words in error.message


def test_two_keys_of_one_label_are_refused(softhsm: SoftHsm, pin_file: Path) -> None:
    softhsm.make_key("twin")
    softhsm.make_key("twin")
    config = configured(softhsm.section("twin", pin_file))
    assert "2 AES keys" in fails(Code.POLICY, lambda: wrap(config)).message


def test_a_key_made_extractable_later_still_opens_and_is_noted(
    softhsm: SoftHsm, pin_file: Path
) -> None:
    """What was wrapped must not be lost over it: unwrapping does not ask, ``check`` says it."""
    softhsm.make_key("loose", EXTRACTABLE=True)
    encryptor = encryptor_of(configured(softhsm.section("loose", pin_file)), SeededRng(1))
    [note] = encryptor.notes()
    assert "read out of the token" in note


def test_the_module_that_is_not_there(softhsm: SoftHsm, pin_file: Path) -> None:
    section = softhsm.section("k", pin_file, module="/usr/lib/no-such-module.so")
    error = fails(Code.NOT_FOUND, lambda: wrap(configured(section)))
    assert "/usr/lib/no-such-module.so" in error.message


def test_t079_wrong_pins_stop_before_the_token_locks(
    softhsm: SoftHsm, pin_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SoftHSM raises only the flag for a low count: it stands for the one of the last try."""
    import pkcs11

    softhsm.make_key("brake")
    config = configured(softhsm.section("brake", pin_file))
    wrapped = wrap(config)
    pin_file.write_text("11111111")
    fails(Code.AUTHN, lambda: unwrap(config, wrapped))
    token = pkcs11.lib(softhsm.module).get_token(token_label=softhsm.token)
    assert token.flags & pkcs11.TokenFlag.USER_PIN_COUNT_LOW
    pin_file.write_text(softhsm.pin)
    with monkeypatch.context() as patch:
        patch.setattr("keycairn.encryptors.pkcs11._NO_MORE_TRIES", ("USER_PIN_COUNT_LOW",))
        error = fails(Code.AUTHN, lambda: unwrap(config, wrapped))
        assert "nothing was tried" in error.message
    assert unwrap(config, wrapped) == MASTER.reveal()
