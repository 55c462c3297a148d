"""One leaf: from its seed to ciphertext, pads, masked secrets and commitment.

:class:`Leaves` holds what all leaves of a part have in common. A leaf k is

* seed s_k -> a_k and the OAEP coins, ``c_k = OAEP(ctx || k || a_k; coins)``;
* a_k -> a stream of 48 bytes per secret and curve; reduced mod q they are the pads p;
* ``z = x + p mod q``, committed to by ``h_k`` with a salt that no opened seed reveals.
"""

from __future__ import annotations

from collections.abc import Sequence

from keycairn.encoding import tag
from keycairn.ers import linear
from keycairn.ers.context import SECRET_LEN, Bundle, Context
from keycairn.ers.hashing import BYTES32, Prefix, blob, number
from keycairn.ers.rsa import RsaPublicKey

_SEED = tag("ers/leaf-seed")
_PADS = tag("ers/pads")
_SALT = tag("ers/salt")
_COMMIT = tag("ers/leaf")

PLAINTEXT_LEN = 32 + 2 + 32


class Leaves:
    """Everything that turns seeds into leaves under one context and RSA key."""

    def __init__(self, context: Context, rsa: RsaPublicKey) -> None:
        self.context = context
        self.rsa = rsa
        self._seed = Prefix(_SEED, 2, context.ctx)
        self._pads = {
            b.group.name: Prefix(_PADS, 2, context.ctx, b.group.name) for b in context.bundles
        }
        self._salt = Prefix(_SALT, 2, context.ctx)
        self._commit = Prefix(_COMMIT, 3, context.ctx)

    def open_seed(self, k: int, seed: bytes) -> tuple[bytes, bytes]:
        """``(a_k, coins)``, 32 bytes each."""
        out = self._seed.xof(64, number(k), BYTES32 + seed)
        return out[:32], out[32:]

    def plaintext(self, k: int, a: bytes) -> bytes:
        """What is encrypted: ctx, k in two bytes, a_k; 66 bytes."""
        return self.context.ctx + k.to_bytes(2, "big") + a

    def ciphertext(self, k: int, a: bytes, coins: bytes) -> bytes:
        """c_k, as long as the modulus."""
        return self.rsa.encrypt(self.plaintext(k, a), coins)

    def pads(self, k: int, a: bytes, bundle: Bundle) -> bytes:
        """The curve's pad stream: 48 bytes per secret, big-endian, not yet reduced."""
        return self._pads[bundle.group.name].xof(
            linear.PAD_LEN * bundle.size, number(k), BYTES32 + a
        )

    def salt(self, k: int, key: bytes) -> bytes:
        """salt_k = PRF(K_salt, k), 32 bytes."""
        return self._salt.sha(BYTES32 + key, number(k))

    def commitment(self, k: int, z: bytes, salt: bytes) -> bytes:
        """h_k over all masked secrets of the leaf."""
        return self._commit.sha(number(k), blob(z), BYTES32 + salt)

    def part_of(self, z: bytes, bundle: Bundle) -> bytes:
        """The bundle's scalars out of a leaf's ``z``."""
        start = bundle.start * SECRET_LEN
        return z[start : start + bundle.size * SECRET_LEN]

    def combiners(self, rhos: Sequence[Sequence[int]]) -> list[linear.Combiner]:
        """One combiner per curve, in the order of the bundles."""
        return [
            linear.Combiner(b.group, rho) for b, rho in zip(self.context.bundles, rhos, strict=True)
        ]
