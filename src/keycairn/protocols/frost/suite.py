"""What a FROST ciphersuite is (RFC 9591, section 6), and the key that a signature is for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from keycairn.curves import Group, Point


class Suite(ABC):
    """Group, hash functions and encodings of one kind of Schnorr signature.

    Where a method has a body, that is RFC 9591's rule, and a suite that departs from it (BIP-340
    does) overrides it.

    Attributes:
        group: where keys and nonces live.
        context: the suite's context string, in every hash but H2.
    """

    group: Group
    context: bytes

    # -- section 6: hash functions

    @abstractmethod
    def h1(self, data: bytes) -> int:
        """H1: binding factors."""

    @abstractmethod
    def h2(self, data: bytes) -> int:
        """H2: the challenge."""

    @abstractmethod
    def h3(self, data: bytes) -> int:
        """H3: nonces."""

    @abstractmethod
    def h4(self, data: bytes) -> bytes:
        """H4: the message."""

    @abstractmethod
    def h5(self, data: bytes) -> bytes:
        """H5: the commitment list."""

    # -- encodings and rules

    def encode_index(self, index: int) -> bytes:
        """A signer's identifier: the scalar of its player index."""
        return self.group.encode_scalar(index)

    def normal(self, nonce: Point) -> tuple[bool, Point]:
        """The group commitment R as the signature has it, and whether that is the negative of
        the one that the nonces give (then every signer negates its nonces)."""
        return False, nonce

    def challenge(self, r: Point, public_key: Point, message: bytes) -> int:
        """Section 4.6, of R and the public key as :meth:`normal` and the key's rule left them."""
        return self.h2(r.encode() + public_key.encode() + message)

    def encode_signature(self, r: Point, z: int) -> bytes:
        """The signature as verifiers of this suite read it."""
        return r.encode() + self.group.encode_scalar(z)

    @abstractmethod
    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> None:
        """Verify by a library that does not share our arithmetic. Raises E_SIG_INVALID."""

    def __repr__(self) -> str:
        return self.context.decode("ascii")


@dataclass(frozen=True)
class SigningKey:
    """The key Q that a signature is for, and how the holders' shares of X become shares of it.

    ``Q = ±X + offset·G``. Because the Lagrange coefficients of any signer set add up to 1, the
    same rule on every share, ``±x_i + offset``, gives shares of Q's private key.

    Attributes:
        public_key: Q.
        negated: whether X is taken with a minus sign.
        offset: what derivation and taproot add; below the group order, public.
    """

    suite: Suite
    public_key: Point
    negated: bool = False
    offset: int = 0

    def share(self, x: int) -> int:
        """This key's share from the stored one. The result is as secret as that."""
        return ((-x if self.negated else x) + self.offset) % self.suite.group.q
