"""Vaults of real processes, stopped and removed whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from system.local import LocalVault


@pytest.fixture
def make_vault(tmp_path: Path, free_ports: Callable[[int], int]) -> Iterator[Any]:
    """``make_vault(nodes=3, threshold=1, policy=…)``: a new local vault, not started."""
    made: list[LocalVault] = []

    def make(**options: Any) -> LocalVault:
        ports = free_ports(16 + 3 * options.get("nodes", 3))
        made.append(LocalVault.create(tmp_path / f"vault{len(made)}", base_port=ports, **options))
        return made[-1]

    yield make
    for vault in made:
        vault.stop()
