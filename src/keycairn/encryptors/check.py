"""Does this encryptor work? Asked before a start, before a restore, and by ``encryptor check``."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Any

from keycairn.encoding import SecretBytes
from keycairn.encryptors.config import EncryptorConfig
from keycairn.encryptors.faults import away
from keycairn.encryptors.keyring import Keyring, open_keyring
from keycairn.encryptors.port import KEY_BYTES, Binding, Environ
from keycairn.encryptors.registry import encryptor_of
from keycairn.ports import Rng


@dataclass(frozen=True)
class CheckReport:
    """What was found. Whatever is wrong raises.

    Attributes:
        encryptor: kind, key, address and source of the secret, as configured.
        opens: whether it opened the keyring; None when there was none to open.
        format: of the keyring, or None.
        notes: what the operator should know.
    """

    encryptor: dict[str, str]
    opens: bool | None
    format: int | None
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Result keys of ``encryptor check``."""
        return {
            "encryptor": self.encryptor,
            "reached": True,
            "round_trip": True,
            "opens": self.opens,
            "keyring_format": self.format,
            "notes": list(self.notes),
        }


def check_encryptor(
    config: EncryptorConfig,
    keyring: bytes | None,
    *,
    vault: str,
    node: int,
    rng: Rng,
    environ: Environ | None = None,
) -> CheckReport:
    """Reach the encryptor, open the keyring with it, and wrap and unwrap a fresh key. Blocks.

    Writes nothing. The keyring comes first: a new key can be wrapped under any secret, but only
    the right one opens what is there.

    Raises:
        KeycairnError: the encryptor's, as they are; see :mod:`keycairn.encryptors.port`.
    """
    found = None
    if keyring is not None:
        open_keyring(config, keyring, vault=vault, node=node, rng=rng, environ=environ)
        found = Keyring.decode(keyring).format
    binding = Binding(vault, node)
    probe = SecretBytes(rng.bytes(KEY_BYTES))
    wrapped = encryptor_of(config, rng, environ).wrap(probe, binding)
    encryptor = encryptor_of(config, rng, environ)
    back = encryptor.unwrap(wrapped, binding)
    if not hmac.compare_digest(back.reveal(), probe.reveal()):
        raise away(
            f"the encryptor of kind {config.kind} gives back another key than it wrapped",
            "don't use it: what it wraps is lost",
        )
    return CheckReport(
        encryptor.describe(), None if keyring is None else True, found, tuple(encryptor.notes())
    )
