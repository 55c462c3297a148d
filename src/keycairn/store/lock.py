"""One process per data directory."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType

from keycairn.errors import Code, KeycairnError
from keycairn.store.files import unavailable


class DirectoryLock:
    """Exclusive lock on a data directory, held until :meth:`release` or the process ends.

    The kernel drops it when the process dies, however it dies: there is no stale lock to remove.
    The file ``node.lock`` stays and names the last holder's process id, for messages only.
    """

    def __init__(self, path: Path) -> None:
        self._file = path / "node.lock"
        self._fd: int | None = None

    def acquire(self) -> None:
        """Take the lock. E_CONFLICT, naming the holder, if another process has it; E_UNAVAILABLE
        if the directory can't be written."""
        if self._fd is not None:
            return
        try:
            fd = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise unavailable("the data directory can't be locked", exc) from exc
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            holder = os.pread(fd, 20, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(fd)
            raise KeycairnError(
                Code.CONFLICT,
                f"another process (pid {holder}) uses this data directory",
                not_lost="Nothing was changed.",
                next="stop that process first: two nodes on one directory would use nonces twice",
                detail={"pid": int(holder) if holder.isdigit() else None},
            ) from exc
        except OSError as exc:
            os.close(fd)
            raise unavailable("the data directory can't be locked", exc) from exc
        try:
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        except OSError as exc:
            os.close(fd)
            raise unavailable("the data directory can't be written", exc) from exc
        self._fd = fd

    def release(self) -> None:
        """Give the lock back. Idempotent."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> DirectoryLock:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()
