"""The part of the Store port that deals with keys: batches, certificates, shares."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import false

from keycairn.curves import group
from keycairn.encoding import SecretBytes, SecretScalar
from keycairn.errors import Code, KeycairnError
from keycairn.protocols.record import KeyShare
from keycairn.store import codec, history, schema
from keycairn.store.core import SqlCore
from keycairn.store.transaction import Checked, Reader, Transaction, damaged_error
from keycairn.vault.ports import Batch, KeyRow, NewKey
from keycairn.vault.sealing import Place


def _place(column: str, key_id: str, version: int, generation: int) -> Place:
    return Place("keys", column, key_id, version, generation)


class SqlKeys(SqlCore):
    """Keys and their batches."""

    async def put_batch(self, batch: Batch, keys: Sequence[NewKey]) -> None:
        # Sealing and checking a large batch takes long enough to be felt on the event loop.
        rows = await asyncio.to_thread(self._key_rows, batch, keys)
        batch = replace(batch, active=set(batch.ready) >= set(batch.holders))

        async def work(tx: Transaction) -> None:
            await tx.insert(schema.batches, [codec.batch_to_row(batch)])
            await tx.insert(schema.keys, rows)
            if tx.count(schema.behind):
                await tx.remove(schema.behind, batch_id=batch.batch_id)
            # READY is a promise: a history without it is not that of the node that gave it.
            kind = history.KEYS if batch.active else history.READY
            await history.add(tx, self._genesis, kind, history.keys_detail(batch))
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
            if new.active and not old.active:
                await history.add(tx, self._genesis, history.KEYS, history.keys_detail(new))
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
        found = await self._read(lambda r: r.find(table, table.c.active == false(), order=order))
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

        opened = await asyncio.to_thread(self._open_shares, wanted, await self._read(work))
        return [opened[k] for k in key_ids]

    def _open_shares(
        self, wanted: Sequence[str], rows: Mapping[str, Checked]
    ) -> dict[str, KeyShare]:
        opened: dict[str, KeyShare] = {}
        for key_id in wanted:
            if key_id not in rows:
                raise KeycairnError(Code.NOT_FOUND, "there is no such key")
            opened[key_id] = self._open_share(rows[key_id].require())
        return opened

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
