"""Secrets do not print, compare, hash, copy or pickle (R-55)."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import traceback
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from keycairn.curves import ED25519
from keycairn.curves.polynomial import Polynomial
from keycairn.encoding import Secret, SecretBytes, SecretScalar
from keycairn.ports.seeded import SeededRng
from keycairn.protocols.frost import commit

CANARY = 0xC0FFEE_5EC2E7
HOLDERS: list[Secret[Any]] = [
    SecretScalar(CANARY),
    SecretBytes(b"canary-c0ffee"),
    Secret("canary-c0ffee"),
]


def leaks(text: str) -> bool:
    return "canary" in text or str(CANARY) in text or f"{CANARY:x}" in text.lower()


@pytest.mark.parametrize("secret", HOLDERS, ids=lambda s: type(s).__name__)
def test_no_way_of_printing_shows_the_value(secret: Secret[Any]) -> None:
    shown = [
        repr(secret), str(secret), f"{secret}", f"{secret!r:>40}", f"{secret:x}",
        f"{secret} {secret!r}", repr([secret]), repr({"k": secret}), ascii(secret),
    ]  # fmt: skip
    assert not any(leaks(text) for text in shown)
    assert all("<secret>" in text for text in shown)


@pytest.mark.parametrize("secret", HOLDERS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize(
    "way",
    [
        copy.copy,
        copy.deepcopy,
        pickle.dumps,
        hash,
        json.dumps,
        msgspec.msgpack.encode,
        msgspec.json.encode,
        lambda s: s == s,
        lambda s: s != s,
        lambda s: s == s.reveal(),
        lambda s: {s},
        lambda s: s.__getstate__(),
        lambda s: sorted([s, s]),
        bytes,
    ],
)
def test_no_way_of_copying_or_comparing_works(
    secret: Secret[Any], way: Callable[[Any], Any]
) -> None:
    with pytest.raises((TypeError, NotImplementedError)) as caught:
        way(secret)
    assert not leaks(str(caught.value))


def test_a_dataclass_with_a_secret_does_not_copy_it_out() -> None:
    @dataclasses.dataclass
    class Holder:
        share: SecretScalar

    holder = Holder(SecretScalar(CANARY))
    assert not leaks(repr(holder))
    with pytest.raises(TypeError):
        dataclasses.asdict(holder)


def test_a_traceback_with_locals_shows_no_secret() -> None:
    def fails(share: Secret[Any], key: Secret[Any]) -> None:
        holder = {"share": share, "key": key}
        raise RuntimeError(f"with {share} and {holder}")

    try:
        fails(*HOLDERS[:2])
    except RuntimeError as error:
        text = "".join(
            traceback.TracebackException.from_exception(error, capture_locals=True).format()
        )
    assert "<secret>" in text
    assert not leaks(text)


def test_polynomials_and_nonces_print_no_coefficient() -> None:
    f = Polynomial.random(ED25519, 2, SeededRng(1), constant=CANARY)
    pair = commit(1, SecretScalar(CANARY), SeededRng(2))
    hiding, binding = (s.reveal() for s in commit(1, SecretScalar(CANARY), SeededRng(2)).take())
    for thing in (f, pair):
        text = f"{thing!r} {thing}"
        assert not leaks(text)
        assert str(hiding) not in text
        assert str(binding) not in text
