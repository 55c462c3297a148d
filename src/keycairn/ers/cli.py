"""``keycairn-recover``: the offline tool that brings keys back without any node.

    keycairn-recover F... --rsa-key F --out DIR     recover the keys of ERS documents
    keycairn-recover verify F...                    verify documents with public data
    keycairn-recover keygen --out F                 make an RSA recovery key
    keycairn-recover prove --challenges F ...       answer a node's proof of possession
    keycairn-recover sign --key F ...               sign with a recovered key

The RSA private key and a document meet only in recovery: no other command takes both. Results go
to standard output (with --json exactly one object), everything else to standard error; a private
key goes to neither. (A document whose file is called like a command is given as ``./verify``.)
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from keycairn.curves import ecdsa
from keycairn.encoding import decode_hex
from keycairn.errors import Code, KeycairnError, malformed
from keycairn.ers.decrypt import SoftwareKey
from keycairn.ers.document import MAX_JSON, Document, looks_like_document
from keycairn.ers.keyfile import (
    load_key,
    read_file,
    refuse_beside_document,
    write_keys,
    write_new,
)
from keycairn.ers.network import require_offline
from keycairn.ers.possession import answer_all
from keycairn.ers.recover import RecoveredKey, recover, sound_parts
from keycairn.ers.rsa import load_rsa_public_key
from keycairn.ers.rsakeys import generate
from keycairn.ers.sign import sign_bip340, sign_ecdsa, sign_ed25519
from keycairn.ers.verify import ExpectedKey, verify_document
from keycairn.ports.system import SystemRng

_SMALL_FILE = 1 << 16
_EXIT_CODES = """exit codes: 0 done, 1 failed (disk, token, random source), 2 wrong use or malformed
input, 3 refused (network is up, file exists), 4 no such file, 5 the document or a signature is
not valid, 130 interrupted"""


class _Parser(argparse.ArgumentParser):
    """Reports wrong use as a KeycairnError, so that --json stays one object."""

    def error(self, message: str) -> NoReturn:
        raise KeycairnError(
            Code.MALFORMED, f"wrong use: {message}", next=f"see `{self.prog} --help`"
        )


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _document(path: str) -> Document:
    return Document.load(read_file(Path(path), MAX_JSON))


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


def _private_key(args: argparse.Namespace) -> SoftwareKey:
    passphrase = None
    if args.passphrase_file:
        passphrase = read_file(Path(args.passphrase_file), 4096).rstrip(b"\r\n")
    return SoftwareKey.from_pem(read_file(Path(args.rsa_key), _SMALL_FILE), passphrase)


def _recover(args: argparse.Namespace) -> dict[str, Any]:
    if not args.allow_network:
        require_offline()
    documents = _documents(args.documents)
    expected = _expected(args, documents)
    key = _private_key(args)
    warnings: list[str] = []

    def warn(text: str) -> None:
        warnings.append(text)
        _say(f"warning: {text}")

    recovered: list[RecoveredKey] = []
    for document in documents:
        # The label is the operator's word on what this is: shown before anything is decrypted.
        _say(
            f"document {document.sha256[:16]}: label {json.dumps(document.context.label)}, "
            f"{len(document.keys)} keys, parts of nodes {list(document.nodes)}"
        )
        if args.skip_bad_parts:
            document = sound_parts(document, key.public, warn)
        recovered += recover(
            document,
            key,
            expected=_of(expected, document),
            label=args.label,
            warn=warn,
        )
    written = write_keys(Path(args.out), recovered)
    if not expected:
        _say("no --public-key was given: compare the public keys with your own records")
    return {
        "recovered": written,
        "directory": args.out,
        "labels": [document.context.label for document in documents],
        "rsa_spki_sha256": key.public.spki_sha256,
        "warnings": warnings,
    }


def _verify(args: argparse.Namespace) -> dict[str, Any]:
    documents = _documents(args.documents)
    if len(documents) != 1:
        raise malformed("give the documents of one batch at a time")
    rsa = None
    if args.rsa_public_key:
        raw = read_file(Path(args.rsa_public_key), _SMALL_FILE)
        rsa = load_rsa_public_key(raw, allow_2048=True)
    expected = _expected(args, documents)
    return verify_document(documents[0], rsa=rsa, expected=expected, label=args.label).to_json()


def _keygen(args: argparse.Namespace) -> dict[str, Any]:
    out = Path(args.out)
    public_file = out.with_name(out.name + ".pub")
    refuse_beside_document(out.parent)
    for path in (out, public_file):
        if path.exists():
            raise KeycairnError(Code.CONFLICT, f"{path} exists already", next="name another")
    passphrase = None
    if args.passphrase_file:
        passphrase = read_file(Path(args.passphrase_file), 4096).rstrip(b"\r\n")
        if not passphrase:
            raise malformed("the passphrase file is empty")
    else:
        _say("warning: no --passphrase-file: the private key is written unencrypted")
    private, public = generate(args.bits, passphrase, SystemRng())
    write_new(out, private)
    try:
        write_new(public_file, public, 0o644)
    except KeycairnError:
        out.unlink(missing_ok=True)
        raise
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
        raise KeycairnError(
            Code.POLICY,
            "this is an ERS document: it meets the RSA private key only in recovery",
            not_lost="Nothing was decrypted.",
            next="give the challenges that `keycairn ers key add` wrote",
        )
    key = _private_key(args)
    write_new(Path(args.out), answer_all(challenges, key), 0o644)
    return {"answers": args.out, "rsa_spki_sha256": key.public.spki_sha256}


def _sign(args: argparse.Namespace) -> dict[str, Any]:
    key = load_key(read_file(Path(args.key), _SMALL_FILE))
    result: dict[str, Any] = {
        "key_id": key.key_id,
        "curve": key.group.name,
        "public_key": key.public_key.hex(),
    }
    kind = (key.scheme, key.group.name)
    if args.taproot and kind != ("schnorr", "secp256k1"):
        raise malformed("only a BIP-340 key (schnorr on secp256k1) has a taproot output key")
    if key.scheme == "ecdsa" and key.group.name in ecdsa.CURVES:
        if args.digest is None:
            raise malformed("an ECDSA key signs a digest: give --digest")
        digest = decode_hex(args.digest, length=32, what="digest")
        return {**result, **sign_ecdsa(key.group.name, key.private_key, digest)}
    if key.scheme != "schnorr":
        raise malformed(f"this tool does not sign with {key.scheme} on {key.group.name}")
    if args.digest is not None:
        raise malformed("a Schnorr key signs a message: give --message or --message-file")
    if args.message is not None:
        message = decode_hex(args.message, what="message")
    else:
        message = read_file(Path(args.message_file), MAX_JSON)
    if key.group.name == "secp256k1":
        signature, public = sign_bip340(key.private_key, message, SystemRng(), taproot=args.taproot)
        return {**result, "public_key": public.hex(), "signature": signature.hex()}
    signature = sign_ed25519(key.private_key, message, SystemRng())
    return {**result, "signature": signature.hex()}


def _knowledge(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--public-key", action="append", default=[], metavar="KEY=[CURVE:]HEX")
    parser.add_argument("--record-hash", action="append", default=[], metavar="KEY=[CURVE:]HEX")
    parser.add_argument("--label", help="the label that the document must have")


def _private(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rsa-key", required=True, metavar="F", help="RSA private key, PEM")
    parser.add_argument("--passphrase-file", metavar="F", help="its passphrase, one line")


def _recover_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("documents", nargs="+", metavar="F", help="ERS documents, JSON or CBOR")
    _private(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="a directory to be made")
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
    _knowledge(parser)


def _keygen_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bits", type=int, choices=(3072, 4096), default=3072)
    parser.add_argument("--out", required=True, metavar="F", help="private key; F.pub beside it")
    parser.add_argument("--passphrase-file", metavar="F", help="encrypt with this passphrase")


def _prove_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--challenges", required=True, metavar="F", help="what `ers key add` gave")
    _private(parser)
    parser.add_argument("--out", required=True, metavar="F", help="answers for `ers key confirm`")


def _sign_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--key", required=True, metavar="F", help="file of a recovered key")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--digest", metavar="HEX", help="32 bytes (ECDSA)")
    what.add_argument("--message", metavar="HEX", help="the message (Schnorr)")
    what.add_argument("--message-file", metavar="F", help="the message, from a file (Schnorr)")
    parser.add_argument(
        "--taproot",
        action="store_true",
        help="BIP-340 keys: sign for the output key of the P2TR address (BIP-86)",
    )


_Command = tuple[
    Callable[[argparse.Namespace], dict[str, Any]],
    Callable[[argparse.ArgumentParser], None],
    str,
]
_COMMANDS: dict[str, _Command] = {
    "verify": (_verify, _verify_options, "Verify ERS documents with public data."),
    "keygen": (_keygen, _keygen_options, "Make an RSA recovery key."),
    "prove": (_prove, _prove_options, "Answer a node's challenges with the RSA private key."),
    "sign": (_sign, _sign_options, "Sign with a recovered key."),
}
_DEFAULT: _Command = (_recover, _recover_options, __doc__ or "")


def _text(result: dict[str, Any]) -> str:
    lines = []
    for name, value in result.items():
        if isinstance(value, list):
            lines.append(f"{name}:")
            lines += [
                "  " + (", ".join(f"{k} {v}" for k, v in item.items())
                        if isinstance(item, dict) else str(item))
                for item in value
            ]  # fmt: skip
        else:
            lines.append(f"{name}: {value}")
    return "\n".join(lines)


def _report(error: KeycairnError, as_json: bool) -> int:
    if as_json:
        print(json.dumps(error.to_json()))
    else:
        _say(f"keycairn-recover: {error.message} [{error.code.value}]")
        where = {k: v for k, v in error.detail.items() if v is not None}
        if where:
            _say("  " + ", ".join(f"{k}: {v}" for k, v in where.items()))
        for name, line in (("not lost", error.not_lost), ("next", error.next)):
            if line:
                _say(f"  {name}: {line}")
    return error.exit_code


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit code (see ``--help``)."""
    # A crash must not leave keys in a core file.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    words = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in words
    name = words[0] if words and words[0] in _COMMANDS else ""
    run, options, text = _COMMANDS[name] if name else _DEFAULT
    parser = _Parser(
        prog=f"keycairn-recover {name}".strip(),
        description=text,
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    options(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    try:
        result = run(parser.parse_args(words[1:] if name else words))
    except KeycairnError as exc:
        return _report(exc, as_json)
    except KeyboardInterrupt:
        return 130
    print(json.dumps(result) if as_json else _text(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
