"""``keycairn ers``: recovery keys, recovery documents."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from keycairn.cli.options import (
    ConfigOption,
    NodesOption,
    RequestOption,
    VaultOption,
    command,
    each_operator,
    group,
    node_configs,
    read_file,
    read_rsa_spki,
    with_vault,
)
from keycairn.cli.output import output
from keycairn.client.merge import worst_status
from keycairn.encoding.strict import decode_json
from keycairn.errors import Code, KeycairnError, malformed
from keycairn.ers.cli import parse_expected
from keycairn.ers.document import MAX_JSON, Document
from keycairn.ers.files import write_new
from keycairn.ers.rsa import load_rsa_public_key
from keycairn.ers.verify import ExpectedKey, verify_document

RsaFile = Annotated[Path, typer.Option("--rsa-public-key", help="RSA public key, PEM or DER")]
Spki = Annotated[str, typer.Argument(help="SHA-256 of the key's SubjectPublicKeyInfo, hex")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    ers = group("ers", "Emergency recovery: RSA keys, documents.")
    app.add_typer(ers)
    _register_documents(ers)
    keys = group("key", "The RSA keys that a node may encrypt shares to. Each node's operator.")
    ers.add_typer(keys)
    _register_keys(keys)


def _register_keys(keys: typer.Typer) -> None:
    @command(keys, "add")
    def add(
        rsa_public_key: RsaFile,
        expires: Annotated[
            str | None, typer.Option("--expires", help="date or time, ISO 8601, UTC")
        ] = None,
        legacy_2048: Annotated[
            bool, typer.Option("--legacy-2048", help="allow a 2048-bit key")
        ] = False,
        out: Annotated[
            Path | None,
            typer.Option("--out", help="file for the challenges (with --vault: a directory)"),
        ] = None,
        config: ConfigOption = None,
        nodes: NodesOption = None,
        vault: VaultOption = None,
    ) -> None:
        """Check an RSA key and get 8 challenges that only its owner can answer.

        Its owner answers them with `keycairn-recover prove --challenges F`, where F is what this
        command prints with --json or writes with --out; `ers key confirm` then puts the key on the
        node's list. --config F: at one node. --vault F: at every node of a local vault.
        """
        spki = read_rsa_spki(rsa_public_key)
        key = load_rsa_public_key(spki, allow_2048=True)
        until = None if expires is None else _time(expires)
        configs = node_configs(config, vault, nodes)
        made = each_operator(
            configs,
            lambda n, _: n.ers_key_add(spki, expires_us=until, legacy_2048=legacy_2048),
        )
        by_node = {c.index: m for c, m in zip(configs, made, strict=True)}
        files = _write_challenges(by_node, out, single=config is not None)
        result = {
            "rsa_spki_sha256": key.spki_sha256,
            "bits": key.bits,
            "nodes": sorted(by_node),
            "challenges": made[0]
            if config is not None
            else {str(i): m for i, m in by_node.items()},
            "files": files,
            "expires": until,
            "next": "keycairn-recover prove --challenges F --rsa-key F --out F, "
            "then keycairn ers key confirm --answers F",
        }
        lines = [f"RSA-{key.bits} {key.spki_sha256}: challenges of node {i}" for i in by_node]
        lines += [f"  written to {f}" for f in files.values()]
        if out is None:
            lines += [json.dumps(m, sort_keys=True) for m in made]
        output.result(result, "\n".join([*lines, f"next: {result['next']}"]))

    @command(keys, "confirm")
    def confirm(
        answers: Annotated[
            Path,
            typer.Option("--answers", help="file, or directory with a file per node"),
        ],
        config: ConfigOption = None,
        nodes: NodesOption = None,
        vault: VaultOption = None,
    ) -> None:
        """Put the key on the list: its owner has shown that it can decrypt."""
        configs = node_configs(config, vault, nodes)
        files = {
            c.index: answers / f"answers-node{c.index}.json" if answers.is_dir() else answers
            for c in configs
        }
        bodies = {i: _answers_of(read_file(f), i) for i, f in files.items()}
        views = each_operator(configs, lambda n, c: n.ers_key_confirm(bodies[c.index]))
        output.result(_merge_keys(views)[0])

    @command(keys, "list")
    def list_(
        config: ConfigOption = None, nodes: NodesOption = None, vault: VaultOption = None
    ) -> None:
        """List the keys on the nodes' allow-lists."""
        configs = node_configs(config, vault, nodes)
        found = each_operator(configs, lambda n, _: n.ers_keys())
        output.result({"keys": _merge_keys([v for views in found for v in views])})

    @command(keys, "remove")
    def remove(
        rsa_spki_sha256: Spki,
        config: ConfigOption = None,
        nodes: NodesOption = None,
        vault: VaultOption = None,
    ) -> None:
        """Take a key off the list. Documents that exist under it stay valid."""
        configs = node_configs(config, vault, nodes)
        each_operator(configs, lambda n, _: n.ers_key_remove(rsa_spki_sha256))
        output.result({"rsa_spki_sha256": rsa_spki_sha256, "removed": [c.index for c in configs]})

    @command(keys, "attest")
    def attest(
        rsa_spki_sha256: Spki,
        out: Annotated[
            Path | None,
            typer.Option("--out", help="file for the challenges (with --vault: a directory)"),
        ] = None,
        config: ConfigOption = None,
        nodes: NodesOption = None,
        vault: VaultOption = None,
    ) -> None:
        """New challenges for a key on the list: does its owner still have it?"""
        configs = node_configs(config, vault, nodes)
        made = each_operator(configs, lambda n, _: n.ers_key_attest(rsa_spki_sha256))
        by_node = {c.index: m for c, m in zip(configs, made, strict=True)}
        output.result(
            {
                "rsa_spki_sha256": rsa_spki_sha256,
                "nodes": sorted(by_node),
                "challenges": made[0]
                if config is not None
                else {str(i): m for i, m in by_node.items()},
                "files": _write_challenges(by_node, out, single=config is not None),
            }
        )


