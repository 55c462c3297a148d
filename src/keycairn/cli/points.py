"""Leading a backup point, and comparing the bundles of all nodes: work of ``backup create --vault``
and ``backup status``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keycairn.backup import read_manifest, stored
from keycairn.backup.consistency import CONSISTENT, Found, Report, judge
from keycairn.backup.nodefile import is_object_store
from keycairn.backup.targets import DirectoryTarget, Target, target_of
from keycairn.cli.local import node_config
from keycairn.cli.options import every_operator
from keycairn.client import VaultProfile, load_profile
from keycairn.errors import KeycairnError, malformed
from keycairn.ports import Rng

#: So many of a node's newest bundles are looked at for one that fits the others'.
_DEPTH = 10


@dataclass(frozen=True)
class Made:
    """Results and errors by node; the number of the backup point, or why there is none."""

    bundles: dict[int, dict[str, Any]]
    failed: dict[int, KeycairnError]
    point: int | None
    why: str = ""


def create_point(vault: Path, rng: Rng) -> Made:
    """A backup point of all nodes; bundles without a point of those that can, if one can't."""
    mark = rng.bytes(16).hex()
    held, failed = every_operator(None, vault, None, lambda n, _: n.backup_point("hold", id=mark))
    if failed:
        why = f"node {min(failed)}: {next(iter(failed.values())).message}"
        return _without_point(vault, mark, why)
    number = 1 + max(int(answer["newest"]) for answer in held.values())
    try:
        taken, failed = every_operator(
            None, vault, None, lambda n, _: n.backup_point("take", number=number, id=mark)
        )
    except KeycairnError:
        _release(vault, mark)
        raise
    _release(vault, mark)
    made, late = every_operator(None, vault, None, lambda n, _: n.backup_point("result"))
    failed |= late
    lapsed = [i for i, answer in sorted(taken.items()) if not answer["held"]]
    if failed or lapsed:
        node = min([*failed, *lapsed])
        why = f"node {node} " + ("failed" if node in failed else "took longer than the hold lasts")
        return Made({i: m for i, m in made.items() if i not in failed}, failed, None, why)
    return Made(made, {}, number)


def _release(vault: Path, mark: str) -> None:
    """Best effort: a hold that isn't released ends by itself."""
    every_operator(None, vault, None, lambda n, _: n.backup_point("release", id=mark))


def _without_point(vault: Path, mark: str, why: str) -> Made:
    try:
        _release(vault, mark)
    except KeycairnError:
        why = f"{why}; holds end by themselves"
    made, failed = every_operator(None, vault, None, lambda n, _: n.backup_create())
    return Made(made, failed, None, why)


def lead_point(config: Path) -> Mapping[str, Any]:
    """A backup point of all nodes over their links, led by the running node of ``config``."""
    made, _ = every_operator(config, None, None, lambda n, _: n.backup_point("lead"))
    [result] = made.values()
    return result


def point_lines(result: Mapping[str, Any]) -> list[str]:
    """The result of :func:`lead_point` for people."""
    if result["point"] is not None:
        lines = [f"backup point {result['point']}: the bundles of all nodes are of one moment"]
    else:
        lines = [f"NO backup point: {result['why']}"]
    for made in result["bundles"]:
        where = made.get("bundle", f"sha256 {made['sha256']}")
        lines.append(f"node {made['node']}: {where} ({made['size']} bytes, {made['keys']} keys)")
    for error in result["failed"]:
        lines.append(f"node {error['node']}: FAILED, {error['message']} [{error['code']}]")
        lines.append(f"  next: {error['next']}")
    return lines


