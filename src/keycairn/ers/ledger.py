"""The path ledger of a part: which derivation paths its node knows to be in use, per key.

A hint and no proof: whoever recovers a key learns under which children to look for what it guards.
Nodes may know different paths; recovery takes what any of them knew. It travels in the box
(:mod:`keycairn.ers.box`), after the chain codes, so that only recovery sees it.

Bytes: canonical CBOR of an array with one array for every key, in the context's order: path texts,
rising bytewise, at most :data:`MAX_PATHS`; then, only if paths had to be left out, how many.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from keycairn.curves.derivation import parse_path
from keycairn.encoding import canonical_cbor, decode_cbor
from keycairn.ers.faults import as_invalid, invalid

#: Paths of one key.
MAX_PATHS = 10_000
#: Bytes of a whole ledger: enough for that many paths of the longest kind, of one key.
MAX_LEDGER = 1 << 20
_MAX_LEFT_OUT = 1 << 53


@dataclass(frozen=True)
class KeyPaths:
    """What a ledger says about one key.

    Attributes:
        paths: in use, rising bytewise, distinct.
        left_out: how many more the node knew that did not fit.
    """

    paths: tuple[str, ...] = ()
    left_out: int = 0


def encode_ledger(key_ids: Sequence[str], paths: Mapping[str, Iterable[str]]) -> bytes:
    """The ledger of ``key_ids``; keys without an entry in ``paths`` have none.

    Where there are too many, the lowest paths (by their indices) stay, and the rest is counted.

    Raises:
        KeycairnError: E_MALFORMED for a text that is no path.
    """
    known = [sorted(set(paths.get(key_id, ())), key=parse_path) for key_id in key_ids]
    limit = MAX_PATHS
    while True:
        encoded = canonical_cbor([_entry(texts, limit) for texts in known])
        if len(encoded) <= MAX_LEDGER:
            return encoded
        limit //= 2


def _entry(texts: Sequence[str], limit: int) -> list[str | int]:
    left_out = max(0, len(texts) - limit)
    return [*sorted(texts[:limit]), *([left_out] if left_out else [])]


def smallest_ledger(keys: int) -> int:
    """Bytes of the ledger of so many keys without any path."""
    return len(canonical_cbor([[] for _ in range(keys)]))


def decode_ledger(data: bytes, keys: int) -> tuple[KeyPaths, ...]:
    """One :class:`KeyPaths` for every key; raises E_ERS_INVALID for anything not canonical."""
    with as_invalid("ledger"):
        item = decode_cbor(data, max_bytes=MAX_LEDGER)
        if not isinstance(item, list) or len(item) != keys:
            raise invalid("ledger", "the ledger does not have one list for every key")
        return tuple(_read(entry) for entry in item)


def _read(entry: object) -> KeyPaths:
    if not isinstance(entry, list):
        raise invalid("ledger", "the paths of a key are a list")
    left_out = 0
    if entry and type(entry[-1]) is int:
        left_out = entry.pop()
        if not 1 <= left_out <= _MAX_LEFT_OUT:
            raise invalid("ledger", "a number of paths left out is positive")
    if len(entry) > MAX_PATHS:
        raise invalid("ledger", f"a key has at most {MAX_PATHS} paths in a ledger")
    for text in entry:
        parse_path(text)
    if any(a >= b for a, b in pairwise(entry)):
        raise invalid("ledger", "the paths of a key rise")
    return KeyPaths(tuple(entry), left_out)


def merge(ledgers: Iterable[Sequence[KeyPaths]], keys: int) -> list[KeyPaths]:
    """What any of several nodes knew; ``left_out`` is the largest count that one of them had."""
    found: list[set[str]] = [set() for _ in range(keys)]
    left_out = [0] * keys
    for ledger in ledgers:
        for position, entry in enumerate(ledger):
            found[position].update(entry.paths)
            left_out[position] = max(left_out[position], entry.left_out)
    return [
        KeyPaths(tuple(sorted(texts)), count) for texts, count in zip(found, left_out, strict=True)
    ]


def by_index(paths: Iterable[str]) -> list[str]:
    """Paths in the order of their indices: m/2 before m/10."""
    return sorted(paths, key=parse_path)
