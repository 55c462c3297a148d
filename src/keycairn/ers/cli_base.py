"""What the commands of ``keycairn-recover`` have in common."""

from __future__ import annotations

import argparse
import getpass
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from keycairn.encoding import SecretBytes
from keycairn.errors import Code, KeycairnError, malformed
from keycairn.ers.files import read_file

#: RSA keys, PEM or DER, and other files of a few lines.
SMALL_FILE = 1 << 16
_SECRET_FILE = 4096


class Parser(argparse.ArgumentParser):
    """Reports wrong use as a KeycairnError, so that --json stays one object."""

    def error(self, message: str) -> NoReturn:
        raise KeycairnError(
            Code.MALFORMED, f"wrong use: {message}", next=f"see `{self.prog} --help`"
        )


@dataclass(frozen=True)
class Command:
    """A command of the tool: what it does, its options, its line of help."""

    run: Callable[[argparse.Namespace], dict[str, Any]]
    options: Callable[[argparse.ArgumentParser], None]
    text: str


def say(text: str) -> None:
    """A line for people, on standard error."""
    print(text, file=sys.stderr)


def secret_of(file: str | None, option: str, words: str, *, twice: bool = False) -> SecretBytes:
    """A password or PIN: the first line of a file, else asked at the terminal.

    Args:
        file: its path, if one was given with ``option``.
        words: what it is, for the question.
        twice: ask twice, because a typing error would only be found when it is too late.

    Raises:
        KeycairnError: E_MALFORMED if it is empty, or there is no file and no terminal.
    """
    if file is not None:
        value = read_file(Path(file), _SECRET_FILE).split(b"\n")[0].rstrip(b"\r")
    elif sys.stdin.isatty():
        value = getpass.getpass(f"{words}: ").encode()
        if twice and getpass.getpass(f"{words}, again: ").encode() != value:
            raise malformed("the two entries differ")
    else:
        raise malformed(f"{words} is needed: give {option}, or run this at a terminal")
    if not value:
        raise malformed(f"{words} is empty")
    return SecretBytes(value)


def meeting_refused(what: str) -> KeycairnError:
    """E_POLICY, to be raised: a document and what decrypts it meet only in recovery."""
    return KeycairnError(
        Code.POLICY,
        f"{what}: a document and its RSA private key meet only in recovery",
        not_lost="Nothing was decrypted.",
        next="keep them apart until the keys are needed; `verify` needs public data only",
    )
