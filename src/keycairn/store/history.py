"""The node's history in the store: one event for each change, in that change's transaction.

What the chain means is in :mod:`keycairn.vault.fence.history`; here it is kept, read and checked.
Rows are protected like all others (:mod:`keycairn.store.integrity`): none can be edited, taken from
the end or put back without its digest. That each hash follows from the one before is checked at
open for the newest :data:`~keycairn.store.patrol.AT_ONCE` events, for older ones in the background.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Any

from keycairn.encoding import decode_cbor
from keycairn.errors import Code, KeycairnError
from keycairn.store import schema
from keycairn.store.codec import pack
from keycairn.store.transaction import Reader, Transaction
from keycairn.vault.fence.history import Head, extend, next_era
from keycairn.vault.ports import Batch, HistoryRow

_PAGE = 200
START, REJOIN = "start", "rejoin"
#: This node's READY for a batch that waits for the others'; the batch is active.
READY, KEYS = "ready", "keys"


def head_of(row: Mapping[str, Any]) -> Head:
    """The head that a row of ``history`` makes."""
    return Head(row["era"], row["length"], row["hash"])


def history_row(row: Mapping[str, Any]) -> HistoryRow:
    """The port's view of a row."""
    detail = decode_cbor(row["detail"])
    return HistoryRow(
        row["length"], row["era"], row["hash"], row["kind"], detail, row["at_us"]
    )  # fmt: skip


async def head_at(reader: Reader, genesis: Head, length: int) -> Head | None:
    """The head that the history had at ``length``; None beyond its end. E_STORE_INTEGRITY."""
    if length == 0:
        return genesis
    found = await reader.get(schema.history, length=length)
    return None if found is None else head_of(found.require())


async def newest(reader: Reader, genesis: Head, count: int) -> Head:
    """The head of a history of ``count`` events, as its digest counts them. E_STORE_INTEGRITY."""
    head = await head_at(reader, genesis, count)
    if head is None:
        raise broken(count, "it is missing")
    return head


async def add(
    tx: Transaction,
    genesis: Head,
    kind: str,
    detail: Mapping[str, Any],
    *,
    at_us: int | None = None,
    era: int | None = None,
) -> Head:
    """Extend the history by one event.

    Args:
        tx: the transaction of the change.
        genesis: head of the empty history.
        kind: what happened.
        detail: what it was about.
        at_us: when; the transaction's time, if not given.
        era: that a rejoin begins.
    """
    if tx.history is None:
        tx.history = await newest(tx, genesis, tx.count(schema.history))
    packed = pack(detail, "an event of the history")
    last = tx.history
    head = extend(last, kind, packed) if era is None else next_era(last, era, packed)
    row = {
        "length": head.length,
        "era": head.era,
        "hash": head.hash,
        "kind": kind,
        "detail": packed,
        "at_us": tx.now_us if at_us is None else at_us,
    }
    await tx.insert(schema.history, [row])
    tx.history = head
    return head


def keys_detail(batch: Batch) -> dict[str, Any]:
    """Of "ready" and "keys": which batch, and SHA-256 over its record hashes, one after another."""
    records = hashlib.sha256(b"".join(batch.record_hashes)).digest()
    return {"batch": batch.batch_id, "generation": batch.generation, "records": records}


def follow(head: Head, rows: Sequence[Mapping[str, Any]]) -> Head:
    """The head behind ``rows``, which must go on from ``head``. E_STORE_INTEGRITY."""
    for row in rows:
        try:
            if row["kind"] == REJOIN and row["era"] > head.era:
                after = next_era(head, row["era"], row["detail"])
            else:
                after = extend(head, row["kind"], row["detail"])
            good = head_of(row) == after and hmac.compare_digest(row["hash"], after.hash)
        except (TypeError, ValueError):
            good = False
        if not good:
            raise broken(head.length + 1, "it was edited, or the one before it was")
        head = after
    return head


async def page(reader: Reader, after: int) -> Sequence[Mapping[str, Any]]:
    """Some rows behind the ``after``-th, unchecked; none at the end."""
    async for rows in reader.pages(schema.history, after=[after], size=_PAGE):
        return rows
    return []


async def check(reader: Reader, genesis: Head, *, at_most: int | None) -> int:
    """Follow the newest ``at_most`` links of the chain (None: all); number of events.

    Raises:
        KeycairnError: E_STORE_INTEGRITY, naming the position of a broken link.
    """
    count = (await reader.digests())[schema.history.name].count
    start = 0 if at_most is None else max(0, count - at_most)
    head = await newest(reader, genesis, start)
    async for page in reader.pages(schema.history, after=[start]):
        head = follow(head, page)
    if head.length != count:
        raise broken(min(head.length, count) + 1, "the end was cut off or added to")
    return count


def broken(position: int, what: str) -> KeycairnError:
    """The error for a history that is not what this node wrote."""
    return KeycairnError(
        Code.STORE_INTEGRITY,
        f"the node's history is broken at event {position}: {what}",
        not_lost="Keys and shares are unaffected; the other holders still have theirs.",
        next="keep a copy of the data directory as evidence, then keycairn node restore BUNDLE "
        "--into DIR --identity FILE",
        detail={"position": position},
    )
