"""Where the operator's secret comes from, and the cost of guessing a password."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from keycairn.encoding import SecretBytes
from keycairn.errors import Code, KeycairnError

KINDS = ("password", "keyfile")
KEY_BYTES = 32
_MAX_SECRET = 4096
_NOT_LOST = "Nothing was changed; the store stays sealed."
_PUT_BACK = (
    "put this node's own master secret back, or correct [encryptor] in node.toml; a restore needs "
    "the same secret"
)


@dataclass(frozen=True)
class ArgonParams:
    """Argon2id cost (R-21, RFC 9106).

    Attributes:
        memory_kib: m in KiB, 19 MiB to 1 GiB.
        iterations: t, 2 to 10.
        lanes: p, 1 to 16.
    """

    memory_kib: int = 64 * 1024
    iterations: int = 3
    lanes: int = 4

    def in_bounds(self) -> bool:
        """Whether all three are in the accepted ranges: low is a downgrade, high a blow-up."""
        return (
            19 * 1024 <= self.memory_kib <= 1024 * 1024
            and 2 <= self.iterations <= 10
            and 1 <= self.lanes <= 16
        )


@dataclass(frozen=True)
class EncryptorConfig:
    """Section ``[encryptor]`` of node.toml. Exactly one of the three sources is set.

    Attributes:
        kind: "password" or "keyfile".
        secret_file: file with the secret, mode 0600 or 0400.
        secret_env: name of an environment variable with the secret.
        secret_credential: name of a systemd credential (``LoadCredential=``).
        argon: cost for a *new* password keyring; an existing one brings its own.
    """

    kind: str
    secret_file: Path | None = None
    secret_env: str | None = None
    secret_credential: str | None = None
    argon: ArgonParams = field(default_factory=ArgonParams)


def read_secret(
    config: EncryptorConfig, *, environ: Mapping[str, str] | None = None
) -> SecretBytes:
    """The operator's secret: password bytes, or the 32 bytes of a key file.

    One trailing line end is cut from text. A key file holds 32 raw bytes or 64 hex digits.

    Raises:
        KeycairnError: E_POLICY (no or several sources, unknown kind, file readable by others),
            E_NOT_FOUND (no such file or variable), E_MALFORMED (empty, too long, not a key),
            E_UNAVAILABLE (file can't be read).
    """
    env = os.environ if environ is None else environ
    given = [s for s in (config.secret_file, config.secret_env, config.secret_credential) if s]
    if config.kind not in KINDS:
        raise _refuse(f"encryptor kind must be one of {', '.join(KINDS)}")
    if len(given) != 1:
        raise _refuse("[encryptor] needs one of secret_file, secret_env, secret_credential")
    if config.secret_env:
        if config.secret_env not in env:
            raise _absent(f"environment variable {config.secret_env} is not set")
        where = f"environment variable {config.secret_env}"
        raw = os.fsencode(env[config.secret_env])
    elif config.secret_credential:
        folder = env.get("CREDENTIALS_DIRECTORY")
        if not folder or Path(config.secret_credential).name != config.secret_credential:
            raise _absent("there is no such systemd credential")
        where = f"systemd credential {config.secret_credential}"
        # systemd lets the service in by an access list, which shows as the group's right to read.
        raw = _read_private(Path(folder) / config.secret_credential, forbidden=0o037)
    else:
        where = f"secret file {given[0]}"
        raw = _read_private(Path(given[0]))
    key = config.kind == "keyfile"
    return SecretBytes(_key_bytes(raw, where) if key else _password(raw, where))


def _read_private(path: Path, *, forbidden: int = 0o077) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as exc:
        raise _absent(f"the secret file {path} does not exist") from exc
    except OSError as exc:
        raise _unreadable(path, exc) from exc
    with os.fdopen(fd, "rb") as f:
        # The mode is that of the file which is read, not of what the name meant a moment ago.
        mode = stat.S_IMODE(os.fstat(f.fileno()).st_mode)
        if mode & forbidden:
            raise KeycairnError(
                Code.POLICY,
                f"the secret file {path.name} has mode {mode:04o}: others may read or write it",
                not_lost=_NOT_LOST,
                next=f"chmod 600 {path}",
                detail={"file": path.name, "mode": f"{mode:04o}"},
            )
        try:
            return f.read(_MAX_SECRET + 1)
        except OSError as exc:
            raise _unreadable(path, exc) from exc


def _strip_line_end(raw: bytes) -> bytes:
    return raw.removesuffix(b"\n").removesuffix(b"\r")


def _password(raw: bytes, where: str) -> bytes:
    password = _strip_line_end(raw)
    if not 0 < len(password) <= _MAX_SECRET:
        raise _malformed(f"a master password has 1 to {_MAX_SECRET} bytes, unlike the {where}")
    return password


def _key_bytes(raw: bytes, where: str) -> bytes:
    if len(raw) == KEY_BYTES:
        return raw
    text = _strip_line_end(raw)
    try:
        # fromhex skips spaces: the length check first makes that impossible to use.
        key = bytes.fromhex(text.decode("ascii")) if len(text) == 2 * KEY_BYTES else b""
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise _malformed(
            f"a key file holds 32 raw bytes or 64 hexadecimal digits, unlike the {where}"
        )
    return key


def _refuse(message: str) -> KeycairnError:
    return KeycairnError(
        Code.POLICY, message, not_lost=_NOT_LOST, next="correct [encryptor] in node.toml"
    )


def _absent(message: str) -> KeycairnError:
    return KeycairnError(Code.NOT_FOUND, message, not_lost=_NOT_LOST, next=_PUT_BACK)


def _malformed(message: str) -> KeycairnError:
    return KeycairnError(Code.MALFORMED, message, not_lost=_NOT_LOST, next=_PUT_BACK)


def _unreadable(path: Path, error: OSError) -> KeycairnError:
    return KeycairnError(
        Code.UNAVAILABLE,
        f"the secret file {path.name} can't be read: {error.strerror}",
        not_lost=_NOT_LOST,
        next="give the keycairn user read access to it",
    )
