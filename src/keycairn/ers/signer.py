"""Signing with a recovered key from Python, for the time until what it guards is moved.

    from keycairn.ers.signer import Signer

    signer = Signer.open("recovered/KEY.json", path="m/0/5")
    signature = signer.sign(transaction_message)["signature"]

This is how an **Ed25519** key of a vault is used after recovery. It is a scalar: no seed exists for
a key that several nodes made, and wallets and libraries that ask for the 32- or 64-byte "secret
key" of RFC 8032 expect a seed. Such a program takes the scalar without complaint, hashes it, and
shows *another* account, whose balance is zero. Give it the public key and signatures made here.

All schemes work: ECDSA signs 32-byte digests, the Schnorr kinds sign messages. Every signature is
verified by another library before it is given out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keycairn.curves import ecdsa
from keycairn.encoding import SecretScalar
from keycairn.errors import KeycairnError, malformed
from keycairn.ers.children import child_at
from keycairn.ers.files import read_file
from keycairn.ers.keyfile import MAX_KEY_FILE, RecoveredKeyFile, load_key
from keycairn.ers.sign import sign_bip340, sign_ecdsa, sign_ed25519
from keycairn.ports import Rng
from keycairn.ports.system import SystemRng


@dataclass(frozen=True)
class Signer:
    """A recovered key, or a child of it, ready to sign."""

    key_id: str
    scheme: str
    curve: str
    path: str
    public_key: bytes
    private_key: SecretScalar

    @classmethod
    def open(cls, file: str | Path, path: str = "m") -> Signer:
        """From the file that ``keycairn-recover`` wrote.

        Raises:
            KeycairnError: E_NOT_FOUND, E_UNAVAILABLE, E_MALFORMED, E_BAD_SCALAR for the file; what
                :meth:`of` raises for the path.
        """
        return cls.of(load_key(read_file(Path(file), MAX_KEY_FILE)), path)

    @classmethod
    def of(cls, key: RecoveredKeyFile, path: str = "m") -> Signer:
        """From a loaded key; E_MALFORMED for a path that is none, or a key without chain code."""
        public, private = key.public_key, key.private_key
        if path != "m":
            if key.chain_code is None:
                raise malformed("this key has no chain code, and so no children")
            child = child_at(key.curve, key.scheme, private, key.chain_code, path)
            public, private = child.public_key, child.private_key
        return cls(key.key_id, key.scheme, key.curve, path, public, private)

    @property
    def signs_digests(self) -> bool:
        """ECDSA signs a digest; everything else a message."""
        return self.scheme == "ecdsa" and self.curve in ecdsa.CURVES

    def sign(self, data: bytes, *, taproot: bool = False, rng: Rng | None = None) -> dict[str, Any]:
        """Sign.

        Args:
            data: an ECDSA digest (32 bytes), or a message.
            taproot: BIP-340 keys: sign for the output key of the P2TR address (BIP-86).
            rng: for hedging (Schnorr); by default the system's.

        Returns:
            signature (hex), public_key (hex: what it verifies under); for ECDSA also der and
            recovery_id.

        Raises:
            KeycairnError: E_MALFORMED for data or an option that does not fit the scheme,
                E_SIG_INVALID if the signature does not verify.
        """
        kind = (self.scheme, self.curve)
        if taproot and kind != ("schnorr", "secp256k1"):
            raise malformed("only a BIP-340 key (schnorr on secp256k1) has a taproot output key")
        result: dict[str, Any] = {"public_key": self.public_key.hex()}
        if self.signs_digests:
            return result | sign_ecdsa(self.curve, self.private_key, data)
        source = SystemRng() if rng is None else rng
        if kind == ("schnorr", "secp256k1"):
            made, public = sign_bip340(self.private_key, data, source, taproot=taproot)
            return {"public_key": public.hex(), "signature": made.hex()}
        if kind == ("schnorr", "ed25519"):
            return result | {"signature": sign_ed25519(self.private_key, data, source).hex()}
        raise self._unknown()

    def _unknown(self) -> KeycairnError:
        return malformed(f"this tool does not sign with {self.scheme} on {self.curve}")
