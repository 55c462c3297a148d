"""Do the bundles of all nodes fit together? From their manifests alone: public data, no secret.

Three answers. *Inconsistent*: a key that one node's bundle has in use is missing from another
holder's, or is there with another generation or record; whatever else is unknown, that is certain.
*Can't tell*: not of every node a sound bundle by a known signer was found. *Consistent*: neither.

A restore of all nodes from a consistent set brings back every key of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from keycairn.backup.manifest import HeldKey, Manifest

CONSISTENT, INCONSISTENT, CANT_TELL = "consistent", "inconsistent", "cant_tell"
_LISTED = 20


@dataclass(frozen=True)
class Found:
    """A bundle whose header was read, and where."""

    location: str
    manifest: Manifest


@dataclass
class Report:
    """What a comparison found.

    Attributes:
        answer: consistent, inconsistent or cant_tell.
        bundles: the compared bundle of each node.
        point: number of the backup point, if all compared bundles are of one.
        keys: number of keys that are in use in any of them.
        findings: one for each kind of difference at each node.
        not_checked: what stayed open without making the answer doubtful.
    """

    answer: str = CONSISTENT
    bundles: dict[int, Found] = field(default_factory=dict)
    point: int | None = None
    keys: int = 0
    findings: list[dict[str, Any]] = field(default_factory=list)
    not_checked: list[str] = field(default_factory=list)

    def doubt(self, finding: str, text: str, next: str, node: int | None = None) -> None:
        """Something that isn't known."""
        self.findings.append(
            {"finding": finding, "node": node, "keys": [], "count": 0, "text": text, "next": next}
        )
        if self.answer == CONSISTENT:
            self.answer = CANT_TELL

    def to_json(self) -> dict[str, Any]:
        """Result keys of ``backup status``."""
        return {
            "answer": self.answer,
            "point": self.point,
            "keys": self.keys,
            "bundles": [
                {
                    "node": node,
                    "bundle": found.location,
                    "created_us": found.manifest.created_us,
                    "keys": len(found.manifest.keys),
                    "point": None if found.manifest.point is None else found.manifest.point.number,
                }
                for node, found in sorted(self.bundles.items())
            ],
            "findings": self.findings,
            "not_checked": self.not_checked,
        }


def judge(found: Sequence[Found], pins: Mapping[int, bytes]) -> Report:
    """Compare the newest bundles of all nodes; if they don't fit, name a backup point that does.

    Args:
        found: any number of bundles of each node, in any order.
        pins: identity keys of the nodes from elsewhere; empty if there are none. Then the bundles
            vouch for each other, and the report says so.
    """
    sound, refused = _by_known_signers(found, pins)
    newest: dict[int, Found] = {}
    for one in sound:
        node = one.manifest.node
        if node not in newest or newest[node].manifest.created_us < one.manifest.created_us:
            newest[node] = one
    report = compare(newest, pins)
    for one in refused:
        node = one.manifest.node
        if node not in newest:
            report.doubt(
                "signer",
                f"{one.location} was signed with {one.manifest.node_public_key.hex()}, which is "
                f"not the known key of node {node}",
                "use a bundle of this node; keep that file for whoever looks into it",
                node,
            )
    if report.answer != CONSISTENT:
        for number, bundles in _points(sound):
            earlier = compare(bundles, pins)
            if earlier.answer == CONSISTENT:
                report.findings.append(
                    {
                        "finding": "consistent point",
                        "node": None,
                        "keys": [],
                        "count": earlier.keys,
                        "text": f"the bundles of backup point {number} fit together "
                        f"({earlier.keys} keys): "
                        + ", ".join(b.location for _, b in sorted(bundles.items())),
                        "next": "if all nodes are lost, restore these; keys made later come from "
                        "newer bundles of t+1 nodes, or from ERS documents",
                    }
                )
                break
    return report


def _by_known_signers(
    found: Iterable[Found], pins: Mapping[int, bytes]
) -> tuple[list[Found], list[Found]]:
    good: list[Found] = []
    bad: list[Found] = []
    for one in found:
        pin = pins.get(one.manifest.node)
        known = not pins or pin == one.manifest.node_public_key
        (good if known else bad).append(one)
    return good, bad


