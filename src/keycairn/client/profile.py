"""``vault.toml``: where a vault's nodes are and with which API keys to call them (mode 0600)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from keycairn.errors import Code
from keycairn.node.files import require_private
from keycairn.node.tables import Table, read_toml

_KEY = re.compile(r"[\x21-\x7e]{16,256}\Z")


@dataclass(frozen=True)
class NodeProfile:
    """One node as its users see it.

    Attributes:
        index: player index.
        url: base URL of the API.
        api_key: bearer key of this application at this node.
        public_key: the node's pinned identity key, 32 bytes.
        ca: trusted certificates for https, or None for the system's.
        config: path of the node's node.toml where the operator's commands find it (a local
            vault), or None.
    """

    index: int
    url: str
    api_key: str
    public_key: bytes
    ca: Path | None = None
    config: Path | None = None

    def __repr__(self) -> str:
        return f"NodeProfile(index={self.index}, url={self.url!r})"


@dataclass(frozen=True)
class VaultProfile:
    """A vault as its users see it."""

    file: Path
    vault_id: str
    threshold: int
    nodes: tuple[NodeProfile, ...]

    @property
    def players(self) -> tuple[int, ...]:
        """All player indices, sorted."""
        return tuple(n.index for n in self.nodes)


def load_profile(path: Path) -> VaultProfile:
    """Read ``vault.toml``.

    Raises:
        KeycairnError: E_MALFORMED for what is missing, unknown or of the wrong type, E_POLICY
            for a file that others can read or an API key that would travel in clear.
    """
    path = path.absolute()
    root = Table(read_toml(path), "", path)
    require_private(path, "vault profile")
    vault = root.table("vault", required=True)
    vault_id = vault.text("id")
    threshold = vault.integer("threshold", low=1, high=254)
    vault.finish()
    nodes = {n.index: n for n in (_node(t) for t in root.tables("nodes"))}
    root.finish()
    if len(nodes) < threshold + 1:
        root.bad(f"names {len(nodes)} [[nodes]]; signing needs {threshold + 1}")
    return VaultProfile(path, vault_id, threshold, tuple(nodes[i] for i in sorted(nodes)))


def _node(table: Table) -> NodeProfile:
    index = table.integer("index", low=1, high=255)
    url = table.text("url").rstrip("/")
    key = table.text("api_key")
    public_key = table.text("public_key")
    ca, config = table.optional("ca"), table.optional("config")
    table.finish()
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path:
        table.bad("`url` must be http://host:port or https://host:port")
    if parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        table.bad("`url` sends the API key over a network in clear", code=Code.POLICY)
    if not _KEY.match(key):
        table.bad("`api_key` must be 16 to 256 printable characters")
    if not re.fullmatch(r"[0-9a-f]{64}", public_key):
        table.bad("`public_key` must be 64 lower-case hexadecimal digits")
    home = table.file.parent
    return NodeProfile(
        index=index,
        url=url,
        api_key=key,
        public_key=bytes.fromhex(public_key),
        ca=None if ca is None else home / ca,
        config=None if config is None else home / config,
    )
