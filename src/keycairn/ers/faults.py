"""The one error of this package's verifier, and how to say where it arose."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from keycairn.errors import Code, KeycairnError

NOT_LOST = "Nothing was decrypted and no key was changed; other copies are unaffected."
#: Whoever reads this may have lost every node: the command that makes a new document comes last.
_NEXT = (
    "use another copy: each node's ERS store and each of its bundles hold one (while nodes run, "
    "`keycairn ers create` makes a new one)"
)
_NEXT_PART = (
    "; or let keycairn-recover leave that node's part out: --skip-bad-parts, t+1 good parts suffice"
)


def invalid(
    check: str, message: str, *, node: int | None = None, key: str | None = None
) -> KeycairnError:
    """An E_ERS_INVALID error (to be raised) that names node, key and the check that failed."""
    where = "" if node is None else f" (part of node {node})"
    return KeycairnError(
        Code.ERS_INVALID,
        message + where,
        not_lost=NOT_LOST,
        next=_NEXT + (_NEXT_PART if node is not None else ""),
        detail={"check": check, "node": node, "key": key},
    )


@contextmanager
def as_invalid(check: str, *, node: int | None = None, key: str | None = None) -> Iterator[None]:
    """Turn a decoder's error (E_MALFORMED, E_BAD_POINT, …) into E_ERS_INVALID with a place."""
    try:
        yield
    except KeycairnError as exc:
        if exc.code is Code.ERS_INVALID:
            if node is None or exc.detail.get("node") is not None:
                raise
            raise invalid(
                str(exc.detail.get("check")),
                exc.message,
                node=node,
                key=exc.detail.get("key") or key,
            ) from exc
        raise invalid(check, exc.message, node=node, key=key) from exc
