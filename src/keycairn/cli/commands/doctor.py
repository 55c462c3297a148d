"""``keycairn doctor``: what is wrong, and the command that helps."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from keycairn.cli.local import node_config, restore_command
from keycairn.cli.options import VaultOption, command, require_vault
from keycairn.cli.output import output
from keycairn.client import NodeProfile, OperatorClient, Vault, VaultProfile, load_profile
from keycairn.client.merge import UNKNOWN
from keycairn.errors import KeycairnError

_PARTIAL = 7
_FEW = 3


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "doctor")
    def doctor(vault: VaultOption = None) -> int:
        """Look at every node and every key; list what needs somebody, with what to do next.

        Exit code 0 when there is nothing to do, 7 when there are findings.
        """
        profile = load_profile(require_vault(vault))
        findings, information = asyncio.run(_examine(profile))
        lines = [f"- {f['what']}\n  next: {f['next']}" for f in findings] or ["nothing to do"]
        lines += [f"  for information: {text}" for text in information]
        output.result({"findings": findings, "information": information}, "\n".join(lines))
        return _PARTIAL if findings else 0


async def _examine(profile: VaultProfile) -> tuple[list[dict[str, Any]], list[str]]:
    information: list[str] = []
    async with Vault(profile) as vault:
        health = await vault.health()
        well = {index for index, state in health.items() if state.get("ok")}
        findings = _nodes(profile, health)
        for node in profile.nodes:
            if node.config is not None:
                findings += await _operator(node, information, well)
        try:
            findings += _keys(profile, await vault.coverage())
        except KeycairnError as exc:
            findings.append(_finding(None, f"keys can't be looked at: {exc.message}", exc.next))
    return findings, information


def _finding(
    node: int | None, what: str, next_step: str, keys: Sequence[str] = ()
) -> dict[str, Any]:
    return {"node": node, "what": what, "next": next_step, "keys": list(keys)}


def _nodes(profile: VaultProfile, health: Mapping[int, Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        _finding(
            node.index,
            f"node {node.index} can't finish a round: "
            f"{'; '.join(map(str, health[node.index].get('reasons', ())))}",
            _look(profile, node, reached=health[node.index].get("reached", True)),
        )
        for node in profile.nodes
        if not health[node.index].get("ok")
    ]


def _look(profile: VaultProfile, node: NodeProfile, *, reached: bool) -> str:
    """The command that says more of a node that is not well."""
    if node.config is None:
        return "at its machine: keycairn node status --config node.toml, and the node's log"
    if reached:
        config = f"--config {node.config}"
        return f"keycairn node status {config}; keycairn node peers {config}"
    return f"keycairn vault status {profile.file.parent}"


def _keys(profile: VaultProfile, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the keys' coverage says; keys of which the same is said share a finding."""
    behind: dict[int, list[str]] = {}
    bare: dict[tuple[str, ...], list[str]] = {}
    free: dict[str, list[str]] = {}
    for row in rows:
        key = row["key_id"]
        lacking = [i for i in row["players"] if f"node {i}: {UNKNOWN}" in row["missing"]]
        if row["state"] != "pending":
            for i in lacking:
                behind.setdefault(i, []).append(key)
        if row["holds"] != "yes":
            bare.setdefault((row["holds"], row["require"], *row["missing"]), []).append(key)
        requires = {str(r["require"]) for r in row["nodes"].values()}
        if "none" in requires:
            free.setdefault(row["require"], []).append(key)
    findings = [
        _finding(
            i,
            f"node {i} does not know {_named(keys)}, which other nodes hold: its database is "
            "older than they are, or was put back",
            _bring_back(profile, i, keys),
            keys,
        )
        for i, keys in sorted(behind.items())
    ]
    for (holds, require, *missing), keys in bare.items():
        fact = "can't be shown to be" if holds == "cant_tell" else "not"
        findings.append(
            _finding(
                None,
                f"{_named(keys)}: {fact} backed up as the policy asks ({require}): "
                f"{'; '.join(missing)}",
                f"keycairn key show {keys[0]}",
                keys,
            )
        )
    for require, keys in free.items():
        findings.append(
            _finding(
                None,
                f"{_named(keys)}: no backup is needed by the policy ({require})",
                "set [backup.policy] require at every node",
                keys,
            )
        )
    return findings


