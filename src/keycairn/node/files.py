"""Files that hold secrets: who may read them, and how they are written."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from keycairn.errors import Code, KeycairnError


def require_private(path: Path, what: str) -> None:
    """Refuse a file that others than its owner can read or write.

    Raises:
        KeycairnError: E_MALFORMED when it is missing, E_POLICY when its mode is loose.
    """
    try:
        found = path.stat()
    except OSError as exc:
        raise KeycairnError(
            Code.MALFORMED,
            f"{what} {path} cannot be read: {exc.strerror}",
            not_lost="The node did not start; nothing was changed.",
            next="put the file back, or correct its path; a node's bundles hold all its files but "
            "the master secret (keycairn node restore BUNDLE --into DIR --identity FILE)",
        ) from exc
    if not stat.S_ISREG(found.st_mode):
        raise KeycairnError(Code.MALFORMED, f"{what} {path} is not a regular file")
    if found.st_mode & 0o077:
        raise KeycairnError(
            Code.POLICY,
            f"{what} {path} can be read or written by others (mode {found.st_mode & 0o777:04o})",
            not_lost="The node did not start; nothing was changed.",
            next=f"chmod 600 {path}",
            detail={"file": str(path), "mode": f"{found.st_mode & 0o777:04o}"},
        )


def write_private(path: Path, data: bytes) -> None:
    """Write a file of mode 0600, whole or not at all (temporary name, fsync, rename)."""
    temporary = path.with_name(path.name + ".new")
    try:
        temporary.unlink(missing_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(path)
    except OSError as exc:
        raise KeycairnError(
            Code.UNAVAILABLE,
            f"{path} cannot be written: {exc.strerror}",
            next="check free space and permissions of that directory",
        ) from exc
