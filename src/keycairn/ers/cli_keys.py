"""Commands of ``keycairn-recover`` that use a recovered key: sign, export."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from keycairn.curves.pem import private_key_pem
from keycairn.encoding import SecretBytes, decode_hex
from keycairn.errors import malformed
from keycairn.ers.cli_base import Command, meeting_refused, secret_of
from keycairn.ers.document import MAX_JSON, looks_like_document
from keycairn.ers.files import read_file, write_new
from keycairn.ers.forms import forms_of
from keycairn.ers.keyfile import MAX_KEY_FILE, RecoveredKeyFile, load_key
from keycairn.ers.keystore import keystore
from keycairn.ers.signer import Signer
from keycairn.ers.wallets import descriptors, extended_key, wif
from keycairn.ports.system import SystemRng

_FORMS = ("hex", "pem", "wif", "xprv", "descriptors", "keystore")


def _key(path: str) -> RecoveredKeyFile:
    data = read_file(Path(path), MAX_KEY_FILE)
    if looks_like_document(data):
        raise meeting_refused(f"{path} is an ERS document, not the file of a recovered key")
    return load_key(data)


def _sign(args: argparse.Namespace) -> dict[str, Any]:
    key = _key(args.key)
    signer = Signer.of(key, args.path)
    if signer.signs_digests:
        if args.digest is None:
            raise malformed("an ECDSA key signs a digest: give --digest")
        data = decode_hex(args.digest, length=32, what="digest")
    elif args.digest is not None:
        raise malformed("a Schnorr key signs a message: give --message or --message-file")
    elif args.message is not None:
        data = decode_hex(args.message, what="message")
    else:
        data = read_file(Path(args.message_file), MAX_JSON)
    made = signer.sign(data, taproot=args.taproot)
    return {"key_id": key.key_id, "curve": key.curve, "path": args.path, **made}


def _form(key: RecoveredKeyFile, signer: Signer, args: argparse.Namespace) -> SecretBytes:
    form, root = args.format, args.path == "m"
    have = forms_of(key.scheme, key.curve, root and key.chain_code is not None) | {"hex"}
    if form not in have:
        raise malformed(f"this key, or the child at this path, has no form {form}")
    x = signer.private_key
    if form == "hex":
        text = key.group.encode_scalar(x.reveal()).hex()
    elif form == "pem":
        text = private_key_pem(key.curve, x.reveal()) or ""
    elif form == "wif":
        text = wif(x)
    elif form == "keystore":
        option = "--keystore-password-file"
        password = secret_of(args.keystore_password_file, option, "keystore password", twice=True)
        return SecretBytes(keystore(x, password, SystemRng()))
    else:
        extended = extended_key(x, key.chain_code) if root and key.chain_code else None
        text = extended.xprv.reveal().decode() if extended else wif(x)
        if form == "descriptors":
            paths = key.paths if extended else ()
            text = json.dumps(descriptors(key.scheme, text, paths))
    return SecretBytes(text.strip().encode() + b"\n")


def _export(args: argparse.Namespace) -> dict[str, Any]:
    key = _key(args.key)
    signer = Signer.of(key, args.path)
    made = _form(key, signer, args)
    result = {
        "key_id": key.key_id,
        "path": args.path,
        "public_key": signer.public_key.hex(),
        "format": args.format,
    }
    if args.print:
        return {**result, "private_key": made.reveal().decode().strip()}
    write_new(Path(args.out), made.reveal())
    return {**result, "file": args.out}


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--key", required=True, metavar="F", help="KEY.json of a recovered key")
    parser.add_argument("--path", default="m", metavar="m/…", help="its child at this path")


def _sign_options(parser: argparse.ArgumentParser) -> None:
    _options(parser)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--digest", metavar="HEX", help="32 bytes (ECDSA)")
    what.add_argument("--message", metavar="HEX", help="the message (Schnorr)")
    what.add_argument("--message-file", metavar="F", help="the message, from a file (Schnorr)")
    parser.add_argument(
        "--taproot",
        action="store_true",
        help="BIP-340 keys: sign for the output key of the P2TR address (BIP-86)",
    )


def _export_options(parser: argparse.ArgumentParser) -> None:
    _options(parser)
    parser.add_argument("--format", required=True, choices=_FORMS)
    parser.add_argument("--keystore-password-file", metavar="F", help="asked for without it")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", metavar="F", help="a new file, mode 0600")
    where.add_argument("--print", action="store_true", help="to the terminal, SECRET AS IT IS")


SIGN = Command(_sign, _sign_options, "Sign with a recovered key, or with a child of it.")
EXPORT = Command(
    _export, _export_options, "One form of a recovered key, or of a child of it, for a wallet."
)
