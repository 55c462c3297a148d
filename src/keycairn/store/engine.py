"""Transactions of SQLAlchemy's synchronous engines, run in worker threads.

A whole transaction is one hand-over to a thread. Through an asynchronous driver every statement
costs four, which took several times as long as the statements themselves. The shared code is
written as coroutines; here they run to their end in the worker, since nothing in them waits.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from sqlalchemy import Connection as SyncConnection
from sqlalchemy import CursorResult, Engine, Executable

from keycairn.ports import Clock
from keycairn.store.core import UnknownCommit
from keycairn.store.sql import SqlStore
from keycairn.store.transaction import Connection
from keycairn.vault.sealing import Sealer

T = TypeVar("T")
Work = Callable[[Connection], Coroutine[Any, Any, T]]

#: Marks in a driver connection's ``info`` that it has had a transaction.
_USED = "keycairn-used"


class Direct:
    """A synchronous connection behind the asynchronous interface; its calls never wait."""

    def __init__(self, conn: SyncConnection) -> None:
        self._conn = conn
        self.dialect = conn.dialect.name
        self.fresh = _USED not in conn.info

    async def execute(self, statement: Executable, parameters: Any = None) -> CursorResult[Any]:
        return self._conn.execute(statement, parameters)

    async def run_sync(self, work: Callable[[Any], T]) -> T:
        return work(self._conn)


def run(engine: Engine, work: Work[T]) -> T:
    """Run a coroutine function to its end in a transaction of ``engine``.

    Raises:
        UnknownCommit: COMMIT failed. Any other error means that nothing was committed.
    """
    with engine.connect() as conn:
        transaction = conn.begin()
        try:
            result = finish(work(Direct(conn)))
        except BaseException:
            # A connection that broke can't roll back, and need not.
            with contextlib.suppress(Exception):
                transaction.rollback()
            raise
        try:
            transaction.commit()
        except Exception as exc:
            raise UnknownCommit(exc) from exc
        conn.info[_USED] = True
        return result


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    coroutine.close()
    raise RuntimeError("work on the database must not wait for anything else")


class ThreadedStore(SqlStore):
    """A store over two engines: one connection that writes, several that read."""

    def __init__(
        self,
        writer: Engine,
        reader: Engine,
        readers: int,
        *,
        sealer: Sealer,
        vault: str,
        node: int,
        clock: Clock,
    ) -> None:
        super().__init__(sealer=sealer, vault=vault, node=node, clock=clock)
        self._writer = writer
        self._reader = reader
        self._write_thread = ThreadPoolExecutor(1, "keycairn-store-writer")
        self._read_threads = ThreadPoolExecutor(readers, "keycairn-store-reader")

    async def _in_transaction(self, work: Work[T]) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._write_thread, self._run_write, work)

    def _run_write(self, work: Work[T]) -> T:
        return run(self._writer, work)

    async def _in_snapshot(self, work: Work[T]) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._read_threads, self._run_read, work)
        except UnknownCommit as exc:
            raise exc.cause from exc  # The end of a reading decides nothing.

    def _run_read(self, work: Work[T]) -> T:
        return run(self._reader, work)

    async def _check_objects(self, tables: Collection[str]) -> None:
        """Nothing to look at, unless an adapter knows better."""

    async def _keep(self, found: int) -> None:
        """Copies are for databases that are one file."""

    async def _dispose(self) -> None:
        await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        self._write_thread.shutdown()
        self._read_threads.shutdown()
        self._writer.dispose()
        self._reader.dispose()
