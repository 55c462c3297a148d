"""The command line of ``keycairn-offline.pyz``.

    python3 -I keycairn-offline.pyz verify  [KIT or DOCUMENT...]
    python3 -I keycairn-offline.pyz recover [KIT or DOCUMENT...] --rsa-key KEY.pem --out DIR
    python3 -I keycairn-offline.pyz sheet   [KIT or DOCUMENT...]
    python3 -I keycairn-offline.pyz sign    --key DIR/KEY.json --message-file F   (Ed25519)

KIT is the zip or the folder that it was unpacked to; without one, the folder of this tool. Nothing
is needed but Python 3.8 or newer. Results go to standard output (with --json one JSON object),
everything else to standard error; a private key goes to neither.
"""

from __future__ import annotations

import argparse
import getpass
import hashlib
import json
import os
import shlex
import subprocess
import sys
from typing import Any, Dict, List, NoReturn, Optional, Sequence, Set, Tuple

from . import forms
from .addresses import addresses
from .derivation import child_at
from .document import MAX_JSON, REFUSED, Document, combine, load
from .eddsa import sign as sign_ed25519
from .errors import ToolError, invalid, malformed
from .expect import Expected, compare, parse_fact
from .files import read, require_fresh, write_all
from .kitfile import Kit, check_public, damaged, is_kit, open_kit
from .meeting import holds_private_key, refused
from .network import require_offline
from .pem import is_encrypted, load_private, load_public
from .proof import rsa_of, verify
from .recover import Decrypt, Recovered, recover, sound_parts
from .rsa import oaep_decode

_EXIT_CODES = """exit codes: 0 done, 1 failed (disk, command), 2 wrong use or malformed input,
3 refused (network is up, file exists, private key where none may be), 4 no such file, 5 document,
kit or signature not valid, 130 interrupted"""
_SMALL = 1 << 16


def plain(text: str) -> str:
    """Without what a terminal obeys, or what hides text: a kit may be anybody's."""
    odd = {c for c in text if any(low <= ord(c) <= high for low, high in REFUSED)}
    return "".join("\\u%04x" % ord(c) if c in odd else c for c in text)


def say(text: str) -> None:
    """A line for people."""
    print(plain(text), file=sys.stderr, flush=True)


def groups(sha256: str) -> List[str]:
    """A fingerprint as people read it aloud: four lines of four groups of four digits."""
    quads = [sha256[i : i + 4] for i in range(0, 64, 4)]
    return [" ".join(quads[i : i + 4]) for i in range(0, 16, 4)]


def own_file() -> Optional[str]:
    """The zipapp that runs; None when the package runs from elsewhere."""
    archive = getattr(globals().get("__loader__"), "archive", None)
    return None if archive is None else str(archive)


def own_sha256() -> Optional[str]:
    """SHA-256 of the zipapp. A changed tool can print what it likes: sha256sum tells the truth."""
    file = own_file()
    return None if file is None else hashlib.sha256(read(file, MAX_JSON)).hexdigest()


# -- what is given


class Given:
    """The kits and documents that a command is about, opened and compared with each other."""

    def __init__(self, paths: Sequence[str]) -> None:
        file = own_file()
        if not paths and file is not None:
            paths = [os.path.dirname(file) or "."]
        if not paths:
            raise malformed("name a kit or documents")
        self.kits: List[Kit] = []
        self.files: List[Tuple[str, Document]] = []
        loose: List[Document] = []
        for path in paths:
            if is_kit(path):
                kit = open_kit(path)
                found = [(name, load(kit.files[name])) for name in kit.documents]
                if not found:
                    raise damaged("the kit holds no document")
                check_public(kit, found)
                self.kits.append(kit)
                self.files += found
            elif os.path.isdir(path):
                raise ToolError("E_NOT_FOUND", "there is no kit in the folder %s" % path)
            else:
                data = read(path, MAX_JSON)
                if holds_private_key(data):
                    raise refused("%s is a private key, given as a document" % path)
                self.files.append((path, load(data)))
                loose.append(self.files[-1][1])
        #: Documents that are in no kit: a kit's fingerprint says nothing about them.
        self.loose = combine(loose)
        self.documents = combine([document for _, document in self.files])

    def paths_of(self, key_id: str) -> Dict[str, Dict[str, Any]]:
        """The children of a key in the kits' paths.json, by path."""
        found: Dict[str, Dict[str, Any]] = {}
        for kit in self.kits:
            found.update({row["path"]: row for row in kit.paths().get(key_id, ())})
        return found