def _register_documents(ers: typer.Typer) -> None:
    @command(ers, "create")
    def create(
        keys: Annotated[list[str], typer.Argument(metavar="KEY", help="key ids")],
        rsa_public_key: RsaFile,
        out: Annotated[Path, typer.Option("--out", help="file for the document")],
        params: Annotated[
            str, typer.Option("--params", help="fast, balanced or compact")
        ] = "balanced",
        label: Annotated[str, typer.Option("--label", help="shown before recovery")] = "",
        request_id: RequestOption = None,
        vault: VaultOption = None,
    ) -> None:
        """Make one recovery document for keys; every node checks it and keeps a copy."""
        spki = read_rsa_spki(rsa_public_key)
        if out.exists():
            raise KeycairnError(Code.CONFLICT, f"{out} exists already", next="name another file")
        with output.working("proving at all nodes"):
            made = with_vault(
                vault,
                lambda v: v.ers_create(
                    keys, spki, params=params, label=label, request_id=request_id
                ),
            )
        write_new(out, str(made["document"]).encode())
        output.result({**made, "document": str(out)})

    @command(ers, "verify")
    def verify(
        document: Annotated[Path, typer.Argument(help="the document, JSON or CBOR")],
        public_key: Annotated[
            list[str] | None, typer.Option("--public-key", metavar="KEY=[CURVE:]HEX")
        ] = None,
        record_hash: Annotated[
            list[str] | None, typer.Option("--record-hash", metavar="KEY=[CURVE:]HEX")
        ] = None,
        label: Annotated[str | None, typer.Option("--label", help="must be its label")] = None,
        rsa_public_key: Annotated[
            Path | None, typer.Option("--rsa-public-key", help="RSA public key, PEM or DER")
        ] = None,
    ) -> None:
        """Verify a document with public data. What was not given is listed as not checked."""
        expected = [
            ExpectedKey(key_id, public_key=raw, curve=curve)
            for key_id, curve, raw in (parse_expected(p, "public-key") for p in public_key or ())
        ] + [
            ExpectedKey(key_id, record_hash=raw, curve=curve)
            for key_id, curve, raw in (parse_expected(r, "record-hash") for r in record_hash or ())
        ]
        rsa = None
        if rsa_public_key is not None:
            rsa = load_rsa_public_key(read_file(rsa_public_key, 1 << 16), allow_2048=True)
        loaded = Document.load(read_file(document, MAX_JSON))
        report = verify_document(loaded, rsa=rsa, expected=expected, label=label)
        output.result(report.to_json())

    @command(ers, "status")
    def status(
        key: Annotated[str | None, typer.Argument(help="key id; default: all")] = None,
        vault: VaultOption = None,
    ) -> None:
        """Which keys have a recovery document at every node."""
        by_node = with_vault(vault, lambda v: v.ers_status(key))
        output.result({"keys": worst_status(by_node)})


def _time(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as exc:
        raise malformed(
            "--expires takes a date or time like 2030-12-31 or 2030-12-31T12:00"
        ) from exc
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp()) * 1_000_000


def _write_challenges(
    by_node: dict[int, dict[str, Any]], out: Path | None, *, single: bool
) -> dict[str, str]:
    if out is None:
        return {}
    if not single:
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = {}
    for index, challenges in by_node.items():
        path = out if single else out / f"challenges-node{index}.json"
        path.unlink(missing_ok=True)
        write_new(path, json.dumps(challenges, sort_keys=True).encode() + b"\n", 0o644)
        files[str(index)] = str(path)
    return files


def _answers_of(data: bytes, node: int) -> dict[str, Any]:
    """A node's answers out of a file that ``keycairn-recover prove`` wrote for it or for all."""
    body = decode_json(data)
    if isinstance(body, dict) and isinstance(body.get("answers"), dict):
        body = body["answers"].get(str(node))
        if body is None:
            raise malformed(f"the file has no answers for node {node}")
    if not isinstance(body, dict):
        raise malformed("the answers must be the file that keycairn-recover prove wrote")
    return body


def _merge_keys(views: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Entries of several nodes' lists, one per RSA key with the nodes that have it."""
    merged: dict[str, dict[str, Any]] = {}
    for view in views:
        known = merged.setdefault(view["rsa_spki_sha256"], {**view, "nodes": [], "at": {}})
        known["nodes"] = sorted({*known["nodes"], *view["nodes"]})
        known["at"] |= {str(i): view["state"] for i in view["nodes"]}
    return list(merged.values())
