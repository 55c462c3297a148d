"""Checks of the demo's signatures by libraries that share no code with this project.

Ethereum: eth-account builds the EIP-1559 transaction and recovers its sender. It would use
coincurve, as we do, if it were left to choose; it is given eth-keys' backend in plain Python.
Solana: solders (Rust) verifies the message.
"""

from __future__ import annotations

from typing import Any

from keycairn.errors import Code, KeycairnError


class NotProved(KeycairnError):
    """A stranger disagrees."""

    def __init__(self, message: str) -> None:
        super().__init__(Code.SIG_INVALID, message)


def require(condition: bool, message: str) -> None:
    """Raise :class:`NotProved` unless ``condition``: a step of the demo is proved, not assumed."""
    if not condition:
        raise NotProved(message)


class Ethereum:
    """A real EIP-1559 transaction, unsigned; and its sender once it is signed."""

    def __init__(self, nonce: int) -> None:
        # Imported here: the package is an extra that only the demo needs.
        from eth_account import Account
        from eth_account.typed_transactions.typed_transaction import TypedTransaction
        from eth_keys.backends.native.main import NativeECCBackend

        self._account: Any = Account()
        self._account.set_key_backend(NativeECCBackend())
        self._typed: Any = TypedTransaction
        self._fields: dict[str, Any] = {
            "type": 2,
            "chainId": 1,
            "nonce": nonce,
            "maxFeePerGas": 30_000_000_000,
            "maxPriorityFeePerGas": 1_000_000_000,
            "gas": 21_000,
            "to": "0x000000000000000000000000000000000000dEaD",
            "value": 10**15,
            "data": b"",
            "accessList": [],
        }

    @property
    def digest(self) -> bytes:
        """What the sender signs, 32 bytes."""
        return bytes(self._typed.from_dict(self._fields).hash())

    def sender(self, signature: bytes, recovery_id: int) -> str:
        """The address that the signed transaction, as it would be broadcast, comes from."""
        signed = self._fields | {
            "v": recovery_id,
            "r": int.from_bytes(signature[:32], "big"),
            "s": int.from_bytes(signature[32:], "big"),
        }
        raw = bytes(self._typed.from_dict(signed).encode())
        return str(self._account.recover_transaction(raw))


def solana_address(public_key: bytes) -> str:
    """The address that solders gives a public key."""
    from solders.pubkey import Pubkey

    return str(Pubkey.from_bytes(public_key))


def solana_verifies(address: str, message: bytes, signature: bytes) -> bool:
    """Whether solders accepts the signature for the address."""
    from solders.pubkey import Pubkey
    from solders.signature import Signature

    return bool(Signature.from_bytes(signature).verify(Pubkey.from_string(address), message))
