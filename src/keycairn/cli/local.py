"""The nodes of a local vault in whatever state they are: one that is lost or refused must not keep
an operator from looking at the others, stopping them or backing them up."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from keycairn.cli.options import parse_nodes
from keycairn.cli.processes import NodeProcess, RecordedProcess
from keycairn.client import VaultProfile, load_profile
from keycairn.errors import Code, KeycairnError, malformed
from keycairn.node.config import NodeConfig, load_config


def restore_command(home: Path, index: int, keys: Collection[str] = ()) -> str:
    """The command that brings node ``index`` back to ``home``: with its newest bundle, if that
    lies where a local vault keeps it, or its newest that holds ``keys``."""
    operator = home.parent / f"operator{index}"
    # The time stands in the name, to the second.
    found = (operator / "backups").glob("*.bundle")
    bundles = sorted(
        found, key=lambda p: (p.name.rsplit("-", 1)[0], p.stat().st_mtime_ns), reverse=True
    )
    if keys:
        bundles = [b for b in bundles if _holds(b, keys)]
    identity = operator / "backup-identity.age"
    words = [
        "keycairn node restore",
        shlex.quote(str(bundles[0])) if bundles else "BUNDLE",
        "--into",
        shlex.quote(str(home)),
        "--identity",
        shlex.quote(str(identity)) if identity.exists() else "FILE",
        "--vault",
        shlex.quote(str(home.parent / "vault.toml")),
    ]
    return " ".join(words)


def _holds(bundle: Path, keys: Collection[str]) -> bool:
    from keycairn.backup import read_manifest  # Here: it loads the database stack.

    try:
        return set(keys) <= set(read_manifest(bundle).keys)
    except KeycairnError:
        return False


def node_config(path: Path, index: int) -> NodeConfig:
    """The configuration of a node of a local vault.

    Raises:
        KeycairnError: E_NOT_FOUND with the command that restores it when its directory is gone;
            what :func:`load_config` says of the file.
    """
    if not path.exists():
        raise KeycairnError(
            Code.NOT_FOUND,
            f"node {index}'s directory is gone: there is no {path}",
            not_lost="Its bundles, and what its operator keeps elsewhere, are not in it.",
            next=restore_command(path.parent, index),
            node=index,
        )
    try:
        return load_config(path, {})
    except KeycairnError as exc:
        exc.node = index
        raise


@dataclass(frozen=True)
class LocalVault:
    """The nodes of ``DIR``: those that can be started, and why the others can't."""

    directory: Path
    profile: VaultProfile
    ready: dict[int, NodeProcess]
    faults: dict[int, KeycairnError]

    @property
    def run(self) -> Path:
        """Where pids and logs are."""
        return self.directory.absolute() / "run"

    def chosen(self, nodes: str | None) -> list[int]:
        """The nodes that a command is about: those named, or all.

        Raises:
            KeycairnError: E_BAD_INDEX.
        """
        players = self.profile.players
        for index in parse_nodes(nodes) or ():
            if index not in players:
                raise KeycairnError(Code.BAD_INDEX, f"no node {index} in this vault")
        return parse_nodes(nodes) or sorted(players)

    def recorded(self, index: int) -> RecordedProcess:
        """The process of a node, whether or not its directory still is there."""
        return RecordedProcess(index, self.run)


def local_vault(directory: Path) -> LocalVault:
    """Look at the directory of a local vault.

    Raises:
        KeycairnError: E_MALFORMED when it isn't one.
    """
    profile = load_profile(directory / "vault.toml")
    ready: dict[int, NodeProcess] = {}
    faults: dict[int, KeycairnError] = {}
    for node in profile.nodes:
        if node.config is None:
            continue
        try:
            config = node_config(node.config, node.index)
        except KeycairnError as exc:
            faults[node.index] = exc
        else:
            ready[node.index] = NodeProcess(node.index, directory.absolute() / "run", config)
    if not ready and not faults:
        raise malformed(f"{directory} holds no local vault's nodes")
    return LocalVault(directory, profile, ready, faults)
