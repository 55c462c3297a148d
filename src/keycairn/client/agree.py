"""Many nodes' answers into one: results must agree, errors keep the reason that helps most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keycairn.errors import Abort, Certainty, Code, KeycairnError

#: Codes that say *why* on their own come first; those that a node reports because others went
#: away come last. Unlisted codes lie in between.
_SAYS_WHY = (
    Code.SIG_INVALID,
    Code.AUTHN,
    Code.MALFORMED,
    Code.BAD_INDEX,
    Code.TOO_LARGE,
    Code.WEAK_RSA,
    Code.QUARANTINED,
    Code.KEY_NOT_BACKED_UP,
    Code.KEY_NOT_ALLOWED,
    Code.EXPORT_DISABLED,
    Code.POLICY,
    Code.PEER_BANNED,
    Code.CONFLICT,
    Code.EPOCH_MISMATCH,
    Code.STORE_INTEGRITY,
    Code.STORE_ROLLBACK,
    Code.RNG,
)
_HEARSAY = (Code.NOT_FOUND, Code.SESSION_MISMATCH, Code.UNAVAILABLE, Code.PEER_TIMEOUT)


def _rank(error: KeycairnError) -> tuple[int, int]:
    if "not_waited_for" in error.detail:  # Not even an answer.
        return (4, 0)
    if "reported_by" in error.detail:  # It merely heard that a peer ended the session.
        return (3, 0)
    if error.code in _SAYS_WHY:
        return (0, _SAYS_WHY.index(error.code))
    if error.code in _HEARSAY:
        return (2, _HEARSAY.index(error.code))
    return (1, 0)


def says_why(error: BaseException | None) -> bool:
    """Whether a node refused for a reason of its own, not because it waited for others."""
    return isinstance(error, KeycairnError) and _rank(error)[0] == 0


def combine(errors: Mapping[int, KeycairnError], done: Sequence[int] = ()) -> KeycairnError:
    """One error out of several nodes' errors.

    Args:
        errors: by node.
        done: nodes that gave a result.

    Returns:
        An error with the most informative code; ``detail.nodes`` holds each node's answer.
    """
    chosen = min(sorted(errors), key=lambda i: _rank(errors[i]))
    best = errors[chosen]
    detail = dict(best.detail)
    detail["nodes"] = {
        **{str(i): {"code": e.code.value, "message": e.message} for i, e in errors.items()},
        **{str(i): {"code": None, "message": "done"} for i in done},
    }
    others = [i for i in sorted(errors) if i != chosen]
    by = f"node {chosen}"
    message = best.message if best.message.startswith(f"{by} ") else f"{by}: {best.message}"
    if others:
        message += f" (nodes that failed too: {', '.join(map(str, others))})"
    result: KeycairnError
    if isinstance(best, Abort):
        result = Abort(
            best.code,
            message,
            culprits=best.culprits,
            certainty=best.certainty,
            not_lost=best.not_lost,
            next=best.next,
            detail=detail,
        )
    else:
        result = KeycairnError(
            best.code, message, not_lost=best.not_lost, next=best.next, detail=detail
        )
    result.node = chosen
    return result


def agreed(results: Mapping[int, Mapping[str, Any]], fields: Sequence[str]) -> None:
    """Check that all nodes gave the same values.

    Raises:
        Abort: E_EQUIVOCATION naming the nodes on each side; nobody is accused, since the client
            can't know which side is right.
    """
    for name in fields:
        sides: dict[str, list[int]] = {}
        for node, result in results.items():
            sides.setdefault(repr(result.get(name)), []).append(node)
        if len(sides) > 1:
            groups = sorted(sorted(nodes) for nodes in sides.values())
            text = " and ".join("nodes " + ", ".join(map(str, g)) for g in groups)
            raise Abort(
                Code.EQUIVOCATION,
                f"the nodes disagree about {name}: {text} give different values",
                culprits=sorted(results),
                certainty=Certainty.ONE_OF,
                not_lost="Nothing was used of either answer.",
                next="compare `keycairn node digest` and the logs of these nodes",
                detail={"field": name, "sides": groups},
            )