def _compare(given: Given, args: argparse.Namespace) -> List[str]:
    """Compare with what the caller knows from elsewhere; what it did not give is returned."""
    facts = [fact for text in args.public_key for fact in parse_fact(text, "public_key")]
    known = {key_id for key_id, _, _ in facts}
    facts += [fact for text in args.record_hash for fact in parse_fact(text, "record_hash")]
    rsa = load_public(_not_private(args.rsa_public_key)) if args.rsa_public_key else None
    compare(given.documents, Expected(rsa, args.label, args.vault, facts))
    fingerprint = "".join((args.fingerprint or "").lower().split())
    if (fingerprint or args.signer) and not given.kits:
        raise malformed("--fingerprint and --signer are about a kit, and none was given")
    for kit in given.kits:
        if fingerprint and kit.fingerprint != fingerprint:
            raise damaged("the kit has another fingerprint: %s" % kit.fingerprint)
        if args.signer and kit.signer != args.signer.lower():
            raise ToolError("E_SIG_INVALID", "the kit is not signed by the signer that was named")
    whole = bool(fingerprint or args.signer)
    questions = ["fingerprint of the kit: compare it with your printed page" for _ in given.kits]
    questions = [] if whole else questions
    asked = given.loose if whole else given.documents
    for document in asked:
        for key in document.keys:
            if key.key_id not in known:
                questions.append("public_key of %s: compare it with your records" % key.key_id)
    return questions + (["rsa_public_key: taken from the document"] if asked and not rsa else [])


def _not_private(path: str) -> bytes:
    data = read(path, _SMALL)
    if holds_private_key(data):
        raise refused("a private key was given where a public one belongs")
    return data


# -- commands


def _verify(args: argparse.Namespace) -> Dict[str, Any]:
    if args.rsa_key is not None:
        raise refused("verify takes no private key")
    given = Given(args.sources)
    not_checked = _compare(given, args)
    for document in given.documents:
        verify(document)
    return {
        "valid": True,
        "tool_sha256": own_sha256(),
        "kits": [_kit_json(kit) for kit in given.kits],
        "documents": [_document_json(document) for document in given.documents],
        "not_checked": not_checked,
    }


def _kit_json(kit: Kit) -> Dict[str, Any]:
    return {
        "label": kit.label,
        "fingerprint": kit.fingerprint,
        "files": len(kit.files),
        "tool_sha256": kit.tool_sha256,
        "signer": kit.signer,
        "other_files": kit.extra,
    }


def _document_json(document: Document) -> Dict[str, Any]:
    keys = []
    for key in document.keys:
        have, all_ = len(document.nodes), len(key.holders)
        keys.append(
            {
                "key_id": key.key_id,
                "curve": key.curve,
                "scheme": key.scheme,
                "public_key": key.public_key.hex(),
                "addresses": addresses(key.scheme, key.curve, key.public_key),
                "generation": key.generation,
                "status": "COMPLETE" if have == all_ else "PARTIAL %d/%d" % (have, all_),
                "recoverable": have > key.threshold,
            }
        )
    rsa = rsa_of(document)
    return {
        "sha256": document.sha256,
        "label": document.label,
        "vault": document.vault,
        "params": document.params,
        "version": document.version,
        "nodes": document.nodes,
        "rsa_spki_sha256": rsa.name,
        "rsa_bits": 8 * rsa.size,
        "keys": keys,
    }


def _recover(args: argparse.Namespace) -> Dict[str, Any]:
    if not args.allow_network:
        require_offline()
    require_fresh(args.out)
    given = Given(args.sources)
    not_checked = _compare(given, args)
    warnings: List[str] = []

    def warn(text: str) -> None:
        warnings.append(text)
        say("warning: " + text)

    for document in given.documents:
        # The label is the operator's word on what this is: shown before anything is decrypted.
        say(
            "document %s: label %s, %d keys, parts of nodes %s"
            % (document.sha256[:16], json.dumps(document.label), len(document.keys), document.nodes)
        )
    private = None if args.decrypt_command else _private(args)
    found: List[Recovered] = []
    for document in given.documents:
        if args.skip_bad_parts:
            document = sound_parts(document, warn)
        found += recover(document, _decryptor(args, private, document), warn)
    files: Dict[str, bytes] = {}
    rows = []
    taken: Set[str] = set()
    for back in found:
        name = forms.stem(back.key.key_id, taken)
        mine = {".json": forms.key_json(back)}
        text = forms.pem(back.key.curve, back.x)
        if text is not None:
            mine[".pem"] = text.encode("ascii")
        known = given.paths_of(back.key.key_id)
        children = forms.children(back, list(known), warn)
        for child in children:
            told = known.get(child.path, {}).get("public_key", child.public_key.hex())
            if told != child.public_key.hex():
                warn("the kit names another child of %s at %s" % (back.key.key_id, child.path))
        if children:
            mine[".children.json"] = forms.children_json(back, children)
        files.update({name + end: data for end, data in mine.items()})
        rows.append(
            {
                "key_id": back.key.key_id,
                "curve": back.key.curve,
                "public_key": back.key.public_key.hex(),
                "generation": back.key.generation,
                "addresses": addresses(back.key.scheme, back.key.curve, back.key.public_key),
                "children": len(children),
                "file": os.path.join(args.out, name + ".json"),
                "files": {
                    end.strip(".").split(".")[0]: os.path.join(args.out, name + end) for end in mine
                },
            }
        )
    write_all(args.out, files)
    if any(back.key.curve == "ed25519" for back in found):
        say(
            "Ed25519 keys are scalars, not seeds: a wallet that asks for a seed shows another, "
            "empty account. Sign with `sign` of this tool"
        )
    return {
        "recovered": rows,
        "directory": args.out,
        "labels": [document.label for document in given.documents],
        "not_checked": not_checked,
        "warnings": warnings,
    }


