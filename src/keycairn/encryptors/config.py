"""Section ``[encryptor]`` of node.toml, and where the operator's secret comes from."""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from keycairn.encoding import SecretBytes
from keycairn.encryptors.faults import NOT_LOST, absent, malformed, refused
from keycairn.encryptors.port import KEY_BYTES, Kind, Option
from keycairn.errors import Code, KeycairnError

SOURCES = ("secret_file", "secret_env", "secret_credential")
_MAX_SECRET = 4096
_CREDENTIAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_TYPES = {str: "text", int: "a whole number", bool: "true or false"}
#: Keys that people write although they would be secrets in node.toml.
_SECRETS = {"password", "passphrase", "secret", "secret_key", "secret_access_key", "pin", "token"}


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
    """Section ``[encryptor]`` of node.toml. At most one of the three sources is set.

    Attributes:
        kind: "password", "keyfile", "transit", "aws-kms", "pkcs11", or a plug-in's.
        secret_file: file with the secret, mode 0600 or 0400.
        secret_env: name of an environment variable with the secret.
        secret_credential: name of a systemd credential (``LoadCredential=``).
        argon: cost for a *new* password keyring; an existing one brings its own.
        options: the other keys of the kind, checked, paths absolute.
        files: content of files that ``options`` names, by option, for where they are not in place
            yet: a restore asks the encryptor before it writes anything.
    """

    kind: str
    secret_file: Path | None = None
    secret_env: str | None = None
    secret_credential: str | None = None
    argon: ArgonParams = field(default_factory=ArgonParams)
    options: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """Where the secret is, in words; "" when none is configured. Never the secret."""
        if self.secret_file is not None:
            return f"file {self.secret_file}"
        if self.secret_env is not None:
            return f"environment variable {self.secret_env}"
        if self.secret_credential is not None:
            return f"systemd credential {self.secret_credential}"
        return ""

    def with_secret_file(self, path: Path) -> EncryptorConfig:
        """The same encryptor with its secret in another place."""
        return replace(self, secret_file=path, secret_env=None, secret_credential=None)

    @contextmanager
    def file(self, option: str) -> Iterator[Path | None]:
        """The file that an option names, or None; readable while the context lasts."""
        path = self.options.get(option)
        if path is None or option not in self.files or path.exists():
            yield path
            return
        with tempfile.TemporaryDirectory(prefix="keycairn-encryptor-") as directory:
            copy = Path(directory) / option
            copy.write_bytes(self.files[option])
            yield copy

    def section(self, home: Path | None = None) -> dict[str, Any]:
        """As the values of ``[encryptor]``; paths relative to ``home`` if they are inside of it,
        absolute otherwise."""

        def written(value: Any) -> Any:
            if not isinstance(value, Path):
                return value
            inside = home is not None and value.is_relative_to(home)
            return value.relative_to(home).as_posix() if home and inside else str(value)

        values = {"kind": self.kind}
        values |= {name: getattr(self, name) for name in SOURCES}
        values |= self.options
        return {name: written(v) for name, v in values.items() if v is not None}


def parse_section(
    kind: Kind, values: Mapping[str, Any], home: Path, where: str = "node.toml"
) -> EncryptorConfig:
    """Check the values of ``[encryptor]``, all but ``kind``.

    Args:
        kind: found by its name (:func:`keycairn.encryptors.registry.find_kind`).
        values: the parsed table.
        home: directory to which relative paths belong.
        where: the file, for messages.

    Raises:
        KeycairnError: E_MALFORMED, naming the key.
    """
    left = {name: value for name, value in values.items() if name != "kind"}

    def bad(message: str, hint: str = "") -> NoReturn:
        raise KeycairnError(
            Code.MALFORMED,
            f"{where}: [encryptor] {message}",
            not_lost="The node did not start; nothing was changed.",
            next=hint or f"keys of kind {kind.name}: {', '.join(_names(kind))}",
            detail={"file": where, "section": "[encryptor]"},
        )

    def path(text: str) -> Path:
        return Path(os.path.normpath(home / text))

    options = {o.name: _value(o, left.pop(o.name, None), bad) for o in kind.options}
    for option in kind.options:
        if option.path and options[option.name] is not None:
            options[option.name] = path(options[option.name])
    sources = {name: _value(Option(name), left.pop(name, None), bad) for name in SOURCES}
    if left:
        name = sorted(left)[0]
        if name.lower() in _SECRETS:
            bad(
                f"holds `{name}`: secrets do not belong into this file",
                f"keep the {kind.source_is} elsewhere and name it: secret_file, secret_env or "
                "secret_credential",
            )
        bad(f"holds the unknown key `{name}`")
    given = [name for name, value in sources.items() if value is not None]
    if kind.source == "none" and given:
        bad(f"kind {kind.name} takes no secret, and `{given[0]}` is set")
    if len(given) > 1 or (kind.source == "required" and not given):
        bad("needs exactly one of `secret_file`, `secret_env`, `secret_credential`")
    credential = sources["secret_credential"]
    if credential is not None and not _CREDENTIAL.match(credential):
        bad("`secret_credential` must be a plain credential name, not a path")
    file = sources["secret_file"]
    return EncryptorConfig(
        kind.name,
        None if file is None else path(file),
        sources["secret_env"],
        credential,
        options=options,
    )


