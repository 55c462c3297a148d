"""Shamir sharing over a group's scalar field, and Feldman commitments to it.

Player indices are small integers 1..n that configuration assigns (R-08); nothing here takes an
index from a message. Polynomials have exactly ``t + 1`` coefficients, commitments exactly
``t + 1`` points: callers pass t and wrong lengths are refused before any loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from keycairn.curves.group import Group, Point
from keycairn.encoding import SecretScalar
from keycairn.errors import Code, KeycairnError
from keycairn.ports import Rng


@dataclass(frozen=True)
class Polynomial:
    """A secret polynomial ``f`` of degree t; ``coefficients[0]`` is ``f(0)``."""

    group: Group
    coefficients: tuple[SecretScalar, ...]

    @classmethod
    def random(cls, group: Group, t: int, rng: Rng, constant: int | None = None) -> Polynomial:
        """Uniform coefficients in [1, q); ``f(0) = constant`` if given."""
        coeffs = [group.random_scalar(rng) for _ in range(t + 1)]
        if constant is not None:
            coeffs[0] = constant % group.q
        return cls(group, tuple(SecretScalar(c) for c in coeffs))

    @property
    def degree(self) -> int:
        return len(self.coefficients) - 1

    def evaluate(self, x: int) -> SecretScalar:
        """``f(x) mod q`` (Horner) for a player's index ``x``, public.

        Raises:
            KeycairnError: E_BAD_INDEX for an ``x`` that is 0 mod q: f(0) is the secret itself.
        """
        if type(x) is not int or x % self.group.q == 0:
            raise KeycairnError(Code.BAD_INDEX, "a share is never taken at zero")
        acc = 0
        for c in reversed(self.coefficients):
            acc = (acc * x + c.reveal()) % self.group.q
        return SecretScalar(acc)

    def commit(self) -> tuple[Point, ...]:
        """Feldman commitment ``(a_0 G, …, a_t G)``."""
        return tuple(self.group.base_mul(c.reveal()) for c in self.coefficients)


def lagrange(group: Group, players: Sequence[int], i: int, at: int = 0) -> int:
    """Lagrange coefficient of player ``i`` among ``players`` at ``x = at``.

    Raises:
        KeycairnError: E_BAD_INDEX for duplicates, anything but an integer of [1, q), or ``i`` not
            among them.
    """
    # Types and the upper bound too: 1 and q+1, or 1 and True, are one and the same evaluation
    # point (security.md 2.3, "duplicate mod q").
    if any(type(j) is not int or not 1 <= j < group.q for j in (*players, i)):
        raise KeycairnError(Code.BAD_INDEX, "a player index is an integer of [1, q)")
    if len(set(players)) != len(players) or i not in players:
        raise KeycairnError(Code.BAD_INDEX, "players must be distinct and contain i")
    num = den = 1
    for j in players:
        if j != i:
            num = num * (at - j) % group.q
            den = den * (i - j) % group.q
    return num * group.inverse(den) % group.q


def interpolate(group: Group, shares: Mapping[int, SecretScalar], at: int = 0) -> SecretScalar:
    """``f(at)`` from shares ``{index: f(index)}``."""
    players = sorted(shares)
    return SecretScalar(
        sum(lagrange(group, players, i, at) * shares[i].reveal() for i in players) % group.q
    )


def evaluate_commitment(commitment: Sequence[Point], x: int) -> Point:
    """``f(x)*G = sum_e x^e A_e`` from a Feldman commitment; ``x`` is public.

    Horner's rule: the scalars stay as small as player indices are.

    Raises:
        KeycairnError: E_BAD_POINT if the result is the identity.
    """
    group = commitment[0].group
    acc = commitment[-1]
    for e in reversed(range(len(commitment) - 1)):
        # acc*x cannot be the identity: acc is in a prime-order group and 0 < x < q.
        try:
            acc = group.add([group.mul_public(acc, x) if x != 1 else acc, commitment[e]])
        except KeycairnError:
            # A partial sum may be the identity where the whole is not.
            return group.combine((pow(x, k, group.q), a) for k, a in enumerate(commitment))
    return acc


def interpolate_points(points: Mapping[int, Point], at: int = 0) -> Point:
    """``f(at)*G`` from ``{index: f(index)*G}``; raises E_BAD_POINT if it is the identity."""
    players = sorted(points)
    group = points[players[0]].group
    return group.combine((lagrange(group, players, i, at), points[i]) for i in players)


def check_degree(points: Mapping[int, Point], t: int, public: Point) -> None:
    """Check that ``{i: f(i)G}`` lie on one polynomial of degree <= t with ``f(0)G = public``.

    Raises:
        KeycairnError: E_BAD_SHARE when they do not, E_BAD_LENGTH with fewer than t+1 points.
    """
    players = sorted(points)
    if len(players) < t + 1:
        raise KeycairnError(Code.BAD_LENGTH, "fewer than t+1 share commitments")
    basis = {i: points[i] for i in players[: t + 1]}
    targets = {0: public, **{j: points[j] for j in players[t + 1 :]}}
    for x, expected in targets.items():
        try:
            fits = interpolate_points(basis, x) == expected
        except KeycairnError:
            fits = False  # the identity, which no public key or share commitment is
        if not fits:
            raise KeycairnError(
                Code.BAD_SHARE,
                "share commitments are not on one polynomial with the public key",
                detail={"at": x},
            )
