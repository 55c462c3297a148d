"""Where the secrets of presignatures rest until they are used: in memory, or sealed in the store.

With ``presignatures.storage = "database"`` the store holds them under a key that is drawn when the
process starts and never leaves its memory, so that nothing which copies or restores a database
brings one back (R-01).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keycairn.encoding import SecretBytes, encode, tag
from keycairn.errors import Code, KeycairnError
from keycairn.ports import Rng
from keycairn.protocols.presignature import Presignature
from keycairn.vault.fence.incarnation import Incarnation
from keycairn.vault.ports import Store

_SEAL = tag("presignature/seal")
_NONCE = 12

Stock = Presignature[Any]


class Shelf(Protocol):
    """Keeps secrets of presignatures."""

    name: str

    async def lay(self, made: Sequence[Stock]) -> None:
        """Take the secrets of new presignatures."""
        ...

    async def bring(self, taken: Sequence[Stock]) -> None:
        """Give the secrets back to presignatures that are about to be used. E_PRESIG_UNKNOWN."""
        ...

    async def drop(self, ids: Sequence[bytes]) -> None:
        """Forget those that left unused."""
        ...

    def renew(self) -> None:
        """A new incarnation: what lies here belongs to nobody any more."""
        ...


class MemoryShelf:
    """The secrets stay where they are: in the objects."""

    name = "memory"

    async def lay(self, made: Sequence[Stock]) -> None:
        pass

    async def bring(self, taken: Sequence[Stock]) -> None:
        pass

    async def drop(self, ids: Sequence[bytes]) -> None:
        pass

    def renew(self) -> None:
        pass


class DatabaseShelf:
    """The secrets lie in the store.

    Layout of a row: ``nonce (12) | ciphertext | tag``, AES-256-GCM; the associated data names
    incarnation, presignature, key record and signers.
    """

    name = "database"

    def __init__(self, store: Store, incarnation: Incarnation, rng: Rng) -> None:
        self._store = store
        self._shared = incarnation
        self._rng = rng
        self.renew()

    def renew(self) -> None:
        self._incarnation = self._shared.id
        self._aead = AESGCM(self._rng.bytes(32))

    async def lay(self, made: Sequence[Stock]) -> None:
        sealed = {}
        for p in made:
            nonce = self._rng.bytes(_NONCE)
            sealed[p.id] = nonce + self._aead.encrypt(nonce, p.detach().reveal(), self._ad(p))
        await self._store.put_presignatures(self._incarnation, sealed)

    async def bring(self, taken: Sequence[Stock]) -> None:
        # One that was given back unused has its secrets with it already.
        resting = [p for p in taken if p.stored]
        found = await self._store.presignatures([p.id for p in resting])
        lost: list[Stock] = []
        for p in resting:
            data = found.get(p.id, b"")
            try:
                secret = self._aead.decrypt(data[:_NONCE], data[_NONCE:], self._ad(p))
            except (InvalidTag, ValueError):
                p.lose()  # or it would be tried first again and again
                lost.append(p)
            else:
                p.attach(SecretBytes(secret))
        if lost:
            raise KeycairnError(
                Code.PRESIG_UNKNOWN,
                "the database does not hold this presignature, or not as it was written",
                not_lost="The key is safe: nothing was signed by this request.",
                next="repeat the request under a fresh session_id",
                detail={"presignature_id": lost[0].id.hex()},
            )

    async def drop(self, ids: Sequence[bytes]) -> None:
        await self._store.drop_presignatures(ids)

    def _ad(self, p: Stock) -> bytes:
        return encode(_SEAL, self._incarnation, p.id, p.record_hash, list(p.players))
