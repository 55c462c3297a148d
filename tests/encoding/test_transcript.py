"""The transcript encoder is injective: what differs is hashed differently (T-010)."""

from __future__ import annotations

import hashlib
import importlib
import pkgutil
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import keycairn
from keycairn.curves import SECP256K1
from keycairn.encoding import digest, encode, field, header, to_scalar, xof
from keycairn.encoding.transcript import Tag, registered_tags, tag

TAG = Tag("test/transcript", 1)  # not registered: a test's tag is no part of the program
Q = SECP256K1.q


def same(a: Any, b: Any) -> bool:
    """Whether two field tuples are the same by the encoder's own types."""
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and bool(a == b)


def random_field(rnd: random.Random, depth: int = 0) -> Any:
    kind = rnd.randrange(7 if depth < 3 else 5)
    if kind == 0:
        return rnd.randbytes(rnd.choice((0, 1, 2, 8, 9, 31, 32, 33)))
    if kind == 1:
        return "".join(rnd.choices("ab|,/\0é", k=rnd.randrange(6)))
    if kind == 2:
        return rnd.choice((0, 1, 255, 256, 2**64, 2**256 + rnd.randrange(3)))
    if kind == 3:
        return rnd.random() < 0.5
    if kind == 4:
        return None
    return [random_field(rnd, depth + 1) for _ in range(rnd.randrange(4))]


def boundary_shift(rnd: random.Random, fields: list[Any]) -> list[Any]:
    """What delimiter-joined hashes confuse: bytes moved over a boundary, fields joined or cut."""
    out = list(fields)
    i = rnd.randrange(len(out))
    move = rnd.randrange(6)
    if move == 0:
        out[i : i + 1] = [out[i], b""]
    elif move == 1:
        out[i] = [out[i]]
    elif move == 2 and isinstance(out[i], bytes) and out[i]:
        cut = rnd.randrange(len(out[i]))
        out[i : i + 1] = [out[i][:cut], out[i][cut:]]
    elif move == 3 and i + 1 < len(out):
        out[i], out[i + 1] = out[i + 1], out[i]
    elif move == 4:
        out[i] = encode(TAG, out[i])
    else:
        out[i] = {bytes: lambda v: v + b"\0", str: lambda v: v + "\0", int: lambda v: v + 1}.get(
            type(out[i]), lambda v: [v, v]
        )(out[i])
    return out


def test_t010_100_000_pairs_of_different_tuples_encode_and_challenge_differently() -> None:
    rnd = random.Random(10)
    pairs = 0
    while pairs < 100_000:
        one = [random_field(rnd) for _ in range(1 + rnd.randrange(4))]
        other = boundary_shift(rnd, one)
        if same(one, other):
            continue
        pairs += 1
        a, b = encode(TAG, *one), encode(TAG, *other)
        assert a != b, (one, other)
        assert to_scalar(Q, TAG, *one) != to_scalar(Q, TAG, *other), (one, other)


FIELD = st.recursive(
    st.binary(max_size=40)
    | st.text(max_size=10)
    | st.integers(0, 2**300)
    | st.booleans()
    | st.none(),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=500, deadline=None)
@given(st.lists(FIELD, max_size=5), st.lists(FIELD, max_size=5))
def test_t010_equal_encodings_mean_equal_fields(one: list[Any], other: list[Any]) -> None:
    assert (encode(TAG, *one) == encode(TAG, *other)) == same(one, other)


@settings(max_examples=200, deadline=None)
@given(st.lists(FIELD, max_size=4), st.lists(FIELD, min_size=1, max_size=4))
def test_t010_no_encoding_is_the_beginning_of_another(one: list[Any], more: list[Any]) -> None:
    """Else H(a)‖b could be read as H(a‖b) by a streaming hash."""
    assert not encode(TAG, *one, *more).startswith(encode(TAG, *one))


def test_t010_classic_confusions() -> None:
    tuples: list[tuple[Any, ...]] = [
        ("ab", "c"), ("a", "bc"), ("abc",), (b"abc",), (["a", "bc"],), (["a"], "bc"), (),
        ([],), ([[]],), ([], []), (b"",), ("",), (0,), (False,), (None,), (1,), (True,), (b"\1",),
        (b"\0",), ("\0",), (256,), (b"\1\0",), ([1, 2], 3), (1, [2, 3]), ([1, 2, 3],),
    ]  # fmt: skip
    assert len({encode(TAG, *t) for t in tuples}) == len(tuples)


def test_the_layout_is_the_documented_one() -> None:
    assert encode(Tag("t", 2), b"\xff", "é", 256, [True, None]).hex() == (
        "4b435431" + "0001" + "74" + "0002" + "0000000000000004"
        "62" + "0000000000000001" + "ff"
        "73" + "0000000000000002" + "c3a9"
        "69" + "0000000000000002" + "0100"
        "6c" + "000000000000001a" + "0000000000000002"
        "74" + "0000000000000000"
        "6e" + "0000000000000000"
    )  # fmt: skip


def test_bytes_like_values_and_sequences_are_one_type_each() -> None:
    assert encode(TAG, bytearray(b"x")) == encode(TAG, memoryview(b"x")) == encode(TAG, b"x")
    assert encode(TAG, (1, 2)) == encode(TAG, [1, 2])


@pytest.mark.parametrize("value", [-1, 1.0, {1: 2}, {1}, object()])
def test_what_has_no_encoding_is_refused(value: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        encode(TAG, value)


def test_name_and_version_of_a_tag_separate_domains() -> None:
    tags = [Tag("a", 1), Tag("a", 2), Tag("b", 1), Tag("aa", 1), Tag("a\0", 1)]
    assert len({digest(t, b"x") for t in tags}) == len(tags)
    assert xof(32, TAG, b"x") != digest(TAG, b"x")
    assert xof(16, TAG, b"x") == xof(32, TAG, b"x")[:16]  # a longer output is not another domain


def test_every_module_of_keycairn_registers_its_tags_and_none_twice() -> None:
    """Importing everything would raise on a tag that two modules use."""
    for module in pkgutil.walk_packages(keycairn.__path__, "keycairn."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    tags = registered_tags()
    assert len(tags) > 20
    assert all(name == t.name and t.version >= 1 for name, t in tags.items())
    prefixes = [t.prefix for t in tags.values()]
    assert len(set(prefixes)) == len(prefixes)
    with pytest.raises(ValueError, match="twice"):
        tag("dkg/com")
    for bad in ("", "é", "a\n"):
        with pytest.raises(ValueError, match="ASCII"):
            tag(bad)


def test_header_and_fields_are_what_encode_joins() -> None:
    """Loops that hash many tuples put the pieces together themselves."""
    fields = [b"", b"x" * 5000, "é", 7, [b"a", None], True, bytearray(b"x" * 5000)]
    whole = header(TAG, len(fields)) + b"".join(field(f) for f in fields)
    assert whole == encode(TAG, *fields)


@pytest.mark.parametrize("size", [0, 1, 4096, 4097, 100_000])
def test_hashes_are_over_the_encoding_whatever_the_length(size: int) -> None:
    """Long strings are hashed without joining them; the hash must not tell."""
    fields = [7, b"a" * size, "t", b"b" * size]
    assert digest(TAG, *fields) == hashlib.sha256(encode(TAG, *fields)).digest()
    assert xof(99, TAG, *fields) == hashlib.shake_128(encode(TAG, *fields)).digest(99)
