"""How a store runs work: one queue of writes, consistent readings, creating and checking.

A database adapter supplies how a transaction and a reading are run, and the translation of driver
errors.

Writes wait in one queue. Its head is run as **one** transaction with all writes that came in
meanwhile (at most :data:`GROUP`), each behind its own savepoint: they share the flush to disk, and
each fails or succeeds by itself. A caller gets its answer after the commit. If the group as a
whole fails, each of its writes is run again alone, so that nobody suffers from a neighbour.

A write that was queued is carried through even if its caller is cancelled: an interrupted request
must not leave a half-known spend.

The store remembers the spend counter and the audit head that it left in the database
(:mod:`integrity`). After a commit that failed it may be the one before or the one after: both are
remembered, and no write of that group is tried again. Every write finds the remembered head on the
database's audit chain, or nothing is written (R-03); so does the first reading of every new
connection, which may lead to another server than the last one did.
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import Table, insert, select, text, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from keycairn.errors import Code, KeycairnError
from keycairn.ports import Clock
from keycairn.store import history, scan, schema
from keycairn.store.integrity import AUDIT, SPENT, Digest, Macs, empty
from keycairn.store.migrations import TABLES, Step, steps_from
from keycairn.store.patrol import AT_ONCE, Patrol
from keycairn.store.transaction import Change, Connection, Reader, Transaction, damaged_error
from keycairn.vault.fence.history import begin
from keycairn.vault.ports import DamagedRow
from keycairn.vault.sealing import Sealer

T = TypeVar("T")

# SQLite puts names out of a damaged file into messages, which then are not even text.
_ERRORS = (SQLAlchemyError, OSError, UnicodeDecodeError)

#: Most writes that share one transaction.
GROUP = 64
#: Seconds that a write without hurry waits for others to share its transaction with.
PATIENCE = 0.05
#: Seconds until the patrol tries again after an error that may pass.
_PATROL_PAUSE = 30.0
#: Seconds between pages of a history that is longer than what is checked at open.
_FOLLOW_REST = 0.05

Work = Callable[[Transaction], Coroutine[Any, Any, T]]


class UnknownCommit(Exception):
    """COMMIT was sent and failed: what it should have made durable is there, or is not."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


@dataclass(frozen=True)
class _Queued:
    """A write that waits. ``anew``: it begins a new incarnation, on whatever state it finds."""

    work: Work[Any]
    anew: bool
    done: asyncio.Future[Any]


