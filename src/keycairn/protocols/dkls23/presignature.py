"""A presignature: the part of a signature that does not depend on the message. Used once.

Memory only: it is as secret as a key share, and two uses give the key away, re-randomised or not
(docs/protocols/dkls23.md, "What is stored").
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import NoReturn

from keycairn.errors import Code, KeycairnError


@dataclass(frozen=True, repr=False)
class PresignatureSecrets:
    """φ_i, u_i, v_i mod q, and ν_i (32 bytes), which opens n_i."""

    phi: int
    u: int
    v: int
    nu: bytes


class Presignature:
    """One signer's part of one presignature. In memory only; not copyable, not picklable.

    Attributes:
        id: 32 bytes, equal at all signers.
        sid: the presigning session.
        slot: its number in that session.
        players: the signers, sorted; exactly these must sign.
        key_id: the key's name.
        record_hash: the key record it was made for (covers the generation).
        base_r: R, 33 bytes, before re-randomisation.
        commitments: n_j of every signer: H of ν_j.
        setup_ids: the pairwise setup it was made on, by peer; it dies with any of them.
    """

    __slots__ = (
        "_lock",
        "_secrets",
        "base_r",
        "commitments",
        "id",
        "key_id",
        "players",
        "record_hash",
        "setup_ids",
        "sid",
        "slot",
    )

    def __init__(
        self,
        *,
        id: bytes,
        sid: bytes,
        slot: int,
        players: tuple[int, ...],
        key_id: str,
        record_hash: bytes,
        base_r: bytes,
        commitments: dict[int, bytes],
        setup_ids: dict[int, bytes],
        secrets: PresignatureSecrets,
    ) -> None:
        self.id = id
        self.sid = sid
        self.slot = slot
        self.players = players
        self.key_id = key_id
        self.record_hash = record_hash
        self.base_r = base_r
        self.commitments = commitments
        self.setup_ids = setup_ids
        self._secrets: PresignatureSecrets | None = secrets
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        state = "spent" if self.spent else "unused"
        return f"Presignature({self.id.hex()[:16]}…, players {self.players}, {state})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("presignatures live in memory only")

    @property
    def spent(self) -> bool:
        """Whether :meth:`take` was called."""
        return self._secrets is None

    def take(self) -> PresignatureSecrets:
        """The secrets, once; from any thread. The presignature is spent, whatever follows.

        Raises:
            KeycairnError: E_PRESIG_SPENT the second time.
        """
        with self._lock:
            secrets, self._secrets = self._secrets, None
        if secrets is None:
            raise KeycairnError(
                Code.PRESIG_SPENT,
                "this presignature was used before",
                not_lost="The key is safe: nothing was sent.",
                next="sign again with another presignature",
                detail={"presignature_id": self.id.hex()},
            )
        return secrets
