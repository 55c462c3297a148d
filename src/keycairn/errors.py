"""Typed errors with stable codes.

Every failure that can leave this program is a :class:`KeycairnError`. It carries what an
operator needs at 3 a.m.: a stable ``code``, what happened, what was *not* lost, and the command
that helps next. Protocol failures are :class:`Abort`: they say in addition who is to blame and
how sure we are, because a ban must only ever follow certainty.

Codes are the contract (scripts match on them); messages may be reworded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any


class Code(StrEnum):
    """The stable error codes. Adding is free; removing or renaming needs a CHANGELOG line."""

    MALFORMED = "E_MALFORMED"
    TOO_LARGE = "E_TOO_LARGE"
    AUTHN = "E_AUTHN"
    NOT_FOUND = "E_NOT_FOUND"
    CONFLICT = "E_CONFLICT"
    POLICY = "E_POLICY"
    RATE_LIMIT = "E_RATE_LIMIT"
    SESSION_REPLAY = "E_SESSION_REPLAY"
    SESSION_MISMATCH = "E_SESSION_MISMATCH"
    ROUND_ORDER = "E_ROUND_ORDER"
    SENDER_MISMATCH = "E_SENDER_MISMATCH"
    EQUIVOCATION = "E_EQUIVOCATION"
    BAD_POINT = "E_BAD_POINT"
    BAD_SCALAR = "E_BAD_SCALAR"
    BAD_INDEX = "E_BAD_INDEX"
    BAD_LENGTH = "E_BAD_LENGTH"
    BAD_PROOF = "E_BAD_PROOF"
    BAD_COMMIT = "E_BAD_COMMIT"
    BAD_SHARE = "E_BAD_SHARE"
    KEY_SUM = "E_KEY_SUM"
    OT_CHECK = "E_OT_CHECK"
    PEER_BANNED = "E_PEER_BANNED"
    SIG_INVALID = "E_SIG_INVALID"
    PRESIG_SPENT = "E_PRESIG_SPENT"
    PRESIG_UNKNOWN = "E_PRESIG_UNKNOWN"
    EPOCH_MISMATCH = "E_EPOCH_MISMATCH"
    QUARANTINED = "E_QUARANTINED"
    KEY_NOT_BACKED_UP = "E_KEY_NOT_BACKED_UP"
    EXPORT_DISABLED = "E_EXPORT_DISABLED"
    KEY_NOT_ALLOWED = "E_KEY_NOT_ALLOWED"
    WEAK_RSA = "E_WEAK_RSA"
    UNWRAP_FAILED = "E_UNWRAP_FAILED"
    IMPORT_INCONSISTENT = "E_IMPORT_INCONSISTENT"
    ERS_INVALID = "E_ERS_INVALID"
    STORE_INTEGRITY = "E_STORE_INTEGRITY"
    STORE_ROLLBACK = "E_STORE_ROLLBACK"
    UNAVAILABLE = "E_UNAVAILABLE"
    PEER_TIMEOUT = "E_PEER_TIMEOUT"
    RNG = "E_RNG"


_EXIT: dict[Code, int] = {
    Code.UNAVAILABLE: 1,
    Code.RNG: 1,
    Code.MALFORMED: 2,
    Code.TOO_LARGE: 2,
    Code.BAD_POINT: 2,
    Code.BAD_SCALAR: 2,
    Code.BAD_INDEX: 2,
    Code.BAD_LENGTH: 2,
    Code.BAD_PROOF: 2,
    Code.BAD_COMMIT: 2,
    Code.BAD_SHARE: 2,
    Code.WEAK_RSA: 2,
    Code.POLICY: 3,
    Code.KEY_NOT_BACKED_UP: 3,
    Code.QUARANTINED: 3,
    Code.KEY_NOT_ALLOWED: 3,
    Code.EXPORT_DISABLED: 3,
    Code.CONFLICT: 3,
    Code.PEER_BANNED: 3,
    Code.PRESIG_SPENT: 3,
    Code.PRESIG_UNKNOWN: 3,
    Code.EPOCH_MISMATCH: 3,
    Code.SESSION_REPLAY: 3,
    Code.SESSION_MISMATCH: 3,
    Code.RATE_LIMIT: 3,
    Code.AUTHN: 4,
    Code.NOT_FOUND: 4,
    Code.ERS_INVALID: 5,
    Code.SIG_INVALID: 5,
    Code.STORE_INTEGRITY: 5,
    Code.STORE_ROLLBACK: 5,
    Code.UNWRAP_FAILED: 5,
    Code.IMPORT_INCONSISTENT: 5,
    Code.PEER_TIMEOUT: 6,
    # Aborts that a peer's messages caused: nothing is wrong with the caller's input.
    Code.ROUND_ORDER: 1,
    Code.SENDER_MISMATCH: 1,
    Code.EQUIVOCATION: 1,
    Code.KEY_SUM: 1,
    Code.OT_CHECK: 1,
}

_HTTP: dict[Code, int] = {
    Code.MALFORMED: 400,
    Code.TOO_LARGE: 413,
    Code.AUTHN: 401,
    Code.NOT_FOUND: 404,
    Code.POLICY: 403,
    Code.KEY_NOT_BACKED_UP: 403,
    Code.KEY_NOT_ALLOWED: 403,
    Code.EXPORT_DISABLED: 403,
    Code.PEER_BANNED: 403,
    Code.QUARANTINED: 503,
    Code.UNAVAILABLE: 503,
    Code.RNG: 503,
    Code.RATE_LIMIT: 429,
    Code.PEER_TIMEOUT: 504,
    Code.WEAK_RSA: 400,
    Code.BAD_INDEX: 400,
    Code.BAD_POINT: 400,
    Code.BAD_SCALAR: 400,
    Code.BAD_LENGTH: 400,
    Code.ERS_INVALID: 400,
}


class KeycairnError(Exception):
    """A failure with a stable code.

    Args:
        code: what class of failure this is.
        message: one sentence, what happened. Never contains a secret.
        not_lost: one sentence saying what is still safe, for the operator.
        next: the command or action that helps, or "".
        node: index of the node that reports it, if a node does.
        detail: JSON-serialisable facts (field names, sizes, indices).
    """

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        not_lost: str = "",
        next: str = "",
        node: int | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(f"{code.value}: {message}")
        self.code = code
        self.message = message
        self.not_lost = not_lost
        self.next = next
        self.node = node
        self.detail: dict[str, Any] = dict(detail or {})

    @property
    def exit_code(self) -> int:
        """Process exit code of a command that ends with this error (docs/errors.md)."""
        if isinstance(self, Abort):
            # A peer's bad message is not the caller's wrong use (exit 2): the run failed (exit 1).
            return 1 if _EXIT[self.code] == 2 else _EXIT[self.code]
        return _EXIT[self.code]

    @property
    def http_status(self) -> int:
        """HTTP status of a response that carries this error."""
        if isinstance(self, Abort) and _HTTP.get(self.code) == 400:
            return 409
        return _HTTP.get(self.code, 409)

    def to_json(self) -> dict[str, Any]:
        """The documented error object: ``{"error": {code, message, not_lost, next, …}}``."""
        return {
            "error": {
                "code": self.code.value,
                "message": self.message,
                "not_lost": self.not_lost,
                "next": self.next,
                "node": self.node,
                "detail": self.detail,
            }
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> KeycairnError:
        """Rebuild an error from :meth:`to_json`; unknown codes become ``E_UNAVAILABLE``."""
        inner = body.get("error")
        e: Mapping[str, Any] = inner if isinstance(inner, Mapping) else {}
        try:
            code = Code(str(e.get("code")))
        except ValueError:
            code = Code.UNAVAILABLE
        detail = e.get("detail")
        node = e.get("node")
        return cls(
            code,
            str(e.get("message", "the node gave no message")),
            not_lost=str(e.get("not_lost", "")),
            next=str(e.get("next", "")),
            node=node if isinstance(node, int) else None,
            detail=detail if isinstance(detail, Mapping) else None,
        )


class Certainty(StrEnum):
    """How sure an abort is about who caused it."""

    NOBODY = "nobody"  # not provable, or an honest disagreement
    ONE_OF = "one_of"  # at least one of the named players
    CERTAIN = "certain"  # the named players, over their own authenticated channel


class Abort(KeycairnError):
    """A protocol run ended without a result.

    Attributes:
        culprits: player indices, sorted; empty when nobody can be named.
        certainty: what ``culprits`` means.
        ban: True only for OT and multiplication check failures (docs/protocols/index.md, "Aborts
            and blame").
    """

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        culprits: Iterable[int] = (),
        certainty: Certainty | None = None,
        ban: bool = False,
        not_lost: str = "No key share was lost or revealed.",
        next: str = "",
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        blamed = tuple(sorted(set(culprits)))
        sure = certainty or (Certainty.CERTAIN if blamed else Certainty.NOBODY)
        super().__init__(
            code,
            message,
            not_lost=not_lost,
            next=next,
            detail={**(detail or {}), "culprits": list(blamed), "certainty": sure.value},
        )
        self.culprits = blamed
        self.certainty = sure
        self.ban = ban


class PeerAborted(Abort):
    """A peer told us that it ended the session.

    Nobody is blamed: neither whom the peer accuses, nor the peer for leaving
    (docs/protocols/index.md, "Aborts and blame").
    """

    def __init__(self, code: Code, reported_by: int, waiting_for: Iterable[int] = ()) -> None:
        # Its time-out may be a moment before ours: say what we know of who is silent.
        late = sorted(waiting_for) if code is Code.PEER_TIMEOUT else []
        silent = f"; no message from player {', '.join(map(str, late))} either" if late else ""
        super().__init__(
            code,
            f"player {reported_by} ended the session{silent}",
            detail={"reported_by": reported_by, **({"waiting_for": late} if late else {})},
        )
        self.reported_by = reported_by


def malformed(message: str, **detail: Any) -> KeycairnError:
    """Shorthand for the most frequent input error."""
    return KeycairnError(Code.MALFORMED, message, detail=detail)
