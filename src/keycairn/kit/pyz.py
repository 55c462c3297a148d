"""Packs :mod:`keycairn.kit.offline` into one file that any Python 3.8 or newer runs.

A zipapp: a zip with a ``__main__.py``. The same sources give the same bytes, so two releases'
tools can be compared, and anybody can build the tool of a kit again from the source.
"""

from __future__ import annotations

import io
import zipfile
from functools import lru_cache
from pathlib import Path

from keycairn.kit import offline

PACKAGE = "keycairn_offline"
_MAIN = """\
import sys

if sys.version_info < (3, 8):
    sys.exit("keycairn-offline: Python 3.8 or newer is needed")

from keycairn_offline.tool import main

sys.exit(main())
"""
#: The first moment that a zip can name; of every member.
EPOCH = (1980, 1, 1, 0, 0, 0)


def add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    """A member without anything of this machine or moment in it; stored, since what a
    compressor makes depends on its version."""
    info = zipfile.ZipInfo(name, EPOCH)
    info.create_system = 3
    info.external_attr = 0o644 << 16
    archive.writestr(info, data)


def sources() -> dict[str, bytes]:
    """The package's files by name."""
    folder = Path(offline.__file__).parent
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.py"))}


@lru_cache(maxsize=1)
def build() -> bytes:
    """``keycairn-offline.pyz``."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        add(archive, "__main__.py", _MAIN.encode("ascii"))
        for name, data in sources().items():
            add(archive, f"{PACKAGE}/{name}", data)
    return out.getvalue()
