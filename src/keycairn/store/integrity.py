"""Keyed integrity of the store: row MACs, table digests, the audit chain. Pure functions.

All keys come from the node's data key, so whoever edits the file can't repair what is here:

* **Row MAC** ``m = HMAC-SHA256(k_row, encode(table, columns…))`` over *all* columns of a row, its
  version among them, kept in ``row_index`` beside the row's version.
* **Table digest**: ``total = sum of all m mod 2^256`` and the number of rows, with a MAC of its
  own. It changes with every row in the same transaction by one addition. (Sums are no hash by
  themselves; that they are never used without their MAC is what makes them one.)
* **Audit chain**: ``link_n = HMAC-SHA256(k_audit, encode(link_{n-1}, n, at_us, event, detail))``,
  and (n, newest link) stands in the digest row "audit", so that cutting the end off shows.

At open both sums are made, over the rows and over the index. If the index gives the digest, each
row that does not fit its entry is edited, missing or added, and only that row is blocked. If the
rows give the digest, the rows are sound and the index is what was damaged. If neither does, rows
were put back together with their entries: nobody can say which, and the store does not open.

A whole older file passes all of this; that is found by the fence (recovery.md), not here.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keycairn.encoding import encode, tag
from keycairn.vault.sealing import Sealer

_ROW = tag("store/row")
_DIGEST = tag("store/digest")
_LINK = tag("store/audit-link")
_MODULUS = 1 << 256

#: Link before the first audit record.
GENESIS = bytes(32)


@dataclass(frozen=True)
class Digest:
    """State of one table: number of rows and the sum of their MACs (or the audit head)."""

    name: str
    count: int
    total: bytes

    def changed(self, *, added: Sequence[bytes] = (), removed: Sequence[bytes] = ()) -> Digest:
        """The digest after rows with these MACs came and went."""
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


class Macs:
    """The keyed functions above, under one node's data key."""

    def __init__(self, sealer: Sealer) -> None:
        self._row_key = sealer.derive("store/rows").reveal()
        self._digest_key = sealer.derive("store/digests").reveal()
        self._audit_key = sealer.derive("store/audit").reveal()

    def row(self, table: str, columns: Sequence[str], row: Mapping[str, Any]) -> bytes:
        """MAC of a row. ValueError or TypeError for values that no honest row holds."""
        data = encode(_ROW, table, list(columns), [row[c] for c in columns])
        return hmac.digest(self._row_key, data, hashlib.sha256)

    def digest(self, d: Digest) -> bytes:
        """MAC of a digest."""
        data = encode(_DIGEST, d.name, d.count, d.total)
        return hmac.digest(self._digest_key, data, hashlib.sha256)

    def link(self, previous: bytes, seq: int, at_us: int, event: str, detail: bytes) -> bytes:
        """The audit link behind ``previous``."""
        data = encode(_LINK, previous, seq, at_us, event, detail)
        return hmac.digest(self._audit_key, data, hashlib.sha256)

    def fits(self, mac: object, table: str, columns: Sequence[str], row: Mapping[str, Any]) -> bool:
        """Whether ``mac`` is the row's MAC; never raises for odd values."""
        try:
            expected = self.row(table, columns, row)
        except (TypeError, ValueError):
            return False
        return isinstance(mac, bytes) and hmac.compare_digest(mac, expected)
