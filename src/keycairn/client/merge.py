"""Views of one key from several nodes into one: doubt never becomes a yes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from keycairn.client.agree import agreed

#: Said of a holder that answers and has no such key: its database is older than the key.
UNKNOWN = "does not know this key"
#: What makes a key the same key on every node.
SAME_KEY = (
    "key_id",
    "scheme",
    "curve",
    "public_key",
    "generation",
    "threshold",
    "players",
    "record_hash",
)


def merge_key(views: Mapping[int, Mapping[str, Any]], silent: Mapping[int, str]) -> dict[str, Any]:
    """One view of a key.

    An address is given only when every holder's node gives the same one: a holder that did not
    answer, or whose policy does not hold yet, makes it null and is named in ``missing``.

    Args:
        views: by node; at least one.
        silent: nodes that gave no view, with the reason.

    Raises:
        Abort: E_EQUIVOCATION when the nodes don't mean the same key.
    """
    agreed(views, SAME_KEY)
    first = views[min(views)]
    holders = [int(p) for p in first["players"]]
    absent = {i: silent.get(i, "is not in this profile") for i in holders if i not in views}
    missing = [f"node {i}: {m}" for i in sorted(views) for m in views[i].get("missing", ())]
    missing += [f"node {i}: {why}" for i, why in sorted(absent.items())]
    given = [views[i].get("addresses", {}) for i in holders if i in views]
    addresses = {
        name: value if not absent and all(g.get(name) == value for g in given) else None
        for name, value in first.get("addresses", {}).items()
    }
    return {
        **first,
        "state": merge_state([str(v["state"]) for v in views.values()], len(absent)),
        "backed_up": worst(str(v["backed_up"]) for v in views.values())
        if not absent
        else ("no" if any(v["backed_up"] == "no" for v in views.values()) else "cant_tell"),
        "addresses": addresses,
        "missing": missing,
        "next": list(dict.fromkeys(n for v in views.values() for n in v.get("next", ()))),
    }


def merge_state(states: Sequence[str], absent: int) -> str:
    """active only if all holders say so; degraded if some do; else pending."""
    if all(s == "active" for s in states):
        return "degraded" if absent else "active"
    return "degraded" if "active" in states else "pending"


def worst(answers: Iterable[str]) -> str:
    """yes only if all are; no if one is; else can't tell."""
    given = list(answers)
    if given and all(a == "yes" for a in given):
        return "yes"
    return "no" if "no" in given else "cant_tell"


def merge_coverage(
    rows: Mapping[int, Mapping[str, Any]], silent: Mapping[int, str]
) -> dict[str, Any]:
    """One coverage row of a key; ``nodes`` keeps each node's own row.

    Args:
        rows: by node; at least one.
        silent: nodes that gave no row, with the reason; those that don't hold the key don't count.
    """
    first = rows[min(rows)]
    holders = first.get("players") or sorted({*rows, *silent})
    silent = {i: why for i, why in silent.items() if i in holders}
    requires = {i: str(r.get("require")) for i, r in sorted(rows.items())}
    same = len(set(requires.values())) == 1
    holds = [str(r.get("holds", "cant_tell")) for r in rows.values()]
    names = sorted({m for r in rows.values() for m in r.get("methods", {})})
    return {
        "key_id": first["key_id"],
        "state": merge_state([str(r.get("state", "pending")) for r in rows.values()], len(silent)),
        "players": holders,
        "require": requires[min(rows)]
        if same
        else "; ".join(f"node {i}: {expression}" for i, expression in requires.items()),
        "holds": worst(holds + ["cant_tell"] * len(silent)),
        "missing": [f"node {i}: {m}" for i in sorted(rows) for m in rows[i].get("missing", ())]
        + [f"node {i}: {why}" for i, why in sorted(silent.items())],
        "methods": {name: _merge_method(rows, name, bool(silent)) for name in names},
        "nodes": {str(i): dict(r) for i, r in sorted(rows.items())},
    }


def _merge_method(rows: Mapping[int, Mapping[str, Any]], name: str, doubt: bool) -> dict[str, Any]:
    each = {i: r.get("methods", {}).get(name) or {} for i, r in rows.items()}
    answers = [str(m.get("answer", "cant_tell")) for m in each.values()]
    times = [m["at"] for m in each.values() if type(m.get("at")) is int]
    generations = [m["generation"] for m in each.values() if type(m.get("generation")) is int]
    return {
        "answer": worst(answers + ["cant_tell"] * doubt),
        "at": min(times) if len(times) == len(each) else None,
        "generation": min(generations) if len(generations) == len(each) else None,
        "where": {str(i): m.get("where") for i, m in each.items()},
        "sha256": {str(i): m.get("sha256") for i, m in each.items()},
    }


#: From worst to best: what one node holds of a key's recovery document.
_ERS = ("NONE", "STALE", "PARTIAL", "COMPLETE")


def worst_status(by_node: Mapping[int, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """ERS status per key: that of the node which holds least; ``nodes`` keeps each answer."""
    rows: dict[str, dict[int, Mapping[str, Any]]] = {}
    for node, answers in by_node.items():
        for row in answers:
            rows.setdefault(str(row["key_id"]), {})[node] = row
    merged = []
    for key_id, each in sorted(rows.items()):
        least = min(each.values(), key=_ers_rank)
        status = str(least["status"]) if len(each) == len(by_node) else "NONE"
        merged.append(
            {
                **least,
                "key_id": key_id,
                "status": status,
                "rsa_keys": [
                    name
                    for name in least.get("rsa_keys", ())
                    if len(each) == len(by_node)
                    and all(name in row.get("rsa_keys", ()) for row in each.values())
                ],
                "nodes": {str(i): row["status"] for i, row in sorted(each.items())},
            }
        )
    return merged


def _ers_rank(row: Mapping[str, Any]) -> int:
    status = str(row.get("status"))
    return _ERS.index(status) if status in _ERS else 0
