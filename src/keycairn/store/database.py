"""Which database a node uses: ``[database] url``, read and checked.

    sqlite:///data/node.db                             relative to node.toml; sqlite:////absolute
    postgresql://user@host:5432/name?sslmode=verify-full&sslrootcert=ca.pem
    mariadb://user@host:3306/name?sslmode=verify-full&sslrootcert=ca.pem

The words of TLS are libpq's, for both servers: ``sslmode`` is ``disable``, ``require``,
``verify-ca`` or ``verify-full``; ``sslrootcert``, ``sslcert`` and ``sslkey`` are files, relative
to node.toml. A server on another machine is not used without TLS. Passwords are never in the URL,
which lies in every bundle: they come from a file, an environment variable or a credential.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlencode

from keycairn.encoding import SecretBytes
from keycairn.errors import Code, KeycairnError

SQLITE, POSTGRESQL, MARIADB = "sqlite", "postgresql", "mariadb"

_PORTS = {POSTGRESQL: 5432, MARIADB: 3306}
_FILES = ("sslrootcert", "sslcert", "sslkey")
_OPTIONS = {
    POSTGRESQL: {"sslmode", *_FILES, "host", "target_session_attrs"},
    MARIADB: {"sslmode", *_FILES, "host"},
}
_MODES = ("disable", "require", "verify-ca", "verify-full")
_URL = re.compile(
    r"(?P<kind>[a-z]+)://(?:(?P<user>[^@/?#]*)@)?(?P<hosts>[^/?#@]*)/(?P<name>[^/?#]+)"
    r"(?:\?(?P<query>[^#]*))?\Z"
)
_HOST = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]*))(?::(?P<port>[0-9]{1,5}))?\Z"
)


@dataclass(frozen=True)
class Server:
    """A database on a server.

    Attributes:
        kind: "postgresql" or "mariadb".
        user: the database's user, "" for the driver's default.
        hosts: (host or socket path, port), tried in this order; empty: the default socket.
        name: the database.
        options: words of the URL's query; files are absolute.
        password: what was read from its source; None for a user that needs none.
    """

    kind: str
    user: str
    hosts: tuple[tuple[str, int], ...]
    name: str
    options: Mapping[str, str] = field(default_factory=dict)
    password: SecretBytes | None = None

    def __str__(self) -> str:
        hosts = ",".join(f"{host}:{port}" for host, port in self.hosts)
        return f"{self.kind}://{hosts}/{self.name}"

    @property
    def mode(self) -> str:
        """``sslmode``; "" when the URL names none."""
        return self.options.get("sslmode", "")

    @property
    def files(self) -> tuple[Path, ...]:
        """Files that the URL names."""
        return tuple(Path(self.options[key]) for key in _FILES if key in self.options)


#: A SQLite file, or a server.
Database = Path | Server


def parse_database(url: str, home: Path, *, password: SecretBytes | None = None) -> Database:
    """Read a URL as in the module's head.

    Args:
        url: as written.
        home: directory of node.toml; relative paths start there.
        password: for a server.

    Raises:
        KeycairnError: E_MALFORMED (not such a URL), E_POLICY (a password in it, or a server on
            another machine without TLS).
    """
    if url.startswith("sqlite:///") and len(url) > len("sqlite:///"):
        return Path(os.path.normpath(home / url.removeprefix("sqlite:///")))
    found = _URL.match(url)
    if found is None or found["kind"] not in _PORTS:
        raise _bad(
            "names a database that this version can't use",
            'use url = "sqlite:///data/node.db" (relative), sqlite:////absolute/path, '
            "postgresql://user@host/name or mariadb://user@host/name",
        )
    kind = found["kind"]
    if ":" in (found["user"] or ""):
        raise KeycairnError(
            Code.POLICY,
            "[database] `url` holds a password, and this file is in every bundle",
            not_lost="The node did not start; nothing was changed.",
            next="move it to password_file, password_env or password_credential of [database]",
        )
    options = _options(kind, found["query"] or "", home)
    hosts = _hosts(kind, unquote(options.pop("host", "") or found["hosts"]))
    server = Server(
        kind, unquote(found["user"] or ""), hosts, unquote(found["name"]), options, password
    )
    _require_tls(server)
    return server


def url_files(url: str) -> dict[str, str]:
    """The files that a URL names, as written: ``{"sslrootcert": "ca.pem"}``."""
    query = url.partition("?")[2]
    return {key: text for key, text in parse_qsl(query) if key in _FILES}


def with_url_files(url: str, files: Mapping[str, str]) -> str:
    """The same URL with other files, by the words of its query."""
    head, mark, query = url.partition("?")
    pairs = [(key, files.get(key, text)) for key, text in parse_qsl(query, keep_blank_values=True)]
    return head + mark + urlencode(pairs, safe="/:,", quote_via=quote)


def _options(kind: str, query: str, home: Path) -> dict[str, str]:
    pairs = parse_qsl(query, keep_blank_values=True)
    options = dict(pairs)
    strange = sorted(set(options) - _OPTIONS[kind])
    if strange or len(options) != len(pairs):
        known = ", ".join(sorted(_OPTIONS[kind]))
        raise _bad(f"has unknown or repeated words: {strange or 'twice the same'}", f"use {known}")
    if options.get("sslmode", "disable") not in _MODES:
        raise _bad("has an unknown `sslmode`", f"use one of {', '.join(_MODES)}")
    for key in _FILES:
        if key in options:
            options[key] = os.path.normpath(home / options[key])
    return options


def _hosts(kind: str, text: str) -> tuple[tuple[str, int], ...]:
    found = []
    for one in text.split(",") if text else ():
        if one.startswith("/"):
            found.append((one, _PORTS[kind]))
            continue
        match = _HOST.match(one)
        host = match and (match["v6"] or match["host"])
        if not match or not host or (match["port"] and not 0 < int(match["port"]) < 65536):
            raise _bad("has a host that is not host:port", "write host:port, or [::1]:port")
        found.append((host, int(match["port"] or _PORTS[kind])))
    if kind == MARIADB and len(found) != 1:
        raise _bad("needs one host", "write mariadb://user@host:3306/name")
    return tuple(found)


def _require_tls(server: Server) -> None:
    if server.mode in ("require", "verify-ca", "verify-full"):
        if server.mode != "require" and "sslrootcert" not in server.options:
            raise _bad("asks for verification without `sslrootcert`", "name the CA's certificate")
        return
    away = [host for host, _ in server.hosts if not _local(host)]
    if away:
        raise KeycairnError(
            Code.POLICY,
            f"[database] `url` names {away[0]}, another machine, without TLS",
            not_lost="The node did not start; nothing was changed.",
            next="add ?sslmode=verify-full&sslrootcert=ca.pem",
        )


def _local(host: str) -> bool:
    if host.startswith("/") or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _bad(what: str, hint: str) -> KeycairnError:
    return KeycairnError(
        Code.MALFORMED,
        f"[database] `url` {what}",
        not_lost="The node did not start; nothing was changed.",
        next=hint,
    )
