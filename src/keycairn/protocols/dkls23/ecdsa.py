"""ECDSA itself: the finishing arithmetic, and a signature's encodings.

SEC 1 version 2, sections 4.1 and 2.3; low s as in BIP-146, on P-256 too; the recovery id as
Ethereum and libsecp256k1 number it.
"""

from __future__ import annotations

from dataclasses import dataclass

from keycairn.curves import Group
from keycairn.curves.ecdsa import affine_x_parity, der
from keycairn.curves.ecdsa import verify as verify_ecdsa
from keycairn.errors import Code, KeycairnError

__all__ = ["EcdsaSignature", "affine_x_parity", "finish", "verify_ecdsa"]


@dataclass(frozen=True)
class EcdsaSignature:
    """An ECDSA signature that was verified.

    Attributes:
        r, s: in [1, q), s ≤ q/2.
        recovery_id: 0 to 3: bit 0 is the parity of the nonce point's y, bit 1 says x ≥ q.
        base_r: the presignature's R before re-randomisation, 33 bytes.
        presignature_id: 32 bytes.
        public_key: what it verifies under, encoded: the key's, or the derived child's.
    """

    r: int
    s: int
    recovery_id: int
    base_r: bytes
    presignature_id: bytes
    public_key: bytes

    def compact(self) -> bytes:
        """``r ‖ s``, 32 bytes big-endian each."""
        return self.r.to_bytes(32, "big") + self.s.to_bytes(32, "big")

    def der(self) -> bytes:
        """The DER SEQUENCE of two INTEGERs (68 to 71 bytes almost always)."""
        return der(self.r, self.s)


def finish(group: Group, x: int, y_parity: int, w: int, u: int) -> tuple[int, int, int]:
    """(r, s, recovery id) from the nonce point and the sums ``w = Σw_i``, ``u = Σu'_i``.

    ``s = w/u``; if s > q/2 it becomes q - s and the nonce point its negative.

    Raises:
        KeycairnError: E_BAD_SCALAR if r, s or the denominator is zero mod q.
    """
    q = group.q
    r = x % q
    s = w * group.inverse(u) % q
    if r == 0 or s == 0:
        raise KeycairnError(Code.BAD_SCALAR, "r and s must not be zero")
    recovery_id = y_parity + 2 * (x >= q)
    if s > q // 2:
        return r, q - s, recovery_id ^ 1
    return r, s, recovery_id
