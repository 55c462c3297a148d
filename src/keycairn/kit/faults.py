"""The offline tool's errors as the library's: the same code, message and advice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from keycairn.errors import Code, KeycairnError
from keycairn.kit.offline.errors import ToolError


@contextmanager
def as_keycairn_error() -> Iterator[None]:
    """Turn a ToolError into a KeycairnError."""
    try:
        yield
    except ToolError as exc:
        raise KeycairnError(
            Code(exc.code),
            exc.message,
            not_lost=exc.not_lost,
            next=exc.advice,
            detail=exc.detail,
        ) from exc