def _named(keys: list[str]) -> str:
    """The first keys by name, the rest by number."""
    few = ", ".join(keys[:_FEW])
    more = f" and {len(keys) - _FEW} more" if len(keys) > _FEW else ""
    return f"key{'s' if len(keys) > 1 else ''} {few}{more}"


def _bring_back(profile: VaultProfile, index: int, keys: list[str]) -> str:
    """A bundle made after the database was put back lacks the keys too: one that holds them."""
    for node in profile.nodes:
        if node.index == index and node.config is not None:
            return (
                "stop it, move its directory away, then with its newest bundle that holds them: "
                + restore_command(node.config.parent, index, keys)
            )
    return "restore that node from its newest bundle that holds them"


async def _operator(
    node: NodeProfile, information: list[str], well: Collection[int]
) -> list[dict[str, Any]]:
    """What one node's operator should know; ``information`` takes what asks for nothing. ``well``
    are the nodes that can finish a round."""
    index = node.index
    try:
        config = node_config(node.config or Path(), index)
        async with OperatorClient.of(config) as operator:
            status, peers, bundles, keys, stock = await asyncio.gather(
                operator.status(),
                operator.peers(),
                operator.backups(),
                operator.ers_keys(),
                operator.presignatures(),
            )
    except KeycairnError as exc:
        return [_finding(index, exc.message, exc.next)]
    empty = [row for row in stock if row["target"] and not row["count"]]
    if empty:
        information.append(
            f"node {index}: {len(empty)} of {len(stock)} presignature pools are empty; the "
            "first signature of a pool's signers takes a whole session, and fills it again"
        )
    findings = []
    if status.get("state") in ("WAITING", "QUARANTINED"):
        findings.append(
            _finding(
                index,
                f"node {index} is {status['state']} and takes part in nothing: {status['why']}",
                str(status.get("next", "")),
            )
        )
    findings += [
        _finding(index, f"node {index}: {_words(f)}", str(f.get("next", "")), f.get("key_ids", ()))
        for f in status.get("findings", ())
        if f.get("finding") not in ("waiting", "quarantined")
    ]
    findings += [
        _finding(
            index,
            f"node {index} does not reach node {p['index']}, though both run: they sign nothing "
            "together",
            f"keycairn node peers --config {config.file}, at both; and [[peers]] of both: address "
            "and public key",
        )
        for p in peers
        if index in well and p["index"] in well and not (p.get("up") or p.get("banned"))
    ]
    findings += [
        _finding(
            index,
            f"node {index} has banned node {p['index']}: {(p.get('ban') or {}).get('reason')}",
            "talk to its operator; once the cause is known and gone: keycairn node unban "
            f"{p['index']} --config {config.file}",
        )
        for p in peers
        if p.get("banned")
    ]
    findings += [
        _finding(
            index,
            f"node {index}: the RSA key {k['rsa_spki_sha256']} has expired; no new document is "
            "made for it, older ones stay good",
            f"keycairn ers key remove {k['rsa_spki_sha256']}, and add its successor",
        )
        for k in keys
        if k.get("state") == "expired"
    ]
    if not bundles:
        findings.append(
            _finding(
                index,
                f"node {index} has no verified bundle",
                f"keycairn backup create --config {config.file}",
            )
        )
    return findings


def _words(finding: Any) -> str:
    if "text" in finding and "key_ids" in finding:
        return f"{finding['text']}: {_named(finding['key_ids'])}"
    rest = [
        _named(v) if k == "key_ids" else f"{k} {v}"
        for k, v in finding.items()
        if k not in ("finding", "next")
    ]
    return f"{finding.get('finding')}: {', '.join(rest)}"
