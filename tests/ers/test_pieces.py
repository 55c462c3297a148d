"""The pieces of the proof, each against a plain computation of the same thing."""

from __future__ import annotations

import hashlib
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ers.helpers import make_key, refused
from keycairn.curves import GROUPS, polynomial
from keycairn.encoding import digest, tag, xof
from keycairn.encoding.transcript import registered_tags
from keycairn.errors import Code
from keycairn.ers import linear, merkle, tree
from keycairn.ers.challenge import closed_leaves
from keycairn.ers.degree import check_degree
from keycairn.ers.hashing import Prefix, blob, number
from keycairn.ers.params import TABLE, params

_TEST = tag("test/ers-pieces")
DOCS = Path(__file__).parents[2] / "docs" / "ers-format.md"


@given(st.integers(0, 1 << 40), st.binary(max_size=80))
def test_prefix_hashes_what_the_transcript_encoder_encodes(k: int, data: bytes) -> None:
    prefix = Prefix(_TEST, 2, b"context", "curve")
    fields = (number(k), blob(data))
    assert prefix.sha(*fields) == digest(_TEST, b"context", "curve", k, data)
    assert prefix.xof(50, *fields) == xof(50, _TEST, b"context", "curve", k, data)


def test_parameter_table_has_128_bits_against_grinding() -> None:
    for row in TABLE.values():
        assert math.comb(row.leaves, row.closed) >= 2**128
        assert math.comb(row.leaves, row.closed - 1) < 2**128 or row.name == "balanced"
    text = DOCS.read_text()
    for row in TABLE.values():
        assert f"| `{row.name}` | {row.leaves} | {row.closed} | {row.bits:.1f} |" in text
    assert refused(lambda: params("tiny")).detail["check"] == "params"
    refused(lambda: params(["fast"]))


def test_the_program_in_the_format_page_runs() -> None:
    block = re.search(r"```python\n(.*?)```", DOCS.read_text(), re.S)
    assert block
    run = subprocess.run([sys.executable, "-c", block[1]], capture_output=True, check=True)
    assert b"C(256, 30) = 2^129.7" in run.stdout


def test_every_tag_is_documented() -> None:
    import keycairn.ers.cli  # noqa: F401

    text = DOCS.read_text()
    ours = [name for name in registered_tags() if name.startswith("ers/")]
    assert len(ours) >= 18
    assert [name for name in ours if f"`{name}`" not in text] == []


def test_the_encoder_example_of_the_format_page() -> None:
    from keycairn.ers.statement import chain_code_hash

    assert chain_code_hash(bytes(32)).hex() in DOCS.read_text()


@settings(max_examples=60)
@given(st.data())
def test_cover_opens_all_leaves_but_the_closed_ones(data: st.DataObject) -> None:
    n = data.draw(st.integers(2, 40))
    closed = sorted(data.draw(st.sets(st.integers(1, n), min_size=1, max_size=n)))
    seeds = tree.grow(b"c" * 32, n, b"r" * 32)
    cover = tree.cover(n, closed)
    again = tree.regrow(b"c" * 32, n, {i: seeds[i] for i in cover})
    for k in range(1, n + 1):
        assert again[n + k - 1] == (b"" if k in closed else seeds[n + k - 1])
    values = [hashlib.sha256(bytes([k])).digest() for k in range(1, n + 1)]
    nodes = merkle.build(b"c" * 32, values)
    root = merkle.root(
        b"c" * 32, n, {k: values[k - 1] for k in closed}, {i: nodes[i] for i in cover}
    )
    assert root == nodes[1]


@pytest.mark.parametrize("name", sorted(TABLE))
def test_closed_leaves_are_distinct_sorted_and_unbiased(name: str) -> None:
    row = TABLE[name]
    counts = [0] * row.leaves
    rounds = 400
    for i in range(rounds):
        chosen = closed_leaves(i.to_bytes(32, "big"), row)
        assert len(chosen) == row.closed
        assert chosen == sorted(set(chosen))
        assert chosen[0] >= 1
        assert chosen[-1] <= row.leaves
        for k in chosen:
            counts[k - 1] += 1
    p = row.closed / row.leaves
    assert all(abs(c - rounds * p) < 6 * math.sqrt(rounds * p * (1 - p)) for c in counts)


