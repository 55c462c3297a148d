"""Async SDK: one node, or a whole vault when one user holds several nodes' credentials.

    async with Vault.open(Path("vault.toml")) as vault:
        [key] = await vault.create_keys("ecdsa", "secp256k1")
        signature = await vault.sign(key["key_id"], digest=bytes(32))

Every failure is a :class:`~keycairn.errors.KeycairnError`. When several nodes fail for different
reasons the error keeps the reason that helps most and lists each node's answer in its detail.
"""

from __future__ import annotations

from keycairn.client.node import NodeClient
from keycairn.client.operator import OperatorClient
from keycairn.client.profile import NodeProfile, VaultProfile, load_profile
from keycairn.client.signing import Item
from keycairn.client.vault import Vault
from keycairn.client.verify import verify_signature

__all__ = [
    "Item",
    "NodeClient",
    "NodeProfile",
    "OperatorClient",
    "Vault",
    "VaultProfile",
    "load_profile",
    "verify_signature",
]
