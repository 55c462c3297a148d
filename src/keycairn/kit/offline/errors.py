"""The one exception of the tool; codes and exit codes are those of keycairn (docs/errors.md)."""

from __future__ import annotations

from typing import Any, Dict, Optional

EXIT = {
    "E_UNAVAILABLE": 1,
    "E_MALFORMED": 2,
    "E_TOO_LARGE": 2,
    "E_BAD_SCALAR": 2,
    "E_WEAK_RSA": 2,
    "E_POLICY": 3,
    "E_CONFLICT": 3,
    "E_NOT_FOUND": 4,
    "E_ERS_INVALID": 5,
    "E_SIG_INVALID": 5,
    "E_STORE_INTEGRITY": 5,
}


class ToolError(Exception):
    """A failure.

    Args:
        code: a name of :data:`EXIT`.
        message: what happened; never a secret.
        not_lost: what is still safe.
        advice: what to do next.
        detail: facts for programs; ``check``, ``node`` and ``key`` for E_ERS_INVALID.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        not_lost: str = "",
        advice: str = "",
        detail: Optional[Dict[str, Any]] = None,
    ) -> None:
        super().__init__(message)
        self.code, self.message = code, message
        self.not_lost, self.advice = not_lost, advice
        self.detail = dict(detail or {})

    @property
    def exit_code(self) -> int:
        return EXIT[self.code]

    def to_json(self) -> Dict[str, Any]:
        return {
            "error": {
                "code": self.code,
                "message": self.message,
                "not_lost": self.not_lost,
                "next": self.advice,
                "node": None,
                "detail": self.detail,
            }
        }


def invalid(check: str, message: str, key: Optional[str] = None) -> ToolError:
    """E_ERS_INVALID, to be raised; the proof's caller adds the node."""
    return ToolError(
        "E_ERS_INVALID",
        message,
        not_lost="Nothing was decrypted and no key was changed; other copies are unaffected.",
        advice="use another copy; if one node's part alone is bad, --skip-bad-parts leaves it out",
        detail={"check": check, "node": None, "key": key},
    )


def need(condition: object, check: str, message: str, key: Optional[str] = None) -> None:
    """Raise :func:`invalid` unless the condition holds."""
    if not condition:
        raise invalid(check, message, key)


def malformed(message: str, advice: str = "") -> ToolError:
    """E_MALFORMED, to be raised."""
    return ToolError("E_MALFORMED", message, advice=advice)
