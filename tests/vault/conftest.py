"""Fixtures for whole nodes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import rsa

from vault.nodes import Vault


@pytest.fixture(scope="session")
def recovery_key() -> rsa.RSAPrivateKey:
    """A recovery key; every vault of the tests may have it on its list."""
    return rsa.generate_private_key(65537, 3072)


@pytest.fixture
async def vault(tmp_path: Path) -> AsyncIterator[Vault]:
    """Three nodes with the default policy: nothing is usable before it is backed up."""
    async with Vault.of(tmp_path) as made:
        yield made


@pytest.fixture
async def open_vault(tmp_path: Path) -> AsyncIterator[Vault]:
    """Three nodes whose policy asks for no backup."""
    async with Vault.of(tmp_path, policy="none") as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def module_vault(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Vault]:
    """One vault for many requests that change nothing."""
    async with Vault.of(tmp_path_factory.mktemp("vault"), policy="none") as made:
        yield made
