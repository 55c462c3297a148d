"""What a running node does for its recovery documents: sends them to its sinks, verifies them and
their copies again on a schedule, looks for private keys beside them, and says what is wrong."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keycairn.backup.targets import Gone
from keycairn.errors import Code, KeycairnError
from keycairn.ers.beside import PrivateKeyFile, private_keys_in
from keycairn.node.ers_sinks import Receipt, ReceiptBook, SinkState, sink_of
from keycairn.node.logs import exception_fields, logger
from keycairn.ports import Clock
from keycairn.vault.emergency import Documents
from keycairn.vault.ers_keys import ErsKeys
from keycairn.vault.ports import DocumentRow

_MICRO = 1_000_000
_TICK_SECONDS = 5.0
#: Between two looks for private keys beside documents.
_KEYS_SECONDS = 600.0
#: Counting reads all keys: not more often than this, and for a fiftieth of the time at most.
_COUNT_SECONDS, _COUNT_SHARE = 60.0, 50.0
_GRACE_SECONDS = 3600
#: A round waits so long for its sinks.
_PATIENCE_SECONDS = 60.0
#: Documents that one tick verifies, or reads back from each sink.
_PER_TICK = 16


class ErsWatch:
    """Runs for as long as the node.

    Args:
        documents: this node's.
        keys: its list of RSA keys.
        store: directory of the documents.
        sinks: ``[ers] sinks``.
        token_file: bearer token for web-hooks.
        verify_seconds: age at which a check is repeated.
        data: directory for the receipts.

    Attributes:
        patience: seconds that a round waits for its sinks.
    """

    patience = _PATIENCE_SECONDS

    def __init__(
        self,
        documents: Documents,
        keys: ErsKeys,
        clock: Clock,
        *,
        home: Path,
        store: Path,
        data: Path,
        sinks: Sequence[str] = (),
        token_file: Path | None = None,
        verify_seconds: int = 7 * 86_400,
    ) -> None:
        self._documents = documents
        self._keys = keys
        self._clock = clock
        self._store = store
        self._verify_seconds = verify_seconds
        self.sinks = [SinkState(sink_of(text, home, token_file)) for text in sinks]
        self._book = ReceiptBook(data / "ers-sinks.json")
        self._book.load(self.sinks)
        self._saving = asyncio.Lock()
        self._serving: dict[int, asyncio.Task[None]] = {}
        self._beside: list[tuple[PrivateKeyFile, str]] = []
        self._beside_due = clock.monotonic()
        self._beside_error: KeycairnError | None = None
        self._counts: dict[str, int] = {}
        self._count_due: float | None = None

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                try:
                    await self.once()
                except KeycairnError as exc:
                    # The database or the disk is away: the node says that itself.
                    logger().warning("finding", finding="ers watch", code=exc.code.value)
                except Exception as exc:
                    # Nobody watches a watch that has died.
                    logger().error("stray", **exception_fields(exc))
                await asyncio.sleep(_TICK_SECONDS)
        finally:
            for task in self._serving.values():
                task.cancel()

    async def once(self) -> None:
        """One round of everything that is due."""
        await self._reverify()
        rows = await self._documents.rows()
        await self._serve_sinks(rows)
        now = self._clock.monotonic()
        if now >= self._beside_due:
            self._beside_due = now + _KEYS_SECONDS
            await self._look_for_keys(rows)

    async def _reverify(self) -> None:
        try:
            bad = await self._documents.reverify(self._verify_seconds * _MICRO, _PER_TICK)
        except KeycairnError as exc:
            if exc.code is not Code.QUARANTINED:
                raise
            return  # This node writes nothing now; its sinks are served all the same.
        for sha256 in bad:
            logger().warning("finding", finding="document does not verify", sha256=sha256)

    # -- sinks -------------------------------------------------------------------------------------

    async def _serve_sinks(self, rows: Sequence[DocumentRow]) -> None:
        """Give every sink its turn. One that is slow goes on with its own, and holds up neither
        the others nor what else is due."""
        for state in self.sinks:
            if id(state) not in self._serving:
                self._serving[id(state)] = asyncio.create_task(self._deliver(state, rows))
        if not self._serving:
            return
        done, _ = await asyncio.wait(self._serving.values(), timeout=self.patience)
        self._serving = {i: task for i, task in self._serving.items() if task not in done}
        for task in done:
            task.result()

    async def _deliver(self, state: SinkState, rows: Sequence[DocumentRow]) -> None:
        pending = [row for row in rows if row.sha256 not in state.receipts]
        state.waiting = len(pending)
        if self._clock.monotonic() < state.not_before:
            return
        try:
            await self._check(state, {row.sha256 for row in rows})
            pending = [row for row in rows if row.sha256 not in state.receipts]
            for row in pending:
                state.waiting = len([r for r in pending if r.sha256 not in state.receipts])
                await self._send(state, row)
        except KeycairnError as exc:
            state.failed(exc, self._clock.monotonic())
            code = exc.code.value
            logger().warning("finding", finding="ers sink", where=state.sink.place, code=code)
        else:
            state.succeeded()
        state.waiting = sum(row.sha256 not in state.receipts for row in rows)

    async def _send(self, state: SinkState, row: DocumentRow) -> None:
        data = await self._documents.data(row.sha256)
        await asyncio.to_thread(state.sink.deliver, row.sha256, data, row.spki_sha256)
        now = self._clock.now_us()
        if state.sink.readable and not await self._same(state, row.sha256):
            raise KeycairnError(
                Code.STORE_INTEGRITY,
                f"the ERS sink {state.sink.place} took a document and gives back other bytes",
                not_lost="The document is in the node's own store, and at its peers.",
                next="look into the sink: something changes or removes files there",
                detail={"sha256": row.sha256},
            )
        state.receipts[row.sha256] = Receipt(now, now)
        await self._save()

    async def _same(self, state: SinkState, sha256: str) -> bool:
        """Whether what lies at the sink is the document, byte for byte."""
        try:
            data = await asyncio.to_thread(state.sink.fetch, sha256)
        except Gone:
            return False
        return hashlib.sha256(data).hexdigest() == sha256

    async def _check(self, state: SinkState, booked: set[str]) -> None:
        """Read back what was delivered, if it was not looked at for long; what is gone or damaged
        is delivered again."""
        if not state.sink.readable:
            return
        before = self._clock.now_us() - self._verify_seconds * _MICRO
        due = [
            (receipt.checked_us, sha256)
            for sha256, receipt in state.receipts.items()
            if receipt.checked_us <= before and sha256 in booked
        ]
        for _, sha256 in sorted(due)[:_PER_TICK]:
            if await self._same(state, sha256):
                state.receipts[sha256].checked_us = self._clock.now_us()
            else:
                state.lost_total += 1
                del state.receipts[sha256]
                where = state.sink.place
                logger().warning("finding", finding="ers sink lost", where=where, sha256=sha256)
        if due:
            await self._save()

    async def _save(self) -> None:
        async with self._saving:
            await asyncio.to_thread(self._book.save, self.sinks)

    # -- private keys beside documents -------------------------------------------------------------

    async def _look_for_keys(self, rows: Sequence[DocumentRow]) -> None:
        mine = {row.spki_sha256 for row in rows}

        def look() -> list[tuple[PrivateKeyFile, str]]:
            found = [(key, str(self._store)) for key in private_keys_in(self._store)]
            for state in self.sinks:
                found += [(key, state.sink.place) for key in state.sink.private_keys()]
            return [(key, where) for key, where in found if key.may_open(mine)]

        try:
            self._beside = await asyncio.to_thread(look) if mine else []
            self._beside_error = None
        except KeycairnError as exc:
            self._beside_error = exc

    # -- what is said ------------------------------------------------------------------------------

    async def findings(self) -> list[dict[str, Any]]:
        """What somebody should see to."""
        found: list[dict[str, Any]] = [
            {
                "finding": "RSA private key beside ERS documents",
                "where": where,
                "file": key.path.name,
                "why": "with the documents there it is every private key in them"
                if key.spki_sha256
                else "an encrypted private key that may open the documents there",
                "next": f"move {key.path} to a medium of its own, away from every document",
            }
            for key, where in self._beside
        ]
        for state in self.sinks:
            if state.error is not None or (state.waiting and state.failures):
                error = state.error
                found.append(
                    {
                        "finding": "ERS sink",
                        "where": state.sink.place,
                        "waiting": state.waiting,
                        "why": "" if error is None else f"{error.message} [{error.code.value}]",
                        "next": "" if error is None else error.next,
                    }
                )
        for sha256, why in self._documents.unsound.items():
            found.append(
                {
                    "finding": "ERS document does not verify",
                    "sha256": sha256,
                    "why": why,
                    "next": "keycairn ers create makes another; keep the file for whoever looks "
                    "into it",
                }
            )
        age = await self._verified_age()
        limit = 2 * self._verify_seconds + _GRACE_SECONDS
        if age is not None and age > limit:
            found.append(
                {
                    "finding": "ERS documents not verified",
                    "hours": age // 3600,
                    "why": "the scheduled check did not get to them",
                    "next": "see the node's log; keycairn ers verify FILE checks one by hand",
                }
            )
        for state in self.sinks:
            checked = state.oldest_check_us()
            if not state.sink.readable or checked is None:
                continue
            hours = (self._clock.now_us() - checked) // _MICRO
            if hours > limit and state.error is None:
                found.append(
                    {
                        "finding": "ERS sink not verified",
                        "where": state.sink.place,
                        "hours": hours // 3600,
                        "next": "see the node's log",
                    }
                )
        return found

    async def _verified_age(self) -> int | None:
        """Seconds since the document that was verified longest ago was; None without documents."""
        rows = await self._documents.rows()
        if not rows:
            return None
        return max(0, (self._clock.now_us() - min(r.verified_us for r in rows)) // _MICRO)

    async def state(self) -> dict[str, Any]:
        """For metrics and ``ers key list``: counts by status, ages, sinks, RSA keys."""
        now = self._clock.monotonic()
        if self._count_due is None or now >= self._count_due:
            self._counts = await self._documents.summary()
            after = self._clock.monotonic()
            self._count_due = after + max(_COUNT_SECONDS, _COUNT_SHARE * (after - now))
        now_us = self._clock.now_us()
        return {
            "keys": dict(self._counts),
            "verified_age_seconds": await self._verified_age(),
            "unsound": len(self._documents.unsound),
            "private_keys_beside": len(self._beside),
            "rsa_keys": [
                {
                    "rsa_spki_sha256": v.rsa_spki_sha256,
                    "attested_us": v.attested_us,
                    "attestation": v.attestation,
                }
                for v in await self._keys.list()
                if v.state == "allowed"
            ],
            "sinks": [
                {
                    "number": number,
                    "kind": s.sink.kind,
                    "place": s.sink.place,
                    "delivered": len(s.receipts),
                    "waiting": s.waiting,
                    "failures": s.failures_total,
                    "lost": s.lost_total,
                    "failing": s.error is not None,
                    "checked_age_seconds": None
                    if not s.sink.readable or s.oldest_check_us() is None
                    else max(0, (now_us - (s.oldest_check_us() or 0)) // _MICRO),
                }
                for number, s in enumerate(self.sinks, 1)
            ],
        }
