"""How a store runs work: one queue of writes, consistent readings, creating and checking.

A database adapter supplies how a transaction and a reading are run, and the translation of driver
errors.

Writes wait in one queue. Its head is run as **one** transaction with all writes that came in
meanwhile (at most :data:`GROUP`), each behind its own savepoint: they share the flush to disk, and
each fails or succeeds by itself. A caller gets its answer after the commit. If the group as a
whole fails, each of its writes is run again alone, so that nobody suffers from a neighbour.

A write that was queued is carried through even if its caller is cancelled: an interrupted request
must not leave a half-known spend.

The store remembers the spend counter that it left in the database (:mod:`integrity`). After a
commit that failed it may be the one before or the one after: both are remembered.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import insert, select, text
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from keycairn.errors import Code, KeycairnError
from keycairn.ports import Clock
from keycairn.store import scan, schema
from keycairn.store.integrity import AUDIT, SPENT, Digest, Macs, empty
from keycairn.store.transaction import Connection, Reader, Transaction, damaged_error
from keycairn.vault.ports import DamagedRow
from keycairn.vault.sealing import Sealer

T = TypeVar("T")

# SQLite puts names out of a damaged file into messages, which then are not even text.
_ERRORS = (SQLAlchemyError, OSError, UnicodeDecodeError)

#: Most writes that share one transaction.
GROUP = 64

Work = Callable[[Transaction], Coroutine[Any, Any, T]]


class SqlCore(ABC):
    """What all SQL stores share below the methods of the port."""

    def __init__(self, *, sealer: Sealer, vault: str, node: int, clock: Clock) -> None:
        self._sealer = sealer
        self._vault = vault
        self._node = node
        self._clock = clock
        self._macs = Macs(sealer)
        self._lock = asyncio.Lock()  # held by the transaction, long scan or snapshot that runs
        self._queue: deque[tuple[Work[Any], asyncio.Future[Any]]] = deque()
        self._flusher: asyncio.Task[None] | None = None
        self._closed = False
        self._damaged: dict[tuple[str, str], DamagedRow] = {}
        #: Spend counters that may stand in the database; empty: none was read or written yet.
        self._counters: set[Digest] = set()
        self._attempted: Digest | None = None

    # -- what an adapter supplies --------------------------------------------------------------

    @abstractmethod
    async def _in_transaction(self, work: Callable[[Connection], Coroutine[Any, Any, T]]) -> T:
        """Run ``work`` in a write transaction that locks out other writers from its start."""

    @abstractmethod
    async def _in_snapshot(self, work: Callable[[Connection], Coroutine[Any, Any, T]]) -> T:
        """Run ``work``, which only reads, on one consistent state."""

    @abstractmethod
    async def _dispose(self) -> None:
        """Drop all connections."""

    @abstractmethod
    def _translate(self, error: Exception) -> KeycairnError:
        """Turn a driver's error into E_UNAVAILABLE or E_STORE_INTEGRITY."""

    # -- running work --------------------------------------------------------------------------

    async def _write(self, work: Work[T]) -> T:
        self._require_open()
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.append((work, done))
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush())
        return await asyncio.shield(done)

    async def _flush(self) -> None:
        while self._queue:
            async with self._lock:
                group = [self._queue.popleft() for _ in range(min(len(self._queue), GROUP))]
                await self._commit(group)

    async def _commit(self, group: Sequence[tuple[Work[Any], asyncio.Future[Any]]]) -> None:
        works = [work for work, _ in group]
        outcomes: list[Any]
        self._attempted = None
        try:
            outcomes = await self._in_transaction(partial(self._run_group, works))
            if self._attempted is not None:
                self._counters = {self._attempted}
        # Whatever it is, the callers wait for an answer.
        except Exception as exc:
            if self._attempted is not None and self._counters:
                self._counters.add(self._attempted)
            if len(group) > 1:
                for one in group:
                    await self._commit([one])
                return
            outcomes = [exc]
        for (_, done), outcome in zip(group, outcomes, strict=True):
            if done.done():
                continue
            if isinstance(outcome, Exception):
                done.set_exception(self._explain(outcome))
            else:
                done.set_result(outcome)

    async def _run_group(self, works: Sequence[Work[Any]], conn: Connection) -> list[Any]:
        tx = Transaction(conn, self._macs, self._clock.now_us())
        await tx.load()
        if len(works) == 1:
            outcomes = [await works[0](tx)]
        else:
            outcomes = [await self._run_one(tx, work) for work in works]
        await tx.finish()
        if tx.spent != tx.spent_before:
            self._attempted = tx.spent
        return outcomes

    @staticmethod
    async def _run_one(tx: Transaction, work: Work[Any]) -> Any:
        before = tx.mark()
        await tx.conn.execute(text("SAVEPOINT work"))
        try:
            outcome = await work(tx)
        except (KeycairnError, IntegrityError) as exc:
            await tx.conn.execute(text("ROLLBACK TO SAVEPOINT work"))
            tx.reset(before)
            outcome = exc
        await tx.conn.execute(text("RELEASE SAVEPOINT work"))
        return outcome

    def _explain(self, error: Exception) -> Exception:
        if isinstance(error, IntegrityError):
            conflict = KeycairnError(
                Code.CONFLICT,
                "a row with this name exists already",
                not_lost="The existing row is unchanged.",
            )
            conflict.__cause__ = error
            return conflict
        if isinstance(error, _ERRORS):
            translated = self._translate(error)
            translated.__cause__ = error
            return translated
        return error

    async def _read(self, work: Callable[[Reader], Coroutine[Any, Any, T]]) -> T:
        self._require_open()
        try:
            return await self._in_snapshot(lambda conn: work(Reader(conn, self._macs)))
        except _ERRORS as exc:
            raise self._translate(exc) from exc

    def _require_open(self) -> None:
        if self._closed:
            raise KeycairnError(
                Code.UNAVAILABLE,
                "the store is closed: the node is stopping",
                not_lost="Nothing of this operation was stored.",
            )

    async def close(self) -> None:
        """Carry out the writes that wait, then drop all connections. Idempotent."""
        self._closed = True
        if self._flusher is not None:
            await self._flusher
        async with self._lock:
            await self._dispose()

    # -- creating and opening ------------------------------------------------------------------

    async def _initialise(self) -> None:
        """Make tables and empty digests, in one transaction; tables that exist stay."""

        async def work(conn: Connection) -> None:
            await conn.run_sync(schema.metadata.create_all)
            await conn.execute(
                insert(schema.meta).values(name="schema", value=str(schema.SCHEMA_VERSION).encode())
            )
            blank = {name: empty(name) for name in (*schema.PROTECTED, AUDIT, SPENT)}
            await conn.execute(
                insert(schema.digests),
                [
                    {"name": name, "count": 0, "total": total, "mac": mac}
                    for name, (total, mac) in self._macs.stored(blank).items()
                ],
            )
            tx = Transaction(conn, self._macs, self._clock.now_us())
            await tx.load()
            tx.audit("store.created", vault=self._vault, node=self._node)
            await tx.finish()

        await self._in_transaction(work)

    async def _schema_version(self) -> bytes | None:
        query = select(schema.meta.c.value).where(schema.meta.c.name == "schema")
        return await self._read(lambda r: _scalar(r, query))

    async def _check_schema(self) -> None:
        found = await self._schema_version()
        if found == str(schema.SCHEMA_VERSION).encode():
            return
        if found is not None and found.isdigit() and int(found) > 0:
            raise other_version("the database", int(found))
        raise KeycairnError(
            Code.STORE_INTEGRITY,
            "the database holds no complete store",
            not_lost="Nothing was changed.",
            next="keycairn node restore BUNDLE --into DIR --identity FILE",
        )

    async def _verify(self) -> None:
        """Check every row against the digests (integrity.py); remember the damaged ones."""

        async def work(reader: Reader) -> list[str]:
            digests = await reader.digests()
            await scan.verify_audit_head(reader, digests[AUDIT])
            rebuild = []
            for name, table in schema.PROTECTED.items():
                found = await scan.verify_table(reader, table, digests[name])
                if found is None:
                    rebuild.append(name)
                for row in found or ():
                    self._damaged[(row.table, row.row)] = row
            return rebuild

        for name in await self._read(work):
            table = schema.PROTECTED[name]
            await self._write(partial(scan.rebuild_index, table=table))

    def _refuse_missing(self, table: str) -> None:
        """For answers that must be complete: raise if a row of ``table`` is damaged."""
        for row in self._damaged.values():
            if row.table == table:
                raise damaged_error(row.table, row.row, row.why)


def other_version(what: str, found: int) -> KeycairnError:
    """The error for a database of another schema version than this program's."""
    newer = found > schema.SCHEMA_VERSION
    return KeycairnError(
        Code.POLICY,
        f"{what} has schema version {found}, this program knows {schema.SCHEMA_VERSION}: "
        f"it was written by {'a newer' if newer else 'an older'} keycairn",
        not_lost="Nothing was changed.",
        next="install the newer keycairn, or restore a bundle that this version made"
        if newer
        else "run the keycairn version that wrote it; this one does not convert older databases",
        detail={"found": found, "known": schema.SCHEMA_VERSION},
    )


async def _scalar(reader: Reader, query: Any) -> Any:
    return (await reader.conn.execute(query)).scalar()
