"""Files of the offline tool: recovered keys, RSA key pairs, and writing them with care."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keycairn.curves import GROUPS, Group
from keycairn.curves.pem import private_key_pem
from keycairn.encoding import SecretScalar, decode_hex, decode_json
from keycairn.errors import Code, KeycairnError, malformed
from keycairn.ers.document import looks_like_document
from keycairn.ers.recover import RecoveredKey
from keycairn.ers.statement import CURVES

FORMAT = "keycairn-recovered-key"
VERSION = 1

_ENCODING = {
    "secp256k1": "scalar, 32 bytes big-endian",
    "p256": "scalar, 32 bytes big-endian; private_key_pem is the same key in PKCS #8",
    "ed25519": "scalar, 32 bytes little-endian; NOT an RFC 8032 seed: wallets that ask for a "
    "seed cannot import it, `keycairn-recover sign` signs with it",
}


def read_file(path: Path, limit: int) -> bytes:
    """A whole file of at most ``limit`` bytes; E_NOT_FOUND, E_UNAVAILABLE or E_TOO_LARGE."""
    try:
        with path.open("rb") as stream:
            data = stream.read(limit + 1)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as exc:
        raise KeycairnError(Code.NOT_FOUND, f"there is no file {path}") from exc
    except OSError as exc:
        raise KeycairnError(
            Code.UNAVAILABLE, f"cannot read {path}: {exc.strerror or 'input error'}"
        ) from exc
    if len(data) > limit:
        raise KeycairnError(Code.TOO_LARGE, f"{path} is larger than {limit} bytes")
    return data


def write_new(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Create a file that did not exist, with ``mode``, and flush it to the disk.

    Raises:
        KeycairnError: E_CONFLICT if it exists, E_UNAVAILABLE if it cannot be written (then no
            file is left behind).
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    except FileExistsError as exc:
        raise KeycairnError(Code.CONFLICT, f"{path} exists already", next="name another") from exc
    except OSError as exc:
        raise KeycairnError(Code.UNAVAILABLE, f"cannot write {path}: {exc.strerror}") from exc
    try:
        with os.fdopen(fd, "wb") as stream:
            os.fchmod(stream.fileno(), mode)
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as exc:
        path.unlink(missing_ok=True)
        raise KeycairnError(Code.UNAVAILABLE, f"cannot write {path}: {exc.strerror}") from exc


def fresh_directory(path: Path) -> None:
    """Make ``path`` (mode 0700), or take it if it is empty; E_CONFLICT if it holds anything."""
    try:
        path.mkdir(mode=0o700)
    except FileExistsError as exc:
        if not path.is_dir() or path.is_symlink() or any(path.iterdir()):
            raise KeycairnError(
                Code.CONFLICT,
                f"{path} exists and is not an empty directory",
                not_lost="Nothing was written.",
                next="give --out a new directory",
            ) from exc
        path.chmod(0o700)
    except OSError as exc:
        raise KeycairnError(Code.UNAVAILABLE, f"cannot make {path}: {exc.strerror}") from exc


def refuse_beside_document(directory: Path) -> None:
    """An RSA private key is not written where an ERS document lies (E_POLICY)."""
    try:
        files = sorted(entry for entry in directory.iterdir() if entry.is_file())
        heads = {}
        for entry in files:
            with entry.open("rb") as stream:
                heads[entry.name] = stream.read(64)
    except OSError as exc:
        raise KeycairnError(
            Code.UNAVAILABLE, f"cannot look into {directory}: {exc.strerror}"
        ) from exc
    for name, head in heads.items():
        if looks_like_document(head):
            raise KeycairnError(
                Code.POLICY,
                f"{name} is an ERS document: with the RSA private key beside it, whoever gets "
                "this directory has the keys",
                not_lost="No key was made.",
                next="write the RSA key to another medium",
            )


def _file_name(key_id: str, taken: Sequence[str]) -> str:
    stem = re.sub(r"[^A-Za-z0-9_-]", "_", key_id)[:64]
    name, number = f"{stem}.json", 2
    while name in taken:
        name, number = f"{stem}-{number}.json", number + 1
    return name


def render(key: RecoveredKey) -> bytes:
    """The file of a recovered key: JSON with ``private_key`` in hex."""
    s, code = key.statement, key.chain_code
    body = {
        "format": FORMAT,
        "version": VERSION,
        "key_id": s.key_id,
        "curve": s.curve,
        "scheme": s.scheme,
        "protocol": s.protocol,
        "public_key": s.public_key.hex(),
        "private_key": s.group.encode_scalar(key.private_key.reveal()).hex(),
        "private_key_encoding": _ENCODING.get(s.curve, "scalar"),
        "private_key_pem": private_key_pem(s.curve, key.private_key.reveal()),
        "chain_code": code.reveal().hex() if code else None,
        "chain_code_lost": key.chain_code_lost,
        "generation": s.generation,
        "record_hash": s.record_hash.hex(),
        "nodes": list(key.nodes),
        "paths": None if key.paths is None else list(key.paths),
        "paths_left_out": key.paths_left_out,
    }
    return (json.dumps(body, indent=2) + "\n").encode("ascii")


def write_keys(directory: Path, keys: Sequence[RecoveredKey]) -> list[dict[str, Any]]:
    """Write every key to its own file (0600) in a fresh directory: all, or none.

    Returns:
        for each key: key_id, public_key, curve, file.
    """
    fresh_directory(directory)
    written: dict[str, Mapping[str, Any]] = {}
    try:
        for key in keys:
            name = _file_name(key.key_id, list(written))
            write_new(directory / name, render(key))
            written[name] = {
                "key_id": key.key_id,
                "curve": key.curve,
                "public_key": key.public_key.hex(),
                "generation": key.statement.generation,
                "file": str(directory / name),
            }
    except KeycairnError:
        for name in written:
            (directory / name).unlink(missing_ok=True)
        raise
    return [dict(entry) for entry in written.values()]


@dataclass(frozen=True)
class RecoveredKeyFile:
    """A recovered key read back from its file. ``scheme`` says what it signs with."""

    key_id: str
    scheme: str
    group: Group
    public_key: bytes
    private_key: SecretScalar


def load_key(data: bytes) -> RecoveredKeyFile:
    """Read a recovered key's file; E_MALFORMED, or E_BAD_SCALAR if it does not fit itself."""
    value = decode_json(data, max_bytes=1 << 16)
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise malformed("not a recovered key file of keycairn-recover")
    if value.get("version") != VERSION or value.get("curve") not in CURVES:
        raise malformed("a key file of a version or curve that is not known here")
    group = GROUPS[value["curve"]]
    scheme = value.get("scheme")
    if scheme not in ("ecdsa", "schnorr"):
        raise malformed("a key file of a scheme that is not known here")
    public = decode_hex(value.get("public_key"), length=group.point_len, what="public_key")
    raw = decode_hex(value.get("private_key"), length=group.scalar_len, what="private_key")
    x = group.decode_scalar(raw, nonzero=True)
    if group.base_mul(x).encode() != public:
        raise KeycairnError(Code.BAD_SCALAR, "the private key does not fit the public key")
    return RecoveredKeyFile(str(value.get("key_id")), scheme, group, public, SecretScalar(x))
