"""``keycairn sign`` and ``keycairn verify``."""

from __future__ import annotations

from pathlib import Path
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
from keycairn.client import verify_signature
from keycairn.encoding.strict import decode_hex
from keycairn.errors import malformed

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


def register(app: typer.Typer) -> None:
    """Add the commands."""

    @command(app, "sign")
    def sign(
        key: Annotated[str, typer.Argument(help="key id")],
        digest: Digest = None,
        message: Message = None,
        message_file: MessageFile = None,
        path: Annotated[str | None, typer.Option("--path", help="derivation path, m/…")] = None,
        presignature: Annotated[
            str | None, typer.Option("--presignature", help="use this presignature")
        ] = None,
        taproot: Taproot = False,
        request_id: RequestOption = None,
        nodes: NodesOption = None,
        vault: VaultOption = None,
    ) -> None:
        """Sign with threshold + 1 nodes: those named, or the first that are healthy."""
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
