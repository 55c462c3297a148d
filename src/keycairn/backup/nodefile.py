"""``node.toml`` as data: which of its keys name files, and where these files are.

The daemon's own reader judges the configuration (unknown keys, types); this floor only needs to
know what else belongs to a node. Paths are relative to the directory of the file, as there.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from keycairn.backup.external import External, read_external
from keycairn.encryptors import EncryptorConfig
from keycairn.errors import Code, KeycairnError, malformed
from keycairn.store.database import SQLITE as SQLITE_KIND
from keycairn.store.database import Server, parse_database, url_files
from keycairn.vault.policy import DEFAULT_REQUIRE

MAX_CONFIG = 1 << 20
SQLITE = "sqlite:///"
OBJECT_STORES = ("s3://",)
SECRET_SOURCES = ("secret_file", "secret_env", "secret_credential")
PASSWORD_SOURCES = ("password_file", "password_env", "password_credential")
#: Files that hold what opens something else: no bundle takes them along.
SECRET_FILES = ("encryptor.secret_file", "database.password_file")


@dataclass(frozen=True)
class Named:
    """A path that the configuration names.

    Attributes:
        key: dotted key, for example ``player.identity_key_file``.
        path: absolute and normalised; symbolic links are not followed.
        inside: path relative to the node's directory, with ``/``; None when it lies elsewhere.
    """

    key: str
    path: Path
    inside: str | None


def is_object_store(target: str) -> bool:
    """Whether a target is an address (``s3://…``) and not a path."""
    return target.startswith(OBJECT_STORES)


def parse_config(data: bytes, where: str) -> dict[str, Any]:
    """TOML to a dictionary; E_MALFORMED or E_TOO_LARGE."""
    if len(data) > MAX_CONFIG:
        raise KeycairnError(Code.TOO_LARGE, f"{where} is larger than {MAX_CONFIG} bytes")
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as exc:
        raise malformed(f"{where} is not TOML: {exc}", file=where) from exc


@dataclass(frozen=True)
class NodeFile:
    """A parsed ``node.toml`` that stands (or stood) in the directory ``home``."""

    home: Path
    values: Mapping[str, Any]

    @classmethod
    def parse(cls, data: bytes, home: Path) -> NodeFile:
        """Read the bytes of a ``node.toml`` of directory ``home`` (absolute)."""
        return cls(home, parse_config(data, "node.toml"))

    def named(self, key: str, text: str) -> Named:
        """A path as written, resolved against the node's directory."""
        path = Path(os.path.normpath(self.home / text))
        inside = path.relative_to(self.home).as_posix() if path.is_relative_to(self.home) else None
        return Named(key, path, inside)

    # -- sections

    def _section(self, name: str) -> Mapping[str, Any]:
        found = self.values.get(name, {})
        if not isinstance(found, dict):
            raise malformed(f"node.toml: [{name}] must be a section")
        return found

    def _text(self, section: str, key: str, default: str | None = None) -> str:
        value = self._section(section).get(key, default)
        if not isinstance(value, str) or not value:
            raise malformed(f"node.toml: [{section}] needs the text `{key}`")
        return value

    def _texts(self, section: str, key: str) -> list[str]:
        value = self._section(section).get(key, [])
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise malformed(f"node.toml: [{section}] `{key}` must be a list of texts")
        return list(value)

    @property
    def vault(self) -> str:
        """Vault id."""
        return self._text("vault", "id")

    @property
    def index(self) -> int:
        """Player index."""
        value = self._section("player").get("index")
        if type(value) is not int or value < 1:
            raise malformed("node.toml: [player] needs `index`, a number from 1")
        return value

    @property
    def threshold(self) -> int:
        """``[vault] threshold``: t of the vault's usual key."""
        value = self._section("vault").get("threshold", 1)
        if type(value) is not int or value < 1:
            raise malformed("node.toml: [vault] `threshold` must be a number from 1")
        return value

    @property
    def require(self) -> str:
        """``[backup.policy] require`` as written."""
        policy = self._section("backup").get("policy", {})
        value = policy.get("require", DEFAULT_REQUIRE) if isinstance(policy, dict) else None
        if not isinstance(value, str):
            raise malformed("node.toml: [backup.policy] `require` must be text")
        return value

    @property
    def peers(self) -> dict[int, bytes]:
        """Pinned public keys of the peers, by index."""
        found: dict[int, bytes] = {}
        peers = self.values.get("peers", [])
        for peer in peers if isinstance(peers, list) else []:
            try:
                found[int(peer["index"])] = bytes.fromhex(peer["public_key"])
            except (KeyError, TypeError, ValueError) as exc:
                raise malformed("node.toml: [[peers]] needs `index` and `public_key`") from exc
        return found

    @property
    def database_url(self) -> str:
        """``[database] url`` as written."""
        return self._text("database", "url", f"{SQLITE}data/node.db")

    def server(self) -> Server | None:
        """The database's server, without its password; None for a SQLite file.

        Raises:
            KeycairnError: E_MALFORMED, E_POLICY (:func:`~keycairn.store.database.parse_database`).
        """
        found = parse_database(self.database_url, self.home)
        return found if isinstance(found, Server) else None

    @property
    def database_kind(self) -> str:
        """ "sqlite", "postgresql" or "mariadb"."""
        server = self.server()
        return SQLITE_KIND if server is None else server.kind

    def database(self) -> Named | None:
        """The SQLite file; None where the database is on a server."""
        if self.server() is not None:
            return None
        return self.named("database.url", self.database_url.removeprefix(SQLITE))

    def data_directory(self) -> Named:
        """Where the node's lock and token are, and a SQLite file."""
        file = self.database()
        if file is not None:
            return self.named("database.url", str(file.path.parent))
        return self.named("database.directory", self._text("database", "directory", "data"))

    def password(self) -> EncryptorConfig | None:
        """Where the database's password is, as :func:`~keycairn.encryptors.read_secret` takes it;
        None for a user without one, and for a SQLite file."""
        section = self._section("database")
        given = [name for name in PASSWORD_SOURCES if name in section]
        if len(given) > 1:
            raise malformed(f"node.toml: [database] takes only one of {PASSWORD_SOURCES}")
        if not given or self.server() is None:
            return None
        file, env, credential = (
            self._text("database", name) if name in given else None for name in PASSWORD_SOURCES
        )
        path = None if file is None else self.named("database.password_file", file).path
        return EncryptorConfig("password", path, env, credential)

    def password_words(self) -> dict[str, str]:
        """How the database's password is found again: ``source`` and ``where``; empty if there is
        none. Never the password."""
        config = self.password()
        if config is None:
            return {}
        [source] = [name for name in PASSWORD_SOURCES if name in self._section("database")]
        where = self._text("database", source)
        return {"source": source, "where": str(config.secret_file or where)}

    def ers_store(self) -> Named:
        """The directory of ERS documents."""
        return self.named("ers.store", self._text("ers", "store", "ers"))

    def anchor(self) -> Named:
        """The anchor directory."""
        return self.named("anchor.directory", self._text("anchor", "directory", "anchor"))

    def targets(self) -> list[Named]:
        """Directories that bundles are written to; object stores are no places of this machine."""
        texts = self._texts("backup", "targets")
        return [self.named("backup.targets", t) for t in texts if not is_object_store(t)]

    def externals(self) -> tuple[External, ...]:
        """``[[backup.external]]``: what the node needs and the bundle can't hold."""
        return read_external(self._section("backup").get("external", []))

    def includes(self) -> list[Named]:
        """Extra files and directories: launch scripts and the like."""
        return [self.named("backup.include", t) for t in self._texts("backup", "include")]

    def secret(self) -> tuple[str, str, str]:
        """Encryptor kind, name of the one secret source, and its value (a path, a variable, …);
        two empty texts when there is none, as where the machine itself is known to the service."""
        section = self._section("encryptor")
        given = [name for name in SECRET_SOURCES if name in section]
        if len(given) > 1:
            raise malformed(f"node.toml: [encryptor] takes only one of {SECRET_SOURCES}")
        kind = self._text("encryptor", "kind")
        return (kind, given[0], self._text("encryptor", given[0])) if given else (kind, "", "")

    def encryptor(self) -> Mapping[str, Any]:
        """The section as written. It names the key and where it is; secrets are not in it."""
        return self._section("encryptor")

    def encryptor_words(self) -> dict[str, str]:
        """How the master secret is found again: ``kind``, ``source``, ``where``, and every other
        setting of ``[encryptor]`` as text. Never the secret."""
        kind, source, where = self.secret()
        if source == "secret_file":
            where = str(self.named("encryptor.secret_file", where).path)
        rest = {
            name: str(value)
            for name, value in self.encryptor().items()
            if name not in ("kind", source) and isinstance(value, (str, int))
        }
        return {"kind": kind, "source": source, "where": where, **rest}

    def secret_file(self) -> Path | None:
        """Where the master secret is expected, if it is a file."""
        _, source, value = self.secret()
        return self.named("encryptor.secret_file", value).path if source == "secret_file" else None

    def listeners(self) -> dict[str, str]:
        """Dotted key to ``host:port`` of every address that the node listens on."""
        sections = ("api", "links", "management")
        return {
            f"{name}.listen": self._text(name, "listen")
            for name in sections
            if "listen" in self._section(name)
        }

    def files(self) -> list[Named]:
        """Every single file that the configuration names, but the master secret and the database's
        password.

        These are the keys that end in ``_file``, ``[api] tls_*``, and ``tls_cert``, ``tls_key`` and
        ``tls_ca`` of any section, and those in the query of ``[database] url``
        (``database.sslrootcert``). A file may hold a chain of certificates.
        """
        found = []
        for key, value in _leaves(self.values):
            section, _, name = key.rpartition(".")
            names_file = name.endswith("_file") or name in ("tls_cert", "tls_key", "tls_ca")
            names_file = names_file or (section == "api" and name.startswith("tls_"))
            if names_file and key not in SECRET_FILES and isinstance(value, str):
                found.append(self.named(key, value))
        if self.server() is not None:
            for word, text in url_files(self.database_url).items():
                found.append(self.named(f"database.{word}", text))
        return sorted(found, key=lambda named: named.key)


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def safe_relative(text: str) -> PurePosixPath:
    """A path that stays below the directory it is joined to.

    Raises:
        KeycairnError: E_STORE_INTEGRITY for an absolute or climbing path, or an odd character.
    """
    path = PurePosixPath(text)
    odd = any(ord(c) < 32 or c == "\\" for c in text)
    if odd or not path.parts or path.is_absolute() or ".." in path.parts or str(path) != text:
        raise KeycairnError(
            Code.STORE_INTEGRITY,
            "the bundle names a file outside of the node's directory",
            not_lost="Nothing was written.",
        )
    return path