def _points(found: Iterable[Found]) -> list[tuple[int, dict[int, Found]]]:
    """Bundles by backup point, newest point first."""
    points: dict[tuple[int, bytes], dict[int, Found]] = {}
    for one in found:
        point = one.manifest.point
        if point is not None:
            points.setdefault((point.number, point.id), {})[one.manifest.node] = one
    return [(key[0], points[key]) for key in sorted(points, reverse=True)]


def compare(bundles: Mapping[int, Found], pins: Mapping[int, bytes]) -> Report:
    """Compare one bundle of each node; arguments as for :func:`judge`."""
    report = Report(bundles=dict(bundles))
    manifests = {node: found.manifest for node, found in bundles.items()}
    if len({m.vault for m in manifests.values()}) > 1:
        names = ", ".join(sorted({m.vault for m in manifests.values()}))
        report.doubt("vaults", f"bundles of several vaults: {names}", "name those of one vault")
        return report
    players = set(pins) | {i for m in manifests.values() for i in m.players}
    if not players:
        report.doubt(
            "players",
            "these bundles (format 1, or none) don't say which nodes there are",
            "give --vault FILE, or make new bundles",
        )
        players = set(manifests)
    for node in sorted(players - set(manifests)):
        report.doubt(
            "no bundle",
            f"no sound bundle of node {node} was found",
            f"name node {node}'s bundle, or its directory; if it runs: keycairn backup create",
            node,
        )
    if not pins:
        _vouch(report, manifests)
    _keys(report, manifests, players)
    numbers = {(m.point.number, m.point.id) if m.point else None for m in manifests.values()}
    if len(numbers) == 1 and players == set(manifests):
        [only] = numbers
        report.point = None if only is None else only[0]
    return report


def _vouch(report: Report, manifests: Mapping[int, Manifest]) -> None:
    """Without a key from elsewhere: do the signers know each other?"""
    for node, manifest in sorted(manifests.items()):
        for other, known in sorted(manifests.items()):
            said = manifest.players.get(other)
            if said is not None and said != known.node_public_key:
                report.doubt(
                    "signer",
                    f"node {node}'s bundle knows another key of node {other} than the one that "
                    f"signed {report.bundles[other].location}",
                    "give --vault FILE, which has the nodes' keys",
                    other,
                )
    report.not_checked.append("who signed: no keys were given, the bundles vouch for each other")


def _keys(report: Report, manifests: Mapping[int, Manifest], players: set[int]) -> None:
    active: dict[str, HeldKey] = {}
    for manifest in manifests.values():
        for key, held in manifest.keys.items():
            if held.state == "active":
                # A key whose READYs are not complete anywhere was never used.
                best = active.get(key)
                if best is None or held.generation > best.generation:
                    active[key] = held
    report.keys = len(active)
    groups: dict[tuple[str, int, bool], list[str]] = {}
    for key, best in sorted(active.items()):
        holders = [i for i in (best.holders or sorted(players)) if i in manifests]
        copies = {i: manifests[i].keys.get(key) for i in holders}
        same = Counter((h.generation, h.record_hash) for h in copies.values() if h is not None)
        usable = max(same.values(), default=0) > best.threshold if best.threshold else False
        for node, copy in copies.items():
            if copy is None:
                groups.setdefault(("missing key", node, usable), []).append(key)
            elif (copy.generation, copy.record_hash) != (best.generation, best.record_hash):
                older = copy.generation < best.generation
                kind = "older generation" if older else "another record"
                groups.setdefault((kind, node, usable), []).append(key)
    words = {
        "missing key": "lacks {} that other nodes' bundles have in use",
        "older generation": "has an older generation of {}",
        "another record": "has another public record of {}",
    }
    for (kind, node, usable), keys in sorted(groups.items()):
        shown = ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
        saved = (
            "t+1 bundles have them, so they come back without this node"
            if usable
            else "these bundles alone don't bring them back"
        )
        report.answer = INCONSISTENT
        report.findings.append(
            {
                "finding": kind,
                "node": node,
                "keys": keys[:_LISTED],
                "count": len(keys),
                "recoverable": usable,
                "text": f"the bundle of node {node} {words[kind].format(shown)}; {saved}",
                "next": "keycairn backup create --vault FILE, while the nodes run",
            }
        )