def vault_status(places: Sequence[str], vault: Path | None) -> Report:
    """Compare bundles: those at ``places`` (files, directories, ``s3://…``), or those in the
    targets of the vault's nodes, as far as they are known here."""
    profile = None if vault is None else load_profile(vault)
    pins = {} if profile is None else {n.index: n.public_key for n in profile.nodes}
    report, sources = Report(), dict[str, KeycairnError]()
    if places:
        targets = list(_named(places))
    elif profile is not None:
        targets = list(_known(profile, sources))
    else:
        raise malformed("which bundles? name files or directories, or the vault with --vault")
    found: dict[str, Found] = {}
    for depth in (1, _DEPTH):
        bad: dict[str, KeycairnError] = dict(sources)
        for target, names in targets:
            _read(target, names, depth, profile, found, bad)
        report = judge(list(found.values()), pins)
        if report.answer == CONSISTENT:
            break
    for place, error in sorted(bad.items()):
        if not any(f.location == place for f in report.bundles.values()):
            _say_bad(report, place, error)
    return report


def _say_bad(report: Report, place: str, error: KeycairnError) -> None:
    report.findings.append(
        {
            "finding": "can't be read",
            "node": error.node,
            "keys": [],
            "count": 0,
            "text": f"{place}: {error.message}",
            "next": error.next,
        }
    )


def _named(places: Sequence[str]) -> Iterator[tuple[Target, list[str] | None]]:
    for place in places:
        path = Path(place).absolute()
        if not is_object_store(place) and path.is_file():
            yield DirectoryTarget(path.parent), [path.name]
        else:
            yield target_of(place if is_object_store(place) else path), None


def _known(
    profile: VaultProfile, errors: dict[str, KeycairnError]
) -> Iterator[tuple[Target, list[str] | None]]:
    for node in profile.nodes:
        if node.config is None:
            continue
        try:
            targets = node_config(node.config, node.index).backup.targets
        except KeycairnError as exc:
            # A lost node's directory: a local vault keeps its bundles beside it.
            errors[str(node.config)] = exc
            beside = node.config.parent.parent / f"operator{node.index}" / "backups"
            targets = (str(beside),) if beside.is_dir() else ()
        for text in targets:
            yield target_of(text), None


def _read(
    target: Target,
    names: list[str] | None,
    depth: int,
    profile: VaultProfile | None,
    found: dict[str, Found],
    bad: dict[str, KeycairnError],
) -> None:
    try:
        given = target.names() if names is None else names
    except KeycairnError as exc:
        bad[target.place] = exc
        return
    # The node and the time stand in the name: the newest of each node come last.
    by_node: dict[str, list[str]] = {}
    for name in given:
        by_node.setdefault(name.rpartition("-node")[2].partition("-")[0], []).append(name)
    for group in by_node.values():
        good = 0
        for name in reversed(group):
            if names is None and good == depth:
                break
            location = target.location(name)
            try:
                if location not in found:
                    with stored(location) as path:
                        manifest = read_manifest(path)
                    if profile is not None and manifest.vault != profile.vault_id:
                        continue
                    found[location] = Found(location, manifest)
                good += 1
            except KeycairnError as exc:
                bad[location] = exc


def status_lines(result: Mapping[str, Any]) -> list[str]:
    """``backup status`` for people."""
    lines = [f"the bundles of all nodes: {result['answer'].replace('_', ' ')}"]
    if result["point"] is not None:
        lines[0] += f" (backup point {result['point']})"
    lines += [
        f"node {b['node']}: {b['bundle']} ({b['keys']} keys, point {b['point'] or '-'})"
        for b in result["bundles"]
    ]
    for finding in result["findings"]:
        lines += [f"- {finding['text']}", f"  next: {finding['next']}"]
    lines += [f"not checked: {point}" for point in result["not_checked"]]
    for node in result.get("nodes", ()):
        lines.append(f"node {node['node']}: {node_line(node)}")
    return lines


def node_line(state: Mapping[str, Any]) -> str:
    """One node's own state in a line."""
    if "error" in state:
        return f"{state['error']['message']} [{state['error']['code']}]"
    age = state["age_seconds"]
    text = f"{state['bundles']} good bundles"
    if age is not None:
        text += f", the newest {age // 3600} h {age % 3600 // 60} min old"
    if state["schedule"]:
        text += f", schedule {state['schedule']}"
    if state["failure"]:
        text += f", LAST RUN FAILED: {state['failure']['message']}"
    return text
