"""The wire codec: every message has exactly one encoding, everything else is E_MALFORMED."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from keycairn.errors import Code, KeycairnError
from keycairn.protocols import frost, keygen, wire
from keycairn.protocols.session import AbortNotice, Echo, Frame, Hello
from keycairn.vault import control

SAMPLES: list[wire.Message] = [
    Frame(1, b"r" * 32, b"s" * 32, 2, 3, b"body", b""),
    Hello("keygen", 1, "vault", "name", (1, 2, 3), b"params", b"i" * 32, b"n" * 32, ((2, b"x"),)),
    Echo((b"h" * 32,), (b"s" * 64,)),
    AbortNotice("E_BAD_SHARE"),
    keygen.KeygenParams("request", "ecdsa", "secp256k1", 1, 300),
    keygen.Opening(((b"p" * 33, b"p" * 33),), (b"k" * 65,), (b"c" * 32,), b"s" * 32),
    keygen.Shares((b"x" * 32,)),
    frost.NonceMessage(b"d" * 32, b"e" * 32),
    control.ReadyNote(b"b" * 32, ((1, b"s" * 64),), True),
]


def refused(kind: Any, data: bytes) -> Code:
    with pytest.raises(KeycairnError) as caught:
        wire.decode(kind, data)
    return caught.value.code


@pytest.mark.parametrize("message", SAMPLES, ids=lambda m: type(m).__name__)
def test_messages_round_trip_and_refuse_every_other_shape(message: wire.Message) -> None:
    kind, data = type(message), wire.encode(message)
    assert wire.decode(kind, data) == message
    fields = msgspec.msgpack.decode(data)
    for other in (
        fields[:-1],
        [*fields, 0],
        [*fields, None],
        dict(zip(kind.__struct_fields__, fields, strict=True)),
        None,
        0,
        "",
        data,
    ):
        assert refused(kind, msgspec.msgpack.encode(other)) is Code.MALFORMED
    for cut in range(len(data)):
        assert refused(kind, data[:cut]) is Code.MALFORMED
    assert refused(kind, data + b"\0") is Code.MALFORMED
    assert refused(kind, data + data) is Code.MALFORMED


@pytest.mark.parametrize("kind", [int, bool, str, bytes, float, type(None), list])
def test_fields_of_a_wrong_type_are_refused(kind: type) -> None:
    """Every field of a frame set to a value of every type that is not its own."""
    values: dict[type, Any] = {
        int: 7, bool: True, str: "x", bytes: b"x", float: 1.0, type(None): None, list: [1],
    }  # fmt: skip
    good = list(msgspec.structs.astuple(SAMPLES[0]))
    for i, field in enumerate(good):
        if type(field) is not kind:
            bad = [*good[:i], values[kind], *good[i + 1 :]]
            assert refused(Frame, msgspec.msgpack.encode(bad)) is Code.MALFORMED


@pytest.mark.parametrize(
    "data",
    [
        "97cc01 c400 c400 00 00 c400 c400",  # 1 as uint8
        "97d001 c400 c400 00 00 c400 c400",  # 1 as int8
        "97ca3f800000 c400 c400 00 00 c400 c400",  # 1 as a float
        "dc0007 01 c400 c400 00 00 c400 c400",  # list header of three bytes
        "dd00000007 01 c400 c400 00 00 c400 c400",
        "97 01 c50000 c400 00 00 c400 c400",  # length of bytes not minimal
        "97 01 c600000000 c400 00 00 c400 c400",
        "97 01 a0 c400 00 00 c400 c400",  # text for bytes
        "97 01 c400 c400 00 00 c400 c70001",  # an extension
        "c1",
        "dd7fffffff",
        "c6ffffffff",
    ],
)
def test_bytes_that_are_not_canonical_are_refused(data: str) -> None:
    assert wire.decode(Frame, bytes.fromhex("9701c400c4000000c400c400")).version == 1
    assert refused(Frame, bytes.fromhex(data.replace(" ", ""))) is Code.MALFORMED


def test_limits() -> None:
    assert refused(Frame, bytes(wire.MAX_MESSAGE + 1)) is Code.TOO_LARGE
    assert refused(Frame, b"\x91" * 500_000) is Code.MALFORMED


def test_10_000_random_and_mutated_inputs_give_a_message_of_one_form_or_a_typed_error() -> None:
    rnd = random.Random(2)
    encoded = [(type(m), wire.encode(m)) for m in SAMPLES]
    codes = set()
    for _ in range(10_000):
        kind, good = rnd.choice(encoded)
        if rnd.random() < 0.3:
            data = rnd.randbytes(rnd.randrange(200))
        else:
            mutated = bytearray(good)
            for _ in range(rnd.randrange(1, 4)):
                mutated[rnd.randrange(len(mutated))] = rnd.randrange(256)
            data = bytes(mutated)
        try:
            message = wire.decode(kind, data)
        except KeycairnError as error:
            codes.add(error.code)
        else:
            assert wire.encode(message) == data
        assert control.unpack(data) is None or data[:1] == control.CONTROL_FRAME
    assert codes == {Code.MALFORMED}
