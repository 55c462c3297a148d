"""Commands of ``keycairn-recover`` about the RSA key: keygen, prove."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from keycairn.errors import Code, KeycairnError, malformed
from keycairn.ers.cli_base import SMALL_FILE, Command, meeting_refused, say
from keycairn.ers.decrypt import Decryptor, SoftwareKey
from keycairn.ers.document import MAX_JSON, looks_like_document
from keycairn.ers.files import read_file, refuse_beside_document, write_all, write_new
from keycairn.ers.possession import answer_all
from keycairn.ers.rsa import load_rsa_public_key
from keycairn.ers.rsakeys import generate
from keycairn.ports.system import SystemRng


def private_options(parser: argparse.ArgumentParser) -> None:
    """Options that name the RSA private key."""
    parser.add_argument("--rsa-key", required=True, metavar="F", help="RSA private key, PEM")
    parser.add_argument("--passphrase-file", metavar="F", help="its passphrase, one line")


def _passphrase(file: str | None) -> bytes | None:
    return None if file is None else read_file(Path(file), 4096).rstrip(b"\r\n")


@contextmanager
def private_key(args: argparse.Namespace) -> Iterator[Decryptor]:
    """The RSA private key that the options name."""
    pem = read_file(Path(args.rsa_key), SMALL_FILE)
    yield SoftwareKey.from_pem(pem, _passphrase(args.passphrase_file))


def _keygen(args: argparse.Namespace) -> dict[str, Any]:
    out = Path(args.out)
    public_file = out.with_name(out.name + ".pub")
    refuse_beside_document(out.parent)
    for path in (out, public_file):
        if path.exists():
            raise KeycairnError(Code.CONFLICT, f"{path} exists already", next="name another")
    passphrase = _passphrase(args.passphrase_file)
    if passphrase is None:
        say("warning: no --passphrase-file: the private key is written unencrypted")
    elif not passphrase:
        raise malformed("the passphrase file is empty")
    private, public = generate(args.bits, passphrase, SystemRng())
    write_all({out: (private, 0o600), public_file: (public, 0o644)})
    key = load_rsa_public_key(public)
    return {
        "private_key_file": str(out),
        "public_key_file": str(public_file),
        "rsa_spki_sha256": key.spki_sha256,
        "bits": key.bits,
        "encrypted": passphrase is not None,
    }


def _prove(args: argparse.Namespace) -> dict[str, Any]:
    challenges = read_file(Path(args.challenges), MAX_JSON)
    if looks_like_document(challenges):
        error = meeting_refused("this is an ERS document")
        error.next = "give the challenges that `keycairn ers key add` wrote"
        raise error
    with private_key(args) as key:
        write_new(Path(args.out), answer_all(challenges, key), 0o644)
        return {"answers": args.out, "rsa_spki_sha256": key.public.spki_sha256}


def _keygen_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bits", type=int, choices=(3072, 4096), default=3072)
    parser.add_argument("--out", required=True, metavar="F", help="private key; F.pub beside it")
    parser.add_argument("--passphrase-file", metavar="F", help="encrypt with this passphrase")


def _prove_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--challenges", required=True, metavar="F", help="what `ers key add` gave")
    private_options(parser)
    parser.add_argument("--out", required=True, metavar="F", help="answers for `ers key confirm`")


KEYGEN = Command(_keygen, _keygen_options, "Make an RSA recovery key.")
PROVE = Command(_prove, _prove_options, "Answer a node's challenges with the RSA private key.")
