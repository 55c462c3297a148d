"""Reading and writing files with care: what is made is new, closed to others, on the disk."""

from __future__ import annotations

import os
from typing import Dict

from .errors import ToolError


def read(path: str, limit: int) -> bytes:
    """A whole file of at most ``limit`` bytes; E_NOT_FOUND, E_UNAVAILABLE, E_TOO_LARGE."""
    try:
        with open(path, "rb") as stream:
            data = stream.read(limit + 1)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise ToolError("E_NOT_FOUND", "there is no file %s" % path) from None
    except OSError as exc:
        raise ToolError("E_UNAVAILABLE", "cannot read %s: %s" % (path, exc.strerror)) from None
    if len(data) > limit:
        raise ToolError("E_TOO_LARGE", "%s is larger than %d bytes" % (path, limit))
    return data


def require_fresh(path: str) -> None:
    """E_CONFLICT unless ``path`` is free, or an empty directory."""
    if os.path.lexists(path) and (
        os.path.islink(path) or not os.path.isdir(path) or os.listdir(path)
    ):
        raise ToolError(
            "E_CONFLICT",
            "%s exists and is not an empty directory" % path,
            not_lost="Nothing was written.",
            advice="give --out a new directory",
        )


def write_all(directory: str, files: Dict[str, bytes]) -> None:
    """Create the files (mode 0600) in a fresh directory (0700): all, or none."""
    require_fresh(directory)
    made = []
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        os.chmod(directory, 0o700)
        for name, data in files.items():
            path = os.path.join(directory, name)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
            with os.fdopen(os.open(path, flags, 0o600), "wb") as stream:
                made.append(path)
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
    except OSError as exc:
        for path in made:
            os.unlink(path)
        raise ToolError(
            "E_UNAVAILABLE", "cannot write %s: %s" % (directory, exc.strerror)
        ) from None
