"""Reading TOML tables strictly: every key is asked for by name, or the file is refused."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from keycairn.errors import Code, KeycairnError

_MAX_FILE = 1 << 20
_REQUIRED: Any = object()
_NAMES = {str: "text", int: "a whole number", bool: "true or false", list: "a list"}


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file.

    Raises:
        KeycairnError: E_MALFORMED when the file is missing, too large or not TOML.
    """
    try:
        if path.stat().st_size > _MAX_FILE:
            raise KeycairnError(Code.TOO_LARGE, f"{path} is larger than {_MAX_FILE} bytes")
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise KeycairnError(
            Code.MALFORMED,
            f"configuration file {path} does not exist",
            not_lost="Nothing was changed. A node's bundles are not in its directory.",
            next="check the path; a lost node comes back with keycairn node restore BUNDLE "
            "--into DIR --identity FILE",
        ) from None
    except (OSError, UnicodeDecodeError) as exc:
        raise KeycairnError(Code.MALFORMED, f"{path} cannot be read: {_reason(exc)}") from exc
    except tomllib.TOMLDecodeError as exc:
        raise KeycairnError(
            Code.MALFORMED,
            f"{path} is not TOML: {exc}",
            not_lost="The node did not start; nothing was changed.",
            next="correct that line; every bundle of the node holds the file as it was",
        ) from exc


def _reason(exc: Exception) -> str:
    return (exc.strerror or "input/output error") if isinstance(exc, OSError) else "not UTF-8"


class Table:
    """One TOML table. Ask for every key that may stand there, then call :meth:`finish`.

    Args:
        values: the parsed table.
        name: how the table is called in messages, e.g. ``[api]``.
        file: the file it stands in.
    """

    def __init__(self, values: Mapping[str, Any], name: str, file: Path) -> None:
        self._left = dict(values)
        self.name = name
        self.file = file

    def bad(self, message: str, *, code: Code = Code.MALFORMED, hint: str = "") -> NoReturn:
        """Refuse the file; the message names file and table."""
        raise KeycairnError(
            code,
            " ".join(filter(None, (f"{self.file}:", self.name, message))),
            not_lost="The node did not start; nothing was changed.",
            next=hint,
            detail={"file": str(self.file), "section": self.name},
        )

    def _take(self, key: str, kind: type, default: Any) -> Any:
        if key not in self._left:
            if default is _REQUIRED:
                self.bad(f"lacks the key `{key}`", hint=f"add `{key} = …` to {self.name}")
            return default
        value = self._left.pop(key)
        # bool is a subclass of int: `type` and not isinstance, so that true is not a number.
        if type(value) is not kind:
            self.bad(f"`{key}` must be {_NAMES[kind]}")
        return value

    def value(self, key: str, default: Any) -> Any:
        """Whatever stands there; the caller judges it."""
        return self._left.pop(key, default)

    def text(self, key: str, default: str = _REQUIRED) -> str:
        """A string without control characters."""
        value: str = self._take(key, str, default)
        if any(ord(c) < 32 for c in value):
            self.bad(f"`{key}` must not hold control characters")
        return value

    def optional(self, key: str) -> str | None:
        """A string that may be left out, but not be empty."""
        value: str | None = self._take(key, str, None)
        if value == "":
            self.bad(f"`{key}` is empty", hint=f"give it a value or remove the line `{key}`")
        return value

    def integer(self, key: str, default: int = _REQUIRED, *, low: int, high: int) -> int:
        """A whole number within bounds."""
        value: int = self._take(key, int, default)
        if not low <= value <= high:
            self.bad(f"`{key}` must be between {low} and {high}, not {value}")
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        """true or false."""
        value: bool = self._take(key, bool, default)
        return value

    def texts(self, key: str, default: tuple[str, ...] = ()) -> tuple[str, ...]:
        """A list of strings."""
        values: list[Any] = self._take(key, list, list(default))
        if any(type(v) is not str for v in values):
            self.bad(f"`{key}` must be a list of texts")
        return tuple(values)

    def choice(self, key: str, allowed: tuple[str, ...], default: str = _REQUIRED) -> str:
        """One of a few words."""
        value = self.text(key, default)
        if value not in allowed:
            self.bad(f"`{key}` must be one of: {', '.join(allowed)}")
        return value

    def table(self, key: str, *, required: bool = False) -> Table:
        """A sub-table; empty if it isn't there and needn't be."""
        value = self._left.pop(key, None)
        name = f"[{key}]" if self.name == "" else f"[{self.name.strip('[]')}.{key}]"
        if value is None:
            if required:
                self.bad(f"lacks the section {name}", hint=f"add {name}")
            value = {}
        if not isinstance(value, dict):
            self.bad(f"`{key}` must be a section {name}")
        return Table(value, name, self.file)

    def tables(self, key: str) -> list[Table]:
        """An array of tables (``[[key]]``)."""
        value = self._left.pop(key, [])
        if not isinstance(value, list) or any(not isinstance(v, dict) for v in value):
            self.bad(f"`{key}` must be a list of sections [[{key}]]")
        return [Table(v, f"[[{key}]] number {i}", self.file) for i, v in enumerate(value, 1)]

    def rest(self) -> dict[str, Any]:
        """Everything that was not asked for, for a reader that knows these keys better."""
        left, self._left = self._left, {}
        return left

    def finish(self) -> None:
        """Refuse whatever was not asked for."""
        if self._left:
            unknown = sorted(self._left)[0]
            self.bad(
                f"holds the unknown key `{unknown}`",
                hint="remove it or correct its spelling; docs/configuration.md lists all keys",
            )