def _private(args: argparse.Namespace) -> Any:
    if args.rsa_key is None:
        raise malformed("recover needs --rsa-key, or --decrypt-command")
    data = read(args.rsa_key, _SMALL)
    passphrase = None
    if args.passphrase_file:
        passphrase = read(args.passphrase_file, 4096).rstrip(b"\r\n")
    elif is_encrypted(data):
        if not sys.stdin.isatty():
            raise malformed("the RSA private key is encrypted", "give --passphrase-file")
        passphrase = getpass.getpass("passphrase of the RSA key: ").encode()
    return load_private(data, passphrase)


def _decryptor(args: argparse.Namespace, private: Any, document: Document) -> Decrypt:
    public = rsa_of(document)
    if private is not None:
        if private.public.spki != public.spki:
            raise invalid(
                "rsa",
                "the document is for the RSA key %s, not for the one given, %s (SHA-256 of "
                "SubjectPublicKeyInfo)" % (public.name, private.public.name),
            )
        decrypt: Decrypt = private.decrypt
        return decrypt
    return lambda ciphertext: _by_command(args.decrypt_command, ciphertext, public.size)


def _by_command(command: str, ciphertext: bytes, size: int) -> Optional[bytes]:
    """Ask another program, for a key in a token: ciphertext on its input; on its output what raw
    RSA gives (as long as the modulus), or the 66 bytes without OAEP."""
    try:
        # The owner's own command, without a shell.
        done = subprocess.run(
            shlex.split(command), input=ciphertext, stdout=subprocess.PIPE, check=False
        )
    except (OSError, ValueError, IndexError) as exc:
        raise ToolError("E_UNAVAILABLE", "the decryption command does not run: %s" % exc) from None
    if done.returncode != 0 or len(done.stdout) not in (66, size):
        raise ToolError(
            "E_UNAVAILABLE",
            "the decryption command ended with %d and %d bytes; %d (raw RSA) or 66 (OAEP-SHA256, "
            "MGF1-SHA256, empty label) are needed" % (done.returncode, len(done.stdout), size),
            not_lost="Nothing was written; repeat it.",
            advice="try the command by hand; with raw RSA a bad leaf of one node is no failure",
        )
    return done.stdout if len(done.stdout) == 66 else oaep_decode(done.stdout)


def _sheet(args: argparse.Namespace) -> Dict[str, Any]:
    given = Given(args.sources)
    prints: List[Tuple[str, str]] = []
    own = own_sha256()
    if own is not None:
        prints.append(("this tool", own))
    prints += [("kit", kit.fingerprint) for kit in given.kits]
    names = {rsa_of(document).name: None for document in given.documents}
    prints += [("RSA key", name) for name in names]
    prints += [("document", document.sha256) for document in given.documents]
    blocks = []
    for what, sha256 in prints:
        rows = ["    %d   %s" % (i, row) for i, row in enumerate(groups(sha256), 1)]
        blocks.append("\n".join(["%s, SHA-256:" % what, *rows]))
    return {
        "fingerprints": [{"of": what, "sha256": sha256} for what, sha256 in prints],
        "sheet": "\n\n".join(blocks) + "\n",
    }


def _sign(args: argparse.Namespace) -> Dict[str, Any]:
    body, x = forms.read_key(read(args.key, 4 << 20))
    if body["curve"] != "ed25519":
        raise malformed(
            "this tool signs with Ed25519 keys only",
            "wallets and OpenSSL take the hex, WIF, xprv or PEM of this key",
        )
    public = bytes.fromhex(body["public_key"])
    if args.path != "m":
        if not body.get("chain_code"):
            raise malformed("this key has no chain code, and so no children")
        code = bytes.fromhex(body["chain_code"])
        child = child_at(body["curve"], body["scheme"], x, code, args.path)
        public, x = child.public_key, child.x
    message = read(args.message_file, MAX_JSON)
    return {"public_key": public.hex(), "signature": sign_ed25519(x, message).hex()}


