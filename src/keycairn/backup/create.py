"""Making a node's bundle: snapshot, collect, encrypt, sign, write, read back.

Until the file has its final name, nothing of it can be mistaken for a bundle; and only what was
read back from the disk gets a receipt (a :class:`~keycairn.vault.ports.BundleRow`).
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from keycairn import __version__
from keycairn.backup import age
from keycairn.backup.archive import ArchiveSource, Source
from keycairn.backup.bundle import check_hashes, read_bundle, write_header
from keycairn.backup.collect import (
    DATABASE,
    IDENTITY,
    INDEX,
    Collection,
    Origin,
    collect,
    from_bytes,
    from_file,
    public_half,
)
from keycairn.backup.disk import (
    CHUNK,
    create_private,
    disk_errors,
    exclusive,
    remove_tree,
    sync,
    unavailable,
)
from keycairn.backup.manifest import HeldKey, Manifest, PendingBatch, sign_manifest
from keycairn.encoding import SecretBytes
from keycairn.errors import Code, KeycairnError
from keycairn.ports import Clock, Rng
from keycairn.store.files import fsync_path
from keycairn.vault.api import Identity
from keycairn.vault.ports import BundleRow, Store

LOCK = ".backup.lock"
SCRATCH = ".backup-scratch"
_PAGE = 1000
_KEPT = "No bundle was written; older bundles and the node itself are untouched."


@dataclass(frozen=True)
class BundleInputs:
    """What a bundle is made from.

    Attributes:
        config: the node's ``node.toml``; every file that it names goes in.
        forbidden: the master secret in the forms that it is kept in; if any part holds one of
            these, nothing is written. Secrets under 12 bytes are not searched for.
    """

    config: Path
    forbidden: tuple[SecretBytes, ...] = ()


@dataclass(frozen=True)
class Inventory:
    """What a store holds: keys by id, and the batches that wait for their certificate."""

    keys: dict[str, HeldKey]
    pending: tuple[PendingBatch, ...]


async def read_inventory(store: Store) -> Inventory:
    """All keys and pending batches; damaged rows are left out, as everywhere."""
    keys: dict[str, HeldKey] = {}
    after = ""
    while page := await store.keys(after=after, limit=_PAGE):
        for row in page:
            keys[row.record.key_id] = HeldKey(row.record.generation, row.record.hash, row.state)
        after = page[-1].record.key_id
    pending = tuple(
        PendingBatch(
            b.batch_id,
            b.key_ids,
            tuple(sorted(b.ready)),
            tuple(sorted(set(b.holders) - set(b.ready))),
        )
        for b in await store.pending_batches()
    )
    return Inventory(keys, pending)


async def create_bundle(
    store: Store,
    inputs: BundleInputs,
    target: Path,
    *,
    identity: Identity,
    recipients: Sequence[str],
    clock: Clock,
    rng: Rng,
) -> BundleRow:
    """Write one bundle into the directory ``target`` and read it back.

    The caller stores the receipt (``store.put_bundle``). The inventory is read before the
    snapshot is taken, so every key that the receipt names is in the snapshot.

    Args:
        store: the node's own.
        inputs: what goes in besides the database.
        target: existing directory; the file name says vault, node, time (UTC) and content.
        identity: the node's identity key, which signs.
        recipients: age recipients (``age1…``), one at least.
        clock: for times in name and receipt.
        rng: for the temporary name.

    Returns:
        The receipt: level "hashes", verified after reading back.

    Raises:
        KeycairnError: E_UNAVAILABLE (target missing, full, not writable; nothing is left there),
            E_NOT_FOUND (a file that the configuration names isn't there), E_POLICY (a part is or
            holds the master secret), E_MALFORMED (recipients, configuration), E_CONFLICT (another
            backup of this node runs, or a file changed meanwhile).
    """
    age.check_recipients(recipients)
    early = await asyncio.to_thread(collect, inputs.config, inputs.forbidden)
    await asyncio.to_thread(_check_identity, early, identity)
    await asyncio.to_thread(_check_target, target)
    data = early.config.database().path.parent
    with exclusive(data / LOCK, "another backup of this node is running"):
        scratch = data / SCRATCH
        with _scratch(scratch):
            inventory = await read_inventory(store)
            await store.snapshot(scratch / "node.db")
            # Collected again behind the snapshot: documents are filed before their rows are.
            found = await asyncio.to_thread(collect, inputs.config, inputs.forbidden)
            job = _Job(found, inventory, scratch / "node.db", target, identity, recipients)
            stamp = clock.now_us()
            path = await asyncio.to_thread(job.write, stamp, rng.bytes(8).hex())
    return await asyncio.to_thread(_receipt, path, identity.public, clock, tuple(found.skipped))


def _check_target(target: Path) -> None:
    if not target.is_dir():
        raise KeycairnError(
            Code.UNAVAILABLE,
            f"the backup target {target} is not there, or is not a directory",
            not_lost=_KEPT,
            next="mount or make it, or correct [backup] targets",
            detail={"target": str(target)},
        )


def _check_identity(found: Collection, identity: Identity) -> None:
    for source in found.sources:
        if source.name == IDENTITY:
            with disk_errors(f"{source.shown} can't be read"), source.open() as stream:
                if public_half(stream.read()) == identity.public:
                    return
    raise KeycairnError(
        Code.CONFLICT,
        "[player] identity_key_file is not the key that this node runs with",
        not_lost=_KEPT,
        next="put the node's identity key back: a bundle with another one could not be restored",
    )


@contextmanager
def _scratch(path: Path) -> Iterator[None]:
    # The lock is held: whatever stands here was left by a backup that was killed.
    with disk_errors(f"{path} can't be made"):
        remove_tree(path)
        path.mkdir(mode=0o700)
    try:
        yield
    finally:
        remove_tree(path)


@dataclass(frozen=True)
class _Job:
    found: Collection
    inventory: Inventory
    snapshot: Path
    target: Path
    identity: Identity
    recipients: Sequence[str]

    def write(self, stamp_us: int, token: str) -> Path:
        config = self.found.config
        stem = f".keycairn-{file_word(config.vault)}-node{config.index}-"
        payload = self.target / f"{stem}{token}.payload.tmp"
        whole = self.target / f"{stem}{token}.tmp"
        try:
            # This node's lock is held: temporary files of its earlier backups are dead.
            for stale in self.target.glob(f"{stem}*.tmp"):
                stale.unlink()
            manifest = self._encrypt(payload, stamp_us)
            raw = manifest.to_bytes()
            with create_private(whole) as out:
                write_header(out, raw, sign_manifest(raw, self.identity))
                _append(payload, out)
                sync(out)
            payload.unlink()
            final = self.target / bundle_name(manifest)
            if final.exists():
                raise KeycairnError(Code.CONFLICT, f"{final} exists already", not_lost=_KEPT)
            whole.rename(final)
            fsync_path(self.target)
        except OSError as exc:
            raise unavailable(
                f"the bundle can't be written to {self.target}",
                exc,
                not_lost=_KEPT,
                next="make room at the target or name another one under [backup] targets",
            ) from exc
        finally:
            for temporary in (payload, whole):
                temporary.unlink(missing_ok=True)
        return final

    def _encrypt(self, payload: Path, stamp_us: int) -> Manifest:
        config = self.found.config
        database = config.database()
        self.found.origins[DATABASE] = Origin(
            "database", database.key, str(database.path), database.inside
        )
        sources: list[Source] = [
            from_bytes(INDEX, self.found.index(), INDEX),
            from_file(DATABASE, self.snapshot),
            *self.found.sources,
        ]
        archive = ArchiveSource(sources, self.found.forbidden)
        with create_private(payload) as out:
            counted = _Hashed(out)
            age.encrypt(archive, counted, self.recipients)
        return Manifest(
            keycairn=__version__,
            vault=config.vault,
            node=config.index,
            node_public_key=self.identity.public,
            created_us=stamp_us,
            keys=self.inventory.keys,
            pending=self.inventory.pending,
            policy=config.require,
            parts=tuple(archive.parts),
            payload_size=counted.size,
            payload_sha256=counted.digest.digest(),
            recipients=tuple(self.recipients),
        )


class _Hashed:
    """Writes through, hashing and counting."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self.size = 0
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._out.write(data)
        self.digest.update(data)
        self.size += len(data)
        return len(data)


