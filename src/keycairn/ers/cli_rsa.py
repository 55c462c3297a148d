"""Commands of ``keycairn-recover`` about the RSA key: keygen, fingerprint, prove.

The private key is a PEM file, a key in a PKCS#11 token, or one in a transit service; every command
that uses one takes the same options.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from keycairn.errors import Code, KeycairnError, malformed
from keycairn.ers.cli_base import SMALL_FILE, Command, meeting_refused, say, secret_of
from keycairn.ers.decrypt import Decryptor, SoftwareKey
from keycairn.ers.document import MAX_JSON, looks_like_document
from keycairn.ers.files import read_file, refuse_beside_document, write_all, write_new
from keycairn.ers.possession import answer_all
from keycairn.ers.rsa import RsaPublicKey, load_rsa_public_key, to_pem
from keycairn.ers.rsakeys import generate
from keycairn.ers.sheet import sheet
from keycairn.ers.token import make_token_key, token_key
from keycairn.ers.transit import Service, transit_key
from keycairn.ports.system import SystemRng

_SPKI = re.compile(rb'"rsa_spki_sha256"\s*:\s*"([0-9a-f]{64})"')


def private_options(parser: argparse.ArgumentParser, *, public_too: bool = False) -> None:
    """Options that name the RSA private key: exactly one of a file, a token, a service."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--rsa-key", metavar="F", help="RSA private key, PEM")
    which.add_argument("--pkcs11-module", metavar="M", help="it is in a token of this module")
    which.add_argument("--transit-address", metavar="URL", help="it is in OpenBao or Vault, there")
    if public_too:
        which.add_argument("--rsa-public-key", metavar="F", help="only the public key, PEM or DER")
    parser.add_argument(
        "--passphrase-file", metavar="F", help="--rsa-key: its passphrase, one line"
    )
    _token_options(parser)
    parser.add_argument("--transit-key", metavar="K", help="service: name of the key")
    parser.add_argument("--token-file", metavar="F", help="service: access token; asked without it")
    parser.add_argument("--transit-mount", metavar="M", default="transit", help="service: path")
    parser.add_argument("--transit-namespace", metavar="N", help="service: namespace")
    parser.add_argument("--transit-ca-file", metavar="F", help="service: its authority, PEM")


def _token_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--token-label", metavar="L", help="token: its label")
    parser.add_argument("--key-label", metavar="K", help="token: the key's label")
    parser.add_argument("--pin-file", metavar="F", help="token: user PIN; asked without it")


def _passphrase(file: str | None) -> bytes | None:
    return None if file is None else read_file(Path(file), 4096).rstrip(b"\r\n")


def _need(args: argparse.Namespace, option: str, *names: str) -> None:
    for name in names:
        if not getattr(args, name.replace("-", "_")):
            raise malformed(f"{option} needs --{name}")


@contextmanager
def private_key(args: argparse.Namespace, wanted: Collection[str] = ()) -> Iterator[Decryptor]:
    """The RSA private key that the options name, open until the end of the ``with``.

    Args:
        wanted: SHA-256 (hex) of the public keys that would do; decides among versions.
    """
    if args.pkcs11_module is not None:
        _need(args, "--pkcs11-module", "token-label", "key-label")
        pin = secret_of(args.pin_file, "--pin-file", f"PIN of token {args.token_label}")
        names = (args.pkcs11_module, args.token_label, args.key_label)
        with token_key(*names, pin, wanted) as in_token:
            say(f"token {args.token_label}, key {args.key_label}: {in_token.how}")
            if in_token.leaves_token:
                say("warning: the token gives this private key out to whoever logs in")
            yield in_token
    elif args.transit_address is not None:
        _need(args, "--transit-address", "transit-key")
        token = secret_of(args.token_file, "--token-file", "token of the transit service")
        service = Service(
            args.transit_address,
            args.transit_key,
            args.transit_mount,
            args.transit_namespace,
            args.transit_ca_file,
        )
        with transit_key(service, token, wanted) as in_service:
            say(f"{args.transit_address}: {in_service.how}")
            yield in_service
    else:
        pem = read_file(Path(args.rsa_key), SMALL_FILE)
        yield SoftwareKey.from_pem(pem, _passphrase(args.passphrase_file))


def _beside(out: Path, end: str) -> Path:
    return out.with_name(out.name + end)


def _refuse_existing(*paths: Path) -> None:
    for path in paths:
        if path.exists():
            raise KeycairnError(Code.CONFLICT, f"{path} exists already", next="name another")


def _keygen(args: argparse.Namespace) -> dict[str, Any]:
    out = Path(args.out)
    refuse_beside_document(out.parent)
    return _keygen_in_token(args, out) if args.pkcs11_module else _keygen_in_file(args, out)


