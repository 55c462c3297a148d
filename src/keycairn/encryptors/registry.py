"""Which kinds there are: the built-in ones, and plug-ins by entry point.

A plug-in is loaded only when ``[encryptor] kind`` names it. It runs inside of the node and sees
the master key: installing one means trusting its author like keycairn's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

from keycairn.encoding import SecretBytes
from keycairn.encryptors.config import EncryptorConfig, parse_section
from keycairn.encryptors.faults import away, malformed, refused
from keycairn.encryptors.port import Binding, Encryptor, Environ, Kind, Wrapped
from keycairn.errors import Code, KeycairnError
from keycairn.ports import Rng

T = TypeVar("T")

GROUP = "keycairn.encryptors"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}\Z")
#: kind -> module and name of its :class:`Kind`. Imported when first named: most nodes use one.
_BUILT_IN = {
    "password": ("local", "PASSWORD"),
    "keyfile": ("local", "KEYFILE"),
    "transit": ("transit", "TRANSIT"),
    "aws-kms": ("awskms", "AWS_KMS"),
    "pkcs11": ("pkcs11", "PKCS11"),
}
KINDS = tuple(_BUILT_IN)


def find_kind(name: str) -> Kind:
    """The kind of this name.

    Raises:
        KeycairnError: E_MALFORMED when there is none; E_POLICY when two plug-ins have the name, or
            when the entry point is no :class:`Kind`; E_UNAVAILABLE when it can't be imported.
    """
    if name in _BUILT_IN:
        module, attribute = _BUILT_IN[name]
        found: Kind = getattr(import_module(f"keycairn.encryptors.{module}"), attribute)
        return found
    if not _NAME.match(name):
        raise malformed(
            "an encryptor kind has lower-case letters, digits and hyphens",
            "correct [encryptor] kind",
        )
    points = tuple(entry_points(group=GROUP, name=name))
    if not points:
        installed = sorted({p.name for p in entry_points(group=GROUP)} - set(_BUILT_IN))
        raise malformed(
            f"[encryptor] there is no kind {name}: built in are {', '.join(KINDS)}; installed are "
            f"{', '.join(installed) or 'no others'}",
            "correct [encryptor] kind, or install the plug-in's package into the node's "
            "environment",
        )
    if len(points) > 1:
        where = ", ".join(sorted(p.dist.name if p.dist else p.value for p in points))
        raise refused(
            f"{len(points)} packages have an encryptor kind {name}: {where}", "remove all but one"
        )
    try:
        loaded = points[0].load()
    except Exception as exc:  # a stranger's module may raise anything
        raise away(
            f"the plug-in for encryptor kind {name} can't be imported: {type(exc).__name__}",
            f"run python -c 'import {points[0].module}' in the node's environment",
        ) from exc
    if not isinstance(loaded, Kind):
        raise refused(
            f"the entry point {points[0].value} of encryptor kind {name} is no "
            "keycairn.encryptors.Kind",
            "install a version of the plug-in that fits this keycairn",
        )
    return replace(loaded, name=name, make=partial(_guarded, loaded.make, name))


def section_config(
    values: Mapping[str, Any], home: Path, *, where: str = "node.toml", production: bool = False
) -> EncryptorConfig:
    """``[encryptor]`` as it was parsed, checked against its kind.

    Args:
        values: the parsed table.
        home: directory to which relative paths belong.
        where: the file, for messages.
        production: refuse kinds that protect nothing.

    Raises:
        KeycairnError: E_MALFORMED, E_POLICY, as :func:`find_kind` and
            :func:`~keycairn.encryptors.config.parse_section`.
    """
    name = values.get("kind")
    if not isinstance(name, str):
        raise KeycairnError(
            Code.MALFORMED,
            f"{where}: [encryptor] needs the text `kind`",
            not_lost="The node did not start; nothing was changed.",
            next=f"built-in kinds: {', '.join(KINDS)}",
            detail={"file": where, "section": "[encryptor]"},
        )
    try:
        kind = find_kind(name)
    except KeycairnError as exc:
        exc.message = f"{where}: {exc.message}"
        raise
    if production and not kind.production:
        raise refused(
            f"{where}: encryptor kind {name} protects nothing, and this is a production node",
            "choose another kind; this one is for throw-away vaults of the test profile",
        )
    return parse_section(kind, values, home, where)


def encryptor_of(config: EncryptorConfig, rng: Rng, environ: Environ | None = None) -> Encryptor:
    """The configured encryptor. Nothing is contacted yet."""
    return find_kind(config.kind).make(config, rng, environ)


def _guarded(make: Any, name: str, *arguments: Any) -> Encryptor:
    return Guarded(name, make, arguments)


class Guarded:
    """A plug-in whose mistakes become typed errors.

    Whatever it raises that is no :class:`KeycairnError` is reported by its type alone: the text
    might hold a secret.
    """

    def __init__(self, name: str, make: Any, arguments: Any) -> None:
        self._name = name
        self._inner: Encryptor = self._call("make", make, *arguments)

    def wrap(self, master: SecretBytes, binding: Binding) -> Wrapped:
        return self._call("wrap", self._inner.wrap, master, binding)

    def unwrap(self, wrapped: Wrapped, binding: Binding) -> SecretBytes:
        return self._call("unwrap", self._inner.unwrap, wrapped, binding)

    def describe(self) -> dict[str, str]:
        return self._call("describe", self._inner.describe)

    def notes(self) -> list[str]:
        return self._call("notes", self._inner.notes)

    def _call(self, what: str, function: Callable[..., T], *arguments: Any) -> T:
        try:
            return function(*arguments)
        except KeycairnError:
            raise
        except Exception as exc:
            raise away(
                f"the plug-in of encryptor kind {self._name} failed in {what}: "
                f"{type(exc).__name__}",
                "report this to the plug-in's author",
            ) from exc
