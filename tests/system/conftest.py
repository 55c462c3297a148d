"""Vaults of real processes, stopped and removed whatever happens."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from databases import node_databases
from system.local import LocalVault


@pytest.fixture
def make_vault(tmp_path: Path, free_ports: Callable[[int], int]) -> Iterator[Any]:
    """``make_vault(nodes=3, threshold=1, policy=…, on="sqlite")``: a new local vault, not started;
    ``on`` is the kind of its databases."""
    with ExitStack() as stack:
        count = itertools.count()

        def make(*, on: str = "sqlite", **options: Any) -> LocalVault:
            nodes = options.get("nodes", 3)
            ports = free_ports(16 + 3 * nodes)
            databases = stack.enter_context(node_databases(on, nodes))
            directory = tmp_path / f"vault{next(count)}"
            vault = LocalVault.create(directory, base_port=ports, **databases, **options)
            stack.callback(vault.stop)
            return vault

        yield make
