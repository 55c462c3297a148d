"""Where bundles are kept: directories, and object stores that speak S3.

One contract for both. A bundle appears under its final name whole or not at all; what was stored is
read back from there; and a look at a stored bundle has three answers: it is there, it is gone, or
nobody can tell right now (a file system that isn't mounted, a network that is down). Doubt is not
evidence, in neither direction.

A *location* names one stored bundle: an absolute path, or the address ``s3://bucket/prefix/name``
with the parameters of its target.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from keycairn.backup.disk import (
    CHUNK,
    create_private,
    disk_errors,
    forget_cache,
    open_regular,
    scratch_directory,
    sync,
    unavailable,
)
from keycairn.backup.nodefile import is_object_store
from keycairn.errors import Code, KeycairnError
from keycairn.store.files import fsync_path, mark_of

#: Stands in every directory that a bundle was written to. A directory without it is taken for the
#: empty place where a file system isn't mounted.
MARKER = ".keycairn-target"
SUFFIX = ".bundle"
_KEPT = "No bundle was written; older bundles and the node itself are untouched."

#: Changes when a stored bundle was touched; compared only with others of the same location.
Mark = tuple[object, ...]


class Gone(Exception):
    """The stored bundle is not there, and the place where it was is."""


class Target(Protocol):
    """A place for bundles.

    Attributes:
        place: how messages call it.
        look_seconds: how long a look is good for: each may be a request that costs.
        read_seconds: how long a whole reading is good for.
    """

    look_seconds: float
    read_seconds: float

    @property
    def place(self) -> str: ...

    def check(self) -> None:
        """Raise E_UNAVAILABLE if nothing can be stored here now."""
        ...

    def workspace(self, scratch: Path) -> Path:
        """Where the temporary files of a bundle go."""
        ...

    def clear(self, stem: str) -> None:
        """Remove what killed backups with this stem left half-written."""
        ...

    def publish(self, whole: Path, name: str) -> str:
        """Make the complete file ``whole`` appear under ``name``; returns its location.

        E_CONFLICT if the name is taken, E_UNAVAILABLE; then there is nothing under it.
        """
        ...

    def names(self) -> list[str]:
        """Names of all bundles here, sorted; E_UNAVAILABLE."""
        ...

    def location(self, name: str) -> str: ...

    def holds(self, location: str) -> bool:
        """Whether a location is in this target."""
        ...

    def remove(self, location: str) -> None:
        """Remove a stored bundle; no error if it is gone. E_UNAVAILABLE."""
        ...

    def look(self, location: str) -> Mark:
        """A mark of the stored bundle; reads nothing of it.

        Raises:
            Gone: it is not there.
            KeycairnError: E_UNAVAILABLE, nobody can tell.
        """
        ...

    def copy(self, location: str, scratch: Path) -> Path:
        """The stored bundle as a file: itself, or a private copy in ``scratch``.

        Raises as :meth:`look`.
        """
        ...


class DirectoryTarget:
    """A directory. It is never made here: a missing one is a file system that isn't mounted."""

    look_seconds = 0.0
    read_seconds = 0.0

    def __init__(self, path: Path) -> None:
        self.path = path
        self.place = str(path)

    def check(self) -> None:
        if not self.path.is_dir():
            raise KeycairnError(
                Code.UNAVAILABLE,
                f"the backup target {self.path} is not there, or is not a directory",
                not_lost=_KEPT,
                next=f"mount it (a new one: mkdir -p -m 700 {self.path}), or correct "
                "[backup] targets",
                detail={"target": self.place},
            )

    def workspace(self, scratch: Path) -> Path:
        # On the same file system as the final name, or it could not be renamed.
        return self.path

    def clear(self, stem: str) -> None:
        for stale in self.path.glob(f".{stem}*.tmp"):
            stale.unlink(missing_ok=True)

    def publish(self, whole: Path, name: str) -> str:
        final = self.path / name
        marker = self.path / MARKER
        try:
            if not marker.exists():
                with create_private(marker) as out:
                    out.write(b"bundles of keycairn nodes are kept here\n")
                    sync(out)
            if final.exists():
                raise KeycairnError(Code.CONFLICT, f"{final} exists already", not_lost=_KEPT)
            whole.rename(final)
            fsync_path(self.path)
        except OSError as exc:
            raise unavailable(
                f"the bundle can't be written to {self.path}", exc, not_lost=_KEPT
            ) from exc
        return str(final)

    def names(self) -> list[str]:
        self.check()
        with disk_errors(f"{self.path} can't be listed"):
            found = [p.name for p in self.path.iterdir()]
        return sorted(n for n in found if n.endswith(SUFFIX) and not n.startswith("."))

    def location(self, name: str) -> str:
        return str(self.path / name)

    def holds(self, location: str) -> bool:
        return not is_object_store(location) and Path(location).parent == self.path

    def remove(self, location: str) -> None:
        with disk_errors(f"{location} can't be removed"):
            Path(location).unlink(missing_ok=True)
            fsync_path(self.path)

    def look(self, location: str) -> Mark:
        path = Path(location)
        try:
            return mark_of(path.stat())
        except FileNotFoundError:
            # Gone only if the place is the one that was written to.
            if (path.parent / MARKER).is_file():
                raise Gone from None
            raise _away(str(path.parent)) from None
        except OSError as exc:
            raise unavailable(f"{path} can't be looked at", exc) from exc

    def copy(self, location: str, scratch: Path) -> Path:
        self.look(location)
        return Path(location)


def _away(place: str) -> KeycairnError:
    return KeycairnError(
        Code.UNAVAILABLE,
        f"the backup target {place} is not mounted, or was emptied",
        not_lost="What is stored there is neither counted nor forgotten.",
        next=f"mount {place}",
        detail={"target": place},
    )


def target_of(text: str | Path) -> Target:
    """The target that a line of ``[backup] targets`` names (a path must be absolute).

    Raises:
        KeycairnError: E_MALFORMED for an address that can't be one.
    """
    if isinstance(text, str) and is_object_store(text):
        # Imported here: only who keeps bundles there pays for it.
        from keycairn.backup.objects import ObjectTarget

        return ObjectTarget.parse(text)
    return DirectoryTarget(Path(text))


def target_at(location: str) -> Target:
    """The target that holds a location."""
    if is_object_store(location):
        from keycairn.backup.objects import ObjectTarget

        return ObjectTarget.holding(location)
    return DirectoryTarget(Path(location).absolute().parent)


@contextmanager
def stored(location: str, scratch: Path | None = None) -> Iterator[Path]:
    """A stored bundle as a file to read: itself, or a private copy that is removed afterwards.

    Raises:
        KeycairnError: E_NOT_FOUND when it is gone, E_UNAVAILABLE.
    """
    if not is_object_store(location):
        yield Path(location)
        return
    with scratch_directory(scratch, "keycairn-fetch-") as directory:
        try:
            yield target_at(location).copy(location, directory)
        except Gone:
            raise KeycairnError(
                Code.NOT_FOUND,
                f"there is no bundle at {location}",
                next="keycairn backup list",
            ) from None


def digest_of(path: Path) -> str:
    """SHA-256 of a file as it is on the disk, hex. Raises OSError."""
    digest = hashlib.sha256()
    with open_regular(path) as stream:
        forget_cache(stream)
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
