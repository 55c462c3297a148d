"""Degree check of share commitments with small integers.

:func:`keycairn.curves.polynomial.check_degree` multiplies by Lagrange coefficients mod q. For the
small indices of a vault the same equations hold with small integers, once the denominators are
cleared and negative terms stand on the other side: a few additions instead of full
multiplications. A batch document checks thousands of keys, so it pays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from math import lcm, prod

from keycairn.curves import Group, Point
from keycairn.errors import Code, KeycairnError

_SMALL = 1 << 6


@lru_cache(maxsize=1024)
def _integer_lagrange(basis: tuple[int, ...], at: int) -> tuple[int, tuple[int, ...]]:
    """``(D, c)`` with ``D*f(at) = sum c_i f(i)`` for polynomials of degree < len(basis); D > 0."""
    nums = [prod(at - j for j in basis if j != i) for i in basis]
    dens = [prod(i - j for j in basis if j != i) for i in basis]
    common = lcm(*dens)
    return common, tuple(n * (common // d) for n, d in zip(nums, dens, strict=True))


def _times(group: Group, point: Point, k: int) -> Point:
    if k >= _SMALL:
        return group.mul_public(point, k)
    total = point
    for bit in bin(k)[3:]:
        total = group.add([total, total])
        if bit == "1":
            total = group.add([total, point])
    return total


def _sum(group: Group, terms: Iterable[tuple[int, Point]]) -> Point:
    return group.add([_times(group, point, k) for k, point in terms])


def check_degree(points: Mapping[int, Point], t: int, public: Point) -> None:
    """Check that ``{i: f(i)G}`` lie on one polynomial of degree <= t with ``f(0)G = public``.

    Raises:
        KeycairnError: E_BAD_SHARE when they do not (or a side of an equation is the identity,
            which an honest sharing never shows), E_BAD_LENGTH with fewer than t+1 points.
    """
    players = sorted(points)
    if len(players) < t + 1:
        raise KeycairnError(Code.BAD_LENGTH, "fewer than t+1 share commitments")
    group = public.group
    basis = tuple(players[: t + 1])
    for at, target in {0: public, **{j: points[j] for j in players[t + 1 :]}}.items():
        scale, coefficients = _integer_lagrange(basis, at)
        terms = list(zip(coefficients, (points[i] for i in basis), strict=True))
        left = _sum(group, [(c, p) for c, p in terms if c > 0])
        right = _sum(group, [*((-c, p) for c, p in terms if c < 0), (scale, target)])
        if left != right:
            raise KeycairnError(
                Code.BAD_SHARE,
                "share commitments are not on one polynomial with the public key",
                detail={"at": at},
            )
