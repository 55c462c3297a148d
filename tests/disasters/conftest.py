"""Disasters happen to vaults of real processes, on every kind of database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from databases import SERVERS, Scratch, scratch
from keycairn.client import Vault
from keycairn.errors import Code, KeycairnError
from system.conftest import make_vault as make_vault


def everywhere(*, always: bool = True) -> pytest.MarkDecorator:
    """Run a scenario on every database with ``--full``, by default on SQLite, or not at all where
    other tests go through the same more quickly (``always`` is False)."""
    return pytest.mark.parametrize(
        "on",
        [
            kind if always and kind == "sqlite" else pytest.param(kind, marks=pytest.mark.full)
            for kind in ("sqlite", *SERVERS)
        ],
    )


async def first_signature(client: Vault, key: str, **what: Any) -> dict[str, Any]:
    """Sign as a client does that tries again while the vault is not available: nodes may still be
    about to rejoin, and what they make with each other of their last lives is ended."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await client.sign(key, **what)
            except KeycairnError as exc:
                if exc.code is not Code.UNAVAILABLE:
                    raise
            await asyncio.sleep(0.2)


@pytest.fixture
def scratch_database() -> Iterator[Callable[[str], Scratch]]:
    """``scratch_database("mariadb")``: an empty database; ask for it before ``make_vault``."""
    with ExitStack() as stack:
        yield lambda kind: stack.enter_context(scratch(kind))
