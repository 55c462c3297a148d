"""What belongs to a node: the parts of its bundle, and the index that says where each came from."""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from keycairn.backup.apart import refuse_key_beside_documents
from keycairn.backup.archive import Source
from keycairn.backup.disk import disk_errors, open_regular, walk
from keycairn.backup.external import External, read_external
from keycairn.backup.manifest import MAX_PART_NAME, check_part_name
from keycairn.backup.nodefile import MAX_CONFIG, Named, NodeFile
from keycairn.encoding import SecretBytes, canonical_json, decode_json
from keycairn.errors import Code, KeycairnError

INDEX = "index.json"
CONFIG = "config/node.toml"
DATABASE = "database/node.db"
#: The server's own dump, for people who want one beside the copy.
DUMP = "database/server.dump"
IDENTITY = "files/player.identity_key_file"
_MAX_INDEX = 64 << 20
_MAX_FILES = 1_000_000
#: Shorter secrets would be found by chance in honest bytes.
_MIN_SEARCHED = 12


@dataclass(frozen=True)
class Origin:
    """Where a part came from.

    Attributes:
        role: "config", "database", "dump", "file", "ers" or "include".
        key: dotted key of node.toml that names it.
        path: its absolute path on the machine that made the bundle; for a database on a server,
            its kind, hosts and name as in a URL.
        inside: path relative to the node's directory, or None.
        executable: whether its owner could execute it.
    """

    role: str
    key: str
    path: str
    inside: str | None
    executable: bool = False