# -- options


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise malformed("wrong use: " + message, "see `%s --help`" % self.prog)


def _sources(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", nargs="*", metavar="KIT or DOCUMENT")


def _knowledge(parser: argparse.ArgumentParser) -> None:
    _sources(parser)
    parser.add_argument("--public-key", action="append", default=[], metavar="KEY=[CURVE:]HEX")
    parser.add_argument("--record-hash", action="append", default=[], metavar="KEY=[CURVE:]HEX")
    parser.add_argument("--rsa-public-key", metavar="F", help="the RSA public key, PEM or DER")
    parser.add_argument("--label", help="the label that the documents must have")
    parser.add_argument("--vault", help="the vault id that the documents must have")
    parser.add_argument("--fingerprint", metavar="HEX", help="of the kit, from the printed page")
    parser.add_argument("--signer", metavar="HEX", help="public key that must have signed the kit")
    parser.add_argument("--rsa-key", metavar="F", help="recover: RSA private key, PEM")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="keycairn-offline.pyz",
        description=__doc__,
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    commands.required = True
    verify_ = commands.add_parser("verify", help="verify a kit or documents with public data")
    _knowledge(verify_)
    recover_ = commands.add_parser("recover", help="recover the keys")
    _knowledge(recover_)
    recover_.add_argument("--passphrase-file", metavar="F", help="else it is asked for")
    recover_.add_argument(
        "--decrypt-command",
        metavar="COMMAND",
        help="a program that decrypts with the RSA key: for a token, pkcs11-tool --decrypt ...",
    )
    recover_.add_argument("--out", required=True, metavar="DIR", help="a directory to be made")
    recover_.add_argument("--allow-network", action="store_true", help="run on a connected machine")
    recover_.add_argument(
        "--skip-bad-parts", action="store_true", help="leave out parts that don't verify"
    )
    sheet = commands.add_parser("sheet", help="the fingerprints, to compare with a printed page")
    _sources(sheet)
    sign = commands.add_parser("sign", help="sign with a recovered Ed25519 key")
    sign.add_argument("--key", required=True, metavar="F", help="KEY.json of a recovery")
    sign.add_argument("--message-file", required=True, metavar="F")
    sign.add_argument("--path", default="m", help="of a child: m/0/5")
    for one in (verify_, recover_, sheet, sign):
        one.add_argument("--json", action="store_true", help="one JSON object on standard output")
    return parser


_COMMANDS = {"verify": _verify, "recover": _recover, "sheet": _sheet, "sign": _sign}


def _text(value: Any, indent: str = "") -> str:
    lines = []
    for name, item in value.items():
        if isinstance(item, dict):
            if item:
                lines += [indent + name + ":", _text(item, indent + "  ")]
        elif isinstance(item, list) and item and isinstance(item[0], dict):
            lines.append(indent + name + ":")
            for row in item:
                lines.append(indent + "- " + _text(row, indent + "  ").strip())
        elif isinstance(item, list) and item and isinstance(item[0], str):
            lines.append(indent + name + ":")
            lines += [indent + "  " + plain(text) for text in item]
        elif name == "sheet":
            lines.append("\n" + item)
        elif item is not None and item != []:
            lines.append("%s%s: %s" % (indent, name, plain(str(item))))
    return "\n".join(lines)


def _report(error: ToolError, as_json: bool) -> int:
    if as_json:
        print(json.dumps(error.to_json()))
        return error.exit_code
    say("keycairn-offline: %s [%s]" % (error.message, error.code))
    where = {k: v for k, v in error.detail.items() if v is not None}
    if where:
        say("  " + ", ".join("%s: %s" % pair for pair in where.items()))
    for name, line in (("not lost", error.not_lost), ("next", error.advice)):
        if line:
            say("  %s: %s" % (name, line))
    return error.exit_code


def _no_core_file() -> None:
    """A crash must not leave keys in a file."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError, OSError):
        pass


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the tool; returns the exit code (see ``--help``)."""
    _no_core_file()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a label may have letters that the terminal has not
            stream.reconfigure(errors="backslashreplace")
    words = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in words
    try:
        args = _parser().parse_args(words)
        result = _COMMANDS[args.command](args)
    except ToolError as exc:
        return _report(exc, as_json)
    except KeyboardInterrupt:
        return 130
    print(json.dumps(result) if as_json else _text(result))
    return 0
