"""What the kit's tests share: RSA keys, documents, the packed tool."""

from __future__ import annotations

from pathlib import Path

import pytest

from ers.conftest import private_key as private_key
from ers.conftest import rsa_key as rsa_key
from kit.tool import write_tool


@pytest.fixture(scope="session")
def tool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packed tool, alone in a folder."""
    return write_tool(tmp_path_factory.mktemp("tool"))
