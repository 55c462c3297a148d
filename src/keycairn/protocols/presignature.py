"""What all presignatures have in common: one signer's part of one signature, used once.

A presignature (DKLs23) or a nonce pair (FROST) is as secret as a key share and far easier to
leak: two partial signatures on one of them give the share away. So its secrets leave the object
once (:meth:`Presignature.take`), and the object is neither copied nor serialised.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, NoReturn, TypeVar

from keycairn.encoding import SecretBytes
from keycairn.errors import Code, KeycairnError
from keycairn.protocols.durable import Spend
from keycairn.protocols.form import Durable

S = TypeVar("S")


class OneSession:
    """Makes a claim good for one session: two would be two uses of its presignatures."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def begin(self) -> None:
        """E_PRESIG_SPENT the second time, from whatever thread."""
        if not self._lock.acquire(blocking=False):
            raise KeycairnError(
                Code.PRESIG_SPENT,
                "this claim was used in a session before",
                not_lost="The key is safe: nothing was signed a second time.",
                next="sign again with other presignatures",
            )


class Presignature(ABC, Generic[S]):
    """One signer's part of one presignature.

    Attributes:
        id: 32 bytes, equal at all signers.
        sid: the session that made it.
        slot: its number in that session.
        index: the signer whose part this is.
        players: the signers, sorted; exactly these must sign.
        key_id: the key's name.
        record_hash: the key record it was made for (covers the generation).
    """

    __slots__ = (
        "_lock",
        "_secrets",
        "id",
        "index",
        "key_id",
        "players",
        "record_hash",
        "sid",
        "slot",
        "stored",
    )

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
        secrets: S,
    ) -> None:
        self.id = id
        self.sid = sid
        self.slot = slot
        self.index = index
        self.players = players
        self.key_id = key_id
        self.record_hash = record_hash
        self.stored = False
        self._secrets: S | None = secrets
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        state = "stored" if self.stored else "spent" if self.spent else "unused"
        return f"{type(self).__name__}({self.id.hex()[:16]}…, players {self.players}, {state})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("presignatures are not serialised")

    @property
    def spent(self) -> bool:
        """Whether :meth:`take` was called."""
        return self._secrets is None and not self.stored

    def take(self) -> S:
        """The secrets, once; from any thread. The presignature is spent, whatever follows.

        Raises:
            KeycairnError: E_PRESIG_SPENT the second time, and while they are detached.
        """
        with self._lock:
            secrets, self._secrets = self._secrets, None
        if secrets is None:
            raise self._refusal()
        return secrets

    def _refusal(self) -> KeycairnError:
        return KeycairnError(
            Code.PRESIG_SPENT,
            "this presignature was used before",
            not_lost="The key is safe: nothing was sent.",
            next="sign again with another presignature",
            detail={"presignature_id": self.id.hex()},
        )

    # -- secrets that are kept elsewhere meanwhile

    def detach(self) -> SecretBytes:
        """Move the secrets out of this object; the caller keeps them under a key that dies with
        the process, and brings them back with :meth:`attach`. E_PRESIG_SPENT."""
        encoded = self._encode(self.take())
        self.stored = True
        return SecretBytes(encoded)

    def attach(self, secret: SecretBytes) -> None:
        """Bring back, once, what :meth:`detach` gave.

        Raises:
            KeycairnError: E_PRESIG_SPENT if nothing is detached; E_MALFORMED.
        """
        secrets = self._decode(secret.reveal())
        with self._lock:
            stored, self.stored = self.stored, False
            if stored:
                self._secrets = secrets
        if not stored:
            raise self._refusal()

    def lose(self) -> None:
        """What :meth:`detach` gave is gone: this counts as spent."""
        with self._lock:
            self.stored = False

    @abstractmethod
    def _encode(self, secrets: S) -> bytes:
        """The secrets at a fixed length."""

    @abstractmethod
    def _decode(self, data: bytes) -> S:
        """Inverse of :meth:`_encode`; E_MALFORMED."""


def check_fits(
    presignatures: Sequence[Presignature[S]],
    *,
    index: int,
    players: tuple[int, ...],
    record_hash: bytes,
    requests: int,
) -> None:
    """Refuse, while they are unused, presignatures that are not for this request.

    Raises:
        KeycairnError: E_MALFORMED unless there is one for each request; E_PRESIG_UNKNOWN for one
            of another key, generation, holder or signer set, or named twice.
    """
    if not presignatures or len(presignatures) != requests:
        raise KeycairnError(Code.MALFORMED, "one presignature for each thing to sign")
    first = presignatures[0]
    if len({p.id for p in presignatures}) != len(presignatures):
        raise unknown("a presignature is named twice", first.id)
    for p in presignatures:
        if p.record_hash != record_hash or p.index != index:
            raise unknown("the presignature was made for another key, generation or holder", p.id)
        if p.players != players:
            raise unknown("the presignature was made for other signers", p.id)


def unknown(message: str, presignature_id: bytes) -> KeycairnError:
    """E_PRESIG_UNKNOWN: nothing was used."""
    return KeycairnError(
        Code.PRESIG_UNKNOWN,
        message,
        not_lost="The presignature was not used.",
        detail={"presignature_id": presignature_id.hex()},
    )


def spends(
    presignatures: Sequence[Presignature[S]], base_rs: Sequence[bytes], digests: Sequence[bytes]
) -> Durable:
    """The durable step of a use: all of its presignatures are spent, in one transaction (R-02)."""
    return Durable(
        "spend",
        tuple(
            Spend(p.id, base_r, p.key_id, digest)
            for p, base_r, digest in zip(presignatures, base_rs, digests, strict=True)
        ),
    )
