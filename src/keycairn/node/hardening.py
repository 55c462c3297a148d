"""What the process gives away when it dies or is looked at: as little as it can (R-54)."""

from __future__ import annotations

import contextlib
import ctypes
import resource
import sys

_PR_SET_DUMPABLE = 4


def harden_process() -> None:
    """No core dumps; other processes of the same user can't read this one's memory (Linux)."""
    # Where a container forbids to change the limit it is usually 0 already.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
