"""Encryptors: how a node's data key is kept at rest.

A random 32-byte data key seals everything in the store. The keyring holds it, wrapped under a key
that comes from the operator's secret: a master password (Argon2id) or a key file (HKDF). The
keyring may lie in the store and in backups; the secret is in neither.

    keyring = create_keyring(config, vault="…", node=1, rng=rng)      # once
    data_key = open_data_key(config, keyring.encode(), vault="…", node=1)

Use these names; the modules behind them may move.
"""

from keycairn.encryptors.config import ArgonParams, EncryptorConfig, read_secret
from keycairn.encryptors.keyring import (
    Keyring,
    create_keyring,
    open_data_key,
    rewrap,
    unlock,
)

__all__ = [
    "ArgonParams",
    "EncryptorConfig",
    "Keyring",
    "create_keyring",
    "open_data_key",
    "read_secret",
    "rewrap",
    "unlock",
]
