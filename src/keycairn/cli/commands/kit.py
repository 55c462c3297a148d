"""``keycairn kit``: make and verify recovery kits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from keycairn.cli.options import VaultOption, command, group, read_file, read_rsa_spki, with_vault
from keycairn.cli.output import output
from keycairn.client import Vault
from keycairn.errors import Code, KeycairnError, malformed
from keycairn.ers.cli import parse_expected
from keycairn.ers.rsa import load_rsa_public_key
from keycairn.ers.verify import ExpectedKey
from keycairn.kit.check import verify_kit
from keycairn.kit.contents import KeyFacts, contents, read_documents, refuse_beside
from keycairn.kit.create import create, write
from keycairn.kit.offline.meeting import holds_private_key

#: Keys of one document that a kit asks the nodes to make.
_BATCH = 200

RsaFile = Annotated[
    Path | None, typer.Option("--rsa-public-key", help="RSA public key, PEM or DER")
]


def register(app: typer.Typer) -> None:
    """Add the group."""
    kit = group("kit", "The recovery kit: one zip with all but the RSA private key.")
    app.add_typer(kit)

    @command(kit, "create")
    def create_(
        context: typer.Context,
        out: Annotated[Path, typer.Option("--out", help="the zip to be made")],
        words: Annotated[
            list[str] | None,
            typer.Argument(metavar="KEY...", help="key ids of the vault; or further documents"),
        ] = None,
        documents: Annotated[
            list[Path] | None, typer.Option("--documents", help="ERS documents that exist")
        ] = None,
        all_keys: Annotated[bool, typer.Option("--all", help="all keys of the vault")] = False,
        label: Annotated[str, typer.Option("--label", help="printed on the page")] = "",
        rsa_public_key: RsaFile = None,
        params: Annotated[
            str, typer.Option("--params", help="of new documents: fast, balanced or compact")
        ] = "balanced",
        sign_key: Annotated[
            Path | None, typer.Option("--sign-key", help="Ed25519 private key, PEM: signs the kit")
        ] = None,
        vault: VaultOption = None,
    ) -> None:
        """Make a kit: documents, public data, path ledger, an offline tool, a page to print.

        --documents F...: from documents that you have, without any node. With --vault FILE too,
        public keys and derived keys are the vault's.

        --vault FILE KEY... (or --all) --rsa-public-key F: the nodes make new documents.
        """
        refuse_beside(out.absolute().parent, "the kit would lie beside it")
        if out.exists():
            raise KeycairnError(Code.CONFLICT, f"{out} exists already", next="name another file")
        signer = None if sign_key is None else _signer(sign_key, out)
        spki = None if rsa_public_key is None else read_rsa_spki(_public(rsa_public_key))
        files, ids = list(documents or ()), list(words or ())
        # An address in the environment alone does not make the vault needed: it may be gone.
        source = context.get_parameter_source("vault")
        named = source is not None and source.name == "COMMANDLINE"
        asked = named if files else True
        if files and not asked:
            files, ids = [*files, *map(Path, ids)], []
        if files and not asked and all_keys:
            raise malformed("--all is about the keys of a vault: name it with --vault")
        facts: Sequence[KeyFacts] = ()
        data = read_documents(files)
        if asked:
            if not ids and not all_keys:
                raise malformed("which keys? name them, or say --all")
            if not files and spki is None:
                raise malformed("for which RSA key? name it with --rsa-public-key")
            with output.working("asking the vault"):
                facts = with_vault(vault, lambda v: _facts(v, ids))
                if not files and spki is not None:
                    for key_ids in _batches(facts):
                        made = with_vault(vault, _making(key_ids, spki, params, label))
                        data.append(str(made["document"]).encode())
        rsa = None if spki is None else load_rsa_public_key(spki, allow_2048=True)
        with output.working("verifying, drawing"):
            what = contents(data, label=label, facts=facts, rsa=rsa)
            made_kit = create(what, signer)
        write(out, made_kit)
        for warning in what.warnings:
            output.note(f"warning: {warning}")
        output.result(
            {
                "kit": str(out),
                "sha256": made_kit.sha256,
                "fingerprint": made_kit.fingerprint,
                "tool_sha256": made_kit.tool_sha256,
                "signer": made_kit.signer,
                "size": len(made_kit.data),
                "label": label,
                "keys": list(what.keys),
                "documents": [entry.document.sha256 for entry in what.entries],
                "rsa_spki_sha256": list(what.rsa_keys),
                "paths": {key_id: len(known.paths) for key_id, known in what.facts.items()},
                "warnings": list(what.warnings),
                "next": f"keycairn kit verify {out}; print page.pdf; keep the RSA key elsewhere",
            }
        )

    @command(kit, "verify")
    def verify(
        kit: Annotated[Path, typer.Argument(help="the zip, or the folder it was unpacked to")],
        fingerprint: Annotated[
            str | None, typer.Option("--fingerprint", help="of the kit, from the printed page")
        ] = None,
        signer: Annotated[
            str | None, typer.Option("--signer", help="public key that must have signed it, hex")
        ] = None,
        public_key: Annotated[
            list[str] | None, typer.Option("--public-key", metavar="KEY=[CURVE:]HEX")
        ] = None,
        rsa_public_key: RsaFile = None,
    ) -> None:
        """Verify a kit: its manifest, and every document. `keycairn-offline.pyz verify`, inside
        the kit, does the same where nothing is installed."""
        expected = {}
        for text in public_key or ():
            key_id, curve, raw = parse_expected(text, "public-key")
            expected[key_id] = ExpectedKey(key_id, public_key=raw, curve=curve)
        rsa = None
        if rsa_public_key is not None:
            spki = read_rsa_spki(_public(rsa_public_key))
            rsa = load_rsa_public_key(spki, allow_2048=True)
        with output.working("verifying"):
            found = verify_kit(
                kit, fingerprint=fingerprint, signer=signer, rsa=rsa, expected=expected
            )
        output.result(found)


def _public(path: Path) -> Path:
    if holds_private_key(read_file(path, 1 << 16)):
        raise KeycairnError(
            Code.POLICY,
            f"{path} is a private key: a document and its RSA private key meet only in recovery",
            not_lost="Nothing was written.",
            next="give the public key: keycairn-recover fingerprint --rsa-key F --out F",
        )
    return path


def _signer(path: Path, out: Path) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(read_file(path, 1 << 14), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise malformed("--sign-key takes an Ed25519 private key in PEM, not encrypted") from exc
    if not isinstance(key, Ed25519PrivateKey):
        raise malformed("--sign-key takes an Ed25519 key; an RSA key has no business here")
    if path.absolute().parent == out.absolute().parent:
        output.note("warning: keep the signing key away from the kits that it signs")
    return key


def _batches(facts: Sequence[KeyFacts]) -> list[list[str]]:
    ids = [known.key_id for known in facts]
    return [ids[i : i + _BATCH] for i in range(0, len(ids), _BATCH)]


def _making(key_ids: list[str], spki: bytes, params: str, label: str) -> Any:
    # A repeated command finds the same request at the nodes.
    return lambda vault: vault.ers_create(key_ids, spki, params=params, label=label)


async def _facts(vault: Vault, ids: Sequence[str]) -> list[KeyFacts]:
    """What the vault's nodes agree on about the keys, and the paths that any of them knows."""
    wanted = list(ids) or [key["key_id"] for key in await vault.list_keys()]
    found = []
    for key_id in wanted:
        shown = await vault.show_key(key_id)
        paths = await vault.key_paths(key_id)
        children = {}
        for path in paths:
            if path != "m":
                child = await vault.show_key(key_id, path)
                children[path] = bytes.fromhex(child["public_key"])
        found.append(
            KeyFacts(
                key_id,
                shown["curve"],
                bytes.fromhex(shown["public_key"]),
                shown["generation"],
                children,
            )
        )
    return found
