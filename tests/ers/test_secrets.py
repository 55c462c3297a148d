"""Passwords and PINs: a file's first line, or asked at the terminal; and the fingerprint sheet."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ers.helpers import refused
from keycairn.errors import Code
from keycairn.ers import cli_base
from keycairn.ers.cli_base import secret_of
from keycairn.ers.sheet import groups, sheet


class Terminal:
    def __init__(self, *typed: str) -> None:
        self.typed, self.asked = list(typed), []

    def getpass(self, question: str) -> str:
        self.asked.append(question)
        return self.typed.pop(0)


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Terminal]:
    def sit(*typed: str, here: bool = True) -> Terminal:
        terminal = Terminal(*typed)
        monkeypatch.setattr(cli_base.getpass, "getpass", terminal.getpass)
        monkeypatch.setattr(sys.stdin, "isatty", lambda: here, raising=False)
        return terminal

    return sit


@pytest.mark.parametrize(
    ("data", "want"),
    [(b"1234", b"1234"), (b"1234\n", b"1234"), (b"12 34 \r\nx\n", b"12 34 "), (b"\xff\n", b"\xff")],
)
def test_the_first_line_of_a_file(
    data: bytes, want: bytes, tmp_path: Path, at: Callable[..., Terminal]
) -> None:
    (tmp_path / "pin").write_bytes(data)
    terminal = at("other")
    assert secret_of(str(tmp_path / "pin"), "--pin-file", "PIN").reveal() == want
    assert terminal.asked == []


def test_without_a_file_it_is_asked_for(at: Callable[..., Terminal]) -> None:
    at("1234")
    assert secret_of(None, "--pin-file", "PIN").reveal() == b"1234"
    terminal = at("pä", "pä")
    assert secret_of(None, "--f", "password", twice=True).reveal() == "pä".encode()
    assert terminal.asked == ["password: ", "password, again: "]


def test_nothing_empty_mistyped_or_unasked(tmp_path: Path, at: Callable[..., Terminal]) -> None:
    at("a", "b")
    found = refused(lambda: secret_of(None, "--f", "password", twice=True), Code.MALFORMED)
    assert "differ" in found.message
    at("")
    refused(lambda: secret_of(None, "--f", "PIN"), Code.MALFORMED)
    at("1234", here=False)
    assert (
        "--pin-file"
        in refused(lambda: secret_of(None, "--pin-file", "PIN"), Code.MALFORMED).message
    )
    (tmp_path / "pin").write_bytes(b"\n1234\n")
    refused(lambda: secret_of(str(tmp_path / "pin"), "--f", "PIN"), Code.MALFORMED)
    refused(lambda: secret_of(str(tmp_path / "none"), "--f", "PIN"), Code.NOT_FOUND)


def test_the_sheet_has_the_whole_fingerprint_and_fits_a_page(rsa_key: Callable[..., Any]) -> None:
    public = rsa_key(3072).public
    text = sheet(public, "token ops, key recovery", "rsa.pub")
    shown = "".join("".join(row.split()) for row in groups(public.spki_sha256))
    assert shown == public.spki_sha256
    assert all(row in text for row in groups(public.spki_sha256))
    lines = text.splitlines()
    assert len(lines) < 60
    assert max(map(len, lines)) <= 80
    assert "3072 bits" in text
    assert "token ops, key recovery" in text
