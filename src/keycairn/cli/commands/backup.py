"""``keycairn backup``: node bundles."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from keycairn.cli.options import (
    ConfigOption,
    NodesOption,
    VaultOption,
    command,
    every_operator,
    group,
)
from keycairn.cli.output import output
from keycairn.client import load_profile
from keycairn.errors import KeycairnError, malformed
from keycairn.ports.system import SystemRng

_PARTIAL = 7
SkipChecks = Annotated[
    bool, typer.Option("--skip-checks", help="don't run the checks of external items")
]


def register(app: typer.Typer) -> None:
    """Add the group."""
    backup = group("backup", "Node bundles: make, check, keep and compare them.")
    app.add_typer(backup)

    @command(backup, "create")
    def create(
        config: ConfigOption = None, nodes: NodesOption = None, vault: VaultOption = None
    ) -> int:
        """Write a bundle of a running node, read it back, and let it count as evidence.

        --config F: one node. --vault F: all nodes of a local vault, as one backup point: creation
        of keys waits for the moment in which all copy their databases, signing goes on. Exit code
        7 if some of them could not write theirs; the others' are good, without a point.
        """
        point, why = None, ""
        with output.working("writing bundles"):
            if config is None and nodes is None and vault is not None:
                from keycairn.cli.points import create_point

                all_made = create_point(vault, SystemRng())
                made, failed = all_made.bundles, all_made.failed
                point, why = all_made.point, all_made.why
            else:
                made, failed = every_operator(config, vault, nodes, lambda n, _: n.backup_create())
        lines = [
            f"node {m['node']}: {m['bundle']} ({m['size']} bytes, {m['keys']} keys, verified)"
            for m in made.values()
        ]
        if point is not None:
            lines.append(f"backup point {point}: all nodes' bundles are of one moment")
        elif why:
            lines.append(f"no backup point: {why}")
        away = [f for m in made.values() for f in m.get("failed", ())]
        lines += [f"{f['target']}: FAILED, {f['message']} [{f['code']}]" for f in away]
        more = {} if config is not None else {"point": point, "why": why}
        code = _report(list(made.values()), failed, "bundles", config, lines, more)
        return _PARTIAL if away else code

    @command(backup, "point")
    def point(config: ConfigOption = None) -> int:
        """A backup point of all nodes, led by this operator's running node over its links.

        For nodes on different machines. Each node writes its bundle by its own configuration, if
        that has points_from_peers under [backup]; creation of keys waits while they copy, 20
        seconds at most, and signing goes on. Exit code 7 if bundles were written that are no
        point together.
        """
        if config is None:
            raise malformed("which node leads? name its node.toml with --config")
        from keycairn.cli.points import lead_point, point_lines

        with output.working("writing bundles at all nodes"):
            result = lead_point(config)
        output.result(result, "\n".join(point_lines(result)))
        return 0 if result["point"] is not None else _PARTIAL

    @command(backup, "keygen")
    def keygen(
        out: Annotated[Path, typer.Option("--out", help="file for the age identity, mode 0600")],
    ) -> None:
        """Make an age identity, which opens bundles. Not on a node's machine.

        Nodes get only the recipient (age1…) that this prints, under [backup] recipients.
        """
        from keycairn.cli.production import age_keygen

        recipient = age_keygen(out, SystemRng())
        text = f"{out}: keep it where no node is, with a copy\nrecipient: {recipient}"
        output.result({"identity": str(out), "recipient": recipient}, text)

    @command(backup, "list")
    def list_(
        config: ConfigOption = None, nodes: NodesOption = None, vault: VaultOption = None
    ) -> int:
        """List the receipts of a node's bundles, newest first."""
        found, failed = every_operator(config, vault, nodes, lambda n, _: n.backups())
        rows = [{"node": i, **row} for i, rows in found.items() for row in rows]
        lines = [
            f"node {r['node']}: {r['bundle']} {r['sha256']} {r['keys']} keys, level {r['level']}"
            for r in rows
        ]
        return _report(rows, failed, "backups", None, lines or ["no bundles"])

    @command(backup, "verify")
    def verify(
        bundle: Annotated[str, typer.Argument(help="the stored bundle: a path, or s3://…")],
        identity: Annotated[
            Path | None, typer.Option("--identity", help="age identity; makes a trial possible")
        ] = None,
        secret_file: Annotated[
            Path | None,
            typer.Option(
                "--secret-file",
                help="secret of the encryptor (key, password, token, PIN), to prove each share",
            ),
        ] = None,
        encryptor: Annotated[
            Path | None,
            typer.Option(
                "--encryptor",
                help="TOML file with [encryptor] as in node.toml, to prove each share",
            ),
        ] = None,
        public_key: Annotated[
            str | None, typer.Option("--public-key", help="the node's identity key, hexadecimal")
        ] = None,
        level: Annotated[
            str | None,
            typer.Option("--level", help="manifest, hashes or trial (default with --identity)"),
        ] = None,
        skip_checks: SkipChecks = False,
        config: ConfigOption = None,
        vault: VaultOption = None,
    ) -> int:
        """Verify a stored bundle, reading nothing but the stored file.

        Shares are proved with the node's encryptor of whatever kind: with --secret-file [encryptor]
        is the bundle's own, if the signer is known; with --encryptor that file's. A trial needs no
        database server. It also runs the checks of the external items, if the signer is known.
        Exit code 7 if one of them, or the proof of a share, fails.
        """
        from keycairn.cli.bundles import verify_stored

        work = verify_stored(
            bundle,
            identity,
            secret_file,
            public_key,
            level,
            config,
            vault,
            not skip_checks,
            encryptor,
        )
        result = asyncio.run(work)
        if config is not None and result["level"] == "trial" and result["verified"]:
            result["booked"] = _book_trial(config, result["sha256"])
        output.result(result)
        failed = any(item["answer"] == "failed" for item in result["external"])
        return _PARTIAL if failed or result["proofs_ok"] is False else 0

    @command(backup, "prune")
    def prune(
        dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would go")] = False,
        config: ConfigOption = None,
        nodes: NodesOption = None,
        vault: VaultOption = None,
    ) -> int:
        """Remove the bundles that [backup] keep doesn't keep.

        The newest good bundle stays always, and the last good one that holds a key of the node as
        it is. What stays is read from where it is stored first; a target that is away loses
        nothing (exit code 7).
        """
        with output.working("reading bundles"):
            found, failed = every_operator(
                config, vault, nodes, lambda n, _: n.backup_prune(dry_run=dry_run)
            )
        word = "would remove" if dry_run else "removed"
        lines = []
        for row in found.values():
            lines += [f"node {row['node']}: {word} {b['bundle']}" for b in row["pruned"]]
            lines += [f"node {row['node']}: NOT GOOD, kept: {b['bundle']}" for b in row["bad"]]
            lines += [f"node {row['node']}: kept {b['bundle']}: {b['why']}" for b in row["kept"]]
            lines += [f"node {row['node']}: {f['message']} [{f['code']}]" for f in row["failed"]]
        code = _report(list(found.values()), failed, "nodes", config, lines or ["no bundles"])
        doubt = any(row["failed"] or row["bad"] for row in found.values())
        return _PARTIAL if doubt else code

    @command(backup, "register")
    def register_(
        place: Annotated[str, typer.Argument(help="the stored file, or s3://…")],
        config: ConfigOption = None,
        dump: Annotated[
            bool, typer.Option("--dump", help="a dump that your own database tools made")
        ] = False,
    ) -> None:
        """Book a stored bundle of a running node that has no receipt, or a dump of your own tools.

        A bundle is read whole, and counts from then on. A dump can't be looked into: for the keys
        that were there when it was made coverage says "can't tell", which opens no gate.
        """
        if config is None:
            raise malformed("which node? name its node.toml with --config")
        where = place if "://" in place else str(Path(place).absolute())
        with output.working("reading"):
            made, _ = every_operator(
                config, None, None, lambda n, _: n.backup_register(where, dump=dump)
            )
        [row] = made.values()
        counts = "counts as evidence" if row["counts"] else "is noted, and is no evidence"
        output.result(row, f"{row['bundle']} {counts} ({row['level']}, {row['keys']} keys)")

    @command(backup, "status")
    def status(
        bundles: Annotated[
            list[str] | None, typer.Argument(help="bundles and directories; nodes needn't run")
        ] = None,
        config: ConfigOption = None,
        vault: VaultOption = None,
    ) -> int:
        """Do the bundles of all nodes fit together, and how old are they?

        Compares public data of stored bundles: consistent (exit code 0), inconsistent or can't
        tell (7). With --vault the bundles in the nodes' targets, or with BUNDLES only those; the
        nodes may all be gone. With --config one running node's own schedule and bundles.
        """
        if config is not None and not bundles:
            made, _ = every_operator(config, None, None, lambda n, _: n.backup_status())
            [row] = made.values()
            from keycairn.cli.points import node_line

            lines = [f"node {row['node']}: {node_line(row)}"]
            for f in row["findings"]:
                lines += [f"- {f['finding']}: {f.get('where', f.get('why', ''))}", f"  {f['next']}"]
            output.result(row, "\n".join(lines))
            return _PARTIAL if row["findings"] else 0
        from keycairn.cli.points import status_lines, vault_status

        result = vault_status(bundles or [], vault).to_json()
        if vault is not None and not bundles:
            result["nodes"] = _states(vault)
        output.result(result, "\n".join(status_lines(result)))
        return 0 if result["answer"] == "consistent" else _PARTIAL


