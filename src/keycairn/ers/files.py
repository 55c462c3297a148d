"""Reading and writing files with care: what is made is new, closed to others and on the disk."""

from __future__ import annotations

import os
from pathlib import Path

from keycairn.errors import Code, KeycairnError
from keycairn.ers.document import looks_like_document


def read_file(path: Path, limit: int) -> bytes:
    """A whole file of at most ``limit`` bytes; E_NOT_FOUND, E_UNAVAILABLE or E_TOO_LARGE."""
    try:
        with path.open("rb") as stream:
            data = stream.read(limit + 1)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as exc:
        raise KeycairnError(Code.NOT_FOUND, f"there is no file {path}") from exc
    except OSError as exc:
        raise KeycairnError(
            Code.UNAVAILABLE, f"cannot read {path}: {exc.strerror or 'input error'}"
        ) from exc
    if len(data) > limit:
        raise KeycairnError(Code.TOO_LARGE, f"{path} is larger than {limit} bytes")
    return data


def write_new(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Create a file that did not exist, with ``mode``, and flush it to the disk.

    Raises:
        KeycairnError: E_CONFLICT if it exists, E_UNAVAILABLE if it cannot be written (then no
            file is left behind).
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    except FileExistsError as exc:
        raise KeycairnError(Code.CONFLICT, f"{path} exists already", next="name another") from exc
    except OSError as exc:
        raise KeycairnError(Code.UNAVAILABLE, f"cannot write {path}: {exc.strerror}") from exc
    try:
        with os.fdopen(fd, "wb") as stream:
            os.fchmod(stream.fileno(), mode)
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as exc:
        path.unlink(missing_ok=True)
        raise KeycairnError(Code.UNAVAILABLE, f"cannot write {path}: {exc.strerror}") from exc


def write_all(files: dict[Path, tuple[bytes, int]]) -> None:
    """Create several files (content, mode): all, or none; errors as of :func:`write_new`."""
    done: list[Path] = []
    try:
        for path, (data, mode) in files.items():
            write_new(path, data, mode)
            done.append(path)
    except KeycairnError:
        for path in done:
            path.unlink(missing_ok=True)
        raise


def fresh_directory(path: Path) -> None:
    """Make ``path`` (mode 0700), or take it if it is empty; E_CONFLICT if it holds anything."""
    try:
        path.mkdir(mode=0o700)
    except FileExistsError as exc:
        if not path.is_dir() or path.is_symlink() or any(path.iterdir()):
            raise KeycairnError(
                Code.CONFLICT,
                f"{path} exists and is not an empty directory",
                not_lost="Nothing was written.",
                next="give --out a new directory",
            ) from exc
        path.chmod(0o700)
    except OSError as exc:
        raise KeycairnError(Code.UNAVAILABLE, f"cannot make {path}: {exc.strerror}") from exc


def refuse_beside_document(directory: Path) -> None:
    """An RSA private key is not written where an ERS document lies (E_POLICY)."""
    try:
        files = sorted(entry for entry in directory.iterdir() if entry.is_file())
        heads = {}
        for entry in files:
            with entry.open("rb") as stream:
                heads[entry.name] = stream.read(64)
    except OSError as exc:
        raise KeycairnError(
            Code.UNAVAILABLE, f"cannot look into {directory}: {exc.strerror}"
        ) from exc
    for name, head in heads.items():
        if looks_like_document(head):
            raise KeycairnError(
                Code.POLICY,
                f"{name} is an ERS document: with the RSA private key beside it, whoever gets "
                "this directory has the keys",
                not_lost="No key was made.",
                next="write the RSA key to another medium",
            )
