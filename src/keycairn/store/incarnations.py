"""The part of the Store port that deals with the node's past: incarnations, rejoin, history,
witnesses of peers, what it is behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import delete, select

from keycairn.errors import Code, KeycairnError
from keycairn.store import codec, history, schema
from keycairn.store.core import rolled_back
from keycairn.store.integrity import spent
from keycairn.store.keys import SqlKeys
from keycairn.store.transaction import Reader, Transaction, mappings
from keycairn.vault.fence.history import Head
from keycairn.vault.ports import BanRow, BehindRow, ErsKeyRow, HistoryRow

#: Kinds of events that only the store writes.
_OWN = {history.START, history.REJOIN, history.READY, history.KEYS, "ban", "unban", "ers_key"}
_KIND = 64


class SqlIncarnations(SqlKeys):
    """Who this process is, and what its node's past was."""

    # -- incarnations ----------------------------------------------------------------------------

    async def begin_incarnation(self, incarnation: bytes, at_us: int) -> Head:
        async def work(tx: Transaction) -> Head:
            seq = await self._begin(tx, incarnation, at_us)
            detail = {"incarnation": incarnation}
            head = await history.add(tx, self._genesis, history.START, detail, at_us=at_us)
            tx.audit("incarnation.begin", incarnation=incarnation)
            tx.begins = seq
            return head

        return await self._write(work, anew=True)

    async def _begin(self, tx: Transaction, incarnation: bytes, at_us: int) -> int:
        seq = tx.count(schema.incarnations) + 1
        row = {"seq": seq, "incarnation": incarnation, "at_us": at_us}
        await tx.insert(schema.incarnations, [row])
        await tx.conn.execute(delete(schema.presignatures))
        tx.begin_spends(incarnation)
        return seq

    def _require_newest(self, tx: Transaction, incarnation: bytes) -> None:
        """Refuse unless the database is as this process left it, for the newest incarnation."""
        known = self._counters
        if self._rolled_back or (known and tx.spent_before not in known):
            if tx.count(schema.incarnations) > self._begun > 0:
                raise _superseded()
            self._rolled_back = self._lost = True
            raise rolled_back()
        if tx.spent.total != spent(incarnation).total:
            raise _superseded()
        if not known:
            # A store that began no incarnation itself takes over what it finds.
            self._counters = {tx.spent_before}

    async def rejoin(
        self,
        incarnation: bytes,
        era: int,
        at_us: int,
        *,
        bans: Sequence[BanRow],
        revoked: Sequence[str],
        detail: Mapping[str, Any],
    ) -> Head:
        async def work(tx: Transaction) -> Head:
            seq = await self._begin(tx, incarnation, at_us)
            taken = await self._take_bans(tx, bans)
            dropped = await self._drop_ers_keys(tx, revoked, at_us)
            event = {
                "incarnation": incarnation,
                "bans": taken,
                "revoked": sorted(set(revoked)),
                "dropped": dropped,
                "detail": dict(detail),
            }
            try:
                head = await history.add(
                    tx, self._genesis, history.REJOIN, event, at_us=at_us, era=era
                )
            except ValueError as exc:
                raise KeycairnError(
                    Code.CONFLICT,
                    f"a rejoin begins a later era than the one that the history is in, not {era}",
                    not_lost="Nothing was changed.",
                ) from exc
            await tx.conn.execute(delete(schema.meta).where(_RESTORED))
            tx.audit("incarnation.rejoin", era=era, **event)
            tx.begins = seq
            return head

        return await self._write(work, anew=True)

    @staticmethod
    async def _take_bans(tx: Transaction, bans: Sequence[BanRow]) -> list[str]:
        names = {schema.row_key(schema.bans, {"ban_id": b.ban_id}): b for b in bans}
        known = await tx.index(schema.bans, list(names))
        new = [ban for name, ban in sorted(names.items()) if name not in known]
        await tx.insert(schema.bans, [codec.ban_to_row(ban) for ban in new])
        return [ban.ban_id for ban in new]

    @staticmethod
    async def _drop_ers_keys(tx: Transaction, revoked: Sequence[str], at_us: int) -> list[str]:
        """Leave nothing on the run-time allow-list but what was removed from it. Returns the
        entries that went, sorted; damaged rows are among them."""
        table = schema.ers_keys
        known: dict[str, ErsKeyRow] = {}
        dropped = []
        for row in await tx.find(table, order=[table.c.spki_sha256]):
            key = None if row.why else codec.ers_key_from_row(row.values)
            if key is not None and (key.state == "removed" or key.spki_sha256 in revoked):
                known[key.spki_sha256] = key
            if key is None or key.state != "removed":
                dropped.append(row.key)
            if key is None or key.spki_sha256 not in known:
                await tx.remove(table, spki_sha256=row.key)
        for sha in sorted(set(revoked)):
            key = known.get(sha) or ErsKeyRow(sha, b"", 0, at_us, None, None, "removed")
            gone = replace(key, state="removed", challenge=None)
            if known.get(sha) != gone:
                await tx.replace(table, codec.ers_key_to_row(gone))
        return dropped

    # -- the history -----------------------------------------------------------------------------

    async def history_head(self) -> Head:
        async def work(reader: Reader) -> Head:
            count = (await reader.digests())[schema.history.name].count
            return await history.newest(reader, self._genesis, count)

        return await self._read(work)

    async def history_at(self, length: int) -> Head | None:
        return await self._read(lambda r: history.head_at(r, self._genesis, length))

    async def history(self, after: int = 0, limit: int = 1000) -> Sequence[HistoryRow]:
        table = schema.history
        found = await self._read(
            lambda r: r.find(table, table.c.length > after, order=[table.c.length], limit=limit)
        )
        self._refuse_missing(table.name)
        return [history.history_row(c.require()) for c in found]

    async def note_history(self, kind: str, detail: Mapping[str, Any]) -> Head:
        if not 0 < len(kind) <= _KIND or kind in _OWN:
            raise KeycairnError(
                Code.MALFORMED, f"{kind[:_KIND]!r} is no event that can be noted in the history"
            )

        async def work(tx: Transaction) -> Head:
            head = await history.add(tx, self._genesis, kind, detail)
            tx.audit("history.note", kind=kind, length=head.length)
            return head

        return await self._write(work)

    # -- words of peers --------------------------------------------------------------------------

    async def put_witness(self, peer: int, body: bytes, place: Head) -> None:
        row = {
            "peer": peer,
            "era": place.era,
            "length": place.length,
            "head": place.hash,
            "body": body,
        }

        async def work(tx: Transaction) -> None:
            await tx.replace(schema.witnesses, row)
            tx.audit("witness.put", peer=peer, era=place.era, length=place.length, head=place.hash)

        await self._write(work, hurry=False)

    async def witness(self, peer: int) -> bytes | None:
        found = await self._read(lambda r: r.get(schema.witnesses, peer=peer))
        return None if found is None else bytes(found.require()["body"])

    async def put_behind(self, rows: Sequence[BehindRow]) -> None:
        values = [codec.behind_to_row(row) for row in rows]
        if not values:
            return

        async def work(tx: Transaction) -> None:
            for row in values:
                await tx.replace(schema.behind, row)
            tx.audit("behind.put", batches=[row.batch_id for row in rows])

        await self._write(work)

    async def behind(self) -> Sequence[BehindRow]:
        found = await self._read(lambda r: r.find(schema.behind, order=[schema.behind.c.batch_id]))
        return [codec.behind_from_row(c.values) for c in found if not c.why]

    # -- the restore mark ------------------------------------------------------------------------

    async def restored(self) -> str | None:
        async def work(reader: Reader) -> str | None:
            found = await mappings(reader.conn, select(schema.meta).where(_RESTORED))
            return found[0]["value"].decode("utf-8", "replace") if found else None

        return await self._read(work)


_RESTORED = schema.meta.c.name == schema.RESTORED


def _superseded() -> KeycairnError:
    return KeycairnError(
        Code.QUARANTINED,
        "this process is not the newest incarnation of the node: it may not sign",
        not_lost="Key shares are unchanged; the presignature was not used here.",
        next="stop this process; the node that started last goes on",
    )
