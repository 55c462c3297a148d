"""``keycairn ers``: recovery keys, recovery documents."""

from __future__ import annotations

import json
import re
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
    parse_nodes,
    read_file,
    read_rsa_spki,
    whole,
    with_vault,
)
from keycairn.cli.output import output
from keycairn.client.merge import worst_status
from keycairn.client.rotation import rotate
from keycairn.encoding.strict import decode_hex, decode_json
from keycairn.errors import Code, KeycairnError, malformed
from keycairn.ers.beside import refuse_beside_private_key, refuse_private_key
from keycairn.ers.cli import parse_expected
from keycairn.ers.document import MAX_JSON, Document
from keycairn.ers.files import write_new
from keycairn.ers.rsa import load_rsa_public_key
from keycairn.ers.verify import ExpectedKey, verify_document
from keycairn.protocols.ers_session import MAX_KEYS
from keycairn.vault.ers_state import STATUSES

RsaFile = Annotated[Path, typer.Option("--rsa-public-key", help="RSA public key, PEM or DER")]
_PARTIAL = 7
_SPKI_NAME = re.compile(r"[0-9a-f]{64}\Z")
#: From best to worst.
_FRESH = ("good", "overdue", "never")
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
        spki = _public_spki(rsa_public_key)
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
        merged = _merge_keys([v for views in found for v in views])
        lines = [
            f"RSA-{k['bits'] or '?'} {k['rsa_spki_sha256']}  {k['state']}  {_attested(k)}  "
            f"nodes {','.join(map(str, k['nodes']))}"
            for k in merged
        ]
        output.result({"keys": merged}, "\n".join(lines) or "no RSA key is allowed")

    @command(keys, "remove")
    def remove(
        rsa_spki_sha256: Spki,
        force: Annotated[
            bool, typer.Option("--force", help="though some keys have no other document")
        ] = False,
        config: ConfigOption = None,
        nodes: NodesOption = None,
        vault: VaultOption = None,
    ) -> None:
        """Take a key off the list. What lies under it can still be opened, and counts no more.

        Refused (E_CONFLICT) while a key has its only document under it: `ers rotate` first.
        """
        configs = node_configs(config, vault, nodes)
        each_operator(configs, lambda n, _: n.ers_key_remove(rsa_spki_sha256, force=force))
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
        nodes: NodesOption = None,
        request_id: RequestOption = None,
        vault: VaultOption = None,
    ) -> None:
        """Make one recovery document for keys; every node checks it and keeps a copy.

        With --nodes only these take part: a partial document, for when a node is lost. It recovers
        the keys if t+1 took part; no backup policy counts it.
        """
        spki = _public_spki(rsa_public_key)
        if out.exists():
            raise KeycairnError(Code.CONFLICT, f"{out} exists already", next="name another file")
        refuse_beside_private_key(out.absolute().parent, _name_of(spki))
        players = parse_nodes(nodes)
        with output.working("proving at all nodes"):
            made = with_vault(
                vault,
                lambda v: v.ers_create(
                    keys, spki, params=params, label=label, request_id=request_id, nodes=players
                ),
            )
        write_new(out, str(made["document"]).encode())
        output.result({**made, "document": str(out)})

    @command(ers, "verify")
    def verify(
        document: Annotated[Path | None, typer.Argument(help="the document, JSON or CBOR")] = None,
        public_key: Annotated[
            list[str] | None, typer.Option("--public-key", metavar="KEY=[CURVE:]HEX")
        ] = None,
        record_hash: Annotated[
            list[str] | None, typer.Option("--record-hash", metavar="KEY=[CURVE:]HEX")
        ] = None,
        label: Annotated[str | None, typer.Option("--label", help="must be its label")] = None,
        rsa_public_key: Annotated[
            list[Path] | None,
            typer.Option("--rsa-public-key", help="RSA public key, PEM or DER; several with --all"),
        ] = None,
        everything: Annotated[
            str | None,
            typer.Option("--all", metavar="DIR|s3://…", help="all documents there, for every key"),
        ] = None,
        expected_keys: Annotated[
            Path | None,
            typer.Option("--expected", help="--all: keys, as `key list --json` prints them"),
        ] = None,
        workers: Annotated[
            int, typer.Option("--workers", parser=whole, help="--all: processes; 0: one per CPU")
        ] = 0,
        cluster: Annotated[
            str | None, typer.Option("--cluster", help="--all: a Dask scheduler, tcp://host:port")
        ] = None,
        resume: Annotated[
            Path | None,
            typer.Option("--resume", metavar="F", help="--all: state file; goes on after a kill"),
        ] = None,
        sample: Annotated[
            int | None,
            typer.Option("--sample", parser=whole, help="--all: only so many, drawn at random"),
        ] = None,
        report_file: Annotated[
            Path | None,
            typer.Option("--report", help="--all: a new file, one line of JSON for every key"),
        ] = None,
    ) -> int:
        """Verify a document with public data. What was not given is listed as not checked.

        With --all: every document (*.cbor, ers-*.json) of a directory or bucket, and an answer for
        every key: yes (exit code 0 if all), no (5 if any), or can't tell (7), because a document
        could not be read or there was no public key to compare it with.
        """
        rsa_files = rsa_public_key or []
        if everything is not None:
            if document is not None or public_key or record_hash or label is not None:
                raise malformed("--all takes --expected and --rsa-public-key, no single keys")
            # Imported here: most commands need no workers.
            from keycairn.cli.commands.ers_bulk import Plan, verify_all

            return verify_all(
                Plan(
                    everything,
                    rsa_files,
                    expected_keys,
                    workers,
                    cluster,
                    resume,
                    sample,
                    report_file,
                )
            )
        if document is None:
            raise malformed("which document? name a file, or a place with --all")
        if len(rsa_files) > 1:
            raise malformed("one document is for one RSA key: give --rsa-public-key once")
        if expected_keys or workers or cluster or resume or sample is not None or report_file:
            raise malformed("that option is for --all")
        expected = [
            ExpectedKey(key_id, public_key=raw, curve=curve)
            for key_id, curve, raw in (parse_expected(p, "public-key") for p in public_key or ())
        ] + [
            ExpectedKey(key_id, record_hash=raw, curve=curve)
            for key_id, curve, raw in (parse_expected(r, "record-hash") for r in record_hash or ())
        ]
        rsa = None
        if rsa_files:
            rsa = load_rsa_public_key(_public_spki(rsa_files[0]), allow_2048=True)
        loaded = Document.load(read_file(document, MAX_JSON))
        report = verify_document(loaded, rsa=rsa, expected=expected, label=label)
        output.result(report.to_json())
        return 0

    @command(ers, "status")
    def status(
        key: Annotated[str | None, typer.Argument(help="key id; default: all")] = None,
        vault: VaultOption = None,
    ) -> None:
        """Which keys have a recovery document at every node: NONE, PARTIAL, COMPLETE or STALE."""
        by_node = with_vault(vault, lambda v: v.ers_status(key))
        rows = worst_status(by_node)
        counts = {s: sum(r["status"] == s for r in rows) for s in STATUSES}
        lines = []
        for row in rows:
            rsa = str(row.get("rsa_spki_sha256") or "-")[:16]
            why = f"  {row['why']}" if row.get("why") else ""
            parts = f"{row['have']}/{row['parts']}"
            lines.append(f"{row['key_id']}  {row['status']:8} {parts}  rsa {rsa}{why}")
        lines.append(", ".join(f"{n} {s}" for s, n in counts.items()))
        output.result({"keys": rows, "counts": counts}, "\n".join(lines))

    @command(ers, "rotate")
    def rotate_(
        to: Annotated[
            str,
            typer.Option(
                "--to", metavar="NEWKEY", help="its public key (file), or SPKI SHA-256 if listed"
            ),
        ],
        old: Annotated[
            str | None,
            typer.Option("--from", metavar="OLD", help="only keys with a document under this one"),
        ] = None,
        batch: Annotated[
            int, typer.Option("--batch", parser=whole, help="keys of one document")
        ] = 250,
        params: Annotated[
            str, typer.Option("--params", help="fast, balanced or compact")
        ] = "balanced",
        label: Annotated[str, typer.Option("--label", help="shown before recovery")] = "",
        vault: VaultOption = None,
    ) -> int:
        """Make the documents of all keys anew under another RSA key, in batches.

        NEWKEY must stand on every node's list (`ers key add`, `confirm`). Broken off, it goes on
        where it ended. What is still only under the old key is reported; exit code 7 then. After
        it, `ers key remove OLD`.
        """
        if not 1 <= batch <= MAX_KEYS:
            raise malformed(f"--batch takes 1 to {MAX_KEYS}")
        if old is not None and not _SPKI_NAME.match(old):
            old = _name_of(_public_spki(Path(old)))
        spki = _spki_named(to, vault) if _SPKI_NAME.match(to) else _public_spki(Path(to))
        if _name_of(spki) == old:
            raise malformed("--from and --to are the same RSA key")
        with output.counting("keys") as progress:
            done = with_vault(
                vault,
                lambda v: rotate(
                    v,
                    spki,
                    old=old,
                    batch=batch,
                    params=params,
                    label=label,
                    progress=progress,
                ),
            )
        if done.error is not None and not done.documents:
            raise done.error
        following = "keycairn ers rotate again, once what is in `left` is repaired"
        if not done.left:
            following = f"keycairn ers key remove {old or 'OLD'}"
        result = {**done.to_json(), "next": following}
        lines = [
            f"{done.rotated} of {done.total} keys rotated in {done.documents} documents, "
            f"{done.already} had one before, {len(done.left)} left"
        ]
        lines += [f"  {key_id}  {why}" for key_id, why in sorted(done.left.items())[:20]]
        output.result(result, "\n".join([*lines, f"next: {following}"]))
        return _PARTIAL if done.left else 0


