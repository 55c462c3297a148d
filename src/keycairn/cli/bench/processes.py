"""What the system says about other processes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def cpu_seconds(pid: int) -> float:
    """Processor seconds, user and system, that a process and its threads have used.

    Raises:
        OSError: it is gone.
    """
    stat = Path(f"/proc/{pid}/stat")
    if not Path("/proc/self/stat").exists():
        return _ps(pid)
    fields = stat.read_text("ascii", "replace").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _ps(pid: int) -> float:
    """Systems without /proc: hours, minutes, seconds."""
    found = subprocess.run(
        ["ps", "-o", "time=", "-p", str(pid)],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode:
        raise OSError(f"no process {pid}")
    total = 0.0
    for part in found.stdout.strip().replace("-", ":").split(":"):
        total = 60 * total + float(part)
    return total
