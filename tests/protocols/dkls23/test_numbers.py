"""Arithmetic modulo 2^384, the gadget, zero-shares: against Python's integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keycairn.curves import SECP256K1
from keycairn.encoding import tag, to_scalar
from keycairn.encoding.transcript import registered_tags
from keycairn.ports.seeded import SeededRng
from keycairn.protocols.dkls23 import gadget, u384
from keycairn.protocols.dkls23.parameters import XI, choice_len, chunk_sizes, row_len
from keycairn.protocols.dkls23.zero import zero_shares
from keycairn.protocols.setup import PairSetup
from protocols.lockstep import deal_setups

M = 2**384
Q = SECP256K1.q
EDGES = [0, 1, 2**64 - 1, 2**64, 2**128 - 1, 2**320, 2**383, M - 2**64, M - 1]
numbers = st.one_of(st.sampled_from(EDGES), st.integers(0, M - 1))
pairs = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=5)


@given(pairs)
def test_addition_subtraction_and_encoding(values: list[tuple[int, int]]) -> None:
    x, y = (u384.from_ints([pair[k] for pair in values]) for k in (0, 1))
    assert u384.to_ints(x) == [a for a, _ in values]
    assert u384.to_bytes(x) == b"".join(a.to_bytes(48, "big") for a, _ in values)
    assert u384.to_ints(u384.add(x, y)) == [(a + b) % M for a, b in values]
    assert u384.to_ints(u384.sub(x, y)) == [(a - b) % M for a, b in values]
    raw = np.frombuffer(u384.to_bytes(y), np.uint8).reshape(-1, 48)
    assert (u384.from_bytes(raw) == y).all()


def test_every_pair_of_edges() -> None:
    for a in EDGES:
        for b in EDGES:
            x, y = u384.from_ints([a]), u384.from_ints([b])
            assert u384.to_ints(u384.add(x, y)) == [(a + b) % M]
            assert u384.to_ints(u384.sub(x, y)) == [(a - b) % M]


def test_select_takes_by_bit() -> None:
    zero, one = u384.from_ints([5, 6, 7]), u384.from_ints([M - 1, 8, 9])
    assert u384.to_ints(u384.select(np.array([0, 1, 0], np.uint8), zero, one)) == [5, 8, 7]


@pytest.mark.parametrize("fill", [0, M - 1, None])
def test_gadget_products(fill: int | None) -> None:
    """All-ones limbs are the largest sums that the float64 products must hold exactly."""
    rng = SeededRng("gadget")
    g = gadget.vector(SECP256K1)
    values = [int.from_bytes(rng.bytes(48), "big") if fill is None else fill for _ in range(2 * XI)]
    expected = [sum(a * b for a, b in zip(g, values[k : k + XI], strict=True)) % Q for k in (0, XI)]
    assert gadget.inner_products(SECP256K1, u384.from_ints(values).reshape(2, XI, 6)) == expected


@pytest.mark.parametrize("fill", [0, 1, None])
def test_gadget_encodes_choice_bits(fill: int | None) -> None:
    raw = np.frombuffer(SeededRng("bits").bytes(XI * 3), np.uint8)
    choices = (raw & 1) if fill is None else np.full(XI * 3, fill, np.uint8)
    g = gadget.vector(SECP256K1)
    expected = [
        sum(int(b) * x for b, x in zip(row, g, strict=True)) % Q for row in choices.reshape(3, XI)
    ]
    assert gadget.encode_choices(SECP256K1, choices) == expected


def test_gadget_is_a_constant_of_the_curve() -> None:
    g = gadget.vector(SECP256K1)
    assert len(set(g)) == XI
    assert g[7] == to_scalar(Q, registered_tags()["gadget"], "secp256k1", 7)


def test_sizes_are_those_of_the_specification() -> None:
    assert [128 * row_len(c) + 32 + 4096 for c in (1, 8, 16)] == [16_416, 61_472, 114_720]
    assert chunk_sizes(1) == (1,)
    assert chunk_sizes(16) == (16,)
    assert chunk_sizes(33) == (16, 16, 1)
    assert all(8 * choice_len(c) >= XI * c for c in range(1, 17))


_T = tag("test/zero")


@pytest.mark.parametrize("players", [(1, 2), (1, 3, 4), (2, 3, 4, 7, 9)])
def test_zero_shares_sum_to_zero_only_with_one_session_and_label(players: tuple[int, ...]) -> None:
    setups = deal_setups(players)

    def share(i: int, session: bytes = b"s", label: int = 0) -> int:
        peers = tuple(j for j in players if j != i)
        return zero_shares(SECP256K1, _T, session, i, setups[i], peers, [label])[0]

    assert sum(share(i) for i in players) % Q == 0
    assert len({share(i) for i in players}) == len(players)
    first, *others = players
    assert (share(first, b"other") + sum(share(i) for i in others)) % Q != 0
    assert (share(first, label=1) + sum(share(i) for i in others)) % Q != 0


def test_zero_shares_of_two_pairs_differ_even_with_one_seed() -> None:
    """A cheater may arrange equal seeds with two players; the players' numbers keep them apart."""
    setups = deal_setups((1, 2, 3))
    setups[1][3] = PairSetup(1, 3, bytes(32), setups[1][2].state())
    shares = {zero_shares(SECP256K1, _T, b"s", 1, setups[1], (j,), [0])[0] for j in (2, 3)}
    assert len(shares) == 2
