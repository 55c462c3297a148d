"""Making a node's bundle: snapshot, collect, encrypt, sign, write, read back.

Until the file has its final name, nothing of it can be mistaken for a bundle; and only what was
read back from the disk gets a receipt (a :class:`~keycairn.vault.ports.BundleRow`).
"""

from __future__ import annotations

import asyncio
import hashlib
import platform
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from keycairn import __version__
from keycairn.backup import age, dumps
from keycairn.backup.archive import ArchiveSource, Source
from keycairn.backup.bundle import Bundle, check_hashes, read_bundle, write_header
from keycairn.backup.collect import (
    DATABASE,
    DUMP,
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
    open_regular,
    remove_tree,
    sync,
    unavailable,
)
from keycairn.backup.manifest import (
    HeldKey,
    History,
    Manifest,
    PendingBatch,
    Point,
    sign_manifest,
)
from keycairn.backup.targets import Target, digest_of, stored, target_of
from keycairn.encoding import SecretBytes
from keycairn.errors import Code, KeycairnError
from keycairn.ports import Clock, Rng
from keycairn.store.database import Server
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
        forbidden: the master secret in the forms that it is kept in, and the database's password;
            if any part holds one of these, nothing is written. Secrets under 12 bytes are not
            searched for.
        dump: the database's server, with its password, if the bundle is to hold the server's own
            dump beside the copy (:mod:`keycairn.backup.dumps`).
    """

    config: Path
    forbidden: tuple[SecretBytes, ...] = ()
    dump: Server | None = None


@dataclass(frozen=True)
class Inventory:
    """What a store holds: keys by id, the batches that wait for their certificate, and where its
    history stands."""

    keys: dict[str, HeldKey]
    pending: tuple[PendingBatch, ...]
    history: History | None = None


async def read_inventory(store: Store) -> Inventory:
    """All keys and pending batches; damaged rows are left out, as everywhere."""
    keys: dict[str, HeldKey] = {}
    after = ""
    while page := await store.keys(after=after, limit=_PAGE):
        for row in page:
            record = row.record
            keys[record.key_id] = HeldKey(
                record.generation, record.hash, row.state, tuple(record.holders), record.threshold
            )
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
    head = await store.history_head()
    return Inventory(keys, pending, History(head.era, head.length, head.hash))


@dataclass(frozen=True)
class Made:
    """What became of one target: a receipt, or why there is none."""

    target: str
    row: BundleRow | None
    error: KeycairnError | None = None


async def create_bundle(
    store: Store,
    inputs: BundleInputs,
    target: Path | str,
    *,
    identity: Identity,
    recipients: Sequence[str],
    clock: Clock,
    rng: Rng,
) -> BundleRow:
    """:func:`create_bundles` for one target, whose error is raised."""
    [made] = await create_bundles(
        store,
        inputs,
        [target],
        identity=identity,
        recipients=recipients,
        clock=clock,
        rng=rng,
    )
    if made.row is None:
        raise made.error or KeycairnError(Code.UNAVAILABLE, "no bundle was written")
    return made.row


async def create_bundles(
    store: Store,
    inputs: BundleInputs,
    targets: Sequence[Path | str],
    *,
    identity: Identity,
    recipients: Sequence[str],
    clock: Clock,
    rng: Rng,
    point: Point | None = None,
    taken: Callable[[], None] = lambda: None,
) -> list[Made]:
    """Write one bundle to each target, all of the same moment, and read each back.

    The caller stores the receipts (``store.put_bundle``). The inventory is read before the
    snapshot is taken, so every key that a receipt names is in the snapshot.

    Args:
        store: the node's own.
        inputs: what goes in besides the database.
        targets: directories and object stores (:mod:`keycairn.backup.targets`); the file name says
            vault, node, time (UTC) and content.
        identity: the node's identity key, which signs.
        recipients: age recipients (``age1…``), one at least.
        clock: for times in name and receipt.
        rng: for the temporary name.
        point: the backup point that this is a part of.
        taken: called once the copy of the database is there. Nothing else has to be of that
            moment: the server's own dump, if any, is made afterwards.

    Returns:
        One result a target, in order. Receipts have level "hashes": verified after reading back.
        A target that is away or full has an error (E_UNAVAILABLE), and nothing is left there.

    Raises:
        KeycairnError: for what fails before any target is written to: E_NOT_FOUND (a file that
            the configuration names isn't there), E_POLICY (a file is a secret; the program of the
            server's dump is missing or older than the server), E_MALFORMED (recipients,
            configuration), E_CONFLICT (another backup of this node runs), E_UNAVAILABLE.
    """
    age.check_recipients(recipients)
    if inputs.dump is not None:
        await asyncio.to_thread(dumps.require_tools, inputs.dump)
    places = [target_of(target) for target in targets]
    early = await asyncio.to_thread(collect, inputs.config, inputs.forbidden)
    await asyncio.to_thread(_check_identity, early, identity)
    away = await asyncio.to_thread(_away, places)
    if len(away) == len(places):
        # Nobody would have the copy: don't disturb the database for it.
        return [Made(place.place, None, away[place.place]) for place in places]
    data = early.config.data_directory().path
    with exclusive(data / LOCK, "another backup of this node is running"):
        scratch = data / SCRATCH
        with _scratch(scratch):
            inventory = await read_inventory(store)
            await store.snapshot(scratch / "node.db")
            stamp = clock.now_us()
            tools = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
            taken()
            if inputs.dump is not None:
                made_by = await asyncio.to_thread(dumps.dump, inputs.dump, scratch / "server.dump")
                program, _, version = made_by.partition(" ")
                tools[program] = version
            # Collected again behind the snapshot: documents are filed before their rows are.
            found = await asyncio.to_thread(collect, inputs.config, inputs.forbidden)
            made = []
            for place in places:
                if place.place in away:
                    made.append(Made(place.place, None, away[place.place]))
                    continue
                job = _Job(found, inventory, scratch, place, identity, recipients, point, tools)
                made.append(await _make(job, stamp, clock, rng))
    return made


def _away(places: Sequence[Target]) -> dict[str, KeycairnError]:
    errors = {}
    for place in places:
        try:
            place.check()
        except KeycairnError as exc:
            errors[place.place] = exc
    return errors


async def _make(job: _Job, stamp_us: int, clock: Clock, rng: Rng) -> Made:
    try:
        location = await asyncio.to_thread(job.write, stamp_us, rng.bytes(8).hex())
        row = await asyncio.to_thread(_receipt, job, location, clock)
    except KeycairnError as exc:
        return Made(job.target.place, None, exc)
    return Made(job.target.place, row)


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
    scratch: Path
    target: Target
    identity: Identity
    recipients: Sequence[str]
    point: Point | None
    tools: Mapping[str, str]

    def write(self, stamp_us: int, token: str) -> str:
        config = self.found.config
        stem = f"keycairn-{file_word(config.vault)}-node{config.index}-"
        work = self.target.workspace(self.scratch)
        payload = work / f".{stem}{token}.payload.tmp"
        whole = work / f".{stem}{token}.tmp"
        try:
            # This node's lock is held: temporary files of its earlier backups are dead.
            self.target.clear(stem)
            manifest = self._encrypt(payload, stamp_us)
            raw = manifest.to_bytes()
            with create_private(whole) as out:
                write_header(out, raw, sign_manifest(raw, self.identity))
                _append(payload, out)
                sync(out)
            payload.unlink()
            return self.target.publish(whole, bundle_name(manifest))
        except OSError as exc:
            raise unavailable(
                f"the bundle can't be written to {work}",
                exc,
                not_lost=_KEPT,
                next="make room at the target or name another one under [backup] targets",
            ) from exc
        finally:
            for temporary in (payload, whole):
                temporary.unlink(missing_ok=True)

    def _encrypt(self, payload: Path, stamp_us: int) -> Manifest:
        config = self.found.config
        file, server = config.database(), config.server()
        where, inside = (str(server), None) if file is None else (str(file.path), file.inside)
        self.found.origins[DATABASE] = Origin("database", "database.url", where, inside)
        databases = [from_file(DATABASE, self.scratch / "node.db")]
        dump = self.scratch / "server.dump"
        if dump.exists():
            self.found.origins[DUMP] = Origin("dump", "database.url", where, None)
            databases.append(from_file(DUMP, dump))
        sources: list[Source] = [
            from_bytes(INDEX, self.found.index(), INDEX),
            *databases,
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
            players={**config.peers, config.index: self.identity.public},
            threshold=config.threshold,
            database=config.database_kind,
            tools=self.tools,
            point=self.point,
            history=self.inventory.history,
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


def _receipt(job: _Job, location: str, clock: Clock) -> BundleRow:
    skipped = tuple(job.found.skipped)
    try:
        return receipt(location, job.identity.public, clock, skipped, scratch=job.scratch)
    except KeycairnError:
        # What can't be read back is no backup, and must not be found by somebody in need of one.
        job.target.remove(location)
        raise


def receipt(
    location: str | Path,
    public_key: bytes,
    clock: Clock,
    skipped: tuple[str, ...] = (),
    *,
    scratch: Path | None = None,
) -> BundleRow:
    """Read a stored bundle of this node back, and say what it was found to hold.

    Args:
        location: path, or address in an object store.
        public_key: the node's identity key.
        clock: says when.
        skipped: files that were left out of the bundle.
        scratch: where the copy of an object goes while it is read.

    Raises:
        KeycairnError: as :func:`~keycairn.backup.bundle.read_bundle` and
            :func:`~keycairn.backup.bundle.check_hashes`.
    """
    with stored(str(location), scratch) as path:
        bundle = read_bundle(path, node_public_key=public_key)
        sha256 = check_hashes(bundle)
    return receipt_of(bundle, str(location), sha256, clock, level="hashes", skipped=skipped)


def dump_receipt(path: Path, clock: Clock) -> BundleRow:
    """The receipt of a dump that the operator's own tools made: what file it is, and no more.

    Raises:
        KeycairnError: E_NOT_FOUND, E_UNAVAILABLE; E_MALFORMED for a bundle, which is registered
            as what it is.
    """
    path = path.absolute()
    if not path.is_file():
        raise KeycairnError(Code.NOT_FOUND, f"there is no file {path}", not_lost=_KEPT)
    with disk_errors(f"{path} can't be read"):
        with open_regular(path) as stream:
            if stream.read(15) == b"keycairn-bundle":
                raise KeycairnError(
                    Code.MALFORMED,
                    f"{path} is a bundle, not a dump",
                    next=f"keycairn backup register {path} (without --dump)",
                )
        found = path.stat()
        sha256 = digest_of(path)
    return BundleRow(
        sha256=sha256,
        location=str(path),
        size=found.st_size,
        created_us=found.st_mtime_ns // 1000,
        verified_us=clock.now_us(),
        level="external",
        keys={},
        detail={"external": True},
    )


def receipt_of(
    bundle: Bundle,
    location: str,
    sha256: str,
    clock: Clock,
    *,
    level: str,
    skipped: tuple[str, ...] = (),
    **more: bool,
) -> BundleRow:
    """The receipt of a bundle that was verified to ``level`` just now."""
    manifest = bundle.manifest
    point = None if manifest.point is None else manifest.point.number
    return BundleRow(
        sha256=sha256,
        location=location,
        size=bundle.payload_offset + manifest.payload_size,
        created_us=manifest.created_us,
        verified_us=clock.now_us(),
        level=level,
        keys=manifest.receipt_keys(),
        detail={
            "node": manifest.node,
            "vault": manifest.vault,
            "payload_sha256": manifest.payload_sha256.hex(),
            "point": point,
            "recipients": list(manifest.recipients),
            "skipped": list(skipped),
            **more,
        },
    )
