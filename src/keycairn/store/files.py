"""Small file helpers: private modes, durable directory entries, plain errors."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from keycairn.errors import Code, KeycairnError


def fsync_path(path: Path) -> None:
    """Flush a file, or a directory's entries, to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def mark_of(found: os.stat_result) -> tuple[int, ...]:
    """What changes whenever a file's content may have changed, without reading it."""
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def create_private(path: Path) -> int:
    """Create a new file with mode 0600 whatever the umask; its descriptor for writing.

    Raises:
        FileExistsError: it exists (also as a dangling link).
        OSError: anything else.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    os.fchmod(fd, 0o600)
    return fd


def write_durably(path: Path, data: bytes) -> None:
    """Write a file so that after a crash it is whole or absent.

    Temporary name, flush, rename, flush of the directory; mode 0600. A left-over temporary file
    of an earlier crash is replaced.
    """
    temporary = path.with_name(f".{path.name}.part")
    temporary.unlink(missing_ok=True)
    fd = create_private(temporary)
    try:
        with os.fdopen(fd, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_path(path.parent)


def unavailable(what: str, error: OSError) -> KeycairnError:
    """E_UNAVAILABLE for a failed file operation, saying what the operator can do."""
    helps = {
        errno.ENOSPC: "free space on the disk, then try again",
        errno.EDQUOT: "raise the quota, then try again",
        errno.EROFS: "mount the file system for writing, then try again",
        errno.ENOENT: "check the path, and that its file system is mounted",
        errno.EACCES: "give the keycairn user access to the path, then try again",
    }
    return KeycairnError(
        Code.UNAVAILABLE,
        f"{what}: {error.strerror or type(error).__name__}",
        not_lost="What was stored before is unchanged.",
        next=helps.get(error.errno or 0, "look at the kernel log and the disk, then try again"),
        detail={"errno": error.errno},
    )
