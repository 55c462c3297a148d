"""What the fields of wire messages hold, and every way in which a cheater may change one.

A :class:`Shape` says of a field what its bytes mean; :func:`changes` gives the alterations that
make sense for it, each with a :class:`Kind`: what the receiver can see in the altered field by
itself. The kind, and nothing that was observed, decides which check must find it (expected.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from keycairn.curves import ED25519, SECP256K1, Group


class Kind(StrEnum):
    """What a receiver can tell from the altered field alone."""

    VALUE = "value"  # well formed: only a check of its own can tell
    LENGTH = "length"  # a byte string of another length
    COUNT = "count"  # another number of elements
    POINT = "point"  # right length, and no point
    SCALAR = "scalar"  # right length, and not below the group order
    TYPE = "type"  # not the type of the field


@dataclass(frozen=True)
class Shape:
    """What a field holds.

    Attributes:
        content: "hash", "opaque", "point", "scalar" or "signature".
        depth: how many tuples its byte strings stand in.
        group: of points and scalars.
        column: whether a byte string is a column of fixed-size elements, one for every slot.
    """

    content: str
    depth: int = 0
    group: Group = SECP256K1
    column: bool = False

    @property
    def size(self) -> int:
        """Bytes of one element that is a point or a scalar."""
        return self.group.point_len if self.content == "point" else self.group.scalar_len


@dataclass(frozen=True)
class Change:
    """One alteration of a field: ``apply(mine, another's)`` gives what is sent instead."""

    name: str
    kind: Kind
    apply: Callable[[Any, Any], Any]


Bytes = Callable[[bytes, bytes], bytes]


def _first(depth: int, change: Bytes) -> Callable[[Any, Any], Any]:
    """``change`` on the first byte string of a nested field."""
    if depth == 0:
        return change
    inner = _first(depth - 1, change)
    return lambda mine, other: (inner(mine[0], other[0]), *mine[1:])


def _whole(depth: int, change: Bytes) -> Callable[[Any, Any], Any]:
    """``change`` on all byte strings of a nested field."""
    if depth == 0:
        return change
    inner = _whole(depth - 1, change)
    return lambda mine, other: tuple(inner(m, o) for m, o in zip(mine, other, strict=True))


def _start(new: bytes) -> Bytes:
    return lambda mine, _: new + mine[len(new) :]


#: Byte strings of a point's length that are none: name, group → bytes.
_NO_POINTS: Final[dict[str, dict[str, bytes]]] = {
    "secp256k1": {
        "zeros": bytes(33),
        "ones": b"\xff" * 33,
        "off the curve": bytes([2]) + (5).to_bytes(32, "big"),
        "x = p": bytes([2]) + (2**256 - 2**32 - 977).to_bytes(32, "big"),
        "a point of P-256": bytes.fromhex(
            "037cf27b188d034f7e8a52380304b51ac3c08969e277f21b35a60b48fc47669978"
        ),
    },
    "p256": {
        "zeros": bytes(33),
        "ones": b"\xff" * 33,
        "off the curve": bytes([2]) + (4).to_bytes(32, "big"),
        "x = p": bytes([2]) + (2**256 - 2**224 + 2**192 + 2**96 - 1).to_bytes(32, "big"),
        "a point of secp256k1": bytes.fromhex(
            "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
        ),
    },
    "ed25519": {
        "zeros": bytes(32),
        "ones": b"\xff" * 32,
        "identity": bytes([1]) + bytes(31),
        "order 8": bytes.fromhex(
            "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"
        ),
        "y = p": bytes.fromhex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    },
}


def _add_one(group: Group, size: int) -> Bytes:
    def change(mine: bytes, _: bytes) -> bytes:
        value = group.decode_scalar(mine[:size])
        return group.encode_scalar((value + 1) % group.q) + mine[size:]

    return change


def _raw_scalar(group: Group, value: int) -> bytes:
    order = "little" if group is ED25519 else "big"
    return value.to_bytes(group.scalar_len, order)  # type: ignore[arg-type]


def _contents(shape: Shape) -> Iterator[tuple[str, Kind, Bytes]]:
    """Alterations of one byte string, of which its first element is hit."""
    group, size = shape.group, shape.size
    yield "another's", Kind.VALUE, lambda _, other: other
    if shape.content == "point":
        sign = size - 1 if group is ED25519 else 0
        flip = 0x80 if group is ED25519 else 1
        yield (
            "sign bit",
            Kind.VALUE,
            lambda m, _: m[:sign] + bytes([m[sign] ^ flip]) + m[sign + 1 :],
        )
        yield "another point", Kind.VALUE, _start(group.base_mul(4711).encode())
        for name, bad in _NO_POINTS[group.name].items():
            yield name, Kind.POINT, _start(bad)
    elif shape.content == "scalar":
        yield "plus 1", Kind.VALUE, _add_one(group, size)
        yield "zero", Kind.VALUE, _start(bytes(size))
        yield "q", Kind.SCALAR, _start(_raw_scalar(group, group.q))
        yield "ones", Kind.SCALAR, _start(b"\xff" * size)
    else:
        yield "first bit", Kind.VALUE, lambda mine, _: bytes([mine[0] ^ 1]) + mine[1:]
        yield "last bit", Kind.VALUE, lambda mine, _: mine[:-1] + bytes([mine[-1] ^ 1])
        yield "zeros", Kind.VALUE, lambda mine, _: bytes(len(mine))
        yield "ones", Kind.VALUE, lambda mine, _: b"\xff" * len(mine)
    yield "shorter", Kind.LENGTH, lambda mine, _: mine[:-1]
    yield "longer", Kind.LENGTH, lambda mine, _: mine + b"\0"
    yield "empty", Kind.LENGTH, lambda _mine, _other: b""
    if shape.column:
        yield "an element more", Kind.LENGTH, lambda mine, _: mine + mine[:size]
        yield "an element less", Kind.LENGTH, lambda mine, _: mine[size:]


def changes(shape: Shape) -> list[Change]:
    """All alterations of a field of this shape."""
    out = []
    for name, kind, change in _contents(shape):
        spread = _whole if name == "another's" else _first
        out.append(Change(name, kind, spread(shape.depth, change)))
    if shape.depth:
        out += [
            Change("no elements", Kind.COUNT, lambda _mine, _other: ()),
            Change("one more element", Kind.COUNT, lambda mine, _: (*mine, mine[0])),
        ]
    if shape.depth == 2:
        out += [
            Change("inner: one less", Kind.COUNT, lambda m, _: (m[0][:-1], *m[1:])),
            Change("inner: one more", Kind.COUNT, lambda m, _: ((*m[0], m[0][0]), *m[1:])),
        ]
    out.append(Change("a number in its place", Kind.TYPE, lambda _mine, _other: 7))
    return out
