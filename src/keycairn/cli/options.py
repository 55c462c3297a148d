"""Options that several commands share, and what they are turned into."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from keycairn.cli.output import EXIT_CODES
from keycairn.client import OperatorClient, Vault, load_profile
from keycairn.client.agree import combine
from keycairn.errors import Code, KeycairnError, malformed
from keycairn.node.config import NodeConfig, load_config

VaultOption = Annotated[
    Path | None,
    typer.Option("--vault", envvar="KEYCAIRN_VAULT", help="vault.toml of the vault"),
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="node.toml of one node, on its own machine")
]
NodesOption = Annotated[
    str | None, typer.Option("--nodes", help="nodes that take part, for example 1,3")
]
RequestOption = Annotated[
    str | None,
    typer.Option("--request-id", help="idempotency key: repeat a failed command with the same"),
]

T = TypeVar("T")


def whole(text: str | int) -> int:
    """A whole number as people write it: ``3``; not ``3.0``, ``1e3`` or another script's digits."""
    word = str(text)
    if not re.fullmatch(r"-?[0-9]{1,18}", word):
        raise typer.BadParameter(f"{word[:40]!r} is not a whole number")
    return int(word)


def group(name: str, text: str) -> typer.Typer:
    """A command group in this program's style."""
    return typer.Typer(
        name=name,
        help=text,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )


def command(parent: typer.Typer, name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``app.command`` whose help ends with the exit codes."""
    return parent.command(name, epilog=EXIT_CODES)


def parse_nodes(text: str | None) -> list[int] | None:
    """``1,3`` as indices.

    Raises:
        KeycairnError: E_BAD_INDEX for anything else, zero and repetitions among it.
    """
    if text is None:
        return None
    words = text.split(",")
    # isascii: other scripts' digits are digits to Python.
    if not all(w.isascii() and w.isdigit() and len(w) < 4 and int(w) > 0 for w in words):
        raise KeycairnError(
            Code.BAD_INDEX, "--nodes takes node numbers with commas between them, like 1,3"
        )
    found = [int(w) for w in words]
    if len(set(found)) != len(found):
        raise KeycairnError(Code.BAD_INDEX, "--nodes names a node twice")
    return sorted(found)


def require_vault(path: Path | None) -> Path:
    """The vault file; E_MALFORMED if none was named."""
    if path is None:
        raise malformed("which vault? name its vault.toml with --vault FILE or KEYCAIRN_VAULT")
    return path


def with_vault(path: Path | None, call: Callable[[Vault], Awaitable[T]]) -> T:
    """Open the vault, run one call, close it."""

    async def run() -> T:
        async with Vault.open(require_vault(path)) as vault:
            return await call(vault)

    return asyncio.run(run())


def node_configs(
    config: Path | None, vault: Path | None, nodes: str | None = None
) -> list[NodeConfig]:
    """The configurations that an operator's command is about: one (--config) or all (--vault).

    Raises:
        KeycairnError: E_MALFORMED, E_BAD_INDEX; what reading the files raises.
    """
    if config is not None:
        return [load_config(config, {})]
    if vault is None:
        raise malformed("which node? name its node.toml with --config, or all with --vault")
    profile = load_profile(vault)
    chosen = parse_nodes(nodes) or profile.players
    found = {n.index: n.config for n in profile.nodes}
    configs = []
    for index in chosen:
        if index not in found:
            raise KeycairnError(Code.BAD_INDEX, f"no node {index} in this vault")
        path = found[index]
        if path is None:
            raise _not_here(index)
        configs.append(load_config(path, {}))
    return configs


def every_operator(
    config: Path | None,
    vault: Path | None,
    nodes: str | None,
    call: Callable[[OperatorClient, NodeConfig], Awaitable[T]],
) -> tuple[dict[int, T], dict[int, KeycairnError]]:
    """Run a call at every node's management listener, at once; a node that is lost, down or hangs
    keeps nothing from the others.

    Returns:
        the results and the errors by node; at least one result.

    Raises:
        KeycairnError: what all nodes' errors come to, when there is no result.
    """
    # Imported here: it needs this module.
    from keycairn.cli.local import node_config

    if config is not None:
        loaded = load_config(config, {})
        places = {loaded.index: loaded.file}
    elif vault is None:
        raise malformed("which node? name its node.toml with --config, or all with --vault")
    else:
        profile = load_profile(vault)
        known = {n.index: n.config for n in profile.nodes}
        places = {}
        for index in parse_nodes(nodes) or profile.players:
            if index not in known:
                raise KeycairnError(Code.BAD_INDEX, f"no node {index} in this vault")
            path = known[index]
            if path is None:
                raise _not_here(index)
            places[index] = path

    async def one(index: int, path: Path) -> T:
        found = node_config(path, index)
        async with OperatorClient.of(found) as node:
            await node.status()  # Short: a process that hangs is known before the work begins.
            return await call(node, found)

    async def run() -> list[T | BaseException]:
        work = (one(i, p) for i, p in places.items())
        return await asyncio.gather(*work, return_exceptions=True)

    done: dict[int, T] = {}
    errors: dict[int, KeycairnError] = {}
    for index, result in zip(places, asyncio.run(run()), strict=True):
        if isinstance(result, KeycairnError):
            errors[index] = result
        elif isinstance(result, BaseException):
            raise result
        else:
            done[index] = result
    if not done:
        if len(errors) == 1:
            raise next(iter(errors.values()))
        raise combine(errors)
    return done, errors


def _not_here(index: int) -> KeycairnError:
    return malformed(
        f"the vault profile does not say where node {index}'s node.toml is: "
        "run this command at that node with --config"
    )


def each_operator(
    configs: Sequence[NodeConfig],
    call: Callable[[OperatorClient, NodeConfig], Awaitable[T]],
) -> list[T]:
    """Run a call at every node's management listener, one after the other."""

    async def run() -> list[T]:
        results = []
        for config in configs:
            async with OperatorClient.of(config) as node:
                results.append(await call(node, config))
        return results

    return asyncio.run(run())


def read_file(path: Path, limit: int = 1 << 20) -> bytes:
    """A file that the user named.

    Raises:
        KeycairnError: E_MALFORMED when it can't be read, E_TOO_LARGE.
    """
    try:
        if path.is_file() and path.stat().st_size > limit:
            raise KeycairnError(Code.TOO_LARGE, f"{path} is larger than {limit} bytes")
        return path.read_bytes()
    except OSError as exc:
        error = malformed(f"{path} cannot be read: {exc.strerror}")
        error.next = "check the path, and that its file system is mounted"
        raise error from exc


def read_rsa_spki(path: Path, *, allow_2048: bool = True) -> bytes:
    """SubjectPublicKeyInfo DER of an RSA public key in PEM or DER (checked: E_WEAK_RSA)."""
    from keycairn.ers.rsa import load_rsa_public_key

    return load_rsa_public_key(read_file(path, 1 << 16), allow_2048=allow_2048).spki