def _keygen_in_file(args: argparse.Namespace, out: Path) -> dict[str, Any]:
    public_file, sheet_file = _beside(out, ".pub"), _beside(out, ".sheet.txt")
    _refuse_existing(out, public_file, sheet_file)
    passphrase = _passphrase(args.passphrase_file)
    if passphrase is None:
        say("warning: no --passphrase-file: the private key is written unencrypted")
    elif not passphrase:
        raise malformed("the passphrase file is empty")
    private, public = generate(args.bits, passphrase, SystemRng())
    key = load_rsa_public_key(public)
    how = "under a passphrase" if passphrase else "NOT under a passphrase"
    text = sheet(key, f"file {out.name}, {how}", public_file.name)
    write_all(
        {out: (private, 0o600), public_file: (public, 0o644), sheet_file: (text.encode(), 0o644)}
    )
    return {
        "private_key_file": str(out),
        "public_key_file": str(public_file),
        "rsa_spki_sha256": key.spki_sha256,
        "bits": key.bits,
        "encrypted": passphrase is not None,
        "sheet_file": str(sheet_file),
        "sheet": text,
    }


def _keygen_in_token(args: argparse.Namespace, out: Path) -> dict[str, Any]:
    _need(args, "--pkcs11-module", "token-label", "key-label")
    if args.passphrase_file:
        raise malformed("--passphrase-file is for a key in a file; a token has a PIN")
    sheet_file = _beside(out, ".sheet.txt")
    _refuse_existing(out, sheet_file)
    pin = secret_of(args.pin_file, "--pin-file", f"PIN of token {args.token_label}")
    names = (args.pkcs11_module, args.token_label, args.key_label)
    key, how = make_token_key(*names, pin, args.bits, SystemRng())
    where = f"token {args.token_label}, key {args.key_label}; it cannot be read out"
    text = sheet(key, where, out.name)
    write_all({out: (to_pem(key.spki), 0o644), sheet_file: (text.encode(), 0o644)})
    return {
        "token": args.token_label,
        "key": args.key_label,
        "mechanism": how,
        "public_key_file": str(out),
        "rsa_spki_sha256": key.spki_sha256,
        "bits": key.bits,
        "sheet_file": str(sheet_file),
        "sheet": text,
    }


def _fingerprint(args: argparse.Namespace) -> dict[str, Any]:
    if args.rsa_public_key:
        raw = read_file(Path(args.rsa_public_key), SMALL_FILE)
        return _shown(args, load_rsa_public_key(raw, allow_2048=True), "not given")
    with private_key(args) as key:
        where = f"file {Path(args.rsa_key).name}" if args.rsa_key else ""
        if args.pkcs11_module:
            where = f"token {args.token_label}, key {args.key_label}"
        elif args.transit_address:
            where = f"{args.transit_address}, key {args.transit_mount}/{args.transit_key}"
        return _shown(args, key.public, where)


def _shown(args: argparse.Namespace, key: RsaPublicKey, where: str) -> dict[str, Any]:
    if args.out:
        write_new(Path(args.out), to_pem(key.spki), 0o644)
    name = Path(args.out or args.rsa_public_key or "").name or "not written"
    return {
        "rsa_spki_sha256": key.spki_sha256,
        "bits": key.bits,
        "public_key_file": args.out,
        "sheet": sheet(key, where, name),
    }


def _prove(args: argparse.Namespace) -> dict[str, Any]:
    challenges = read_file(Path(args.challenges), MAX_JSON)
    if looks_like_document(challenges):
        error = meeting_refused("this is an ERS document")
        error.next = "give the challenges that `keycairn ers key add` wrote"
        raise error
    wanted = [found.decode() for found in _SPKI.findall(challenges)]
    with private_key(args, wanted) as key:
        write_new(Path(args.out), answer_all(challenges, key), 0o644)
        return {"answers": args.out, "rsa_spki_sha256": key.public.spki_sha256}


def _keygen_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bits", type=int, choices=(3072, 4096), default=3072)
    parser.add_argument(
        "--out",
        required=True,
        metavar="F",
        help="private key, with F.pub beside it; of a token's key the public key. F.sheet.txt is "
        "the fingerprint sheet",
    )
    parser.add_argument("--passphrase-file", metavar="F", help="encrypt with this passphrase")
    parser.add_argument("--pkcs11-module", metavar="M", help="make it in a token of this module")
    _token_options(parser)


def _fingerprint_options(parser: argparse.ArgumentParser) -> None:
    private_options(parser, public_too=True)
    parser.add_argument("--out", metavar="F", help="write the public key there, PEM")


def _prove_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--challenges", required=True, metavar="F", help="what `ers key add` gave")
    private_options(parser)
    parser.add_argument("--out", required=True, metavar="F", help="answers for `ers key confirm`")


KEYGEN = Command(_keygen, _keygen_options, "Make an RSA recovery key, in a file or in a token.")
FINGERPRINT = Command(
    _fingerprint, _fingerprint_options, "The fingerprint sheet of an RSA key, and its public key."
)
PROVE = Command(_prove, _prove_options, "Answer a node's challenges with the RSA private key.")
