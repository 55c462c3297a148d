"""``keycairn doctor``: what is wrong, and the command that helps."""

from __future__ import annotations

import asyncio
from typing import Any

import typer

from keycairn.cli.options import VaultOption, command, require_vault
from keycairn.cli.output import output
from keycairn.client import OperatorClient, Vault, load_profile
from keycairn.client.profile import VaultProfile
from keycairn.errors import KeycairnError
from keycairn.node.config import load_config

_PARTIAL = 7


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "doctor")
    def doctor(vault: VaultOption = None) -> int:
        """Look at every node and every key; list what needs somebody, with what to do next.

        Exit code 0 when there is nothing to do, 7 when there are findings.
        """
        profile = load_profile(require_vault(vault))
        findings = asyncio.run(_examine(profile))
        lines = [f"- {f['what']}\n  next: {f['next']}" for f in findings]
        output.result({"findings": findings}, "\n".join(lines) or "nothing to do")
        return _PARTIAL if findings else 0


async def _examine(profile: VaultProfile) -> list[dict[str, Any]]:
    async with Vault(profile) as vault:
        findings = await _nodes(vault)
        try:
            findings += await _keys(vault)
        except KeycairnError as exc:
            findings.append(_finding(None, f"keys can't be looked at: {exc.message}", exc.next))
    for node in profile.nodes:
        if node.config is not None and not node.config.exists():
            what = f"node {node.index}'s directory is gone: there is no {node.config}"
            step = f"keycairn node restore BUNDLE --into {node.config.parent} --identity FILE"
            findings.append(_finding(node.index, what, step))
        elif node.config is not None:
            findings += await _operator(node.index, OperatorClient.of, load_config(node.config, {}))
    return findings


def _finding(node: int | None, what: str, next_step: str) -> dict[str, Any]:
    return {"node": node, "what": what, "next": next_step}


async def _nodes(vault: Vault) -> list[dict[str, Any]]:
    return [
        _finding(
            index,
            f"node {index} can't finish a round: {'; '.join(map(str, state.get('reasons', ())))}",
            "keycairn vault status DIR, and the node's log",
        )
        for index, state in (await vault.health()).items()
        if not state.get("ok")
    ]


async def _keys(vault: Vault) -> list[dict[str, Any]]:
    findings = []
    for row in await vault.coverage():
        if row["holds"] != "yes":
            findings.append(
                _finding(
                    None,
                    f"key {row['key_id']} is not backed up as its policy asks "
                    f"({row['require']}): {'; '.join(row['missing'])}",
                    f"keycairn key show {row['key_id']}",
                )
            )
        elif row["require"] == "none":
            findings.append(
                _finding(
                    None,
                    f"key {row['key_id']} needs no backup by its policy",
                    "set [backup.policy] require at every node",
                )
            )
    return findings


async def _operator(index: int, open_client: Any, config: Any) -> list[dict[str, Any]]:
    try:
        async with open_client(config) as node:
            status, peers, bundles = await asyncio.gather(
                node.status(), node.peers(), node.backups()
            )
    except KeycairnError as exc:
        return [_finding(index, exc.message, exc.next)]
    findings = [
        _finding(index, f"node {index}: {_words(f)}", str(f.get("next", "")))
        for f in status.get("findings", ())
    ]
    findings += [
        _finding(index, f"node {index} has banned node {p['index']}", "keycairn node peers")
        for p in peers
        if p.get("banned")
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
    rest = [f"{k} {v}" for k, v in finding.items() if k not in ("finding", "next")]
    return f"{finding.get('finding')}: {', '.join(rest)}"
