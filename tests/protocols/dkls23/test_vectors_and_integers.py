"""The vectorised multiplication against the plain one, and its exactness at the extremes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keycairn.curves import GROUPS, SECP256K1
from keycairn.curves.group import Group
from keycairn.ports.seeded import SeededRng
from keycairn.protocols.dkls23 import gadget, ote, residues, u384, vole
from keycairn.protocols.dkls23.ote import Lane
from keycairn.protocols.dkls23.parameters import XI, row_len
from protocols.dkls23 import plain
from protocols.lockstep import deal_setups

Q = SECP256K1.q
M = 2**384
SETUPS = deal_setups((1, 2))
ALICE, BOB = SETUPS[1][2].state(), SETUPS[2][1].state()
WEIERSTRASS = [g for name, g in GROUPS.items() if name != "ed25519"]


def lane(slots: int) -> Lane:
    return Lane(bytes(32), 0, 2, 1, SETUPS[1][2].setup_id, slots)


# -- a whole chunk ---


@pytest.mark.parametrize("slots", [1, 2, 16])
def test_both_sides_of_a_chunk_equal_the_plain_ones(slots: int) -> None:
    where, rng = lane(slots), SeededRng(f"chunk/{slots}")
    message, bob_rows = ote.extend_bob(where, BOB.bob_keys, rng)
    alice_rows = ote.extend_alice(where, ALICE.delta, ALICE.alice_keys, message)
    edges = [(0, 0), (Q - 1, 1), (5, Q - 1)]
    inputs = [edges[s % 3] for s in range(slots)]
    alice = vole.Alice(where, SECP256K1, ALICE.delta, alice_rows, inputs, rng)
    slow_alice = plain.Alice(
        where, SECP256K1, alice_rows.columns, ALICE.delta, [tuple(a) for a in alice._inputs]
    )
    assert alice.a_tilde == slow_alice.correction()
    assert alice.outputs == slow_alice.outputs()
    challenge = vole.Challenge.of(where, bytes(32), alice.a_tilde, b"points")
    eta, mu = alice.prove(challenge)
    assert (eta, mu) == slow_alice.prove(challenge.theta)

    bob = vole.Bob(where, SECP256K1, bob_rows)
    slow_bob = plain.Bob(where, SECP256K1, bob_rows.columns, bob_rows.choices.tolist())
    etas = [int.from_bytes(eta[k : k + 32], "big") for k in range(0, len(eta), 32)]
    assert slow_bob.mu(challenge.theta, alice.a_tilde, etas) == mu
    assert bob.receive(challenge, alice.a_tilde, etas, mu) == (
        True,
        slow_bob.outputs(alice.a_tilde),
    )


@pytest.mark.parametrize("slots", [1, 3, 16])
def test_rows_and_columns_equal_the_plain_ones(slots: int) -> None:
    where = lane(slots)
    keys = [BOB.bob_keys[k : k + 16] for k in range(0, 2048, 16)]
    rows = ote._expand(where, keys)
    assert (rows == plain.expand(where, keys)).all()
    assert (ote._columns(rows, slots) == plain.columns(rows, slots)).all()
    single = np.zeros((128, row_len(slots)), np.uint8)
    for row, byte, bit in [(0, 0, 0), (127, 0, 7), (77, 52 * slots - 1, 3), (8, 9, 1)]:
        single[:] = 0
        single[row, byte] = 1 << bit
        assert (ote._columns(single, slots) == plain.columns(single, slots)).all()


# -- the combination modulo q ---


def combined(
    group: Group, weights: tuple[int, int, int], values: np.ndarray, minus: list[int] | None = None
) -> list[int]:
    """``values``: (slots, n, 3, 6); ``minus``: one number for each of slots · n."""
    columns = None
    if minus is not None:
        columns = residues.split(minus).reshape(8, values.shape[0], -1)
    raw = residues.combine(group.q, weights, u384.digits(values), columns)
    return [int.from_bytes(raw[k : k + 32], "big") for k in range(0, len(raw), 32)]


def expected(
    q: int, weights: tuple[int, int, int], triples: list[list[int]], minus: list[int] | None = None
) -> list[int]:
    taken = minus or [0] * len(triples)
    return [
        (sum(w * x for w, x in zip(weights, triple, strict=True)) - m) % q
        for triple, m in zip(triples, taken, strict=True)
    ]


def as_array(triples: list[list[int]]) -> np.ndarray:
    flat = [value for triple in triples for value in triple]
    return u384.from_ints(flat).reshape(1, len(triples), 3, 6)


@pytest.mark.parametrize("group", WEIERSTRASS, ids=lambda g: g.name)
@pytest.mark.parametrize("theta", [(0, 0), (1, 1), (2**128 - 1, 2**128 - 1), (2**127, 12345)])
def test_combination_at_the_extremes(group: Group, theta: tuple[int, int]) -> None:
    q, weights = group.q, (*theta, 1)
    edges = [0, 1, q - 1, q, q + 1, 2**256 - 1, 2**256, M - 1, M - q, (M // q) * q, 2**383]
    triples = [[a, b, c] for a in edges for b in (0, M - 1) for c in edges]
    for minus in (None, [0] * len(triples), [q] * len(triples), [q - 1] * len(triples)):
        assert combined(group, weights, as_array(triples), minus) == expected(
            q, weights, triples, minus
        )


@pytest.mark.parametrize("group", WEIERSTRASS, ids=lambda g: g.name)
def test_results_at_both_ends_of_the_range(group: Group) -> None:
    """0, 1 and q - 1, and values a hair below and above many multiples of q."""
    q = group.q
    for theta in [(2**128 - 1, 2**128 - 3), (q // 2**129, 7)]:
        weights = (*theta, 1)
        triples, targets = [], []
        for k in range(64):
            x, y = pow(3, 1000 + k, M), pow(5, 900 + k, M)
            for target in (0, 1, 2, q - 1, q - 2):
                low = (target - theta[0] * x - theta[1] * y) % q
                for multiple in (0, 1, 2**127):
                    triples.append([x, y, low + multiple * q])
                    targets.append(target)
        assert combined(group, weights, as_array(triples)) == targets


def digit_patterns(group: Group, weights: tuple[int, int, int]) -> list[list[int]]:
    """Numbers whose digits make the sums of the product as large and as small as can be.

    Each 16-bit digit is all ones where the matrix entry has one sign, and zero elsewhere; once
    for every digit of the result and either sign.
    """
    matrix = residues._matrix(group.q, weights)
    out = []
    for row in matrix:
        for wanted in (row > 0, row < 0):
            bits = wanted.reshape(3, 24)
            out.append([sum(0xFFFF << (16 * t) for t in range(24) if bits[w, t]) for w in range(3)])
    return out


@pytest.mark.parametrize("group", WEIERSTRASS, ids=lambda g: g.name)
@pytest.mark.parametrize("seed", range(4))
def test_the_largest_sums_are_exact(group: Group, seed: int) -> None:
    rng = SeededRng(f"theta/{seed}")
    theta = tuple(int.from_bytes(rng.bytes(16), "big") for _ in range(2))
    weights = (*theta, 1)
    triples = digit_patterns(group, weights)
    assert combined(group, weights, as_array(triples)) == expected(group.q, weights, triples)


@pytest.mark.parametrize("group", WEIERSTRASS, ids=lambda g: g.name)
def test_the_bounds_that_the_docstring_states(group: Group) -> None:
    """For the worst matrix there can be, not only for those that were met."""
    assert 2**255 < group.q < 2**256
    balanced, plain_low = 56 * (2**16 - 1) * 2**31, (2**16 - 1) * (1 + 2**16)
    assert balanced + plain_low < 2**53
    h = residues._HALVES
    assert max(h, group.q - h) == h
    assert 56 * (2**16 - 1) * h + 2**256 + group.q < residues._OFFSET * group.q
    assert residues._OFFSET * group.q + 2**256 < 2**287
    matrix = residues._matrix(group.q, (2**128 - 1, 2**127 + 1, 1))
    assert np.abs(matrix).max() < 2**32
    assert np.abs(np.delete(matrix, range(48, 64), axis=1)).max() <= 2**31
    low = residues._ONE.T
    assert (matrix[:, 48:64] == low).all()


thetas = st.one_of(st.sampled_from([0, 1, 2**127, 2**128 - 1]), st.integers(0, 2**128 - 1))
numbers = st.one_of(
    st.sampled_from([0, 1, Q - 1, Q, 2**256 - 1, 2**383, M - 1]), st.integers(0, M - 1)
)
scalars = st.one_of(st.sampled_from([0, 1, Q - 1]), st.integers(0, Q))


@settings(max_examples=200, deadline=None)
@given(
    st.tuples(thetas, thetas),
    st.lists(st.tuples(st.lists(numbers, min_size=3, max_size=3), scalars), min_size=1, max_size=6),
)
def test_combination_of_anything(theta: tuple[int, int], rows: list[tuple[list[int], int]]) -> None:
    weights = (*theta, 1)
    triples, minus = [t for t, _ in rows], [m for _, m in rows]
    assert combined(SECP256K1, weights, as_array(triples), minus) == expected(
        Q, weights, triples, minus
    )


def test_a_number_in_another_slot_or_layout_is_the_same_number() -> None:
    rng = SeededRng("layout")
    values = [int.from_bytes(rng.bytes(48), "big") for _ in range(2 * XI * 3)]
    flat = u384.from_ints(values)
    rows_first = np.ascontiguousarray(flat).reshape(2, XI, 3, 6)
    columns_first = u384.from_bytes(
        np.frombuffer(u384.to_bytes(flat), np.uint8).reshape(2, XI, 3, 48)
    )
    assert columns_first.strides != rows_first.strides
    assert u384.to_ints(rows_first) == u384.to_ints(columns_first) == values
    one, two = (u384.digits(x) for x in (rows_first, columns_first))
    assert (one == two).all()
    assert gadget.products(SECP256K1, one[:1]) == gadget.inner_products(
        SECP256K1, rows_first[:, :, 0]
    )
    for operation in (u384.add, u384.sub):
        assert (operation(rows_first, rows_first) == operation(columns_first, columns_first)).all()
        assert (operation(columns_first, rows_first) == operation(rows_first, rows_first)).all()


def test_results_may_take_the_place_of_operands() -> None:
    edges = [0, 1, 2**64 - 1, 2**64, 2**320, M - 2**64, M - 1]
    pairs = [(a, b) for a in edges for b in edges]
    sums, differences = [(a + b) % M for a, b in pairs], [(a - b) % M for a, b in pairs]

    def operands() -> tuple[np.ndarray, np.ndarray]:
        return u384.from_ints([a for a, _ in pairs]), u384.from_ints([b for _, b in pairs])

    x, y = operands()
    assert u384.add(x, y, out=x) is x
    assert u384.to_ints(x) == sums
    for k in (0, 1):
        both = operands()
        assert u384.sub(*both, out=both[k]) is both[k]
        assert u384.to_ints(both[k]) == differences


# -- the gadget's products ---


@pytest.mark.parametrize("group", WEIERSTRASS, ids=lambda g: g.name)
def test_gadget_bounds(group: Group) -> None:
    """All digits at their largest: the sums of both products still fit."""
    limbs, reduction = gadget._limbs(group), gadget._reduction(group)
    assert limbs.max() < 2**28
    assert XI * 2**28 * 2**16 < 2**53
    assert np.abs(reduction).max() <= 2**27
    assert len(reduction) * 2**16 * 2**27 < 2**53
    worst = limbs.sum(axis=0) * 0xFFFF
    assert worst.max() < 2**53
    values = u384.from_ints([M - 1] * XI).reshape(1, XI, 6)
    total = sum(gadget.vector(group)) * (M - 1) % group.q
    assert gadget.inner_products(group, values) == [total]


def test_times_bit_is_a_selection() -> None:
    x = u384.from_ints([M - 1, 7, 2**320])
    bits = np.array([0, 1, 1], np.uint8)
    assert u384.to_ints(u384.times_bit(bits, x)) == [0, 7, 2**320]


def test_the_reference_is_not_the_product() -> None:
    """The plain version notices a difference: a control of the comparison itself."""
    where = lane(1)
    message, rows = ote.extend_bob(where, BOB.bob_keys, SeededRng("control"))
    bob = plain.Bob(where, SECP256K1, rows.columns, rows.choices.tolist())
    other = dataclasses.replace(bob, choices=[1 - b for b in rows.choices.tolist()])
    a_tilde = SeededRng("ã").bytes(vole.correction_len(1))
    assert bob.outputs(a_tilde) != other.outputs(a_tilde)
    assert message.u
