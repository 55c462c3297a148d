"""The Store port in dialect-independent SQL.

A database adapter subclasses :class:`SqlStore` and supplies how a transaction and a consistent
reading are run, the translation of driver errors, and a snapshot.

Writes wait in one queue. Its head is run as **one** transaction with all writes that came in
meanwhile (at most :data:`GROUP`), each behind its own savepoint: they share the flush to disk, and
each fails or succeeds by itself. A caller gets its answer after the commit. If the group as a
whole fails, each of its writes is run again alone, so that nobody suffers from a neighbour.

A write that was queued is carried through even if its caller is cancelled: an interrupted request
must not leave a half-known spend.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import delete, insert, select, text
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from keycairn.curves import group
from keycairn.encoding import SecretBytes, SecretScalar
from keycairn.errors import Code, KeycairnError
from keycairn.ports import Clock
from keycairn.protocols.record import KeyShare
from keycairn.store import codec, scan, schema
from keycairn.store.integrity import Macs, empty
from keycairn.store.transaction import Checked, Connection, Reader, Transaction, damaged_error
from keycairn.vault.ports import (
    BanRow,
    Batch,
    BundleRow,
    DamagedRow,
    DocumentRow,
    ErsKeyRow,
    KeyRow,
    NewKey,
    RequestRow,
    SpendRow,
)
from keycairn.vault.sealing import Place, Sealer

T = TypeVar("T")

# SQLite puts names out of a damaged file into messages, which then are not even text.
_ERRORS = (SQLAlchemyError, OSError, UnicodeDecodeError)

#: Most writes that share one transaction.
GROUP = 64

Work = Callable[[Transaction], Coroutine[Any, Any, T]]


def _place(column: str, key_id: str, version: int, generation: int) -> Place:
    return Place("keys", column, key_id, version, generation)


class SqlStore:
    """Implements :class:`keycairn.vault.ports.Store` over SQLAlchemy Core."""

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

    # -- what an adapter supplies --------------------------------------------------------------

    async def _in_transaction(self, work: Callable[[Connection], Coroutine[Any, Any, T]]) -> T:
        """Run ``work`` in a write transaction that locks out other writers from its start."""
        raise NotImplementedError

    async def _in_snapshot(self, work: Callable[[Connection], Coroutine[Any, Any, T]]) -> T:
        """Run ``work``, which only reads, on one consistent state."""
        raise NotImplementedError

    async def _dispose(self) -> None:
        """Drop all connections."""
        raise NotImplementedError

    def _translate(self, error: Exception) -> KeycairnError:
        """Turn a driver's error into E_UNAVAILABLE or E_STORE_INTEGRITY."""
        raise NotImplementedError

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
        try:
            outcomes = await self._in_transaction(partial(self._run_group, works))
        # Whatever it is, the callers wait for an answer.
        except Exception as exc:
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
            blank = [empty(name) for name in (*schema.PROTECTED, "audit")]
            await conn.execute(
                insert(schema.digests),
                [
                    {"name": d.name, "count": d.count, "total": d.total, "mac": mac}
                    for d, mac in ((d, self._macs.digest(d)) for d in blank)
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
        if found is not None and found.isdigit() and int(found) > schema.SCHEMA_VERSION:
            raise KeycairnError(
                Code.POLICY,
                f"the database has schema version {int(found)}, this program knows up to "
                f"{schema.SCHEMA_VERSION}: it was written by a newer keycairn",
                not_lost="Nothing was changed.",
                next="install the newer keycairn, or restore a bundle that this version made",
            )
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
            await scan.verify_audit_head(reader, digests["audit"])
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

    # -- incarnations and spends ---------------------------------------------------------------

    async def begin_incarnation(self, incarnation: bytes, at_us: int) -> None:
        async def work(tx: Transaction) -> None:
            row = {
                "seq": tx.count(schema.incarnations) + 1,
                "incarnation": incarnation,
                "at_us": at_us,
            }
            await tx.insert(schema.incarnations, [row])
            tx.audit("incarnation.begin", incarnation=incarnation)

        await self._write(work)

    async def spend(self, row: SpendRow) -> None:
        async def work(tx: Transaction) -> None:
            seq = tx.count(schema.incarnations)
            newest = await tx.get(schema.incarnations, seq=seq) if seq else None
            if newest is None or newest.require()["incarnation"] != row.incarnation:
                raise KeycairnError(
                    Code.QUARANTINED,
                    "this process is not the newest incarnation of the node: it may not sign",
                    not_lost="Key shares are unchanged; the presignature was not used here.",
                    next="stop this process; the node that started last goes on",
                )
            values = codec.spend_to_row(row)
            if await tx.get(schema.spends, presignature_id=row.presignature_id):
                raise _spent()
            same_r = schema.spends.c.base_r == values["base_r"]
            if values["base_r"] and await tx.find(schema.spends, same_r):
                raise _spent()
            await tx.insert(schema.spends, [values])
            tx.audit(
                "presignature.spend",
                presignature=row.presignature_id,
                key=row.key_id,
                digest=row.digest,
            )

        try:
            await self._write(work)
        except KeycairnError as exc:
            raise _spent() if exc.code is Code.CONFLICT else exc from exc

    async def spends(self, key_id: str | None = None) -> Sequence[SpendRow]:
        where = [] if key_id is None else [schema.spends.c.key_id == key_id]
        order = [schema.spends.c.at_us, schema.spends.c.presignature_id]
        found = await self._read(lambda r: r.find(schema.spends, *where, order=order))
        self._refuse_missing("spends")
        return [codec.spend_from_row(c.require()) for c in found]

    # -- keys ----------------------------------------------------------------------------------

    async def put_batch(self, batch: Batch, keys: Sequence[NewKey]) -> None:
        rows = self._key_rows(batch, keys)
        batch = replace(batch, active=set(batch.ready) >= set(batch.holders))

        async def work(tx: Transaction) -> None:
            await tx.insert(schema.batches, [codec.batch_to_row(batch)])
            await tx.insert(schema.keys, rows)
            tx.audit(
                "keys.active" if batch.active else "keys.pending",
                batch=batch.batch_id,
                application=batch.application,
                keys=list(batch.key_ids),
                records=list(batch.record_hashes),
            )

        await self._write(work)

    def _key_rows(self, batch: Batch, keys: Sequence[NewKey]) -> list[dict[str, Any]]:
        records = [k.record for k in keys]
        if (
            tuple(r.key_id for r in records) != batch.key_ids
            or tuple(r.hash for r in records) != batch.record_hashes
            or any(r.generation != batch.generation or r.vault != self._vault for r in records)
            or not set(batch.ready) <= set(batch.holders)
        ):
            raise KeycairnError(Code.MALFORMED, "the keys are not those that the batch names")
        rows = []
        for key in keys:
            record = key.record
            share = record.group.encode_scalar(key.share.reveal())
            self._check_share(KeyShare(record, self._node, key.share, key.chain_code))
            places = {
                column: _place(column, record.key_id, 1, record.generation)
                for column in ("share", "chain_code")
            }
            rows.append(
                {
                    "key_id": record.key_id,
                    "application": batch.application,
                    "batch_id": batch.batch_id,
                    "generation": record.generation,
                    "record": codec.record_to_bytes(record),
                    "record_hash": record.hash,
                    "share": self._sealer.seal(SecretBytes(share), places["share"]),
                    "chain_code": None
                    if key.chain_code is None
                    else self._sealer.seal(key.chain_code, places["chain_code"]),
                    "created_us": batch.created_us,
                }
            )
        return rows

    def _check_share(self, key: KeyShare) -> None:
        """x_i * G = X_i, or E_STORE_INTEGRITY."""
        record = key.record
        try:
            good = record.group.base_mul(key.share.reveal()) == record.commitment_of(key.index)
        except KeycairnError:
            good = False
        if not good:
            raise KeycairnError(
                Code.STORE_INTEGRITY,
                f"the share of key {record.key_id} does not fit its public commitment",
                not_lost="The other holders still have their shares.",
                next="keycairn node restore BUNDLE --into DIR --identity FILE",
                detail={"key": record.key_id},
            )

    async def add_ready(self, batch_id: bytes, ready: Mapping[int, bytes]) -> Batch:
        async def work(tx: Transaction) -> Batch:
            found = await tx.get(schema.batches, batch_id=batch_id)
            if found is None:
                raise KeycairnError(Code.NOT_FOUND, "there is no such batch")
            old = codec.batch_from_row(found.require())
            strangers = sorted(set(ready) - set(old.holders))
            if strangers:
                raise KeycairnError(Code.BAD_INDEX, f"players {strangers} are not holders")
            merged = {**ready, **old.ready}
            if merged.keys() == old.ready.keys():
                return old
            new = replace(old, ready=merged, active=set(merged) == set(old.holders))
            await tx.replace(schema.batches, codec.batch_to_row(new))
            tx.audit(
                "keys.active" if new.active else "keys.ready",
                batch=batch_id,
                players=sorted(merged),
            )
            return new

        return await self._write(work)

    async def batch(self, batch_id: bytes) -> Batch | None:
        found = await self._read(lambda r: r.get(schema.batches, batch_id=batch_id))
        return None if found is None else codec.batch_from_row(found.require())

    async def batch_by_request(self, application: str, request_id: str) -> Batch | None:
        table = schema.batches
        where = [table.c.application == application, table.c.request_id == request_id]
        found = await self._read(lambda r: r.find(table, *where))
        return codec.batch_from_row(found[0].require()) if found else None

    async def pending_batches(self) -> Sequence[Batch]:
        table = schema.batches
        order = [table.c.created_us, table.c.batch_id]
        found = await self._read(lambda r: r.find(table, table.c.active.is_(False), order=order))
        return [codec.batch_from_row(c.values) for c in found if not c.why]

    async def key(self, key_id: str) -> KeyRow | None:
        async def work(reader: Reader) -> KeyRow | None:
            found = await reader.get(schema.keys, key_id=key_id)
            if found is None:
                return None
            row = found.require()
            batch = await reader.get(schema.batches, batch_id=row["batch_id"])
            if batch is None:
                raise damaged_error("batches", row["batch_id"].hex(), "missing")
            return codec.key_from_row(row, active=batch.require()["active"])

        return await self._read(work)

    async def keys(
        self, *, application: str | None = None, after: str = "", limit: int = 1000
    ) -> Sequence[KeyRow]:
        table = schema.keys
        mine = [] if application is None else [table.c.application == application]

        async def work(reader: Reader) -> list[KeyRow]:
            out: list[KeyRow] = []
            behind = after
            while len(out) < limit:
                want = limit - len(out)
                page = await reader.find(
                    table, *mine, table.c.key_id > behind, order=[table.c.key_id], limit=want
                )
                ids = sorted({c.values["batch_id"] for c in page if not c.why})
                active = {
                    c.values["batch_id"]: c.values["active"]
                    for c in await reader.find_in(schema.batches, schema.batches.c.batch_id, ids)
                    if not c.why
                }
                out += [
                    codec.key_from_row(c.values, active=active[c.values["batch_id"]])
                    for c in page
                    if not c.why and c.values["batch_id"] in active
                ]
                if len(page) < want:
                    break
                behind = page[-1].values["key_id"]
            return out

        return await self._read(work)

    async def key_share(self, key_id: str) -> KeyShare:
        return (await self.key_shares([key_id]))[0]

    async def key_shares(self, key_ids: Sequence[str]) -> Sequence[KeyShare]:
        wanted = list(dict.fromkeys(key_ids))

        async def work(reader: Reader) -> dict[str, Checked]:
            found = await reader.find_in(schema.keys, schema.keys.c.key_id, wanted)
            rows = {c.key: c for c in found}
            lost = [k for k in wanted if k not in rows]
            for key in await reader.index(schema.keys, lost):
                rows[key] = Checked("keys", key, {}, "missing")
            return rows

        rows = await self._read(work)
        opened: dict[str, KeyShare] = {}
        for key_id in wanted:
            if key_id not in rows:
                raise KeycairnError(Code.NOT_FOUND, "there is no such key")
            opened[key_id] = self._open_share(rows[key_id].require())
        return [opened[k] for k in key_ids]

    def _open_share(self, row: Mapping[str, Any]) -> KeyShare:
        record = codec.record_from_bytes(row["record"])
        key_id, version, generation = row["key_id"], row["version"], row["generation"]
        share = self._sealer.open(row["share"], _place("share", key_id, version, generation))
        chain_code = None
        if row["chain_code"] is not None:
            place = _place("chain_code", key_id, version, generation)
            chain_code = self._sealer.open(row["chain_code"], place)
        value = SecretScalar(group(record.curve).decode_scalar(share.reveal()))
        key = KeyShare(record, self._node, value, chain_code)
        if record.key_id != key_id or record.hash != row["record_hash"]:
            raise damaged_error("keys", key_id, "edited")
        self._check_share(key)
        return key

    # -- idempotent results and bans -----------------------------------------------------------

    async def request(self, application: str, request_id: str) -> RequestRow | None:
        found = await self._read(
            lambda r: r.get(schema.requests, application=application, request_id=request_id)
        )
        return None if found is None else codec.request_from_row(found.require())

    async def put_request(self, row: RequestRow) -> None:
        values = codec.request_to_row(row)

        async def work(tx: Transaction) -> None:
            await tx.insert(schema.requests, [values])
            tx.audit(
                "request.done",
                application=row.application,
                request=row.request_id,
                request_hash=row.request_hash,
            )

        await self._write(work)

    async def put_ban(self, row: BanRow) -> None:
        async def work(tx: Transaction) -> None:
            await tx.replace(schema.bans, codec.ban_to_row(row))
            event = "ban.put" if row.lifted_us is None else "ban.lift"
            tx.audit(event, ban=row.ban_id, peer=row.peer, reason=row.reason)

        await self._write(work)

    async def bans(self) -> Sequence[BanRow]:
        order = [schema.bans.c.at_us, schema.bans.c.ban_id]
        found = await self._read(lambda r: r.find(schema.bans, order=order))
        self._refuse_missing("bans")
        return [codec.ban_from_row(c.require()) for c in found]

    # -- ERS keys, documents, bundles ----------------------------------------------------------

    async def put_ers_key(self, row: ErsKeyRow) -> None:
        values = codec.ers_key_to_row(row)

        async def work(tx: Transaction) -> None:
            await tx.replace(schema.ers_keys, values)
            tx.audit("ers_key.put", spki_sha256=row.spki_sha256, state=row.state)

        await self._write(work)

    async def ers_key(self, spki_sha256: str) -> ErsKeyRow | None:
        found = await self._read(lambda r: r.get(schema.ers_keys, spki_sha256=spki_sha256))
        return None if found is None else codec.ers_key_from_row(found.require())

    async def ers_keys(self) -> Sequence[ErsKeyRow]:
        order = [schema.ers_keys.c.spki_sha256]
        found = await self._read(lambda r: r.find(schema.ers_keys, order=order))
        return [codec.ers_key_from_row(c.values) for c in found if not c.why]

    async def put_document(self, row: DocumentRow) -> None:
        values = codec.document_to_row(row)
        links = schema.document_keys

        async def work(tx: Transaction) -> None:
            await tx.replace(schema.documents, values)
            await tx.conn.execute(delete(links).where(links.c.sha256 == row.sha256))
            if row.keys:
                await tx.conn.execute(
                    insert(links), [{"key_id": k, "sha256": row.sha256} for k in row.keys]
                )
            tx.audit(
                "document.put", sha256=row.sha256, complete=row.complete, keys=sorted(row.keys)
            )

        await self._write(work)

    async def documents(self, key_id: str | None = None) -> Sequence[DocumentRow]:
        links = schema.document_keys

        async def work(reader: Reader) -> list[Checked]:
            if key_id is None:
                return await reader.find(schema.documents, order=[schema.documents.c.sha256])
            query = select(links.c.sha256).where(links.c.key_id == key_id)
            names = sorted((await reader.conn.execute(query)).scalars())
            return await reader.find_in(schema.documents, schema.documents.c.sha256, names)

        rows = [codec.document_from_row(c.values) for c in await self._read(work) if not c.why]
        if key_id is not None:
            # The look-up table is not protected: what it finds must say the same itself.
            rows = [r for r in rows if key_id in r.keys]
        return sorted(rows, key=lambda r: (r.created_us, r.sha256))

    async def delete_document(self, sha256: str) -> None:
        links = schema.document_keys

        async def work(tx: Transaction) -> None:
            if await tx.remove(schema.documents, sha256=sha256):
                await tx.conn.execute(delete(links).where(links.c.sha256 == sha256))
                tx.audit("document.delete", sha256=sha256)

        await self._write(work)

    async def put_bundle(self, row: BundleRow) -> None:
        values = codec.bundle_to_row(row)

        async def work(tx: Transaction) -> None:
            await tx.replace(schema.bundles, values)
            tx.audit("bundle.put", sha256=row.sha256, level=row.level, keys=len(row.keys))

        await self._write(work)

    async def bundles(self) -> Sequence[BundleRow]:
        found = await self._read(lambda r: r.find(schema.bundles))
        rows = [codec.bundle_from_row(c.values) for c in found if not c.why]
        return sorted(rows, key=lambda r: (r.created_us, r.sha256))

    async def delete_bundle(self, sha256: str) -> None:
        async def work(tx: Transaction) -> None:
            if await tx.remove(schema.bundles, sha256=sha256):
                tx.audit("bundle.delete", sha256=sha256)

        await self._write(work)

    # -- whole store ---------------------------------------------------------------------------

    async def damaged(self) -> Sequence[DamagedRow]:
        return sorted(self._damaged.values(), key=lambda d: (d.table, d.row))

    def _refuse_missing(self, table: str) -> None:
        """For answers that must be complete: raise if a row of ``table`` is damaged."""
        for row in self._damaged.values():
            if row.table == table:
                raise damaged_error(row.table, row.row, row.why)

    async def audit(self, event: str, detail: Mapping[str, Any]) -> None:
        async def work(tx: Transaction) -> None:
            tx.audit(event, **detail)

        await self._write(work)

    async def check_audit(self) -> int:
        async def work(reader: Reader) -> int:
            return await scan.check_audit(reader, (await reader.digests())["audit"])

        # Long scans keep writers waiting here and not in the database, where waits time out.
        async with self._lock:
            return await self._read(work)

    async def snapshot(self, target: Path) -> None:
        raise NotImplementedError

    async def state_digest(self) -> bytes:
        async with self._lock:
            return await self._read(scan.state_digest)


def _spent() -> KeycairnError:
    return KeycairnError(
        Code.PRESIG_SPENT,
        "this presignature, or one with the same base nonce, was used before",
        not_lost="The key is unchanged; a new presignature is needed.",
        next="send the request again with a new presignature",
    )


async def _scalar(reader: Reader, query: Any) -> Any:
    return (await reader.conn.execute(query)).scalar()
