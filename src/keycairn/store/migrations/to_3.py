"""Version 3: the few batches that wait are found among very many without reading all of them."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from sqlalchemy import inspect

from keycairn.store.integrity import Macs
from keycairn.store.migrations import to_2
from keycairn.store.transaction import Connection

if TYPE_CHECKING:
    from alembic.operations import Operations

#: Tables of version 2.
BEFORE = to_2.BEFORE | {"presignatures", "paths"}


def tables(op: Operations, _: Collection[str]) -> None:
    """One new index."""
    there = {index["name"] for index in inspect(op.get_bind()).get_indexes("batches")}
    if "ix_batches_active" not in there:
        op.create_index("ix_batches_active", "batches", ["active"])


async def rows(_: Connection, __: Macs) -> None:
    """Nothing changes in them."""
