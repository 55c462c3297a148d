"""Ethereum keystore, version 3 (Web3 Secret Storage): a private key under a password.

scrypt (N 2^18, r 8, p 1: what Ethereum's own clients write; about a second and 256 MiB each),
AES-128-CTR, Keccak-256 over the second half of the derived key and the ciphertext.
"""

from __future__ import annotations

import json
import uuid

from Crypto.Hash import keccak
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from keycairn.curves.addresses import ethereum
from keycairn.curves.secp256k1 import SECP256K1
from keycairn.encoding import SecretBytes, SecretScalar
from keycairn.errors import malformed
from keycairn.ports import Rng

_N, _R, _P = 1 << 18, 8, 1


def keystore(key: SecretScalar, password: SecretBytes, rng: Rng) -> bytes:
    """The keystore file of a secp256k1 key (JSON); E_MALFORMED for an empty password."""
    if not password.reveal():
        raise malformed("the password of the keystore is empty")
    private = SECP256K1.encode_scalar(key.reveal())
    address = ethereum(SECP256K1.base_mul(key.reveal()).encode())
    salt, iv = rng.bytes(32), rng.bytes(16)
    derived = Scrypt(salt, 32, _N, _R, _P).derive(password.reveal())
    encryptor = Cipher(algorithms.AES(derived[:16]), modes.CTR(iv)).encryptor()
    ciphertext = encryptor.update(private) + encryptor.finalize()
    mac = keccak.new(digest_bits=256, data=derived[16:] + ciphertext).hexdigest()
    body = {
        "version": 3,
        "id": str(uuid.UUID(bytes=rng.bytes(16), version=4)),
        "address": address.removeprefix("0x").lower(),
        "crypto": {
            "cipher": "aes-128-ctr",
            "cipherparams": {"iv": iv.hex()},
            "ciphertext": ciphertext.hex(),
            "kdf": "scrypt",
            "kdfparams": {"dklen": 32, "n": _N, "r": _R, "p": _P, "salt": salt.hex()},
            "mac": mac,
        },
    }
    return (json.dumps(body, indent=2) + "\n").encode("ascii")
