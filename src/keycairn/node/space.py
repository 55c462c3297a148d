"""Free space where the node writes: a full disk stops signing, and is a finding before."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_LOW_BYTES = 64 << 20


def low_space(places: Iterable[Path]) -> list[dict[str, Any]]:
    """Findings for directories with less than 64 MiB left; those that aren't there have none."""
    found = []
    for place in places:
        try:
            free = shutil.disk_usage(place).free
        except OSError:
            continue
        if free < _LOW_BYTES:
            found.append(
                {
                    "finding": "disk nearly full",
                    "where": str(place),
                    "free_bytes": free,
                    "next": f"free space at {place}: with none left, nothing is signed or created",
                }
            )
    return found
