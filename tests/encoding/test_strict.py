"""Strict decoders: one form of everything, limits before parsing, typed errors (R-51)."""

from __future__ import annotations

import json
import random
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keycairn.encoding import (
    canonical_cbor,
    canonical_json,
    decode_cbor,
    decode_hex,
    decode_json,
)
from keycairn.encoding.strict import MAX_BODY, MAX_DEPTH, MAX_INT, MAX_STRING
from keycairn.errors import Code, KeycairnError


def refused(decode: Any, data: Any, **options: Any) -> Code:
    with pytest.raises(KeycairnError) as caught:
        decode(data, **options)
    # Whatever was refused, the error can be sent to the caller.
    json.dumps(caught.value.to_json(), ensure_ascii=False).encode()
    return caught.value.code


# -- JSON ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b" ",
        b"[1] x",
        b"{'a':1}",
        b'{"a":1,}',
        b'{"a":1,"a":1}',
        b'{"x":{"a":1,"b":2,"a":3}}',
        b'{"\\ud800":1,"\\ud800":2}',
        b'{"\\u0061":1,"a":2}',
        b"NaN",
        b"[Infinity]",
        b"-Infinity",
        b"1.0",
        b"1e5",
        b"[1E400]",
        b"-0.0",
        b"9" * 5000,
        b"-" + b"9" * 5000,
        b"9223372036854775809",
        b"-9223372036854775809",
        b"01",
        b"+1",
        b'"\\ud800"',
        b'{"\\udfff":1}',
        b'"\xed\xa0\x80"',
        b'"\xff"',
        b'"\n"',
        b"\xef\xbb\xbf{}",
        b"\xff\xfe{\0}\0",
        b"[" * 200_000,
        b"[" * 200_000 + b"]" * 200_000,
        b'{"a":' * 200_000,
        b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
    ],
    ids=lambda text: repr(text[:24]),
)
def test_json_that_is_refused(text: bytes) -> None:
    assert refused(decode_json, text) is Code.MALFORMED


def test_json_limits_come_before_parsing() -> None:
    assert refused(decode_json, b"[" * (MAX_BODY + 1)) is Code.TOO_LARGE
    assert refused(decode_json, b'"' + b"a" * (MAX_STRING + 1) + b'"') is Code.TOO_LARGE
    assert refused(decode_json, b'{"' + b"a" * (MAX_STRING + 1) + b'":1}') is Code.TOO_LARGE
    assert refused(decode_json, b"[1]", max_bytes=2) is Code.TOO_LARGE
    assert refused(decode_json, b'["abc"]', max_string=2) is Code.TOO_LARGE


def test_json_that_is_accepted() -> None:
    deep = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    for text in (deep, '{"a":[1,true,null,"é","[[[{"]}', '"\\u00e9\\ud83d\\ude00"', str(MAX_INT)):
        assert decode_json(text.encode()) == json.loads(text)
    assert decode_json(b'"' + b"[" * 200 + b'"') == "[" * 200  # brackets in text are no depth
    assert decode_json(b'["\\"[", 1]') == ['"[', 1]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-MAX_INT, MAX_INT) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(JSON)
def test_json_and_cbor_round_trip_to_one_form(value: Any) -> None:
    text, binary = canonical_json(value), canonical_cbor(value)
    assert decode_json(text) == value
    assert canonical_json(decode_json(text)) == text
    assert decode_cbor(binary) == value
    assert canonical_cbor(decode_cbor(binary)) == binary


def test_canonical_json_has_no_form_for_nan() -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(float("nan"))


# -- CBOR ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        "",  # nothing
        "1801",  # 1 in two bytes
        "190001",  # 1 in three bytes
        "1b0000000000000001",  # 1 in nine bytes
        "5801ff",  # length of a byte string not minimal
        "7f6161ff",  # indefinite text
        "5f4161ff",  # indefinite bytes
        "9f01ff",  # indefinite list
        "bf616101ff",  # indefinite map
        "a2616101616102",  # duplicate key
        "a2616201616102",  # keys not in order
        "a262616101616202",  # keys not in length-first order
        "a10102",  # key is a number
        "a1810102",  # key is a list
        "820102ff",  # trailing bytes
        "0000",  # two items
        "c11a514b67b0",  # tag: time
        "d9010281 01".replace(" ", ""),  # tag: set
        "d9d9f701",  # tag: "this is CBOR"
        "d81c80",  # tag: shared reference
        "c249010000000000000000",  # tag: bignum 2^64
        "c349010000000000000000",  # tag: negative bignum
        "c24101",  # tag: bignum of a small value
        "f93c00",  # 1.0 in half precision
        "fb3ff0000000000000",  # 1.0 in double precision
        "f97e00",  # NaN
        "f7",  # undefined
        "e0",  # a simple value
        "ff",  # a break alone
        "62c328",  # text that is not UTF-8
        "63eda080",  # text with a lone surrogate
        "1c",  # reserved
        "5bffffffffffffffff",  # 2^64-1 bytes promised
        "9bffffffffffffffff",
        "bbffffffffffffffff",
        "9b7fffffffffffffff00",
    ],
)  # fmt: skip
def test_cbor_that_is_refused(data: str) -> None:
    assert refused(decode_cbor, bytes.fromhex(data)) is Code.MALFORMED


def test_cbor_limits() -> None:
    assert refused(decode_cbor, b"\x81" * 200_000) is Code.MALFORMED
    assert refused(decode_cbor, b"\x81" * (MAX_DEPTH + 1) + b"\x00") is Code.MALFORMED
    assert refused(decode_cbor, canonical_cbor([0] * 100), max_bytes=100) is Code.TOO_LARGE
    assert decode_cbor(bytes.fromhex("1bffffffffffffffff")) == 2**64 - 1
    assert decode_cbor(bytes.fromhex("3bffffffffffffffff")) == -(2**64)


def test_cbor_fuzz_ends_in_a_value_of_one_form_or_a_typed_error() -> None:
    rnd = random.Random(1)
    good = canonical_cbor({"a": [1, b"xyz", {"k": None}], "list": list(range(40)), "t": "text"})
    codes = set()
    for _ in range(10_000):
        data = bytearray(good)
        for _ in range(rnd.randrange(1, 4)):
            data[rnd.randrange(len(data))] = rnd.randrange(256)
        if rnd.random() < 0.2:
            data = data[: rnd.randrange(len(data))]
        try:
            value = decode_cbor(bytes(data))
        except KeycairnError as error:
            codes.add(error.code)
        else:
            assert cbor2.dumps(value, canonical=True) == bytes(data)
    assert codes == {Code.MALFORMED}


# -- hex ---


@pytest.mark.parametrize(
    "text",
    [
        "0x00",
        "0",
        "AB",
        "aB",
        "0 0",
        " 00",
        "00 ",
        "00\n",
        "0\n",
        "٠٠",
        "００",
        "gg",
        b"00",
        None,
        0,
    ],
)
def test_hex_that_is_refused(text: Any) -> None:
    assert refused(decode_hex, text) is Code.MALFORMED


def test_hex_lengths() -> None:
    assert decode_hex("00ff", length=2) == b"\0\xff"
    assert decode_hex("", length=0) == b""
    assert refused(decode_hex, "00ff", length=3) is Code.MALFORMED
    assert refused(decode_hex, "", length=1) is Code.MALFORMED
