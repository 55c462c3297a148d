"""Named crash points: a test build can end the process at an exact moment (R-58, T-029).

Every durable step and every send of a session has a point before and one after it. In the
production profile a node refuses to start while ``KEYCAIRN_CRASH_AT`` is set.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from fnmatch import fnmatchcase

#: Environment variable: ``PATTERN`` or ``PATTERN#K`` (the K-th time that a name matches).
VARIABLE = "KEYCAIRN_CRASH_AT"


def no_crash(name: str) -> None:
    """The production hook: nothing happens."""


def crash_at(spec: str) -> Callable[[str], None]:
    """A hook that kills this process with SIGKILL at the point ``spec`` names.

    Args:
        spec: a pattern as in fnmatch over point names (``keygen/pending:before``,
            ``send:keygen:4:*:after``), with ``#K`` to mean the K-th match.
    """
    pattern, _, count = spec.partition("#")
    left = int(count or 1)

    def hit(name: str) -> None:
        nonlocal left
        if fnmatchcase(name, pattern):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return hit
