"""The anchor file: this node's newest word about its own history, beside its database.

``DIR/anchor`` in the directory that ``[anchor]`` names. It should not be on the volume that is
snapshot or put back together with the database, and no bundle contains it: a witness that comes
back with what it is to convict is none.
"""

from __future__ import annotations

import os
from pathlib import Path

from keycairn.errors import Code, KeycairnError
from keycairn.node.config import NodeConfig
from keycairn.node.files import write_private
from keycairn.ports import Clock
from keycairn.vault.api import Identity
from keycairn.vault.fence.anchor import first_anchor
from keycairn.vault.signer import IdentitySigner

_NAME = "anchor"
#: A witness with ten thousand bans and revocations each.
_LARGEST = 4 << 20


class AnchorFile:
    """Implements :class:`keycairn.vault.fence.anchor.AnchorStore` in a directory."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / _NAME

    def read(self) -> bytes | None:
        try:
            with self._path.open("rb") as file:
                return file.read(_LARGEST)
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise self._away("read", exc) from exc

    def write(self, data: bytes) -> None:
        try:
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            write_private(self._path, data)
            directory = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)  # The new name must be durable, too.
            finally:
                os.close(directory)
        except OSError as exc:
            raise self._away("written", exc) from exc
        except KeycairnError as exc:
            raise self._away("written", exc) from exc

    def _away(self, what: str, exc: Exception) -> KeycairnError:
        why = exc.strerror if isinstance(exc, OSError) else str(exc)
        return KeycairnError(
            Code.UNAVAILABLE,
            f"the anchor {self._path} can't be {what}: {why}",
            not_lost="Keys and shares are unchanged. Nothing that its history must show first was "
            "done.",
            next="see that the directory of [anchor] is there, can be written, and has free space",
        )


def write_first_anchor(config: NodeConfig, identity: Identity, clock: Clock) -> None:
    """The anchor of a node that has just been made: its first start needs no peers.

    Raises:
        KeycairnError: E_UNAVAILABLE.
    """
    signer = IdentitySigner(identity, {config.index: identity.public})
    data = first_anchor(config.vault_id, config.index, signer, clock.now_us())
    AnchorFile(config.anchor).write(data)
