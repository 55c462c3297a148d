"""Identity signatures: this node's own key, and the pins of its peers."""

from __future__ import annotations

from collections.abc import Mapping

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from keycairn.vault.api import Identity


class IdentitySigner:
    """Implements the protocols' ``Signer`` with the identity key and the configured pins."""

    def __init__(self, identity: Identity, pins: Mapping[int, bytes]) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(identity.private.reveal())
        self._pins = {i: Ed25519PublicKey.from_public_bytes(raw) for i, raw in pins.items()}

    def sign(self, data: bytes) -> bytes:
        return self._key.sign(data)

    def verify(self, player: int, data: bytes, signature: bytes) -> bool:
        pin = self._pins.get(player)
        if pin is None:
            return False
        try:
            pin.verify(signature, data)
        except InvalidSignature:
            return False
        return True
