"""``keycairn-recover``: the offline tool that brings keys back without any node.

    keycairn-recover F... --rsa-key F --out DIR     recover the keys of ERS documents
    keycairn-recover verify F...                    verify documents with public data
    keycairn-recover keygen --out F                 make an RSA recovery key
    keycairn-recover fingerprint --rsa-key F        its fingerprint sheet
    keycairn-recover prove --challenges F ...       answer a node's proof of possession
    keycairn-recover sign --key F ...               sign with a recovered key
    keycairn-recover export --key F --format X ...  one form of a recovered key, for a wallet

The RSA private key is a file (--rsa-key), in a PKCS#11 token (--pkcs11-module, --token-label,
--key-label, --pin-file), or in the transit engine of OpenBao or Vault (--transit-address,
--transit-key, --token-file).

The RSA private key and a document meet only in recovery: no other command takes both. Results go
to standard output (with --json exactly one object), everything else to standard error; a private
key goes to neither, but for `export --print`. (A document whose file is called like a command is
given as ``./verify``.)
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from keycairn.errors import KeycairnError
from keycairn.ers.cli_base import Command, Parser, say
from keycairn.ers.cli_keys import EXPORT, SIGN
from keycairn.ers.cli_recover import RECOVER, VERIFY, parse_expected
from keycairn.ers.cli_rsa import FINGERPRINT, KEYGEN, PROVE

__all__ = ["main", "parse_expected"]

_EXIT_CODES = """exit codes: 0 done, 1 failed (disk, token, service, random source), 2 wrong use or
malformed input, 3 refused (network is up, file exists), 4 no such file, token or key, or a wrong
PIN, 5 the document or a signature is not valid, 130 interrupted"""

_COMMANDS: dict[str, Command] = {
    "verify": VERIFY,
    "keygen": KEYGEN,
    "fingerprint": FINGERPRINT,
    "prove": PROVE,
    "sign": SIGN,
    "export": EXPORT,
}
_DEFAULT = replace(RECOVER, text=__doc__ or "")


def _text(result: dict[str, Any]) -> str:
    lines = []
    for name, value in result.items():
        if isinstance(value, list):
            lines.append(f"{name}:")
            lines += ["  " + _row(item) for item in value]
        elif isinstance(value, str) and "\n" in value.strip():
            lines.append("\n" + value)
        else:
            lines.append(f"{name}: {value}")
    return "\n".join(lines)


def _row(item: object) -> str:
    if not isinstance(item, dict):
        return str(item)
    return ", ".join(f"{k} {v}" for k, v in item.items() if not isinstance(v, dict))


def _report(error: KeycairnError, as_json: bool) -> int:
    if as_json:
        print(json.dumps(error.to_json()))
    else:
        say(f"keycairn-recover: {error.message} [{error.code.value}]")
        where = {k: v for k, v in error.detail.items() if v is not None}
        if where:
            say("  " + ", ".join(f"{k}: {v}" for k, v in where.items()))
        for name, line in (("not lost", error.not_lost), ("next", error.next)):
            if line:
                say(f"  {name}: {line}")
    return error.exit_code


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit code (see ``--help``)."""
    # A crash must not leave keys in a core file.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    words = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in words
    name = words[0] if words and words[0] in _COMMANDS else ""
    command = _COMMANDS[name] if name else _DEFAULT
    parser = Parser(
        prog=f"keycairn-recover {name}".strip(),
        description=command.text,
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.options(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    try:
        result = command.run(parser.parse_args(words[1:] if name else words))
    except KeycairnError as exc:
        return _report(exc, as_json)
    except KeyboardInterrupt:
        return 130
    print(json.dumps(result) if as_json else _text(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
