"""Types for values that must not reach a log, an error text or a backup by accident."""

from __future__ import annotations

from typing import Any, Generic, NoReturn, TypeVar

T = TypeVar("T")


class Secret(Generic[T]):
    """Holds a secret; prints as ``<secret>``, does not compare, hash or serialise.

    Python cannot promise to wipe memory (docs/threat-model.md); this type only keeps secrets out
    of places where they would be written down.
    """

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        self._value = value

    def reveal(self) -> T:
        """The value. Every call site is a place that handles a secret: keep them few."""
        return self._value

    def __repr__(self) -> str:
        return "<secret>"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return "<secret>"

    def __eq__(self, other: object) -> bool:
        raise TypeError("secrets are compared with hmac.compare_digest, on purpose")

    def __hash__(self) -> int:
        raise TypeError("secrets are not hashable")

    def __reduce__(self) -> NoReturn:
        raise TypeError("secrets cannot be pickled")

    def __getstate__(self) -> Any:
        raise TypeError("secrets cannot be copied out of their holder")


class SecretBytes(Secret[bytes]):
    """Secret byte string (a data key, a seed)."""


class SecretScalar(Secret[int]):
    """Secret integer modulo a group order (a key share, a nonce share)."""
