"""FROST for any suite: RFC 9591, sections 4 and 5, under the RFC's names.

Nonces live in a :class:`NoncePair` that hands itself out once. All that signers share for one
signature is a :class:`SigningPackage`; shares are made, checked and added up with it alone.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from keycairn.curves import Point
from keycairn.curves.polynomial import lagrange
from keycairn.encoding import SecretScalar, digest, tag
from keycairn.errors import Code, KeycairnError
from keycairn.ports import Rng
from keycairn.protocols.frost.ed25519 import ED25519_SHA512
from keycairn.protocols.frost.suite import SigningKey, Suite

_PACKAGE = tag("frost/package")


# -- section 4: nonces, binding factors, group commitment ---------------------------------------


def nonce_generate(share: SecretScalar, random_bytes: bytes, suite: Suite = ED25519_SHA512) -> int:
    """Section 4.1: a nonce from 32 fresh random bytes, hedged with the stored share."""
    if len(random_bytes) != 32:
        raise ValueError("nonce_generate takes 32 random bytes")
    return suite.h3(random_bytes + suite.group.encode_scalar(share.reveal()))


@dataclass(frozen=True)
class NonceCommitment:
    """One signer's public nonce commitments (section 5.1)."""

    index: int
    hiding: Point
    binding: Point


class NoncePair:
    """The secret nonces behind one commitment. Used once: :meth:`take` empties it."""

    __slots__ = ("_binding", "_hiding", "_lock", "commitment")

    def __init__(
        self,
        index: int,
        hiding: int,
        binding: int,
        suite: Suite = ED25519_SHA512,
        commitment: NonceCommitment | None = None,
    ) -> None:
        """``commitment``, if the caller has it already, must be that of the two nonces."""
        self._hiding: SecretScalar | None = SecretScalar(hiding)
        self._binding: SecretScalar | None = SecretScalar(binding)
        self._lock = threading.Lock()
        self.commitment = commitment or NonceCommitment(
            index, suite.group.base_mul(hiding), suite.group.base_mul(binding)
        )

    def take(self) -> tuple[SecretScalar, SecretScalar]:
        """Hand out (hiding, binding) and forget them. E_PRESIG_SPENT the second time."""
        with self._lock:
            hiding, binding = self._hiding, self._binding
            self._hiding = self._binding = None
        return _unspent(hiding, binding)

    def bound(self, factor: int) -> Point:
        """``D + factor·E``: public, but one constant-time multiplication of the generator is
        cheaper than the multiplication of E. E_PRESIG_SPENT after :meth:`take`."""
        with self._lock:
            hiding, binding = _unspent(self._hiding, self._binding)
        group = self.commitment.hiding.group
        return group.base_mul(hiding.reveal() + factor * binding.reveal())

    def __repr__(self) -> str:
        return f"NoncePair(index={self.commitment.index}, <secret>)"


def _unspent(
    hiding: SecretScalar | None, binding: SecretScalar | None
) -> tuple[SecretScalar, SecretScalar]:
    if hiding is None or binding is None:
        raise KeycairnError(
            Code.PRESIG_SPENT,
            "this nonce pair was used before",
            not_lost="The key is safe: nothing was signed with the nonce a second time.",
            next="send the request again; a fresh nonce is drawn",
        )
    return hiding, binding


def commit(index: int, share: SecretScalar, rng: Rng, suite: Suite = ED25519_SHA512) -> NoncePair:
    """Section 5.1: fresh nonces and their commitments."""
    return NoncePair(
        index,
        nonce_generate(share, rng.bytes(32), suite),
        nonce_generate(share, rng.bytes(32), suite),
        suite,
    )


def encode_commitment_list(commitments: Sequence[NonceCommitment]) -> bytes:
    """Section 4.3, ``encode_group_commitment_list``."""
    return b"".join(
        c.hiding.group.encode_scalar(c.index) + c.hiding.encode() + c.binding.encode()
        for c in commitments
    )


def check_commitment_list(
    commitments: Sequence[NonceCommitment], signers: Sequence[int], own: NonceCommitment
) -> None:
    """Refuse a list that isn't exactly the agreed signers, sorted, with our own pair in it (R-06).

    Raises:
        KeycairnError: E_MALFORMED.
    """
    indices = [c.index for c in commitments]
    if indices != sorted(set(indices)) or indices != list(signers):
        raise KeycairnError(
            Code.MALFORMED, "commitment list must hold every signer once, in order, nobody else"
        )
    if own not in commitments:
        raise KeycairnError(Code.MALFORMED, "commitment list does not hold this signer's own pair")


def compute_binding_factors(
    public_key: Point,
    commitments: Sequence[NonceCommitment],
    message: bytes,
    suite: Suite = ED25519_SHA512,
) -> dict[int, int]:
    """Section 4.4."""
    listed = encode_commitment_list(commitments)
    prefix = public_key.encode() + suite.h4(message) + suite.h5(listed)
    return {c.index: suite.h1(prefix + suite.encode_index(c.index)) for c in commitments}


