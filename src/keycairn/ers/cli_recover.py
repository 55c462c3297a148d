"""Commands of ``keycairn-recover`` that take documents: recovery itself, and verify."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keycairn.encoding import SecretBytes, decode_hex
from keycairn.errors import Code, KeycairnError, malformed
from keycairn.ers.cli_base import SMALL_FILE, Command, meeting_refused, say, secret_of
from keycairn.ers.cli_rsa import private_key, private_options
from keycairn.ers.document import MAX_JSON, Document
from keycairn.ers.files import read_file
from keycairn.ers.forms import FORMS, forms_of, require_forms, write_keys
from keycairn.ers.network import require_offline
from keycairn.ers.recover import RecoveredKey, recover, sound_parts
from keycairn.ers.rsa import load_rsa_public_key
from keycairn.ers.statement import KeyStatement
from keycairn.ers.verify import ExpectedKey, verify_document
from keycairn.ports.system import SystemRng


def _document(path: str) -> Document:
    data = read_file(Path(path), MAX_JSON)
    if b"PRIVATE KEY-----" in data[:SMALL_FILE]:
        raise meeting_refused(f"{path} is a private key, given as a document")
    return Document.load(data)


def _documents(paths: Sequence[str]) -> list[Document]:
    # Files of one batch (say, one per node) become one document.
    batches: dict[bytes, list[Document]] = {}
    for path in paths:
        document = _document(path)
        batches.setdefault(document.context.batch, []).append(document)
    return [Document.combine(group) for group in batches.values()]


def parse_expected(text: str, what: str) -> tuple[str, str | None, bytes]:
    """``KEY=[CURVE:]HEX`` as (key id, curve or None, bytes); E_MALFORMED."""
    key_id, equals, value = text.rpartition("=")
    if not equals or not key_id:
        raise malformed(f"--{what} takes KEY=[CURVE:]HEX")
    curve, colon, raw = value.rpartition(":")
    return key_id, curve if colon else None, decode_hex(raw, what=what)


def _expected(args: argparse.Namespace, documents: Sequence[Document]) -> list[ExpectedKey]:
    found = []
    for text in args.public_key:
        key_id, curve, raw = parse_expected(text, "public-key")
        found.append(ExpectedKey(key_id, public_key=raw, curve=curve))
    for text in args.record_hash:
        key_id, curve, raw = parse_expected(text, "record-hash")
        found.append(ExpectedKey(key_id, curve=curve, record_hash=raw))
    known = {key.key_id for document in documents for key in document.keys}
    for want in found:
        if want.key_id not in known:
            raise KeycairnError(
                Code.ERS_INVALID,
                "no document holds a key that was asked for",
                detail={"check": "key id", "key": want.key_id, "node": None},
            )
    return found


def _of(expected: Sequence[ExpectedKey], document: Document) -> list[ExpectedKey]:
    ids = {key.key_id for key in document.keys}
    return [want for want in expected if want.key_id in ids]


def _keystore_password(
    args: argparse.Namespace, keys: Sequence[KeyStatement]
) -> SecretBytes | None:
    # Asked before the recovery: nobody waits at the terminal for its end.
    if "keystore" not in args.format and not args.keystore_password_file:
        return None
    count = sum("keystore" in forms_of(key.scheme, key.curve, False) for key in keys)
    if count > 2:
        say(f"{count} Ethereum keystores take about {count} seconds")
    option = "--keystore-password-file"
    return secret_of(args.keystore_password_file, option, "keystore password", twice=True)


def _recover(args: argparse.Namespace) -> dict[str, Any]:
    if not args.allow_network:
        require_offline()
    documents = _documents(args.documents)
    expected = _expected(args, documents)
    statements = [key for document in documents for key in document.keys]
    require_forms(args.format, statements)
    password = _keystore_password(args, statements)
    warnings: list[str] = []

    def warn(text: str) -> None:
        warnings.append(text)
        say(f"warning: {text}")

    recovered: list[RecoveredKey] = []
    wanted = {hashlib.sha256(document.context.rsa_spki).hexdigest() for document in documents}
    with private_key(args, wanted) as key:
        for document in documents:
            # The label is the operator's word on what this is: shown before anything is decrypted.
            say(
                f"document {document.sha256[:16]}: label {json.dumps(document.context.label)}, "
                f"{len(document.keys)} keys, parts of nodes {list(document.nodes)}"
            )
            if args.skip_bad_parts:
                document = sound_parts(document, key.public, warn)
            known = _of(expected, document)
            recovered += recover(document, key, expected=known, label=args.label, warn=warn)
        spki_sha256 = key.public.spki_sha256
    written = write_keys(
        Path(args.out),
        recovered,
        forms={*(args.format or FORMS), *(["keystore"] if password else [])},
        password=password,
        rng=SystemRng(),
        warn=warn,
    )
    _advise(recovered, expected)
    return {
        "recovered": written,
        "directory": args.out,
        "labels": [document.context.label for document in documents],
        "rsa_spki_sha256": spki_sha256,
        "warnings": warnings,
    }


def _advise(recovered: Sequence[RecoveredKey], expected: Sequence[ExpectedKey]) -> None:
    if not expected:
        say("no --public-key was given: compare the public keys with your own records")
    if any(key.curve == "ed25519" for key in recovered):
        say(
            "Ed25519 keys are scalars, not seeds: a wallet that asks for a seed shows another, "
            "empty account. Sign with `keycairn-recover sign`, or keycairn.ers.signer in Python"
        )


def _verify(args: argparse.Namespace) -> dict[str, Any]:
    if args.private is not None:
        raise meeting_refused("verify takes no private key")
    documents = _documents(args.documents)
    if len(documents) != 1:
        raise malformed("give the documents of one batch at a time")
    rsa = None
    if args.rsa_public_key:
        raw = read_file(Path(args.rsa_public_key), SMALL_FILE)
        if b"PRIVATE KEY-----" in raw:
            raise meeting_refused("verify takes no private key, and was given one")
        rsa = load_rsa_public_key(raw, allow_2048=True)
    expected = _expected(args, documents)
    return verify_document(documents[0], rsa=rsa, expected=expected, label=args.label).to_json()


def _knowledge(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--public-key", action="append", default=[], metavar="KEY=[CURVE:]HEX")
    parser.add_argument("--record-hash", action="append", default=[], metavar="KEY=[CURVE:]HEX")
    parser.add_argument("--label", help="the label that the document must have")


def _recover_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("documents", nargs="+", metavar="F", help="ERS documents, JSON or CBOR")
    private_options(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="a directory to be made")
    parser.add_argument(
        "--format",
        action="append",
        choices=FORMS,
        default=[],
        help="write the keys in this form (may be repeated); all that apply by default. "
        "KEY.json with the private key in hex is always written",
    )
    parser.add_argument(
        "--keystore-password-file",
        metavar="F",
        help="write Ethereum keystores under the password in the file's first line; with "
        "--format keystore alone it is asked for",
    )
    parser.add_argument("--allow-network", action="store_true", help="run on a connected machine")
    parser.add_argument(
        "--skip-bad-parts",
        action="store_true",
        help="leave out parts that don't verify, when no better copy is left; t+1 good ones do",
    )
    _knowledge(parser)


def _verify_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("documents", nargs="+", metavar="F", help="ERS documents, JSON or CBOR")
    parser.add_argument("--rsa-public-key", metavar="F", help="the RSA public key, PEM or DER")
    # Not "unknown option": whoever types one of these must hear why.
    for option in ("--rsa-key", "--pkcs11-module", "--transit-address"):
        parser.add_argument(option, dest="private", help=argparse.SUPPRESS)
    _knowledge(parser)


RECOVER = Command(_recover, _recover_options, "")
VERIFY = Command(_verify, _verify_options, "Verify ERS documents with public data.")