def _append(source: Path, out: BinaryIO) -> None:
    with source.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            out.write(chunk)


def file_word(text: str) -> str:
    """A vault id as it stands in file names."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", text)


def bundle_name(manifest: Manifest) -> str:
    """``keycairn-<vault>-node<i>-<UTC time>-<8 hex digits of the payload's hash>.bundle``."""
    moment = datetime.fromtimestamp(manifest.created_us // 1_000_000, UTC)
    stamp = moment.strftime("%Y%m%dT%H%M%SZ")
    vault, short = file_word(manifest.vault), manifest.payload_sha256.hex()[:8]
    return f"keycairn-{vault}-node{manifest.node}-{stamp}-{short}.bundle"


def _receipt(path: Path, public_key: bytes, clock: Clock, skipped: tuple[str, ...]) -> BundleRow:
    try:
        return receipt(path, public_key, clock, skipped)
    except KeycairnError:
        # What can't be read back is no backup, and must not be found by somebody in need of one.
        with disk_errors(f"{path} can't be removed"):
            path.unlink(missing_ok=True)
        raise


def receipt(
    path: Path, public_key: bytes, clock: Clock, skipped: tuple[str, ...] = ()
) -> BundleRow:
    """Read a stored bundle of this node back, and say what it was found to hold.

    Raises:
        KeycairnError: as :func:`~keycairn.backup.bundle.read_bundle` and
            :func:`~keycairn.backup.bundle.check_hashes`.
    """
    bundle = read_bundle(path, node_public_key=public_key)
    sha256 = check_hashes(bundle)
    manifest = bundle.manifest
    return BundleRow(
        sha256=sha256,
        location=str(path),
        size=bundle.payload_offset + manifest.payload_size,
        created_us=manifest.created_us,
        verified_us=clock.now_us(),
        level="hashes",
        keys=manifest.receipt_keys(),
        detail={
            "node": manifest.node,
            "vault": manifest.vault,
            "payload_sha256": manifest.payload_sha256.hex(),
            "recipients": list(manifest.recipients),
            "skipped": list(skipped),
        },
    )
