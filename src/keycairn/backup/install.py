"""Doing what a restore plan says: the whole directory beside the target, then one rename.

At any moment the target is either as it was, or complete. After an interruption the same command
works again: what is left beside the target carries a marker, is recognised, and removed.

A database on a server is filled before the rename, in one transaction that leaves a marker there
(:mod:`keycairn.store.restoring`). Either way the copy is marked as restored first: a node that
finds the mark rejoins before it does anything else.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from keycairn.backup.archive import Sink
from keycairn.backup.bundle import unpack
from keycairn.backup.create import receipt_of
from keycairn.backup.database import Finding
from keycairn.backup.disk import (
    create_private,
    disk_errors,
    remove_tree,
    sync,
    sync_tree,
    unavailable,
)
from keycairn.backup.layout import BESIDE, Placed
from keycairn.backup.machine import MARKER, check_target, staging_of
from keycairn.backup.manifest import Part
from keycairn.backup.restore import RestorePlan, filed_documents
from keycairn.backup.server import from_staging, restore_name
from keycairn.errors import Code, KeycairnError
from keycairn.store.files import fsync_path
from keycairn.store.opening import mark_restored
from keycairn.store.restoring import put, settled
from keycairn.vault.ports import BundleRow, Store

_KEPT = "The bundle is unchanged, and nothing stands at the target that wasn't there before."
ORIGINS = f"{BESIDE}/where-these-belong.txt"


async def execute(plan: RestorePlan) -> dict[str, Any]:
    """Do what the plan says.

    Returns:
        The result keys of ``node restore`` (docs/operations/backup-restore.md).

    Raises:
        KeycairnError: E_POLICY for a dry-run plan; E_CONFLICT when the target filled up, or
            another restore to it runs; E_UNAVAILABLE, E_STORE_INTEGRITY. The target is then as it
            was before, and the command can be repeated.
    """
    if plan.dry_run:
        raise KeycairnError(Code.POLICY, "this plan was made as a dry run")
    staging = staging_of(plan.into)
    server_speaks = False
    with _staging(staging, plan.sha256):
        try:
            await asyncio.to_thread(_write_files, plan, staging)
            await _settle_database(plan, staging)
            server_speaks = True
            await asyncio.to_thread(_fill_server, plan, staging)
            server_speaks = False
            await asyncio.to_thread(_into_place, plan, staging)
        except OSError as exc:
            raise unavailable(
                f"the node can't be restored to {plan.into}", exc, not_lost=_KEPT
            ) from exc
        except KeycairnError as exc:
            # The disk: words about a running node mislead. A server's own words don't.
            away = exc.code is Code.UNAVAILABLE and not server_speaks
            raise KeycairnError(
                exc.code,
                f"{exc.message} ({plan.into} can't be written)" if away else exc.message,
                not_lost=_KEPT if away else exc.not_lost or _KEPT,
                next=f"make room at {plan.into.parent}, then run the same command again"
                if away
                else exc.next,
                detail=exc.detail,
            ) from exc
    if plan.server is not None:
        # It counts only until the node starts, so that nothing depends on this.
        with suppress(KeycairnError):
            await asyncio.to_thread(settled, plan.server)
    result = plan.to_json(done=True)
    if plan.put_back:
        put = await asyncio.to_thread(_put_back, plan)
        result["findings"] += [finding.to_json() for finding in put]
        result["next"] += [finding.next for finding in put]
    return result


def _put_back(plan: RestorePlan) -> list[Finding]:
    """Launch files to where they were. The node is restored already: what fails is a finding.

    Nothing is overwritten, and nothing is put below a directory that isn't there: a unit without
    systemd, a manifest without its folder, are for a person.
    """
    found = []
    for item in plan.layout.launch:
        original, restored = Path(item.original), plan.into / item.to
        if item.there:
            continue
        words = ""
        try:
            if original.is_symlink() or original.exists():
                words = f"another file stands at {original}; the restored one is {item.to}"
            elif not original.parent.is_dir():
                words = f"{original.parent} is not on this machine; restored as {item.to}"
            else:
                _copy_new(restored, original, 0o755 if item.executable else 0o644)
        except OSError as exc:
            words = f"{original} can't be written ({exc.strerror}); restored as {item.to}"
        if words:
            next = f"compare, then: install -D {restored} {original}"
            found.append(Finding("launch file", words, next))
    return found


def _copy_new(source: Path, target: Path, mode: int) -> None:
    temporary = target.with_name(f".{target.name}.keycairn-restore")
    temporary.unlink(missing_ok=True)
    with create_private(temporary, mode=mode) as out:
        out.write(source.read_bytes())
        sync(out)
    try:
        target.hardlink_to(temporary)  # Fails if somebody was faster; a rename would overwrite.
    finally:
        temporary.unlink()
    fsync_path(target.parent)


@contextmanager
def _staging(staging: Path, sha256: str) -> Iterator[None]:
    """Hold ``staging``, empty but for the marker. It is removed if it is still there at the end.

    Raises:
        KeycairnError: E_CONFLICT when another restore holds it, or it isn't a restore's.
    """
    with disk_errors(f"{staging} can't be made"):
        staging.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise KeycairnError(
                Code.CONFLICT, "another restore to this place is running", not_lost=_KEPT
            ) from exc
        with disk_errors(f"{staging} can't be prepared"):
            _clear(staging)
            staging.chmod(0o700)
        try:
            with disk_errors(f"{staging} can't be prepared"):
                _write(staging / MARKER, sha256.encode() + b"\n")
            yield
        finally:
            with disk_errors(f"{staging} can't be removed"):
                # Not if it was renamed into place, and the name is another restore's by now.
                if staging.exists() and os.path.samestat(os.fstat(fd), staging.stat()):
                    _clear(staging)
                    staging.rmdir()
    finally:
        os.close(fd)


def _clear(staging: Path) -> None:
    """Remove what an interrupted restore left; refuse what isn't a restore's.

    The marker goes last, so that what is left of an interrupted removal is recognised too.
    """
    entries = list(staging.iterdir())
    if entries and staging / MARKER not in entries:
        raise KeycairnError(
            Code.CONFLICT,
            f"{staging} is in the way, and no restore made it",
            not_lost=_KEPT,
            next="move it away",
        )
    for entry in sorted(entries, key=lambda e: e.name == MARKER):
        if entry.is_dir() and not entry.is_symlink():
            remove_tree(entry)
        else:
            entry.unlink()


@dataclass
class _Files:
    """Opens the staged file of each part; one part can have several places."""

    staging: Path
    places: Mapping[str, list[Placed]]
    opened: list[BinaryIO] = field(default_factory=list)

    def __call__(self, part: Part) -> Sink | None:
        self.close()
        for placed in self.places.get(part.name, []):
            path = self.staging / placed.to
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            mode = 0o700 if placed.executable else 0o600
            self.opened.append(create_private(path, mode=mode))
        return self if self.opened else None

    def write(self, data: bytes) -> None:
        for out in self.opened:
            out.write(data)

    def close(self) -> None:
        while self.opened:
            with self.opened.pop() as out:
                sync(out)


def _write_files(plan: RestorePlan, staging: Path) -> None:
    places: dict[str, list[Placed]] = {}
    for placed in plan.layout.placed:
        places.setdefault(placed.part.name, []).append(placed)
    files = _Files(staging, places)
    try:
        unpack(plan.bundle, plan.identity, files)
    finally:
        files.close()
    config = plan.layout.config
    _write(staging / plan.layout.config_name, plan.layout.config_bytes)
    if plan.layout.launch:
        lines = [f"{item.to}  ->  {item.original}\n" for item in plan.layout.launch]
        _write(staging / ORIGINS, "".join(lines).encode())
    directories = [config.anchor(), config.data_directory(), config.ers_store(), *config.targets()]
    for named in directories:
        if named.inside is not None:
            (staging / named.inside).mkdir(mode=0o700, parents=True, exist_ok=True)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with create_private(path) as out:
        out.write(data)
        sync(out)


async def _settle_database(plan: RestorePlan, staging: Path) -> None:
    """Write the receipt of this very bundle, make document rows say what is really there, and mark
    the copy as restored."""
    copy = staging / plan.layout.copy
    manifest = plan.bundle.manifest
    if plan.opener is not None:
        store = await plan.opener(copy)
        try:
            await store.audit(
                "node.restored", {"bundle": plan.sha256, "created_us": manifest.created_us}
            )
            await store.put_bundle(_receipt(plan))
            await _settle_documents(plan, store)
        finally:
            await store.close()
    why = f"restored from the bundle of {manifest.created_us} us, SHA-256 {plan.sha256}"
    await asyncio.to_thread(mark_restored, copy, why)


def _fill_server(plan: RestorePlan, staging: Path) -> None:
    """Put the rows into the server's database; the copy goes, and no trace of it stays."""
    if plan.layout.config.server() is None:
        return
    if plan.server is None:
        raise KeycairnError(Code.POLICY, "this plan did not ask the database's server")
    copy = staging / plan.layout.copy
    server = from_staging(plan.server, plan.into, staging)
    put(copy, server, restore_name(plan.sha256, plan.into))
    for name in (copy.name, f"{copy.name}-wal", f"{copy.name}-shm", f"{copy.name}-journal"):
        copy.with_name(name).unlink(missing_ok=True)


def _receipt(plan: RestorePlan) -> BundleRow:
    return receipt_of(
        plan.bundle, plan.location, plan.sha256, plan.clock, level="trial", restored=True
    )


async def _settle_documents(plan: RestorePlan, store: Store) -> None:
    filed = filed_documents(plan)
    for row in await store.documents():
        if row.sha256 not in filed:
            # Its file isn't here: it must not count until it is fetched and verified again.
            await store.delete_document(row.sha256)
            continue
        path = str(plan.into / filed[row.sha256].to)
        if row.path != path:
            await store.put_document(replace(row, path=path))


def _into_place(plan: RestorePlan, staging: Path) -> None:
    sync_tree(staging)
    check_target(plan.into, plan.sha256)
    staging.rename(plan.into)
    fsync_path(plan.into.parent)
    (plan.into / MARKER).unlink()
    fsync_path(plan.into)