def _states(vault: Path) -> list[dict[str, Any]]:
    """What the running nodes say of their bundles, and of the others why they say nothing."""
    profile = load_profile(vault)
    out = []
    for node in profile.nodes:
        try:
            made, _ = every_operator(None, vault, str(node.index), lambda n, _: n.backup_status())
            out.append(made[node.index])
        except KeycairnError as exc:
            out.append({"node": node.index, **exc.to_json()})
    return out


def _book_trial(config: Path, sha256: str) -> bool:
    """Have the running node note the trial in its receipt; False if it can't."""
    try:
        every_operator(config, None, None, lambda n, _: n.backup_verified(sha256))
    except KeycairnError:
        return False
    return True


def _report(
    rows: list[dict[str, Any]],
    failed: Mapping[int, KeycairnError],
    name: str,
    config: Path | None,
    lines: list[str],
    more: Mapping[str, Any] | None = None,
) -> int:
    """One node's result as it is (``config``); several in a list, and the nodes that failed."""
    errors = [{"node": i, **error.to_json()["error"]} for i, error in sorted(failed.items())]
    for e in errors:
        lines += [f"node {e['node']}: FAILED, {e['message']} [{e['code']}]", f"  next: {e['next']}"]
    text = "\n".join(lines)
    every = {name: rows, "failed": errors, **(more or {})}
    output.result(rows[0] if config is not None else every, text)
    return _PARTIAL if failed else 0
