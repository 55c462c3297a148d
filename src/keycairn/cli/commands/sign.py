"""``keycairn sign`` and ``keycairn verify``."""

from __future__ import annotations

import sys
from pathlib import Path
from types import NoneType
from typing import Annotated

import typer

from keycairn.cli.options import (
    NodesOption,
    RequestOption,
    VaultOption,
    command,
    parse_nodes,
    read_file,
    with_vault,
)
from keycairn.cli.output import output
from keycairn.client import Item, verify_signature
from keycairn.encoding.strict import decode_hex, decode_json
from keycairn.errors import Code, KeycairnError, malformed

_MAX_MESSAGE = 1 << 20
Digest = Annotated[str | None, typer.Option("--digest", help="32 bytes in hexadecimal (ECDSA)")]
Message = Annotated[
    str | None, typer.Option("--message", help="the message in hexadecimal (Schnorr)")
]
MessageFile = Annotated[
    Path | None, typer.Option("--message-file", help="the message, from a file (Schnorr)")
]

Taproot = Annotated[
    bool,
    typer.Option("--taproot", help="BIP-340 keys: for the output key of the P2TR address (BIP-86)"),
]


def payload(
    digest: str | None, message: str | None, message_file: Path | None
) -> tuple[bytes | None, bytes | None]:
    """(digest, message) out of three options, one of which must be given; E_MALFORMED."""
    if sum(x is not None for x in (digest, message, message_file)) != 1:
        raise malformed("give exactly one of --digest, --message and --message-file")
    if digest is not None:
        return decode_hex(digest, length=32, what="digest"), None
    if message is not None:
        return None, decode_hex(message, what="message")
    return None, read_file(message_file or Path(), _MAX_MESSAGE)


def batch_items(text: bytes) -> list[Item]:
    """Items out of a JSON array, or of JSON objects one a line; empty lines don't count.

    Raises:
        KeycairnError: E_MALFORMED, E_TOO_LARGE; the message says which item.
    """
    if text.lstrip()[:1] == b"[":
        values = decode_json(text, max_string=_MAX_MESSAGE)
    else:
        values = []
        for number, line in enumerate(text.split(b"\n"), 1):
            if line.strip():
                try:
                    values.append(decode_json(line, max_string=_MAX_MESSAGE))
                except KeycairnError as exc:
                    raise malformed(f"line {number} of the batch: {exc.message}") from exc
    return [_batch_item(value, number) for number, value in enumerate(values, 1)]


def _batch_item(value: object, number: int) -> Item:
    if not isinstance(value, dict) or not set(value) <= {"digest", "message", "path"}:
        raise malformed(f"item {number} of the batch must be an object of digest or message, path")
    digest, message, path = (value.get(name) for name in ("digest", "message", "path"))
    try:
        if not isinstance(path, (str, NoneType)):
            raise malformed("path must be text")
        item = Item(
            None if digest is None else decode_hex(digest, length=32, what="digest"),
            None if message is None else decode_hex(message, what="message"),
            path,
        )
        item.check()
    except KeycairnError as exc:
        raise malformed(f"item {number} of the batch: {exc.message}", item=number - 1) from exc
    return item


def _batch_file(path: Path) -> bytes:
    if str(path) != "-":
        return read_file(path, _MAX_MESSAGE)
    text = sys.stdin.buffer.read(_MAX_MESSAGE + 1)
    if len(text) > _MAX_MESSAGE:
        raise KeycairnError(Code.TOO_LARGE, f"the batch is larger than {_MAX_MESSAGE} bytes")
    return text


def register(app: typer.Typer) -> None:
    """Add the commands."""

    @command(app, "sign")
    def sign(
        key: Annotated[str, typer.Argument(help="key id")],
        digest: Digest = None,
        message: Message = None,
        message_file: MessageFile = None,
        batch: Annotated[
            Path | None,
            typer.Option(
                "--batch",
                help="up to 100 objects of digest or message, and path: a JSON array, or one a "
                "line; - is standard input",
            ),
        ] = None,
        path: Annotated[
            str | None, typer.Option("--path", help="sign with the child at m/0/5")
        ] = None,
        presignature: Annotated[
            str | None, typer.Option("--presignature", help="use this presignature")
        ] = None,
        taproot: Taproot = False,
        request_id: RequestOption = None,
        nodes: NodesOption = None,
        vault: VaultOption = None,
    ) -> None:
        """Sign with threshold + 1 nodes: those named, or the first that are healthy.

        --batch: one request for all of them; all are signed, or none.
        """
        if batch is not None:
            others = (digest, message, message_file, path, presignature)
            if any(other is not None for other in others):
                raise malformed("--batch stands alone: digests, messages and paths are in the file")
            items = batch_items(_batch_file(batch))
            with output.working("signing"):
                made = with_vault(
                    vault,
                    lambda v: v.sign_many(
                        key,
                        items,
                        taproot=taproot,
                        request_id=request_id,
                        nodes=parse_nodes(nodes),
                    ),
                )
            lines = [str(m["signature"]) for m in made]
            output.result({"signatures": made}, "\n".join(lines))
            return
        raw_digest, raw_message = payload(digest, message, message_file)
        with output.working("signing"):
            result = with_vault(
                vault,
                lambda v: v.sign(
                    key,
                    digest=raw_digest,
                    message=raw_message,
                    path=path,
                    presignature=presignature,
                    taproot=taproot,
                    request_id=request_id,
                    nodes=parse_nodes(nodes),
                ),
            )
        output.result(result)

    @command(app, "verify")
    def verify(
        scheme: Annotated[str, typer.Option("--scheme")],
        curve: Annotated[str, typer.Option("--curve")],
        public_key: Annotated[str, typer.Option("--public-key", help="hexadecimal")],
        signature: Annotated[str, typer.Option("--signature", help="64 bytes, hexadecimal")],
        digest: Digest = None,
        message: Message = None,
        message_file: MessageFile = None,
        taproot: Taproot = False,
    ) -> None:
        """Verify a signature with public data; no node is asked."""
        raw_digest, raw_message = payload(digest, message, message_file)
        verify_signature(
            scheme,
            curve,
            decode_hex(public_key, what="public key"),
            decode_hex(signature, length=64, what="signature"),
            digest=raw_digest,
            message=raw_message,
            taproot=taproot,
        )
        output.result({"valid": True}, "valid")