@dataclass(frozen=True)
class Index:
    """The part ``index.json``: encrypted with the rest, since paths are the operator's business."""

    home: str
    origins: dict[str, Origin]
    encryptor: dict[str, str]  # kind, source, where; key, address, … of kinds that have them
    skipped: tuple[str, ...] = ()
    external: tuple[External, ...] | None = ()  # None: format 1, which knew none

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        external = (
            {}
            if self.external is None
            else {"external": [item.to_json() for item in self.external]}
        )
        return canonical_json(
            external
            | {
                "encryptor": self.encryptor,
                "home": self.home,
                "parts": {
                    name: {
                        "executable": o.executable,
                        "inside": o.inside,
                        "key": o.key,
                        "path": o.path,
                        "role": o.role,
                    }
                    for name, o in self.origins.items()
                },
                "skipped": list(self.skipped),
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Index:
        """Strict inverse of :meth:`to_bytes`; E_MALFORMED for anything else."""
        body = decode_json(data, max_bytes=_MAX_INDEX)
        try:
            made = cls(
                body["home"],
                {name: Origin(**origin) for name, origin in body["parts"].items()},
                body["encryptor"],
                tuple(body["skipped"]),
                read_external(body["external"]) if "external" in body else None,
            )
            texts = [made.home, *made.encryptor.values(), *made.skipped]
            for o in made.origins.values():
                texts += [o.role, o.key, o.path, *([] if o.inside is None else [o.inside])]
            same = made.to_bytes() == data and all(isinstance(t, str) for t in texts)
        except (KeyError, TypeError, AttributeError) as exc:
            raise KeycairnError(Code.MALFORMED, "the bundle's index lacks a field") from exc
        if not same:
            raise KeycairnError(Code.MALFORMED, "the bundle's index is not in canonical form")
        return made


@dataclass
class Collection:
    """Everything that goes into a bundle, before the database is there."""

    config: NodeFile
    sources: list[Source] = field(default_factory=list)
    origins: dict[str, Origin] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    forbidden: list[SecretBytes] = field(default_factory=list)

    def index(self) -> bytes:
        """The bytes of ``index.json``."""
        return Index(
            str(self.config.home),
            self.origins,
            self.config.encryptor_words(),
            tuple(self.skipped),
            self.config.externals(),
        ).to_bytes()


def from_bytes(name: str, data: bytes, shown: str) -> Source:
    """A part that is already in memory."""
    return Source(name, len(data), lambda: io.BytesIO(data), shown)


def from_file(name: str, path: Path) -> Source:
    """A part that is a file of this size now."""
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size

    def reopen() -> BinaryIO:
        return open_regular(path)

    return Source(name, size, reopen, str(path))


def collect(config_path: Path, forbidden: Sequence[SecretBytes] = ()) -> Collection:
    """Find every file of the node whose configuration is ``config_path``, but the database.

    Args:
        config_path: node.toml.
        forbidden: secrets that must not occur in any part (the master secret, the database's
            password); the content of ``[encryptor] secret_file`` and ``[database] password_file``
            is added if it can be read.

    Raises:
        KeycairnError: E_NOT_FOUND for a file that the configuration names and that isn't there,
            E_POLICY when one of them is a secret, E_MALFORMED for the configuration.
    """
    config_path = Path(os.path.normpath(config_path.absolute()))
    with disk_errors(f"{config_path} can't be read"), open_regular(config_path) as stream:
        raw = stream.read(MAX_CONFIG + 1)
    config = NodeFile.parse(raw, config_path.parent)
    found = Collection(config, forbidden=[s for s in forbidden if len(s.reveal()) >= _MIN_SEARCHED])
    secret = _Secrets(config)
    found.forbidden = _searched([*found.forbidden, *secret.patterns], config)
    found.sources.append(from_bytes(CONFIG, raw, str(config_path)))
    found.origins[CONFIG] = Origin("config", "", str(config_path), config_path.name)
    for named in config.files():
        _add(found, secret, named, f"files/{named.key}", "file", named.path)
    _add_documents(found, secret)
    _add_includes(found, secret)
    refuse_key_beside_documents(
        {Path(o.path): (o.role, o.key) for o in found.origins.values() if o.role != "database"}
    )
    if len(found.sources) > _MAX_FILES:
        raise KeycairnError(Code.TOO_LARGE, f"more than {_MAX_FILES} files belong to this node")
    return found


def _searched(secrets: Sequence[SecretBytes], config: NodeFile) -> list[SecretBytes]:
    """The secrets that can be told from what node.toml says openly: not a password that is the
    user's name."""
    server = config.server()
    names = () if server is None else (server.user.encode(), server.name.encode())
    return [s for s in secrets if not any(s.reveal() in name for name in names)]


class _Secrets:
    """Recognises the master secret and the database's password among the files of a bundle."""

    def __init__(self, config: NodeFile) -> None:
        self.patterns: list[SecretBytes] = []
        self._known: list[tuple[str, Path, os.stat_result | None]] = []
        password = config.password()
        for what, path in (
            ("the master secret", config.secret_file()),
            ("the password of the database", None if password is None else password.secret_file),
        ):
            if path is not None:
                self._learn(what, path)

    def _learn(self, what: str, path: Path) -> None:
        found = None
        # What can't be read from here can't get into the bundle either.
        with suppress(OSError):
            found = path.stat()
            with open_regular(path) as stream:
                forms = _forms(stream.read(MAX_CONFIG))
            self.patterns += [SecretBytes(form) for form in forms if len(form) >= _MIN_SEARCHED]
        self._known.append((what, path, found))

    def refuse(self, path: Path, key: str) -> None:
        """Raise E_POLICY if ``path`` is one of them, by any name or link."""
        for what, known, found in self._known:
            if path == known or (found is not None and os.path.samestat(found, path.stat())):
                raise KeycairnError(
                    Code.POLICY,
                    f"{path} is {what}; a bundle never holds it",
                    not_lost="No bundle was written; older bundles are untouched.",
                    next=f"take it out of {key}; keep a copy of the secret elsewhere, on its own",
                    detail={"file": str(path), "key": key},
                )


def _forms(content: bytes) -> list[bytes]:
    """A secret file's content, and how else the same secret is written."""
    text = content.strip()
    forms = [content, text, content.hex().encode()]
    with suppress(ValueError):
        forms.append(bytes.fromhex(text.decode("ascii", "replace")))
    return forms


def public_half(pem: bytes) -> bytes | None:
    """Raw public key of an Ed25519 private key in PEM; None for anything else."""
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError):
        return None
    return key.public_key().public_bytes_raw() if isinstance(key, Ed25519PrivateKey) else None


def _add(
    found: Collection,
    secret: _Secrets,
    named: Named,
    name: str,
    role: str,
    path: Path,
) -> None:
    if str(path) != _shown(path):
        raise KeycairnError(Code.MALFORMED, f"{_shown(path)}: file names must be UTF-8")
    try:
        secret.refuse(path, named.key)
        source = from_file(name, path)
        executable = bool(path.stat().st_mode & stat.S_IXUSR)
    except OSError as exc:
        raise KeycairnError(
            Code.NOT_FOUND,
            f"{path}, which node.toml names under {named.key}, can't be read: {exc.strerror}",
            not_lost="No bundle was written; older bundles are untouched.",
            next=f"put the file back, or correct {named.key}",
            detail={"file": str(path), "key": named.key},
        ) from exc
    found.sources.append(source)
    inside = found.config.named(named.key, str(path)).inside
    found.origins[name] = Origin(role, named.key, str(path), inside, executable)


def _shown(path: Path) -> str:
    return os.fsencode(path).decode("utf-8", "replace")


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _add_documents(found: Collection, secret: _Secrets) -> None:
    store = found.config.ers_store()
    for path in walk(store.path):
        name = f"ers/{path.relative_to(store.path).as_posix()}"
        try:
            plain = _is_plain(path) and bool(check_part_name(name))
        except KeycairnError:
            plain = False  # A temporary or foreign file: documents have plain names.
        if plain:
            _add(found, secret, store, name, "ers", path)
        else:
            found.skipped.append(_shown(path))


def _add_includes(found: Collection, secret: _Secrets) -> None:
    number = 0
    for named in found.config.includes():
        paths = walk(named.path) if named.path.is_dir() else [named.path]
        for path in paths:
            if path != named.path and not _is_plain(path):
                found.skipped.append(_shown(path))
                continue
            number += 1
            readable = re.sub(r"[^A-Za-z0-9._-]", "_", path.name)
            name = f"include/{number:03d}-{readable}"[:MAX_PART_NAME]
            _add(found, secret, named, name, "include", path)