def compute_group_commitment(
    commitments: Sequence[NonceCommitment],
    factors: Mapping[int, int],
    own: NoncePair | None = None,
    suite: Suite = ED25519_SHA512,
) -> Point:
    """Section 4.5: the sum of all ``D + rho·E``. Raises E_BAD_POINT if it is the identity.

    Args:
        own: this signer's nonces, which only make it faster.
    """
    if any(p.group is not suite.group for c in commitments for p in (c.hiding, c.binding)):
        raise KeycairnError(Code.MALFORMED, "a nonce commitment of another suite")
    terms = []
    for c in commitments:
        if own is not None and c == own.commitment:
            terms.append(own.bound(factors[c.index]))
        else:
            terms += [c.hiding, suite.group.mul_public(c.binding, factors[c.index])]
    if not terms:
        raise KeycairnError(Code.MALFORMED, "a commitment list without signers")
    return suite.group.add(terms)


def compute_challenge(
    group_commitment: Point, public_key: Point, message: bytes, suite: Suite = ED25519_SHA512
) -> int:
    """Section 4.6."""
    return suite.challenge(group_commitment, public_key, message)


# -- section 5: signing, aggregation, verification ----------------------------------------------


@dataclass(frozen=True)
class SigningPackage:
    """What all signers share for one signature: list, message, key; and what follows from it.

    Attributes:
        key: the key that the signature is for.
        group_commitment: R as the signature has it.
        negated: whether R is the negative of what the nonces give.
    """

    commitments: tuple[NonceCommitment, ...]
    message: bytes
    key: SigningKey
    factors: Mapping[int, int]
    group_commitment: Point
    negated: bool
    challenge: int

    @classmethod
    def build(
        cls,
        commitments: Sequence[NonceCommitment],
        message: bytes,
        key: SigningKey | Point,
        own: NoncePair | None = None,
    ) -> SigningPackage:
        """Everything that follows from list, message and key.

        Args:
            key: a bare point is an Ed25519 public key.
            own: this signer's nonces, which only make it faster.

        Raises:
            KeycairnError: E_BAD_POINT if the nonces cancel out, E_MALFORMED for points of
                another group than the key's.
        """
        if isinstance(key, Point):
            key = SigningKey(ED25519_SHA512, key)
        suite, public_key = key.suite, key.public_key
        factors = compute_binding_factors(public_key, commitments, message, suite)
        total = compute_group_commitment(commitments, factors, own, suite)
        negated, r = suite.normal(total)
        c = compute_challenge(r, public_key, message, suite)
        return cls(tuple(commitments), message, key, factors, r, negated, c)

    @property
    def public_key(self) -> Point:
        return self.key.public_key

    @property
    def signers(self) -> tuple[int, ...]:
        return tuple(c.index for c in self.commitments)

    @cached_property
    def hash(self) -> bytes:
        """Names key, message and commitment list: shares for another package don't fit."""
        return digest(
            _PACKAGE,
            self.public_key.encode(),
            self.message,
            encode_commitment_list(self.commitments),
        )


def sign_share(package: SigningPackage, nonces: NoncePair, share: SecretScalar, index: int) -> int:
    """Section 5.2: z_i, from the stored share of X. Consumes the nonces whatever happens.

    Raises:
        KeycairnError: E_PRESIG_SPENT; E_MALFORMED for a list without this signer's pair.
    """
    hiding, binding = nonces.take()
    check_commitment_list(package.commitments, package.signers, nonces.commitment)
    group = package.key.suite.group
    nonce = hiding.reveal() + binding.reveal() * package.factors[index]
    weight = lagrange(group, package.signers, index)
    return (
        (-nonce if package.negated else nonce)
        + weight * package.key.share(share.reveal()) * package.challenge
    ) % group.q


def verify_signature_share(
    package: SigningPackage, index: int, response: int, commitment: Point
) -> bool:
    """Section 5.4: whether z_i fits the signer's nonce commitments and X_i.

    ``z_i·G = ±(D_i + rho_i·E_i) + c·lambda_i·(±X_i + offset·G)``, with the term in G moved to
    the left.
    """
    own = next(c for c in package.commitments if c.index == index)
    key = package.key
    group = key.suite.group
    sign = -1 if package.negated else 1
    weight = package.challenge * lagrange(group, package.signers, index)
    try:
        expected = group.combine(
            [
                (sign, own.hiding),
                (sign * package.factors[index], own.binding),
                (-weight if key.negated else weight, commitment),
            ]
        )
        return group.base_mul(response - weight * key.offset) == expected
    except KeycairnError:
        return False


def aggregate(package: SigningPackage, responses: Mapping[int, int]) -> bytes:
    """Section 5.3: the signature, in the suite's final encoding."""
    suite = package.key.suite
    z = sum(responses[i] for i in package.signers) % suite.group.q
    return suite.encode_signature(package.group_commitment, z)