@pytest.mark.parametrize("curve", sorted(GROUPS))
@pytest.mark.parametrize("size", [1, 2, 11, 12, 13, 300])
def test_linear_algebra_equals_plain_integers(curve: str, size: int) -> None:
    group = GROUPS[curve]
    seed = hashlib.shake_128(f"{curve} {size}".encode()).digest(size * 160)
    xs = [int.from_bytes(seed[32 * i : 32 * i + 32], "big") % group.q for i in range(size)]
    rho = [int.from_bytes(seed[16 * i : 16 * i + 16], "big") for i in range(size)]
    stream = hashlib.shake_128(seed).digest(48 * size)
    pads = [int.from_bytes(stream[48 * i : 48 * i + 48], "big") for i in range(size)]
    z = b"".join(group.encode_scalar(x + p) for x, p in zip(xs, pads, strict=True))
    masked = linear.Masker(group, xs).mask([stream] * 9)
    assert masked == [z] * 9
    combiner = linear.Combiner(group, rho)
    assert combiner.pads(stream) == sum(r * p for r, p in zip(rho, pads, strict=True)) % group.q
    total = sum(r * (x + p) for r, x, p in zip(rho, xs, pads, strict=True))
    assert combiner.scalars(z) == total % group.q


@pytest.mark.parametrize("curve", sorted(GROUPS))
def test_vector_reduction_at_its_edges(curve: str) -> None:
    group = GROUPS[curve]
    q = group.q
    xs = [1, 2, q - 1, q - 2, 5, 2**250, q // 2, 1, 1, q - 1, 7, 2**251 - 1, 3]
    assert len(xs) >= linear.VECTOR_FROM
    wide = [0, 1, q - 1, q, q + 1, 2**252 - 1, 2**252, 2**256 - 1, 2**256, 2**384 - 1]
    # Sums that land next to a multiple of q.
    multiples = [m * q + d for m in (1, 2, 2**100, 2**384 // q - 2) for d in (-1, 0, 1)]
    masker = linear.Masker(group, xs)
    for values in (*[[w] * len(xs) for w in wide], *[[m - x for x in xs] for m in multiples]):
        stream = b"".join(v.to_bytes(48, "big") for v in values)
        want = [group.encode_scalar(x + v) for x, v in zip(xs, values, strict=True)]
        assert masker.mask([stream]) == [b"".join(want)]


@pytest.mark.parametrize("curve", sorted(GROUPS))
@pytest.mark.parametrize(("n", "t"), [(2, 1), (3, 1), (3, 2), (5, 2), (9, 5)])
def test_degree_check_agrees_with_the_plain_one(curve: str, n: int, t: int) -> None:
    group = GROUPS[curve]
    key = make_key("k", curve, n, t)
    points = {i: group.base_mul(x.reveal()) for i, x in key.shares.items()}
    public = group.base_mul(key.secret)
    check_degree(points, t, public)
    polynomial.check_degree(points, t, public)
    for i in [*points, 0]:
        bad, wrong = dict(points), group.base_mul(12345)
        if i:
            bad[i] = wrong
        target = public if i else wrong
        refused(lambda b=bad, p=target: check_degree(b, t, p), Code.BAD_SHARE)
        refused(lambda b=bad, p=target: polynomial.check_degree(b, t, p), Code.BAD_SHARE)
    few = dict(list(points.items())[:t])
    refused(lambda: check_degree(few, t, public), Code.BAD_LENGTH)
    if n > t + 1:  # a sharing of higher degree than claimed
        high = make_key("high", curve, n, t + 1)
        shares = {i: group.base_mul(x.reveal()) for i, x in high.shares.items()}
        refused(lambda: check_degree(shares, t, group.base_mul(high.secret)), Code.BAD_SHARE)
