"""Sealing of secrets at rest (R-20): AES-256-GCM whose associated data names the place.

A sealed value can't be moved: vault, node, table, column, row, version and generation stand in
the associated data, in the injective encoding. Layout: ``0x01 | nonce (12) | ciphertext | tag``.

There is a data key for each kind of record (:data:`RECORD_KINDS`): what seals key shares does
nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keycairn.encoding import SecretBytes, encode, tag
from keycairn.errors import Code, KeycairnError
from keycairn.ports import Rng

_SEAL = tag("store/seal")
_DERIVE = tag("store/derive")
_VERSION = b"\x01"

#: Kinds of records, each with a data key of its own: "shares" seals key shares and chain codes;
#: "records" seals everything else, and the keys of row digests and audit chain come from it.
RECORD_KINDS = ("records", "shares")
_KIND_OF_TABLE = {"keys": "shares"}


@dataclass(frozen=True)
class Place:
    """Where a sealed value belongs."""

    table: str
    column: str
    row: str
    version: int
    generation: int


class Sealer:
    """Seals and opens values of one node under its data keys (32 bytes each).

    Args:
        data_keys: by kind of record; one alone serves all kinds, as in databases made before
            each had its own.
    """

    def __init__(
        self,
        data_keys: SecretBytes | Mapping[str, SecretBytes],
        *,
        vault: str,
        node: int,
        rng: Rng,
    ) -> None:
        if isinstance(data_keys, SecretBytes):
            data_keys = dict.fromkeys(RECORD_KINDS, data_keys)
        self._aead = {kind: AESGCM(data_keys[kind].reveal()) for kind in RECORD_KINDS}
        self._data_key = data_keys["records"]
        self._vault = vault
        self._node = node
        self._rng = rng

    def derive(self, purpose: str) -> SecretBytes:
        """A 32-byte key for ``purpose`` (HKDF-SHA256 of the key for records, bound to vault
        and node)."""
        info = encode(_DERIVE, self._vault, self._node, purpose)
        kdf = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info)
        return SecretBytes(kdf.derive(self._data_key.reveal()))

    def _of(self, place: Place) -> AESGCM:
        return self._aead[_KIND_OF_TABLE.get(place.table, "records")]

    def _ad(self, place: Place) -> bytes:
        return encode(
            _SEAL,
            self._vault,
            self._node,
            place.table,
            place.column,
            place.row,
            place.version,
            place.generation,
        )

    def seal(self, secret: SecretBytes, place: Place) -> bytes:
        """Encrypt ``secret`` for ``place``."""
        nonce = self._rng.bytes(12)
        body = self._of(place).encrypt(nonce, secret.reveal(), self._ad(place))
        return _VERSION + nonce + body

    def open(self, sealed: bytes, place: Place) -> SecretBytes:
        """Decrypt; E_STORE_INTEGRITY if this is not what was sealed for ``place``."""
        if len(sealed) < 29 or sealed[:1] != _VERSION:
            raise self._broken(place)
        try:
            return SecretBytes(self._of(place).decrypt(sealed[1:13], sealed[13:], self._ad(place)))
        except InvalidTag as exc:
            raise self._broken(place) from exc

    @staticmethod
    def _broken(place: Place) -> KeycairnError:
        return KeycairnError(
            Code.STORE_INTEGRITY,
            f"sealed value {place.table}.{place.column} of row {place.row} is damaged, or belongs "
            "to another row, node or vault",
            not_lost="Other keys are unaffected; this key's other holders still have their shares.",
            next="keycairn node restore BUNDLE --into DIR --identity FILE",
            detail={"table": place.table, "column": place.column, "row": place.row},
        )