class SqlCore(ABC):
    """What all SQL stores share below the methods of the port."""

    def __init__(self, *, sealer: Sealer, vault: str, node: int, clock: Clock) -> None:
        self._sealer = sealer
        self._vault = vault
        self._node = node
        self._clock = clock
        self._macs = Macs(sealer)
        self._lock = asyncio.Lock()  # held by the transaction, long scan or snapshot that runs
        self._queue: deque[_Queued] = deque()
        self._flusher: asyncio.Task[None] | None = None
        self._later: asyncio.TimerHandle | None = None
        self._closed = False
        self._damaged: dict[tuple[str, str], DamagedRow] = {}
        #: Spend counters that may stand in the database; empty: none was read or written yet.
        self._counters: set[Digest] = set()
        self._attempted: Digest | None = None
        #: The same for the audit head; empty: this store has not looked yet.
        self._heads: frozenset[Digest] = frozenset()
        self._head: Digest | None = None
        #: The database was found put back: nothing is written to it any more.
        self._rolled_back = False
        #: Number of the incarnation that this store began, 0 for none.
        self._begun = 0
        self._begins = 0
        #: What every write raises while the node may not act.
        self._frozen: KeycairnError | None = None
        #: Another incarnation, or an older state, was found in the database; who wants to know.
        self._lost = self._told = False
        self._watchers: list[Callable[[], None]] = []
        #: Head of the empty history.
        self._genesis = begin(vault, node)
        self._patrol: Patrol | None = None
        self._patrolling: asyncio.Task[None] | None = None
        self._changes: Sequence[Change] = ()
        #: What the patrol found, when it can't be laid to single rows.
        self._broken: KeycairnError | None = None

    # -- what an adapter supplies --------------------------------------------------------------

    @abstractmethod
    async def _in_transaction(self, work: Callable[[Connection], Coroutine[Any, Any, T]]) -> T:
        """Run ``work`` in a write transaction that locks out other writers from its start.

        Raises :class:`UnknownCommit` if COMMIT failed; anything else means that it was not sent.
        """

    @abstractmethod
    async def _in_snapshot(self, work: Callable[[Connection], Coroutine[Any, Any, T]]) -> T:
        """Run ``work``, which only reads, on one consistent state."""

    @abstractmethod
    async def _dispose(self) -> None:
        """Drop all connections."""

    def _is_down(self, error: Exception) -> bool:
        """Whether the next write would only wait for the same answer: the server is away."""
        return False

    @abstractmethod
    def _translate(self, error: Exception) -> KeycairnError:
        """Turn a driver's error into E_UNAVAILABLE or E_STORE_INTEGRITY."""

    # -- running work --------------------------------------------------------------------------

    async def _write(self, work: Work[T], *, anew: bool = False, hurry: bool = True) -> T:
        """Queue a write; returns when it is durable.

        Args:
            anew: see :class:`_Queued`.
            hurry: False: it may wait a moment for a write that has to be made anyway.
        """
        self._require_open()
        if self._frozen is not None:
            raise self._frozen.with_traceback(None)
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._queue.append(_Queued(work, anew, done))
        if hurry:
            self._hurry()
        elif self._later is None:
            self._later = loop.call_later(PATIENCE, self._hurry)
        return await asyncio.shield(done)

    def _hurry(self) -> None:
        if self._later is not None:
            self._later.cancel()
            self._later = None
        if self._queue and (self._flusher is None or self._flusher.done()):
            self._flusher = asyncio.get_running_loop().create_task(self._flush())

    async def _flush(self) -> None:
        while self._queue:
            async with self._lock:
                group = [self._queue.popleft() for _ in range(min(len(self._queue), GROUP))]
                await self._commit(group)

    async def _commit(self, group: Sequence[_Queued]) -> None:
        outcomes: list[Any]
        self._attempted = self._head = None
        self._begins = 0
        try:
            if self._frozen is not None:
                raise self._frozen.with_traceback(None)
            outcomes = await self._in_transaction(partial(self._run_group, group))
        except UnknownCommit as exc:
            if self._begins:
                self._begun = 0  # or not: which one is the newest is not known
            if self._attempted is not None and self._counters:
                self._counters.add(self._attempted)
            if self._head is not None and self._heads:
                self._heads |= {self._head}
            if self._patrol is not None:
                self._patrol.lost_track()
            outcomes = [exc.cause for _ in group]
        # Whatever it is, the callers wait for an answer.
        except Exception as exc:
            if len(group) > 1 and not self._is_down(exc) and exc is not self._frozen:
                for one in group:
                    await self._commit([one])
                return
            outcomes = [exc for _ in group]
        else:
            if self._attempted is not None:
                self._counters = {self._attempted}
            if self._head is not None:
                self._heads = frozenset({self._head})
            if self._patrol is not None:
                self._patrol.committed(self._changes)
            if self._begins:
                self._begun = self._begins
                self._rolled_back = self._lost = self._told = False
        self._tell()
        for one, outcome in zip(group, outcomes, strict=True):
            if one.done.done():
                continue
            if isinstance(outcome, Exception):
                one.done.set_exception(self._explain(outcome))
            else:
                one.done.set_result(outcome)

    async def _run_group(self, group: Sequence[_Queued], conn: Connection) -> list[Any]:
        tx = Transaction(conn, self._macs, self._clock.now_us())
        await tx.load()
        if not await self._contains(tx, tx.head, self._heads):
            self._rolled_back = self._lost = True
        elif tx.count(schema.incarnations) > self._begun > 0:
            self._lost = True
        if len(group) == 1:
            outcomes = [await self._run_bare(tx, group[0])]
        else:
            outcomes = [await self._run_one(tx, one) for one in group]
        await tx.finish()
        self._head = tx.head
        self._changes = tx.changes
        self._begins = tx.begins
        if tx.spent != tx.spent_before:
            self._attempted = tx.spent
        return outcomes

    async def _run_bare(self, tx: Transaction, one: _Queued) -> Any:
        if self._rolled_back and not one.anew:
            raise rolled_back()
        return await one.work(tx)

    async def _run_one(self, tx: Transaction, one: _Queued) -> Any:
        before = tx.mark()
        await tx.conn.execute(text("SAVEPOINT work"))
        try:
            outcome = await self._run_bare(tx, one)
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
        heads = self._heads

        async def read(conn: Connection) -> T:
            reader = Reader(conn, self._macs)
            # A node that was fenced for it still answers what it has, whatever that is by now.
            if conn.fresh and heads and not (self._rolled_back and self._frozen):
                head = (await reader.digests())[AUDIT]
                if not await self._contains(reader, head, heads):
                    self._rolled_back = self._lost = True
                    raise rolled_back()
            return await work(reader)

        try:
            return await self._in_snapshot(read)
        except _ERRORS as exc:
            raise self._translate(exc) from exc
        finally:
            self._tell()

    def freeze(self, error: KeycairnError | None) -> None:
        """See the port."""
        self._frozen = error

    def on_rollback(self, callback: Callable[[], None]) -> None:
        """See the port."""
        self._watchers.append(callback)

    def _tell(self) -> None:
        if self._lost and not self._told:
            self._told = True
            for callback in self._watchers:
                callback()

    @staticmethod
    async def _contains(reader: Reader, head: Digest, known: frozenset[Digest]) -> bool:
        """Whether the chain that ends in ``head`` holds one of the ``known`` heads."""
        if not known or head in known:
            return True
        for old in known:
            if old.count < head.count and await scan.leads_to(reader, old, head):
                return True
        return False

    def _require_open(self) -> None:
        if self._broken is not None:
            raise self._broken
        if self._closed:
            raise KeycairnError(
                Code.UNAVAILABLE,
                "the store is closed: the node is stopping",
                not_lost="Nothing of this operation was stored.",
            )

    async def close(self) -> None:
        """Carry out the writes that wait, then drop all connections. Idempotent."""
        self._closed = True
        if self._patrolling is not None:
            self._patrolling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._patrolling
        self._hurry()
        if self._flusher is not None:
            await self._flusher
        async with self._lock:
            await self._dispose()

    # -- creating and opening ------------------------------------------------------------------

    async def _initialise(self) -> None:
        """Make tables and empty digests; tables that exist stay."""

        async def work(conn: Connection) -> None:
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

        await self._change_tables(schema.metadata.create_all)
        await self._in_transaction(work)

    @abstractmethod
    async def _change_tables(self, work: Callable[[Any], None]) -> None:
        """Run ``work``, which may be repeated, on a synchronous connection. The writers' lock,
        for which there may be no row yet, is not taken."""

    async def _schema_version(self) -> bytes | None:
        query = select(schema.meta.c.value).where(schema.meta.c.name == "schema")
        return await self._read(lambda r: _scalar(r, query))

    async def _check_schema(self) -> None:
        """Accept this version's database, and make it one of this version if it is older."""
        raw = await self._schema_version()
        found = int(raw) if raw is not None and raw.isdigit() else 0
        if found > schema.SCHEMA_VERSION:
            raise other_version("the database", found)
        if not found:
            raise KeycairnError(
                Code.STORE_INTEGRITY,
                "the database holds no complete store",
                not_lost="Nothing was changed.",
                next="keycairn node restore BUNDLE --into DIR --identity FILE",
            )
        await self._check_objects(TABLES.get(found, frozenset(schema.metadata.tables)))
        if found < schema.SCHEMA_VERSION:
            await self._keep(found)
        for step in steps_from(found):
            await self._migrate(step)

    @abstractmethod
    async def _check_objects(self, tables: Collection[str]) -> None:
        """Refuse a database that lacks one of ``tables``, or has what could run by itself."""

    @abstractmethod
    async def _keep(self, found: int) -> None:
        """Keep a copy of the database, which has the older version ``found``."""

    async def _migrate(self, step: Step) -> None:
        async def work(conn: Connection) -> None:
            query = select(schema.meta.c.value).where(schema.meta.c.name == "schema")
            if (await conn.execute(query)).scalar() != str(step.version - 1).encode():
                return  # Another process was faster.
            await step.rows(conn, self._macs)
            await conn.execute(
                update(schema.meta)
                .where(schema.meta.c.name == "schema")
                .values(value=str(step.version).encode())
            )
            if step.version == schema.SCHEMA_VERSION:
                tx = Transaction(conn, self._macs, self._clock.now_us())
                await tx.load()
                tx.audit("store.migrated", version=step.version)
                await tx.finish()

        await self._change_tables(step.change_tables)
        await self._in_transaction(work)

    async def _verify(self, *, thorough: bool = False) -> None:
        """Check rows against the digests (integrity.py); remember the damaged ones.

        Args:
            thorough: all of them now; otherwise large tables are left to the patrol.
        """

        async def look(reader: Reader) -> dict[str, Digest]:
            digests = await reader.digests()
            await scan.verify_audit_head(reader, digests[AUDIT])
            return digests

        digests = await self._read(look)
        at_most = None if thorough else AT_ONCE
        await self._read(lambda r: history.check(r, self._genesis, at_most=at_most))
        self._heads = frozenset({digests[AUDIT]})
        rows, later = 0, []
        for table in sorted(schema.PROTECTED.values(), key=lambda t: digests[t.name].count):
            rows += digests[table.name].count
            if thorough or rows <= AT_ONCE:
                await self.decide(table)
            else:
                later.append(table)
        self._refuse_missing(schema.history.name)
        if later:
            self._patrol = Patrol(self, self._macs, later)
            self._patrolling = asyncio.create_task(self._walk(self._patrol))

    async def _walk(self, patrol: Patrol) -> None:
        while not self._closed:
            try:
                await patrol.run()
                await self._follow_history()
                return
            except KeycairnError as exc:
                if exc.code is Code.STORE_INTEGRITY:
                    self._broken = exc
                    return
                await asyncio.sleep(_PATROL_PAUSE)  # The database is away: it goes on later.

    async def _follow_history(self) -> None:
        """Check the whole chain of a history whose older links were left out at open."""
        head = self._genesis
        while not self._closed:
            page = await self._read(partial(history.page, after=head.length))
            if not page:
                return
            head = await asyncio.to_thread(history.follow, head, page)
            await asyncio.sleep(_FOLLOW_REST)

    async def read_alone(self, work: Callable[[Reader], Coroutine[Any, Any, T]]) -> T:
        """Run a reading while this process writes nothing."""
        async with self._lock:
            return await self._read(work)

    async def decide(self, table: Table) -> None:
        """Check a table on one consistent state; remember damaged rows, or make its index anew.

        Raises:
            KeycairnError: E_STORE_INTEGRITY when the damage can't be laid to single rows.
        """

        async def work(reader: Reader) -> list[DamagedRow] | None:
            digests = await reader.digests()
            return await scan.verify_table(reader, table, digests[table.name])

        found = await self.read_alone(work)
        if found is None:
            await self._write(partial(scan.rebuild_index, table=table))
        for row in found or ():
            self._damaged[(row.table, row.row)] = row

    @property
    def unchecked(self) -> Sequence[str]:
        """Tables that the patrol has not come through yet; see :mod:`keycairn.store.patrol`."""
        return [] if self._patrol is None else [table.name for table in self._patrol.left]

    def _refuse_missing(self, table: str) -> None:
        """For answers that must be complete: raise if a row of ``table`` is damaged."""
        for row in self._damaged.values():
            if row.table == table:
                raise damaged_error(row.table, row.row, row.why)


def rolled_back() -> KeycairnError:
    """The error for a database that lacks what this process wrote."""
    return KeycairnError(
        Code.STORE_ROLLBACK,
        "the database is not as this process left it: it was put back to an older state, "
        "or something else wrote it",
        not_lost="Key shares are unchanged; nothing was signed by this request. The node "
        "signs nothing more until it is started again.",
        next="find out who touched the database, then restart the node",
    )


def other_version(what: str, found: int) -> KeycairnError:
    """The error for a database of a newer schema version than this program's."""
    return KeycairnError(
        Code.POLICY,
        f"{what} has schema version {found}, this program knows {schema.SCHEMA_VERSION}: "
        "it was written by a newer keycairn",
        not_lost="Nothing was changed.",
        next="install the newer keycairn, or restore a bundle that this version made",
        detail={"found": found, "known": schema.SCHEMA_VERSION},
    )


async def _scalar(reader: Reader, query: Any) -> Any:
    return (await reader.conn.execute(query)).scalar()
