"""The restored ``node.toml``: paths that moved, and what the operator's mapping file changes.

A mapping file is TOML with dotted keys of node.toml and their new values, and the addresses of
peers by number::

    database.url = "postgresql://node2@10.0.0.9/node2?sslmode=verify-full&sslrootcert=ca.pem"
    database.password_file = "/run/keycairn/database.password"
    api.listen = "10.0.0.7:8080"
    encryptor.secret_file = "/run/keycairn/master.key"
    peers.1 = "wss://10.0.0.6:9000"

``player.public_key`` is no new value but a condition: the key that must have signed the bundle, as
the node's peers pin it.

Only addresses, places and sources of secrets can be mapped (:data:`MAPPABLE`). What decides over
keys (operations, policy, pinned keys, allow-lists) comes from the bundle alone.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import tomli_w

from keycairn.backup.nodefile import (
    PASSWORD_SOURCES,
    SECRET_SOURCES,
    SQLITE,
    Named,
    NodeFile,
    is_object_store,
    parse_config,
)
from keycairn.encoding.strict import decode_hex
from keycairn.errors import Code, KeycairnError
from keycairn.store.database import Server, parse_database, url_files, with_url_files

#: Keys that a mapping may set, with the type of their value.
MAPPABLE: dict[str, type] = {
    "anchor.directory": str,
    "api.listen": str,
    "api.tls_cert": str,
    "api.tls_key": str,
    "backup.include": list,
    "backup.recipients": list,
    "backup.targets": list,
    "database.directory": str,
    "database.password_credential": str,
    "database.password_env": str,
    "database.password_file": str,
    "database.url": str,
    "encryptor.address": str,
    "encryptor.ca_file": str,
    "encryptor.endpoint": str,
    "encryptor.module": str,
    "encryptor.secret_credential": str,
    "encryptor.secret_env": str,
    "encryptor.secret_file": str,
    "ers.store": str,
    "links.listen": str,
    "management.listen": str,
    "player.identity_key_file": str,
}
#: Says who must have signed the bundle; changes nothing.
PIN = "player.public_key"
#: Places that are written by the restore itself, so they must lie in the node's directory.
_WITHIN = (
    "anchor.directory",
    "database.directory",
    "database.url",
    "ers.store",
    "player.identity_key_file",
)
#: Sections of which one source of a secret is set, and these sources.
_SOURCES = {"encryptor": SECRET_SOURCES, "database": PASSWORD_SOURCES}


@dataclass(frozen=True)
class Change:
    """One changed value of node.toml."""

    key: str
    before: Any
    after: Any

    def to_json(self) -> dict[str, Any]:
        """``{key, from, to}``."""
        return {"key": self.key, "from": self.before, "to": self.after}


@dataclass(frozen=True)
class Mapped:
    """A checked mapping: values by dotted key, peer addresses by index."""

    values: Mapping[str, Any]
    peers: Mapping[int, str]
    public_key: bytes | None = None


def _bad(message: str, key: str) -> NoReturn:
    raise KeycairnError(
        Code.MALFORMED,
        f"mapping file: {message}",
        not_lost="Nothing was written.",
        next=f"keys that can be mapped: {', '.join(MAPPABLE)}, peers.N, {PIN}",
        detail={"key": key},
    )


def parse_mapping(data: bytes) -> Mapped:
    """Read a mapping file (TOML); E_MALFORMED for unknown keys and wrong types."""
    return check_mapping(parse_config(data, "the mapping file"))


def check_mapping(mapping: Mapping[str, Any]) -> Mapped:
    """A mapping as nested tables, or flat with dotted keys; E_MALFORMED as above."""
    values: dict[str, Any] = {}
    peers: dict[int, str] = {}
    public_key: bytes | None = None
    for key, value in _flat(mapping):
        if key.startswith("peers."):
            _, number, *rest = key.split(".")
            if not number.isdecimal() or rest not in ([], ["address"]):
                _bad(f"{key!r} is not peers.N", key)
            if not isinstance(value, str) or not value or int(number) in peers:
                _bad(f"{key} must be one address", key)
            peers[int(number)] = value
            continue
        if key == PIN:
            public_key = decode_hex(value, length=32, what=f"mapping file: {PIN}")
            continue
        if key not in MAPPABLE:
            _bad(f"{key!r} can't be mapped", key)
        texts = value if isinstance(value, list) else [value]
        good = isinstance(value, MAPPABLE[key]) and all(isinstance(t, str) and t for t in texts)
        if not good or key in values:
            _bad(f"{key} must be {'a list of texts' if MAPPABLE[key] is list else 'a text'}", key)
        values[key] = value
    for section, sources in _SOURCES.items():
        if sum(f"{section}.{name}" in values for name in sources) > 1:
            what = "the master secret" if section == "encryptor" else "the database's password"
            _bad(f"only one source of {what} can be set", section)
    return Mapped(values, peers, public_key)


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    out: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            out += _flat(value, f"{prefix}{key}.")
        else:
            out.append((f"{prefix}{key}", value))
    return out


class Rewriter:
    """Makes the new configuration of a node that moves to ``home``.

    Args:
        old: the configuration from the bundle.
        home: the new directory (absolute, normalised).
        elsewhere: key to the new relative path of files that lay outside of the old directory
            and are restored inside the new one.
        included: the same for the files of ``[backup] include``, by their old absolute path.
    """

    def __init__(
        self,
        old: NodeFile,
        home: Path,
        *,
        elsewhere: Mapping[str, str],
        included: Mapping[str, str],
    ) -> None:
        self._old = old
        self._home = home
        self._elsewhere = elsewhere
        self._included = included
        self._values: dict[str, Any] = copy.deepcopy(dict(old.values))
        self.changes: list[Change] = []

    def rewrite(self, mapped: Mapped) -> NodeFile:
        """Move paths, then apply the mapping. E_MALFORMED when the mapping can't be applied."""
        self._move_paths()
        for key, value in mapped.values.items():
            if key in _WITHIN:
                self._require_within(key, value)
            section, _, name = key.partition(".")
            sources = _SOURCES.get(section, ())
            if name in sources:
                self._drop(section, [source for source in sources if source != name])
            self._set(section, name, value)
        self._readdress(mapped.peers)
        new = NodeFile(self._home, self._values)
        if new.server() is None:
            self._to_file(mapped)
        return new

    def _to_file(self, mapped: Mapped) -> None:
        """The database is a file, and may have been on a server: drop what only that needs."""
        strange = sorted(
            key for key in mapped.values if key != "database.url" and key.startswith("database.")
        )
        if strange:
            _bad(f"{strange[0]} is for a database on a server", strange[0])
        self._drop("database", ("directory", *PASSWORD_SOURCES))
        self._drop("backup", ["server_dump"])

    def _drop(self, section: str, names: Sequence[str]) -> None:
        for name in names:
            if name in self._values.get(section, {}):
                self._set(section, name, None)

    def to_bytes(self, original: bytes) -> bytes:
        """The new file; the original, comments and all, if nothing changed."""
        return tomli_w.dumps(self._values).encode() if self.changes else original

    def _set(self, section: str, name: str, value: Any) -> None:
        table = self._values.setdefault(section, {})
        before = table.get(name)
        if before == value:
            return
        self.changes.append(Change(f"{section}.{name}", before, value))
        if value is None:
            del table[name]
        else:
            table[name] = value

    def _require_within(self, key: str, value: str) -> None:
        text = value
        if key == "database.url":
            try:
                database = parse_database(value, self._home)
            except KeycairnError as exc:
                # E_MALFORMED or E_POLICY, in words about node.toml.
                exc.not_lost = "Nothing was written."
                raise
            if isinstance(database, Server):
                return
            text = value.removeprefix(SQLITE)
        inside = NodeFile(self._home, {}).named(key, text).inside
        if inside is None or inside == ".":
            _bad(f"{key} must lie inside the restored directory", key)

    def _moved(self, named: Named, text: str, fallback: str | None) -> str:
        """How a path is written in the new file."""
        if named.inside is not None:
            return named.inside if Path(text).is_absolute() else text
        if fallback is not None:
            return fallback
        # The same text may mean the same place from the new directory: leave it then.
        same = Path(os.path.normpath(self._home / text)) == named.path
        return text if same else str(named.path)

    def _move_paths(self) -> None:
        old = self._old
        for named in old.files():
            *sections, name = named.key.split(".")
            table: Any = self._values
            for step in sections:
                table = table[step]
            if name not in table:
                continue  # In the query of [database] url.
            text = table[name]
            self._set_in(table, named.key, name, self._moved(named, text, self._fallback(named)))
        self._move_database()
        for named, default in ((old.ers_store(), "ers"), (old.anchor(), "anchor")):
            section, _, name = named.key.partition(".")
            text = self._values.get(section, {}).get(name, default)
            if name in self._values.get(section, {}):
                self._set(section, name, self._moved(named, text, default))
        _, source, value = old.secret()
        if source == "secret_file":
            named = old.named("encryptor.secret_file", value)
            self._set("encryptor", source, self._moved(named, value, None))
        self._move_lists()

    def _move_database(self) -> None:
        old, values = self._old, self._values.get("database", {})
        database = old.database()
        if database is not None:
            if database.inside is None or "url" in values:
                text = values.get("url", "").removeprefix(SQLITE)
                self._set("database", "url", SQLITE + self._moved(database, text, "data/node.db"))
            return
        written = url_files(old.database_url)
        moved = {
            word: self._moved(named, text, self._fallback(named))
            for word, text in written.items()
            for named in [old.named(f"database.{word}", text)]
        }
        if moved != written:
            self._set("database", "url", with_url_files(old.database_url, moved))
        if "directory" in values:
            named = old.data_directory()
            self._set("database", "directory", self._moved(named, values["directory"], "data"))
        if "password_file" in values:
            named = old.named("database.password_file", values["password_file"])
            moved_to = self._moved(named, values["password_file"], None)
            self._set("database", "password_file", moved_to)

    def _fallback(self, named: Named) -> str | None:
        return self._elsewhere.get(named.key)

    def _set_in(self, table: dict[str, Any], key: str, name: str, value: str) -> None:
        if table[name] != value:
            self.changes.append(Change(key, table[name], value))
            table[name] = value

    def _move_lists(self) -> None:
        backup = self._values.get("backup", {})
        for name, all_named in (
            ("targets", self._old.targets()),
            ("include", self._old.includes()),
        ):
            if name not in backup:
                continue
            places = iter(all_named)
            moved = [
                text
                if name == "targets" and is_object_store(text)
                else self._relocated(name, next(places), text)
                for text in backup[name]
            ]
            self._set("backup", name, moved)

    def _relocated(self, name: str, named: Named, text: str) -> str:
        fallback = self._included.get(str(named.path)) if name == "include" else None
        return self._moved(named, text, fallback)

    def _readdress(self, addresses: Mapping[int, str]) -> None:
        known = {peer.get("index"): peer for peer in self._values.get("peers", [])}
        for index, address in addresses.items():
            if index not in known:
                _bad(f"this node has no peer {index}", f"peers.{index}")
            self._set_in(known[index], f"peers.{index}.address", "address", address)
