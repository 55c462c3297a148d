"""The manifest: one spelling, nothing unknown."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keycairn.backup.manifest import HeldKey, History, Manifest, Part, PendingBatch, Point
from keycairn.encoding import canonical_json
from keycairn.errors import Code, KeycairnError

texts = st.text(st.characters(codec="utf-8"), max_size=20)
hashes = st.binary(min_size=32, max_size=32)
naturals = st.integers(0, (1 << 63) - 1)
segments = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,9}", fullmatch=True)
names = st.lists(segments, min_size=1, max_size=3).map("/".join)
players = st.lists(naturals, max_size=3).map(tuple)

common = dict(
    keycairn=texts,
    vault=texts,
    node=naturals,
    node_public_key=hashes,
    created_us=naturals,
    pending=st.lists(
        st.builds(PendingBatch, hashes, st.lists(texts, max_size=2).map(tuple), players, players),
        max_size=2,
    ).map(tuple),
    policy=texts,
    parts=st.lists(
        st.builds(Part, names, naturals, hashes), max_size=3, unique_by=lambda p: p.name
    ).map(tuple),
    payload_size=naturals,
    payload_sha256=hashes,
    recipients=st.lists(texts, max_size=2).map(tuple),
    not_inside=st.lists(texts, max_size=2).map(tuple),
)
first = st.builds(
    Manifest,
    format=st.just(1),
    keys=st.dictionaries(texts, st.builds(HeldKey, naturals, hashes, texts), max_size=3),
    **common,
)
second = st.builds(
    Manifest,
    keys=st.dictionaries(
        texts, st.builds(HeldKey, naturals, hashes, texts, players, naturals), max_size=3
    ),
    players=st.dictionaries(naturals, hashes, max_size=3),
    threshold=naturals,
    database=texts,
    tools=st.dictionaries(texts, texts, max_size=2),
    point=st.none() | st.builds(Point, naturals, st.binary(min_size=16, max_size=16)),
    history=st.none() | st.builds(History, naturals, naturals, hashes),
    **common,
)
manifests = first | second

PLAIN = Manifest(
    keycairn="0.1.0",
    vault="v",
    node=1,
    node_public_key=bytes(32),
    created_us=1,
    keys={"k": HeldKey(1, bytes(32), "active")},
    pending=(),
    policy="ers",
    parts=(Part("index.json", 1, bytes(32)),),
    payload_size=1,
    payload_sha256=bytes(32),
    recipients=("age1x",),
)


@given(manifests)
def test_round_trip(manifest: Manifest) -> None:
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest


def edited(**changes: Any) -> bytes:
    body = json.loads(PLAIN.to_bytes())
    body.update(changes)
    return canonical_json(body)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        PLAIN.to_bytes() + b"\n",
        PLAIN.to_bytes().replace(b":", b": ", 1),
        PLAIN.to_bytes().replace(b'"node":1', b'"node":1,"node":1'),
        edited(extra=1),
        edited(node=True),
        edited(node="1"),
        edited(node=-1),
        edited(format=1),
        edited(format=3),
        edited(format=True),
        edited(players={"1": "00"}),
        edited(players={"01": "00" * 32}),
        edited(players=[]),
        edited(threshold=-1),
        edited(point={"number": 1}),
        edited(point={"number": 1, "id": "00" * 15}),
        edited(history={"era": 1, "length": 2, "head": ""}),
        edited(tools={"sqlite": 3}),
        edited(kind="other"),
        edited(vault=7),
        edited(node_public_key="00" * 31),
        edited(node_public_key="AA" * 32),
        edited(keys=[]),
        edited(keys={"k": {"generation": 1}}),
        edited(parts=[{"name": "../x", "sha256": "00" * 32, "size": 1}]),
        edited(parts=[{"name": "a", "sha256": "00" * 32, "size": 1}] * 2),
        edited(parts=[{"name": "a", "sha256": "00" * 32, "size": 1, "mode": 7}]),
        edited(payload={"encryption": "none", "sha256": "00" * 32, "size": 1}),
        edited(payload=None),
        edited(recipients="age1x"),
        edited(pending=[{}]),
    ],
)
def test_anything_else_is_malformed(data: bytes) -> None:
    with pytest.raises(KeycairnError) as caught:
        Manifest.from_bytes(data)
    assert caught.value.code is Code.MALFORMED