def _public_spki(path: Path) -> bytes:
    """SubjectPublicKeyInfo of a public key file; E_POLICY for a private key."""
    refuse_private_key(read_file(path, 1 << 16))
    return read_rsa_spki(path)


def _name_of(spki: bytes) -> str:
    return load_rsa_public_key(spki, allow_2048=True).spki_sha256


def _spki_named(name: str, vault: Path | None) -> bytes:
    """The RSA key of this name, from the list of a node whose node.toml is here."""
    found = each_operator(node_configs(None, vault), lambda n, _: n.ers_keys())
    for view in (v for views in found for v in views):
        if view["rsa_spki_sha256"] == name and view.get("rsa_spki"):
            return decode_hex(view["rsa_spki"], what="rsa_spki")
    raise KeycairnError(
        Code.NOT_FOUND,
        "no node's list holds that RSA key, or only its hash",
        next="give its public key file to --to",
    )


def _attested(view: dict[str, Any]) -> str:
    """How fresh a proof of possession is, in words."""
    days = view.get("attested_days")
    if days is None:
        return "NEVER ATTESTED"
    ago = "today" if days == 0 else f"{days} days ago"
    late = "; OVERDUE" if view.get("attestation") == "overdue" else ""
    return f"attested {ago}{late}"


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
        # What counts is the node whose proof is the oldest.
        if _FRESH.index(view["attestation"]) >= _FRESH.index(known["attestation"]):
            older = (view["attested_days"] or 0) >= (known["attested_days"] or 0)
            if older or view["attestation"] != known["attestation"]:
                fields = ("attestation", "attested_days", "attested_at")
                known |= {name: view[name] for name in fields}
        known["rsa_spki"] = known["rsa_spki"] or view["rsa_spki"]
        known["nodes"] = sorted({*known["nodes"], *view["nodes"]})
        known["at"] |= {str(i): view["state"] for i in view["nodes"]}
    return list(merged.values())
