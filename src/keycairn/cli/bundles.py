"""Work of ``backup verify``, ``node restore`` and ``node digest``: what touches stored bundles and
databases. Apart from the commands, which everybody starts, because it loads the database stack."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

from keycairn.backup import (
    Opener,
    SecretSource,
    execute,
    opener,
    parse_mapping,
    plan_restore,
    read_manifest,
    stored,
    verify_bundle,
)
from keycairn.backup.manifest import Manifest
from keycairn.backup.nodefile import is_object_store
from keycairn.backup.rewrite import PIN
from keycairn.cli.options import read_file
from keycairn.cli.proof import Shown, compare_with_peers, shown_by_peers
from keycairn.client import OperatorClient, VaultProfile, load_profile
from keycairn.encoding import SecretBytes
from keycairn.encoding.strict import decode_hex
from keycairn.encryptors import EncryptorConfig
from keycairn.errors import Code, KeycairnError, malformed
from keycairn.node.config import NodeConfig, load_config
from keycairn.node.encryptor import section_of
from keycairn.node.identity import load_identity
from keycairn.node.storage import open_storage
from keycairn.ports.system import SystemClock, SystemRng


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


@contextmanager
def _stored(bundle: str) -> Iterator[tuple[Path, Manifest]]:
    """The stored bundle as a file, and its manifest."""
    # A mistyped name is wrong use; E_UNAVAILABLE, about disks, is for a file that is there.
    if not is_object_store(bundle) and not Path(bundle).is_file():
        raise malformed(f"there is no file {bundle}")
    with stored(bundle) as path:
        yield path, read_manifest(path)


async def verify_stored(
    bundle: str,
    identity: Path | None,
    secret_file: Path | None,
    public_key: str | None,
    level: str | None,
    config: Path | None,
    vault: Path | None,
    checks: bool = True,
    encryptor: Path | None = None,
) -> dict[str, Any]:
    with _stored(bundle) as (path, manifest):
        if public_key is not None:
            pin: bytes | None = decode_hex(public_key, length=32, what="public key")
        else:
            pin = known_pin(config, vault, manifest.vault, manifest.node)
        if (secret_file or encryptor) and identity is None:
            option = "--secret-file" if secret_file else "--encryptor"
            raise malformed(f"{option} proves shares only in a trial: give --identity too")

        def opening(source: SecretSource | EncryptorConfig) -> Opener:
            if secret_file is not None and isinstance(source, EncryptorConfig):
                source = source.with_secret_file(secret_file.absolute())
            names: dict[str, Any] = {"vault": manifest.vault, "node": manifest.node}
            return opener(source, **names, clock=SystemClock(), rng=SystemRng())

        opened = unlock = None
        if encryptor is not None:
            # Whose node it is decides, not whose file: the profile was judged when it started.
            opened = opening(section_of(encryptor, production=False))
        elif secret_file is not None and pin is None:
            opened = opening(SecretSource(secret_file=secret_file))
        elif secret_file is not None:
            unlock = lambda inside: opening(inside.encryptor())  # noqa: E731
        report = await verify_bundle(
            path,
            node_public_key=pin,
            identity=None if identity is None else SecretBytes(read_file(identity, 1 << 16)),
            opener=opened,
            unlock=unlock,
            level=level or ("hashes" if identity is None else "trial"),
            location=bundle,
            checks=checks,
        )
    return report.to_json()


@asynccontextmanager
async def _meanwhile(
    profile: VaultProfile | None, node: int
) -> AsyncIterator[asyncio.Task[Shown] | None]:
    """Ask the peers for their keys while the bundle is checked: of many keys either takes a
    minute. No key of this node is made meanwhile, since it isn't there."""
    if profile is None:
        yield None
        return
    task = asyncio.create_task(shown_by_peers(profile, node))
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await task


async def restore_node(
    bundle: str,
    into: Path,
    identity: Path,
    *,
    mapping: Path | None,
    secret_file: Path | None,
    public_key: str | None,
    player: int | None,
    dry_run: bool,
    vault: Path | None,
    peer_config: Path | None,
    put_back: bool,
    checks: bool,
) -> dict[str, Any]:
    mapped = None
    if mapping is not None:
        parsed = parse_mapping(read_file(mapping))
        mapped = {**parsed.values, **{f"peers.{i}": a for i, a in parsed.peers.items()}}
        if parsed.public_key is not None:
            mapped[PIN] = parsed.public_key.hex()
    with _stored(bundle) as (path, manifest):
        if public_key is not None:
            pin: bytes | None = decode_hex(public_key, length=32, what="public key")
        else:
            pin = known_pin(peer_config, vault, manifest.vault, manifest.node)
        profile = None if vault is None else load_profile(vault)
        if profile is not None and profile.vault_id != manifest.vault:
            profile = None
        async with _meanwhile(profile, manifest.node) as shown:
            plan = await plan_restore(
                path,
                into=into,
                identity=SecretBytes(read_file(identity, 1 << 16)),
                clock=SystemClock(),
                rng=SystemRng(),
                mapping=mapped,
                node_public_key=pin,
                node=player,
                secret_file=secret_file,
                dry_run=dry_run,
                location=bundle if is_object_store(bundle) else str(Path(bundle).absolute()),
                checks=checks,
                put_back=put_back,
            )
            result = plan.to_json(done=False) if dry_run else await execute(plan)
            result["peers"] = None
            if shown is not None:
                proof = compare_with_peers(manifest.node, manifest.keys, await shown)
                result["findings"] += proof.pop("findings")
                result["peers"] = proof
    helps = [f["next"] for f in result["findings"] if f["next"]]
    result["next"] = list(dict.fromkeys([*result["next"], *helps]))
    return result


async def digest_of(config: NodeConfig) -> str:
    try:
        async with OperatorClient.of(config) as running:
            return await running.digest()
    except KeycairnError as exc:
        # The lock decides: if a node does run after all, this is E_CONFLICT and not a wrong answer.
        if exc.code is not Code.UNAVAILABLE:
            raise
    async with open_storage(config, SystemClock(), SystemRng()) as store:
        return (await store.state_digest()).hex()
