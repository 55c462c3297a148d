"""Files, the careful way: private modes, fsync, one rename, typed errors."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from keycairn.errors import Code, KeycairnError
from keycairn.store import files
from keycairn.store.files import fsync_path

CHUNK = 1 << 20


def unavailable(what: str, exc: OSError, *, not_lost: str = "", next: str = "") -> KeycairnError:
    """An operating-system failure as E_UNAVAILABLE, with the system's own words."""
    plain = files.unavailable(what, exc)
    return KeycairnError(
        plain.code,
        plain.message,
        not_lost=not_lost or plain.not_lost,
        next=next or plain.next,
        detail=plain.detail,
    )


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Turn any OSError inside into E_UNAVAILABLE that says ``what`` failed."""
    try:
        yield
    except OSError as exc:
        raise unavailable(what, exc) from exc


def create_private(path: Path, *, mode: int = 0o600) -> BinaryIO:
    """Open a new file for writing; fails if it exists. The umask can't loosen or tighten it."""
    fd = files.create_private(path)
    if mode != 0o600:
        os.fchmod(fd, mode)
    return os.fdopen(fd, "wb")


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading: never a device, a pipe or a directory.

    Raises:
        OSError: as ``open``; IsADirectoryError or PermissionError-like for other kinds of file.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(22, "not a regular file")
    return os.fdopen(fd, "rb")


def sync(out: BinaryIO) -> None:
    """Flush a file to the disk."""
    out.flush()
    os.fsync(out.fileno())


def sync_tree(root: Path) -> None:
    """fsync every directory below ``root``, deepest first, then ``root``."""
    for directory, _, _ in os.walk(root, topdown=False):
        fsync_path(Path(directory))


def forget_cache(source: BinaryIO) -> None:
    """Ask the system to drop its cached copy, so that reading back means the disk."""
    with suppress(OSError, AttributeError):
        os.posix_fadvise(source.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextmanager
def scratch_directory(parent: Path | None, prefix: str) -> Iterator[Path]:
    """A directory of mode 0700 that is removed at the end; in the system's temporary directory
    if ``parent`` is None."""
    with (
        disk_errors("the scratch directory can't be used"),
        tempfile.TemporaryDirectory(dir=parent, prefix=prefix) as name,
    ):
        yield Path(name)


def walk(root: Path) -> list[Path]:
    """Everything below ``root`` that is no directory, sorted by directory; empty without one.

    Raises:
        KeycairnError: E_UNAVAILABLE for a directory that can't be listed: what isn't seen would
            silently be missing.
    """
    found: list[Path] = []
    if not root.is_dir():
        return found

    def refuse(exc: OSError) -> None:
        raise exc

    with disk_errors(f"{root} can't be listed"):
        for directory, names, entries in os.walk(root, onerror=refuse):
            names.sort()
            found += [Path(directory) / entry for entry in sorted(entries)]
    return found


def remove_tree(path: Path) -> None:
    """Remove a directory that this program made; no error when it isn't there."""
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


@contextmanager
def exclusive(path: Path, busy: str) -> Iterator[None]:
    """Hold an advisory lock on the file ``path`` (made if missing, and left there).

    Raises:
        KeycairnError: E_CONFLICT saying ``busy`` while another process holds it.
    """
    with disk_errors(f"{path} can't be locked"):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise KeycairnError(Code.CONFLICT, busy, next="wait until it ends") from exc
        yield
    finally:
        os.close(fd)
