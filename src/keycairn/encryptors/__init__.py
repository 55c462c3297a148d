"""Encryptors: how a node's keys are kept at rest.

Random data keys seal everything in the store. The keyring holds them, wrapped under a random
master key, which an *encryptor* wraps: a master password (Argon2id), a key file (HKDF), an
OpenBao or Vault transit key, an AWS KMS key, an AES key in a PKCS#11 token, or a plug-in. The
keyring may lie in the store and in backups; what unwraps it is in neither.

    keyring = create_keyring(config, vault="…", node=1, rng=rng)      # once
    data_keys = open_keyring(config, keyring.encode(), vault="…", node=1, rng=rng)

Use these names; the modules behind them may move.
"""

from keycairn.encryptors.check import CheckReport, check_encryptor
from keycairn.encryptors.config import (
    ArgonParams,
    EncryptorConfig,
    key_bytes,
    read_key_file,
    read_secret,
)
from keycairn.encryptors.keyring import (
    DataKeys,
    Keyring,
    create_keyring,
    describe_keyring,
    open_keyring,
    rotate,
)
from keycairn.encryptors.port import Binding, Encryptor, Kind, Option, Wrapped
from keycairn.encryptors.registry import KINDS, encryptor_of, find_kind, section_config

__all__ = [
    "KINDS",
    "ArgonParams",
    "Binding",
    "CheckReport",
    "DataKeys",
    "Encryptor",
    "EncryptorConfig",
    "Keyring",
    "Kind",
    "Option",
    "Wrapped",
    "check_encryptor",
    "create_keyring",
    "describe_keyring",
    "encryptor_of",
    "find_kind",
    "key_bytes",
    "open_keyring",
    "read_key_file",
    "read_secret",
    "rotate",
    "section_config",
]
