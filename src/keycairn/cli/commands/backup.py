"""``keycairn backup``: node bundles."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from keycairn.backup import SecretSource, opener, read_manifest, verify_bundle
from keycairn.cli.options import (
    ConfigOption,
    NodesOption,
    VaultOption,
    command,
    each_operator,
    group,
    node_configs,
    read_file,
)
from keycairn.cli.output import output
from keycairn.client import load_profile
from keycairn.encoding import SecretBytes
from keycairn.encoding.strict import decode_hex
from keycairn.errors import malformed
from keycairn.node.config import load_config
from keycairn.node.identity import load_identity
from keycairn.ports.system import SystemClock, SystemRng

_LATER = "comes with a later version"


def known_pin(config: Path | None, vault: Path | None, vault_id: str, node: int) -> bytes | None:
    """The identity key of a bundle's node, from this machine's own files; None if they don't
    know it."""
    if config is not None:
        loaded = load_config(config, {})
        if loaded.vault_id != vault_id:
            return None
        if loaded.index == node:
            return load_identity(loaded.identity_key_file).public
        return next((p.public_key for p in loaded.peers if p.index == node), None)
    if vault is not None:
        profile = load_profile(vault)
        if profile.vault_id == vault_id:
            return next((n.public_key for n in profile.nodes if n.index == node), None)
    return None


def register(app: typer.Typer) -> None:
    """Add the group."""
    backup = group("backup", f"Node bundles. (prune, register and status {_LATER}s.)")
    app.add_typer(backup)

    @command(backup, "create")
    def create(
        config: ConfigOption = None, nodes: NodesOption = None, vault: VaultOption = None
    ) -> None:
        """Write a bundle of a running node, read it back, and let it count as evidence.

        --config F: one node. --vault F: all nodes of a local vault.
        """
        configs = node_configs(config, vault, nodes)
        with output.working("writing bundles"):
            made = each_operator(configs, lambda n, _: n.backup_create())
        lines = [
            f"node {m['node']}: {m['bundle']} ({m['size']} bytes, {m['keys']} keys, verified)"
            for m in made
        ]
        output.result(_one_or_all(made, "bundles", config), "\n".join(lines))

    @command(backup, "list")
    def list_(
        config: ConfigOption = None, nodes: NodesOption = None, vault: VaultOption = None
    ) -> None:
        """List the receipts of a node's bundles, newest first."""
        configs = node_configs(config, vault, nodes)
        found = each_operator(configs, lambda n, _: n.backups())
        rows = [
            {"node": c.index, **row} for c, rows in zip(configs, found, strict=True) for row in rows
        ]
        lines = [f"node {r['node']}: {r['bundle']} {r['sha256']} {r['keys']} keys" for r in rows]
        output.result({"backups": rows}, "\n".join(lines) or "no bundles")

    @command(backup, "verify")
    def verify(
        bundle: Annotated[Path, typer.Argument(help="the stored bundle")],
        identity: Annotated[
            Path | None, typer.Option("--identity", help="age identity; makes a trial possible")
        ] = None,
        secret_file: Annotated[
            Path | None,
            typer.Option("--secret-file", help="master key or password file, to prove each share"),
        ] = None,
        public_key: Annotated[
            str | None, typer.Option("--public-key", help="the node's identity key, hexadecimal")
        ] = None,
        level: Annotated[
            str | None,
            typer.Option("--level", help="manifest, hashes or trial (default with --identity)"),
        ] = None,
        config: ConfigOption = None,
        vault: VaultOption = None,
    ) -> None:
        """Verify a stored bundle, reading nothing but the stored file."""
        result = asyncio.run(
            _verify(bundle, identity, secret_file, public_key, level, config, vault)
        )
        output.result(result)


async def _verify(
    bundle: Path,
    identity: Path | None,
    secret_file: Path | None,
    public_key: str | None,
    level: str | None,
    config: Path | None,
    vault: Path | None,
) -> dict[str, Any]:
    manifest = read_manifest(bundle)
    if public_key is not None:
        pin: bytes | None = decode_hex(public_key, length=32, what="public key")
    else:
        pin = known_pin(config, vault, manifest.vault, manifest.node)
    if secret_file is not None and identity is None:
        raise malformed("--secret-file proves shares only in a trial: give --identity too")
    opened = None
    if secret_file is not None:
        opened = opener(
            SecretSource(secret_file=secret_file),
            vault=manifest.vault,
            node=manifest.node,
            clock=SystemClock(),
            rng=SystemRng(),
        )
    report = await verify_bundle(
        bundle,
        node_public_key=pin,
        identity=None if identity is None else SecretBytes(read_file(identity, 1 << 16)),
        opener=opened,
        level=level or ("hashes" if identity is None else "trial"),
    )
    return report.to_json()


def _one_or_all(rows: list[dict[str, Any]], name: str, config: Path | None) -> dict[str, Any]:
    """One node's result as it is (--config); several in a list (--vault)."""
    return rows[0] if config is not None else {name: rows}