def _names(kind: Kind) -> list[str]:
    return [*(o.name for o in kind.options), *(SOURCES if kind.source != "none" else ())]


def _value(option: Option, value: Any, bad: Any) -> Any:
    if value is None:
        if option.required:
            bad(f"lacks the key `{option.name}`")
        return option.default
    # bool is a subclass of int: `type` and not isinstance, so that true is not a number.
    if type(value) is not option.type:
        bad(f"`{option.name}` must be {_TYPES[option.type]}")
    if isinstance(value, str):
        if not value or any(ord(c) < 32 for c in value):
            bad(f"`{option.name}` must not be empty or hold control characters")
        if option.choices and value not in option.choices:
            bad(f"`{option.name}` must be one of: {', '.join(option.choices)}")
    return value


def read_secret(
    config: EncryptorConfig, *, environ: Mapping[str, str] | None = None
) -> SecretBytes:
    """The operator's secret: the 32 bytes of a key file, or the bytes of a password, token or PIN.

    One trailing line end is cut from text. A key file holds 32 raw bytes or 64 hex digits.

    Raises:
        KeycairnError: E_POLICY (no or several sources, file readable by others), E_NOT_FOUND (no
            such file or variable), E_MALFORMED (empty, too long, not a key), E_UNAVAILABLE (file
            can't be read).
    """
    env = os.environ if environ is None else environ
    given = [s for s in (config.secret_file, config.secret_env, config.secret_credential) if s]
    if len(given) != 1:
        raise refused("[encryptor] needs one of secret_file, secret_env, secret_credential")
    if config.secret_env:
        if config.secret_env not in env:
            raise absent(f"environment variable {config.secret_env} is not set")
        where = f"environment variable {config.secret_env}"
        raw = os.fsencode(env[config.secret_env])
    elif config.secret_credential:
        folder = env.get("CREDENTIALS_DIRECTORY")
        if not folder or Path(config.secret_credential).name != config.secret_credential:
            raise absent("there is no such systemd credential")
        where = f"systemd credential {config.secret_credential}"
        # systemd lets the service in by an access list, which shows as the group's right to read.
        raw = _read_private(Path(folder) / config.secret_credential, forbidden=0o037)
    else:
        where = f"secret file {given[0]}"
        raw = _read_private(Path(given[0]))
    key = config.kind == "keyfile"
    return SecretBytes(key_bytes(raw, where) if key else _text(raw, where))


def read_key_file(path: Path) -> SecretBytes:
    """32 bytes from a file as :func:`read_secret` reads a key file; the same errors."""
    return SecretBytes(key_bytes(_read_private(path), f"secret file {path}"))


def _read_private(path: Path, *, forbidden: int = 0o077) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as exc:
        raise absent(f"the secret file {path} does not exist") from exc
    except OSError as exc:
        raise _unreadable(path, exc) from exc
    with os.fdopen(fd, "rb") as f:
        # The mode is that of the file which is read, not of what the name meant a moment ago.
        mode = stat.S_IMODE(os.fstat(f.fileno()).st_mode)
        if mode & forbidden:
            raise KeycairnError(
                Code.POLICY,
                f"the secret file {path.name} has mode {mode:04o}: others may read or write it",
                not_lost=NOT_LOST,
                next=f"chmod 600 {path}",
                detail={"file": path.name, "mode": f"{mode:04o}"},
            )
        try:
            return f.read(_MAX_SECRET + 1)
        except OSError as exc:
            raise _unreadable(path, exc) from exc


def _strip_line_end(raw: bytes) -> bytes:
    return raw.removesuffix(b"\n").removesuffix(b"\r")


def _text(raw: bytes, where: str) -> bytes:
    secret = _strip_line_end(raw)
    if not 0 < len(secret) <= _MAX_SECRET:
        raise malformed(f"a master secret has 1 to {_MAX_SECRET} bytes, unlike the {where}")
    return secret


def key_bytes(raw: bytes, where: str) -> bytes:
    """A key of 32 raw bytes or 64 hexadecimal digits; E_MALFORMED."""
    if len(raw) == KEY_BYTES:
        return raw
    text = _strip_line_end(raw)
    try:
        # fromhex skips spaces: the length check first makes that impossible to use.
        key = bytes.fromhex(text.decode("ascii")) if len(text) == 2 * KEY_BYTES else b""
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise malformed(
            f"a key file holds 32 raw bytes or 64 hexadecimal digits, unlike the {where}"
        )
    return key


def _unreadable(path: Path, error: OSError) -> KeycairnError:
    return KeycairnError(
        Code.UNAVAILABLE,
        f"the secret file {path.name} can't be read: {error.strerror}",
        not_lost=NOT_LOST,
        next="give the keycairn user read access to it",
    )
