"""Keyed integrity of the store: row MACs, table digests, the audit chain. Pure functions.

All keys come from the node's data key, so whoever edits the file can't repair what is here:

* **Row MAC** ``m = HMAC-SHA256(k_row, encode(table, columns…))`` over *all* columns of a row, its
  version among them, kept in ``row_index`` beside the row's version.
* **Table digest**: the number of rows and ``total = sum of all weights mod 2^256``, where the
  weight of an index entry is ``HMAC-SHA256(k_weight, encode(table, row key, m))``. It changes with
  every row in the same transaction by one addition. Whoever edits the file knows all m, and could
  balance a sum of them with one invented entry; weights nobody can compute or see: the total is
  stored masked, under a mask that its own MAC selects.
* **Audit chain**: ``link_n = HMAC-SHA256(k_audit, encode(link_{n-1}, n, at_us, event, detail))``,
  and (n, newest link) stands in the digest row "audit", so that cutting the end off shows. That
  row's MAC is over all tables' digests too: no table can be put back without the others.

* **Spend counter**: the digest row "spent" holds how many presignatures the newest incarnation has
  spent, and that incarnation's hash in place of a total. It advances with every spend, in the same
  transaction, and each spend is conditional on the value that this process left there: a database
  that is put back under a running node, or that somebody else writes, can't be spent from.

At open both sums are made, over the rows and over the index. If the index gives the digest, each
row that does not fit its entry is edited, missing or added, and only that row is blocked. If the
rows give the digest, the rows are sound and the index is what was damaged. If neither does, rows
were put back together with their entries: nobody can say which, and the store does not open.

A whole older file passes all of this; nothing in the file can show it (docs/threat-model.md).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from keycairn.encoding import digest, encode, field, header, tag
from keycairn.vault.sealing import Sealer

_ROW = tag("store/row")
_DIGEST = tag("store/digest")
_LINK = tag("store/audit-link")
_WEIGHT = tag("store/weight")
_MASK = tag("store/mask")
_HEAD = tag("store/head")
_INCARNATION = tag("store/incarnation")
_MODULUS = 1 << 256

#: A digest as it stands in the file: count, masked total, MAC.
Stored = tuple[int, bytes, bytes]

#: Name of the digest that holds the audit head.
AUDIT = "audit"
#: Name of the digest that holds the spend counter of the newest incarnation.
SPENT = "spent"
#: Link before the first audit record.
GENESIS = bytes(32)


@dataclass(frozen=True)
class Digest:
    """State of one table: number of rows and the sum of their weights (or the audit head)."""

    name: str
    count: int
    total: bytes

    def changed(self, *, added: Sequence[bytes] = (), removed: Sequence[bytes] = ()) -> Digest:
        """The digest after rows with these weights came and went."""
        total = int.from_bytes(self.total, "big")
        total += sum(int.from_bytes(m, "big") for m in added)
        total -= sum(int.from_bytes(m, "big") for m in removed)
        return Digest(
            self.name,
            self.count + len(added) - len(removed),
            (total % _MODULUS).to_bytes(32, "big"),
        )


def empty(name: str) -> Digest:
    """Digest of a table without rows."""
    return Digest(name, 0, bytes(32))


def spent(incarnation: bytes, count: int = 0) -> Digest:
    """The spend counter of an incarnation."""
    return Digest(SPENT, count, digest(_INCARNATION, incarnation))


@lru_cache(maxsize=64)
def _row_start(table: str, columns: tuple[str, ...]) -> bytes:
    """What ``encode(_ROW, table, columns, values)`` has before the values: the same for each row,
    and half of the work."""
    return header(_ROW, 3) + field(table) + field(columns)


class Macs:
    """The keyed functions above, under one node's data key."""

    def __init__(self, sealer: Sealer) -> None:
        self._row_key = sealer.derive("store/rows").reveal()
        self._digest_key = sealer.derive("store/digests").reveal()
        self._audit_key = sealer.derive("store/audit").reveal()
        self._weight_key = sealer.derive("store/weights").reveal()
        # What was stored or accepted last: a transaction mostly finds what the one before left,
        # and changes two or three of a dozen.
        self._last: tuple[Mapping[str, Stored], Mapping[str, Digest]] = ({}, {})

    def row(self, table: str, columns: Sequence[str], row: Mapping[str, Any]) -> bytes:
        """MAC of a row. ValueError or TypeError for values that no honest row holds."""
        data = _row_start(table, tuple(columns)) + field([row[c] for c in columns])
        return hmac.digest(self._row_key, data, hashlib.sha256)

    def row_if_any(
        self, table: str, columns: Sequence[str], row: Mapping[str, Any]
    ) -> bytes | None:
        """The same, or None for values that no honest row holds."""
        try:
            return self.row(table, columns, row)
        except (TypeError, ValueError):
            return None

    def weight(self, table: str, key: str, mac: bytes) -> bytes:
        """What an index entry adds to its table's total. TypeError for odd values."""
        return hmac.digest(self._weight_key, encode(_WEIGHT, table, key, mac), hashlib.sha256)

    def stored(self, digests: Mapping[str, Digest]) -> dict[str, tuple[bytes, bytes]]:
        """What stands in the file for each digest: (masked total, MAC)."""
        rows, before = self._last
        out: dict[str, tuple[bytes, bytes]] = {}
        for name, d in digests.items():
            if name != AUDIT and before.get(name) == d:
                out[name] = rows[name][1:]
            else:
                mac = self._head(digests) if name == AUDIT else self._digest(d)
                out[name] = (self._masked(d, mac, 1), mac)
        self._last = {n: (digests[n].count, *pair) for n, pair in out.items()}, dict(digests)
        return out

    def loaded(self, rows: Mapping[str, Stored]) -> dict[str, Digest] | None:
        """Inverse of :meth:`stored`, from (count, masked total, MAC); None if anything differs."""
        known, before = self._last
        if rows == known:
            return dict(before)
        digests: dict[str, Digest] = {}
        for name, (count, total, mac) in rows.items():
            masked = Digest(name, count, total)
            digests[name] = Digest(name, count, self._masked(masked, mac, -1))
        if AUDIT not in digests:
            return None
        good = hmac.compare_digest(self._head(digests), rows[AUDIT][2])
        for name, d in digests.items():
            if name != AUDIT:
                good &= hmac.compare_digest(self._digest(d), rows[name][2])
        if not good:
            return None
        self._last = dict(rows), dict(digests)
        return digests

    def _digest(self, d: Digest) -> bytes:
        data = encode(_DIGEST, d.name, d.count, d.total)
        return hmac.digest(self._digest_key, data, hashlib.sha256)

    def _head(self, digests: Mapping[str, Digest]) -> bytes:
        all_of_them = [
            encode(_DIGEST, d.name, d.count, d.total) for _, d in sorted(digests.items())
        ]
        return hmac.digest(self._digest_key, encode(_HEAD, *all_of_them), hashlib.sha256)

    def _masked(self, d: Digest, mac: bytes, sign: int) -> bytes:
        # The MAC is a function of the total that looks random: a total has one mask, and two
        # totals have unrelated ones.
        mask = hmac.digest(self._weight_key, encode(_MASK, d.name, mac), hashlib.sha256)
        total = int.from_bytes(d.total, "big") + sign * int.from_bytes(mask, "big")
        return (total % _MODULUS).to_bytes(32, "big")

    def link(self, previous: bytes, seq: int, at_us: int, event: str, detail: bytes) -> bytes:
        """The audit link behind ``previous``."""
        data = encode(_LINK, previous, seq, at_us, event, detail)
        return hmac.digest(self._audit_key, data, hashlib.sha256)
