"""The last step of a restore: what came back, held against what the other nodes say.

Every share was proved against its certified record already: x_i·G = X_i, and the certificate bears
the READY of every holder. Here the *records* are compared with those of the peers that run: same
record hash, same commitments, same key. Nothing secret is asked for or sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keycairn.backup.manifest import HeldKey
from keycairn.client import Vault, VaultProfile
from keycairn.errors import KeycairnError

_LISTED = 20


@dataclass(frozen=True)
class Shown:
    """What the peers of a node show this application: their keys, and why some show none."""

    asked: Mapping[int, Sequence[Mapping[str, Any]]]
    silent: Mapping[int, str]


async def shown_by_peers(profile: VaultProfile, node: int) -> Shown:
    """Ask all nodes of a vault but ``node`` for their keys."""
    async with Vault(profile) as vault:
        peers = [i for i in vault.nodes if i != node]
        answers = await asyncio.gather(
            *(vault.nodes[i].list_keys() for i in peers), return_exceptions=True
        )
    asked: dict[int, list[dict[str, Any]]] = {}
    silent: dict[int, str] = {}
    for i, given in zip(peers, answers, strict=True):
        if isinstance(given, KeycairnError):
            silent[i] = given.message
        elif isinstance(given, BaseException):
            raise given
        else:
            asked[i] = given
    return Shown(asked, silent)


def compare_with_peers(node: int, held: Mapping[str, HeldKey], shown: Shown) -> dict[str, Any]:
    """Compare a restored node's keys with those that its running peers show this application.

    Args:
        node: the restored one; it isn't asked, and needn't run.
        held: its keys, out of the bundle's manifest.
        shown: by the others.

    Returns:
        ``{answer, asked, silent, compared, findings}``; answer is yes, no, or cant_tell when no
        peer answered, or none of those that did shows some of the keys.
    """
    asked, silent = shown.asked, shown.silent
    compared, groups = _differences(node, held, asked)
    findings = [_finding(node, kind, peer, keys) for (kind, peer), keys in sorted(groups.items())]
    findings += [
        {
            "what": "peer",
            "words": f"node {i} was not compared with: {why}",
            "next": "keycairn doctor, once it runs",
        }
        for i, why in silent.items()
    ]
    certain = any(kind not in ("unknown", "alone") for kind, _ in groups)
    alone = any(kind == "alone" for kind, _ in groups)
    answer = "no" if certain else "yes" if asked and not alone else "cant_tell"
    return {
        "answer": answer,
        "asked": sorted(asked),
        "silent": sorted(silent),
        "compared": len(compared),
        "findings": findings,
    }


def _differences(
    node: int, held: Mapping[str, HeldKey], asked: Mapping[int, Sequence[Mapping[str, Any]]]
) -> tuple[set[str], dict[tuple[str, int], list[str]]]:
    compared: set[str] = set()
    groups: dict[tuple[str, int], list[str]] = {}
    for peer, rows in asked.items():
        shown = {str(row["key_id"]): row for row in rows}
        for key, row in shown.items():
            if node not in row["players"]:
                continue
            mine = held.get(key)
            if mine is None:
                if row["state"] != "pending":
                    groups.setdefault(("missing", peer), []).append(key)
                continue
            compared.add(key)
            theirs = (int(row["generation"]), str(row["record_hash"]))
            if theirs != (mine.generation, mine.record_hash.hex()):
                behind = mine.generation < theirs[0]
                groups.setdefault(("behind" if behind else "other", peer), []).append(key)
        # Another application's keys aren't shown: this says something only of what it shares.
        if shown:
            lost = [k for k, h in held.items() if k not in shown and h.state == "active"]
            known = {str(r["key_id"]) for other in asked.values() for r in other}
            if lost_here := [k for k in lost if k in known]:
                groups.setdefault(("unknown", peer), []).extend(lost_here)
    known = {str(row["key_id"]) for rows in asked.values() for row in rows}
    alone = [
        key
        for key, mine in held.items()
        if mine.state == "active" and key not in known and set(mine.holders) & set(asked)
    ]
    if alone:
        groups[("alone", 0)] = alone
    return compared, groups


def _finding(node: int, kind: str, peer: int, keys: Sequence[str]) -> dict[str, Any]:
    names = ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
    words, next = {
        "missing": (
            f"the bundle lacks {names}, which node {peer} holds: made after it",
            f"restore a newer bundle of node {node} if there is one; else sign with the other "
            "holders (--nodes)",
        ),
        "behind": (
            f"the bundle has an older generation of {names} than node {peer}",
            f"restore a newer bundle of node {node}; until then sign with the other holders",
        ),
        "other": (
            f"the bundle has another public record of {names} than node {peer}",
            "don't sign with this node: find out which of both is right (key show, ers verify)",
        ),
        "alone": (
            f"none of the nodes that were asked shows {names}, which the bundle has in use: they "
            "were put back to before it was made, or it is another application's",
            "keycairn backup status BUNDLES --vault FILE tells which bundles have it; a key that "
            "this node alone knows needs a newer bundle of another holder, or an ERS document",
        ),
        "unknown": (
            f"node {peer} does not know {names}, which this bundle and other nodes hold",
            f"node {peer}'s database is older than these keys: keycairn doctor",
        ),
    }[kind]
    return {"what": "peers", "words": words, "next": next, "keys": list(keys[:_LISTED])}
