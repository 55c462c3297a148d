"""The Store port in dialect-independent SQL: everything but keys and incarnations.

A database adapter subclasses :class:`SqlStore`; :mod:`keycairn.store.core` says what it supplies.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import delete, insert, select

from keycairn.errors import Code, KeycairnError
from keycairn.store import codec, history, scan, schema
from keycairn.store.incarnations import SqlIncarnations
from keycairn.store.integrity import Digest
from keycairn.store.transaction import Checked, Reader, Transaction, chunks, damaged_error, mappings
from keycairn.vault.ports import (
    AnsweredBefore,
    BanRow,
    BundleRow,
    DamagedRow,
    DocumentRow,
    ErsKeyRow,
    RequestRow,
    SpendRow,
)


def _receipts(found: Sequence[Checked]) -> Sequence[BundleRow]:
    rows = [codec.bundle_from_row(c.values) for c in found if not c.why]
    return tuple(sorted(rows, key=lambda r: (r.created_us, r.sha256)))


class SqlStore(SqlIncarnations):
    """Implements :class:`keycairn.vault.ports.Store` over SQLAlchemy Core."""

    #: Rows of ``presignatures`` may exist: this process wrote some.
    _holds_presignatures = False
    #: All bundle receipts, and the digest of their table that they were read under.
    _receipts: tuple[Digest | None, Sequence[BundleRow]] = (None, ())

    # -- spends ---------------------------------------------------------------------------------

    async def spend_all(
        self,
        rows: Sequence[SpendRow],
        paths: Sequence[str] = (),
        unless: tuple[str, str] | None = None,
    ) -> None:
        if not rows:
            return
        values = [codec.spend_to_row(row) for row in rows]
        first = rows[0]
        if any((r.incarnation, r.key_id) != (first.incarnation, first.key_id) for r in rows):
            raise KeycairnError(Code.MALFORMED, "one transaction spends for one key and process")
        ids = [row.presignature_id for row in rows]
        table = schema.presignatures

        async def work(tx: Transaction) -> None:
            self._require_newest(tx, first.incarnation)
            if unless is not None:
                place = {"application": unless[0], "request_id": unless[1]}
                if await tx.index(schema.requests, [schema.row_key(schema.requests, place)]):
                    raise AnsweredBefore
            if self._holds_presignatures:
                await tx.conn.execute(delete(table).where(table.c.presignature_id.in_(ids)))
            # Ids, base nonces and their index entries are unique: whoever was there first, even
            # if somebody removed the row since, makes this fail.
            await tx.insert(schema.spends, values)
            tx.count_spends(len(rows))
            await self._note(tx, first.key_id, paths, first.at_us)
            tx.audit(
                "presignature.spend",
                key=first.key_id,
                presignatures=ids,
                digests=[row.digest for row in rows],
            )

        try:
            await self._write(work)
        except AnsweredBefore:
            raise
        except KeycairnError as exc:
            raise _spent() if exc.code is Code.CONFLICT else exc from exc

    async def spends(self, key_id: str | None = None) -> Sequence[SpendRow]:
        where = [] if key_id is None else [schema.spends.c.key_id == key_id]
        order = [schema.spends.c.at_us, schema.spends.c.presignature_id]
        found = await self._read(lambda r: r.find(schema.spends, *where, order=order))
        self._refuse_missing("spends")
        return [codec.spend_from_row(c.require()) for c in found]

    # -- presignatures of this incarnation ------------------------------------------------------

    async def put_presignatures(self, incarnation: bytes, sealed: Mapping[bytes, bytes]) -> None:
        rows = [{"presignature_id": i, "sealed": data} for i, data in sealed.items()]
        if not rows:
            return

        async def work(tx: Transaction) -> None:
            self._require_newest(tx, incarnation)
            await tx.conn.execute(insert(schema.presignatures), rows)
            tx.audit("presignature.put", presignatures=list(sealed))

        self._holds_presignatures = True
        await self._write(work)

    async def presignatures(self, ids: Sequence[bytes]) -> Mapping[bytes, bytes]:
        table = schema.presignatures

        async def work(reader: Reader) -> dict[bytes, bytes]:
            found: dict[bytes, bytes] = {}
            for part in chunks(ids):
                query = select(table).where(table.c.presignature_id.in_(part))
                rows = await mappings(reader.conn, query)
                found.update({row["presignature_id"]: row["sealed"] for row in rows})
            return found

        return await self._read(work)

    async def drop_presignatures(self, ids: Sequence[bytes]) -> None:
        table = schema.presignatures
        if not ids:
            return

        async def work(tx: Transaction) -> None:
            for part in chunks(ids):
                await tx.conn.execute(delete(table).where(table.c.presignature_id.in_(part)))
            tx.audit("presignature.drop", presignatures=list(ids))

        await self._write(work)

    # -- the path ledger -------------------------------------------------------------------------

    async def note_paths(self, key_id: str, paths: Sequence[str], at_us: int) -> None:
        async def work(tx: Transaction) -> None:
            if await self._note(tx, key_id, paths, at_us):
                tx.audit("paths.note", key=key_id, paths=list(paths))

        await self._write(work)

    @staticmethod
    async def _note(tx: Transaction, key_id: str, paths: Sequence[str], at_us: int) -> bool:
        names = {schema.path_key(key_id, path): path for path in paths}
        if not names:
            return False
        # By the index: a row that somebody removed must not make a signature fail.
        known = await tx.index(schema.paths, list(names))
        new = [path for name, path in names.items() if name not in known]
        await tx.insert(
            schema.paths, [{"key_id": key_id, "path": path, "first_us": at_us} for path in new]
        )
        return bool(new)

    async def paths(self, key_id: str) -> Sequence[str]:
        table = schema.paths
        for damaged in self._damaged.values():
            mine = damaged.row.startswith(f"{key_id} ")
            if damaged.table == table.name and mine and damaged.why != "added":
                raise damaged_error(damaged.table, damaged.row, damaged.why)
        order = [table.c.first_us, table.c.path]
        found = await self._read(lambda r: r.find(table, table.c.key_id == key_id, order=order))
        return [c.require()["path"] for c in found if c.why != "added"]

    # -- idempotent results and bans -----------------------------------------------------------

    async def request(self, application: str, request_id: str) -> RequestRow | None:
        found = await self._read(
            lambda r: r.get(schema.requests, application=application, request_id=request_id)
        )
        return None if found is None else codec.request_from_row(found.require())

    async def put_request(self, row: RequestRow, *, hurry: bool = True) -> None:
        values = codec.request_to_row(row)

        async def work(tx: Transaction) -> None:
            await tx.insert(schema.requests, [values])
            tx.audit(
                "request.done",
                application=row.application,
                request=row.request_id,
                request_hash=row.request_hash,
            )

        await self._write(work, hurry=hurry)

    async def put_ban(self, row: BanRow) -> None:
        kind = "ban" if row.lifted_us is None else "unban"

        async def work(tx: Transaction) -> None:
            old = await tx.replace(schema.bans, codec.ban_to_row(row))
            if old is None or (old["peer"], old["lifted_us"] is None) != (row.peer, kind == "ban"):
                await history.add(tx, self._genesis, kind, {"ban": row.ban_id, "peer": row.peer})
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
            old = await tx.replace(schema.ers_keys, values)
            before = "" if old is None else codec.ers_key_from_row(old).state
            if row.state not in ("challenged", before):
                detail = {"spki_sha256": row.spki_sha256, "state": row.state}
                await history.add(tx, self._genesis, "ers_key", detail)
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
        # Each receipt names every key, and every signature asks for them. What was read once and
        # found sound stays what this node wrote for as long as the table has the same digest.
        known, rows = self._receipts

        async def work(reader: Reader) -> tuple[Digest, list[Checked]]:
            digest = (await reader.digests())[schema.bundles.name]
            return digest, [] if digest == known else await reader.find(schema.bundles)

        digest, found = await self._read(work)
        if digest == known:
            return list(rows)
        rows = await asyncio.to_thread(_receipts, found)
        if len(rows) == digest.count:
            self._receipts = digest, rows
        return list(rows)

    async def delete_bundle(self, sha256: str) -> None:
        async def work(tx: Transaction) -> None:
            if await tx.remove(schema.bundles, sha256=sha256):
                tx.audit("bundle.delete", sha256=sha256)

        await self._write(work)

    # -- whole store ---------------------------------------------------------------------------

    async def damaged(self) -> Sequence[DamagedRow]:
        return sorted(self._damaged.values(), key=lambda d: (d.table, d.row))

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

    @abstractmethod
    async def snapshot(self, target: Path) -> None: ...

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
