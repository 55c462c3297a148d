"""The presignature of DKLs23: shares of r·φ and sk·φ, and what checks their use.

Two uses give the key away, re-randomised or not (docs/protocols/dkls23.md, "What is stored").
"""

from __future__ import annotations

from dataclasses import dataclass

from keycairn.errors import malformed
from keycairn.protocols.presignature import Presignature as Base

_SCALAR = 32
_LEN = 3 * _SCALAR + 32


@dataclass(frozen=True, repr=False)
class PresignatureSecrets:
    """φ_i, u_i, v_i mod q, and ν_i (32 bytes), which opens n_i."""

    phi: int
    u: int
    v: int
    nu: bytes


class Presignature(Base[PresignatureSecrets]):
    """One signer's part of a DKLs23 presignature.

    Attributes:
        base_r: R, 33 bytes, before re-randomisation.
        commitments: n_j of every signer: H of ν_j.
        setup_ids: the pairwise setup it was made on, by peer; it dies with any of them.
    """

    __slots__ = ("base_r", "commitments", "setup_ids")

    def __init__(
        self,
        *,
        id: bytes,
        sid: bytes,
        slot: int,
        index: int,
        players: tuple[int, ...],
        key_id: str,
        record_hash: bytes,
        base_r: bytes,
        commitments: dict[int, bytes],
        setup_ids: dict[int, bytes],
        secrets: PresignatureSecrets,
    ) -> None:
        super().__init__(
            id=id,
            sid=sid,
            slot=slot,
            index=index,
            players=players,
            key_id=key_id,
            record_hash=record_hash,
            secrets=secrets,
        )
        self.base_r = base_r
        self.commitments = commitments
        self.setup_ids = setup_ids

    def _encode(self, secrets: PresignatureSecrets) -> bytes:
        numbers = (secrets.phi, secrets.u, secrets.v)
        return b"".join(n.to_bytes(_SCALAR, "big") for n in numbers) + secrets.nu

    def _decode(self, data: bytes) -> PresignatureSecrets:
        if len(data) != _LEN:
            raise malformed(f"the secrets of a presignature have {_LEN} bytes")
        phi, u, v = (int.from_bytes(data[k : k + _SCALAR], "big") for k in (0, 32, 64))
        return PresignatureSecrets(phi, u, v, data[3 * _SCALAR :])
