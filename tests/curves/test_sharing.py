"""Shamir and Feldman: shares, commitments, indices that are not indices (T-006 to T-008)."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keycairn.curves import ED25519, SECP256K1
from keycairn.curves.group import Group, Point
from keycairn.curves.polynomial import (
    Polynomial,
    check_degree,
    evaluate_commitment,
    interpolate,
    interpolate_points,
    lagrange,
)
from keycairn.encoding import SecretScalar
from keycairn.errors import Code, KeycairnError
from keycairn.ports.seeded import SeededRng

BOTH = pytest.mark.parametrize("g", [SECP256K1, ED25519], ids=lambda g: g.name)


def refused(call: Any, *args: Any) -> Code:
    with pytest.raises(KeycairnError) as caught:
        call(*args)
    return caught.value.code


def poly(g: Group, *coefficients: int) -> Polynomial:
    return Polynomial(g, tuple(SecretScalar(c % g.q) for c in coefficients))


@BOTH
@settings(max_examples=25, deadline=None)
@given(st.data())
def test_every_subset_of_t_plus_1_shares_gives_every_value(g: Group, data: st.DataObject) -> None:
    t = data.draw(st.integers(1, 4))
    n = data.draw(st.integers(t + 1, 7))
    f = Polynomial.random(g, t, SeededRng(data.draw(st.integers(0, 2**32))))
    commitment = f.commit()
    shares = {i: f.evaluate(i) for i in range(1, n + 1)}
    points = {i: g.base_mul(s.reveal()) for i, s in shares.items()}
    assert all(evaluate_commitment(commitment, i) == points[i] for i in points)
    who = data.draw(st.permutations(range(1, n + 1)))[: t + 1]
    subset = {i: shares[i] for i in who}
    at = data.draw(st.integers(0, 50))
    expected = f.coefficients[0].reveal() if at == 0 else f.evaluate(at).reveal()
    assert interpolate(g, subset, at).reveal() == expected
    assert interpolate_points({i: points[i] for i in who}, at) == g.base_mul(expected)
    check_degree(points, t, commitment[0])


@BOTH
def test_t_shares_say_nothing_about_the_secret(g: Group) -> None:
    """For any t shares and any secret there is a polynomial that fits."""
    f = Polynomial.random(g, 2, SeededRng(1))
    known = {i: f.evaluate(i) for i in (1, 3)}
    for secret in (0, 1, g.q - 1):
        third = {**known, 2: SecretScalar(7)}
        # Bend the third share so that the secret comes out.
        bend = (secret - interpolate(g, third).reveal()) * g.inverse(lagrange(g, [1, 2, 3], 2))
        third[2] = SecretScalar((7 + bend) % g.q)
        assert interpolate(g, third).reveal() == secret


@BOTH
def test_lagrange_coefficients_sum_to_one_and_match_a_hand_calculation(g: Group) -> None:
    for players in ([1, 2], [1, 3], [2, 3, 5], [5, 1, 4, 2]):
        assert sum(lagrange(g, players, i) for i in players) % g.q == 1
        assert [lagrange(g, players, i, at=players[0]) for i in players] == [
            1, *[0] * (len(players) - 1),
        ]  # fmt: skip
    assert lagrange(g, [1, 2], 1) == 2
    assert lagrange(g, [1, 2], 2) == g.q - 1
    assert lagrange(g, [1, 3], 1) == 3 * pow(2, -1, g.q) % g.q


# -- T-006, T-007: indices ---


def bad_players(g: Group) -> list[tuple[list[Any], Any]]:
    return [
        ([], 1),
        ([1, 2], 3),
        ([1, 1], 1),
        ([1, 2, 2], 1),
        ([0, 1], 1),
        ([-1, 1], 1),
        ([1, g.q], 1),
        ([1, g.q + 1], 1),
        ([2, g.q + 2], 2),
        ([1, 2**256 + 1], 1),
        ([g.q], g.q),
        ([1.0, 2.0], 1.0),
        ([1, 2.0], 1),
        ([1, 2], 1.0),
        (["1", "2"], "1"),
        (["١", 2], 2),
        ([1, "2"], 1),
        ([True, 2], 2),
        ([1, 2], True),
        ([None, 1], 1),
        ([1, 2], None),
        ([b"\1", 2], 2),
    ]


@BOTH
def test_t006_t007_indices_that_are_not_small_positive_integers(g: Group) -> None:
    for players, i in bad_players(g):
        assert refused(lagrange, g, players, i) is Code.BAD_INDEX, (players, i)


@BOTH
def test_t007_no_share_is_ever_taken_where_it_is_the_secret(g: Group) -> None:
    f = poly(g, 42, 5)
    for x in (0, g.q, -g.q, 2 * g.q, False, 1.0, "1", None):
        assert refused(f.evaluate, x) is Code.BAD_INDEX
    assert f.evaluate(1).reveal() == 47


@BOTH
def test_t007_interpolation_refuses_the_same_share_twice_under_two_names(g: Group) -> None:
    share = SecretScalar(3)
    assert refused(interpolate, g, {1: share, g.q + 1: share}) is Code.BAD_INDEX
    point = g.base_mul(3)
    assert refused(interpolate_points, {1: point, g.q + 1: point}) is Code.BAD_INDEX


# -- T-008: degrees and lengths ---


@BOTH
def test_t008_polynomials_and_commitments_have_exactly_t_plus_1_terms(g: Group) -> None:
    for t in range(1, 6):
        f = Polynomial.random(g, t, SeededRng(t))
        assert len(f.coefficients) == len(f.commit()) == t + 1
        assert f.degree == t
        assert all(0 < c.reveal() < g.q for c in f.coefficients)
    assert Polynomial.random(g, 2, SeededRng(1), constant=9).coefficients[0].reveal() == 9


@BOTH
def test_t008_check_degree_needs_t_plus_1_points_at_least(g: Group) -> None:
    f = Polynomial.random(g, 2, SeededRng(1))
    points = {i: g.base_mul(f.evaluate(i).reveal()) for i in (1, 2, 3)}
    check_degree(points, 2, f.commit()[0])
    for few in ({}, {1: points[1]}, {1: points[1], 2: points[2]}):
        assert refused(check_degree, few, 2, f.commit()[0]) is Code.BAD_LENGTH


@BOTH
def test_check_degree_finds_every_kind_of_misfit(g: Group) -> None:
    def shares(f: Polynomial, n: int = 5) -> dict[int, Point]:
        return {i: g.base_mul(f.evaluate(i).reveal()) for i in range(1, n + 1)}

    f = Polynomial.random(g, 2, SeededRng(3))
    public, good = f.commit()[0], shares(f)
    raised = Polynomial.random(g, 3, SeededRng(4), constant=f.coefficients[0].reveal())
    cases: list[tuple[dict[int, Point], Point]] = [
        (shares(raised), public),  # a threshold raised to 3: same key, one degree more
        (good, g.base_mul(5)),  # another public key
        (good, g.neg(public)),
        ({**good, 1: good[2], 2: good[1]}, public),  # two shares swapped
        *[({**good, i: g.add([good[i], g.base_mul(1)])}, public) for i in good],  # one share off
        ({1: good[1], 2: good[2], 4: good[3], 5: good[4]}, public),  # under other names
        (shares(Polynomial.random(g, 2, SeededRng(5))), public),  # another polynomial
        # Two colluders shift their shares so that the sum stays what it was.
        ({**good, 4: g.add([good[4], g.base_mul(7)]), 5: g.add([good[5], g.base_mul(-7)])}, public),
        (shares(poly(g, 0, 5, 6)), public),  # a polynomial through zero: its "key" is the identity
        (shares(poly(g, 20, -9, 1), 3), g.base_mul(20)),  # f(4) = f(5) = 0, but a fourth share …
    ]
    cases[-1] = ({**cases[-1][0], 4: g.base_mul(1)}, cases[-1][1])  # … claims not to be zero
    for points, key in cases:
        assert refused(check_degree, points, 2, key) is Code.BAD_SHARE
    check_degree(good, 2, public)
    lower = Polynomial.random(g, 1, SeededRng(6))
    check_degree(shares(lower), 2, lower.commit()[0])  # a lower degree is within the bound


@BOTH
def test_commitments_whose_partial_sums_vanish_still_evaluate(g: Group) -> None:
    """A dealer may choose A_1 = -x·A_2; then Horner's first step at x is the identity."""
    for x, a in itertools.product((1, 2, 3), (1, 5)):
        f = poly(g, 11, -x * a, a)
        assert evaluate_commitment(f.commit(), x) == g.base_mul(11)
        assert f.evaluate(x).reveal() == 11
    zero_at_2 = poly(g, -4, 0, 1)
    commitment = (g.base_mul(-4), *poly(g, 6, -2, 1).commit()[1:])  # x² - 2x - 4 … at other points
    assert evaluate_commitment(commitment, 3) == g.base_mul(-1)
    assert zero_at_2.evaluate(2).reveal() == 0
    root = poly(g, 6, -5, 1)  # (x - 2)(x - 3)
    for x in (2, 3):
        assert refused(evaluate_commitment, root.commit(), x) is Code.BAD_POINT
