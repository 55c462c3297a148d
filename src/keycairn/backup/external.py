"""External items: what a node needs and a bundle can't hold, in the operator's words.

An entry of a secret manager, a DNS record, a firewall rule: ``[[backup.external]]`` of node.toml
says what it is called, where it is and how it comes back, and may name a command that tells whether
it is there. The words travel in the bundle's encrypted index and stand in every restore plan; the
command runs at ``backup verify`` and as a part of step 2 of a restore.

A command that came out of a bundle runs only once the bundle's signer is known.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keycairn.encoding import SecretBytes
from keycairn.errors import Code, KeycairnError, malformed

SECONDS = 30
MAX_SECONDS = 600
_MAX_ITEMS = 100
_MAX_TEXT = 4096
_SHOWN = 2000
_READ = 1 << 16
_KEYS = ("name", "where", "how", "check", "shell", "seconds")


@dataclass(frozen=True)
class External:
    """One item.

    Attributes:
        name: what it is.
        where: where it lives.
        how: how it comes back, for a person.
        check: command line that ends with exit code 0 if it is there; empty for none.
        shell: whether ``check`` is for ``/bin/sh -c``. Otherwise it is split as a shell would
            split it, and run without one.
        seconds: time limit of the command.
    """

    name: str
    where: str
    how: str
    check: str = ""
    shell: bool = False
    seconds: int = SECONDS

    def to_json(self) -> dict[str, Any]:
        """``{name, where, how, check, shell, seconds}``."""
        return {key: getattr(self, key) for key in _KEYS}


def read_external(value: Any) -> tuple[External, ...]:
    """``[[backup.external]]`` as parsed from TOML (or the same out of an index).

    Raises:
        KeycairnError: E_MALFORMED naming the item and what is wrong with it.
    """
    if not isinstance(value, list) or len(value) > _MAX_ITEMS:
        raise malformed(f"[[backup.external]] must be a list of at most {_MAX_ITEMS} sections")
    found = [_read(number, item) for number, item in enumerate(value, 1)]
    if len({item.name for item in found}) != len(found):
        raise malformed("[[backup.external]] names an item twice")
    return tuple(found)


def _read(number: int, item: Any) -> External:
    where = f"[[backup.external]] number {number}"
    if not isinstance(item, Mapping) or not set(item) <= set(_KEYS):
        raise malformed(f"{where} knows the keys {', '.join(_KEYS)} and no others")
    for key in ("name", "where", "how", "check"):
        text = item.get(key, "" if key == "check" else None)
        odd = not isinstance(text, str) or len(text) > _MAX_TEXT or "\0" in text
        if odd or (not text and key != "check"):
            raise malformed(f"{where}: `{key}` must be a text")
    shell, seconds = item.get("shell", False), item.get("seconds", SECONDS)
    if type(shell) is not bool:
        raise malformed(f"{where}: `shell` must be true or false")
    if type(seconds) is not int or not 1 <= seconds <= MAX_SECONDS:
        raise malformed(f"{where}: `seconds` must be between 1 and {MAX_SECONDS}")
    made = External(item["name"], item["where"], item["how"], item.get("check", ""), shell, seconds)
    if made.check:
        _arguments(made)
    return made


def _arguments(item: External) -> list[str]:
    if item.shell:
        return ["/bin/sh", "-c", item.check]
    try:
        words = shlex.split(item.check)
    except ValueError as exc:
        raise malformed(f"external item {item.name!r}: `check` is not a command line") from exc
    if not words:
        raise malformed(f"external item {item.name!r}: `check` is not a command line")
    return words


@dataclass(frozen=True)
class Checked:
    """What a check found. ``answer`` is "ok", "failed" or, where nothing ran, "not_checked"."""

    item: External
    answer: str
    words: str
    exit_code: int | None = None
    output: str = ""

    def to_json(self) -> dict[str, Any]:
        """The item's words with ``answer``, ``words``, ``exit_code`` and ``output``."""
        return self.item.to_json() | {
            "answer": self.answer,
            "words": self.words,
            "exit_code": self.exit_code,
            "output": self.output,
        }


def not_checked(items: Sequence[External], why: str) -> list[Checked]:
    """The items with no answer; those without a command say so themselves."""
    return [
        Checked(item, "not_checked", why if item.check else "has no check: look yourself")
        for item in items
    ]


async def run_checks(
    items: Sequence[External],
    *,
    environ: Mapping[str, str],
    hidden: Sequence[SecretBytes] = (),
) -> list[Checked]:
    """Run the commands one after the other.

    Args:
        items: in the order of the configuration.
        environ: environment of the commands.
        hidden: secrets that are blotted out of the shown output.
    """
    return [await _run(item, environ, hidden) for item in items]


async def _run(
    item: External, environ: Mapping[str, str], hidden: Sequence[SecretBytes]
) -> Checked:
    if not item.check:
        return not_checked([item], "")[0]
    try:
        process = await asyncio.create_subprocess_exec(
            *_arguments(item),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=dict(environ),
            start_new_session=True,
        )
    except (OSError, ValueError) as exc:
        why = getattr(exc, "strerror", None) or "not a command"
        return Checked(item, "failed", f"its check can't be run: {why}")
    seen = bytearray()
    try:
        async with asyncio.timeout(item.seconds):
            # Read to the end: a full pipe would stop the command.
            while chunk := await process.stdout.read(_READ):  # type: ignore[union-attr]
                seen = (seen + chunk)[-_READ:]
            code = await process.wait()
    except TimeoutError:
        return Checked(
            item,
            "failed",
            f"its check gave no answer within {item.seconds} seconds",
            output=_shown(bytes(seen), hidden),
        )
    finally:
        # The whole group: a command may have started others that hold the pipe.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    answer = "ok" if code == 0 else "failed"
    words = "is there" if code == 0 else f"its check ended with exit code {code}"
    return Checked(item, answer, words, code, _shown(bytes(seen), hidden))


def _shown(output: bytes, hidden: Sequence[SecretBytes]) -> str:
    """The end of the output, printable, without the secrets that we know."""
    for secret in hidden:
        if len(secret.reveal()) >= 8:
            output = output.replace(secret.reveal(), b"[hidden]")
    text = output[-_SHOWN:].decode("utf-8", "replace")
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text).strip()


def refuse_failed(checked: Sequence[Checked]) -> None:
    """Raise E_UNAVAILABLE if a check failed: what the node needs isn't there."""
    failed = [c for c in checked if c.answer == "failed"]
    if not failed:
        return
    first = failed[0]
    raise KeycairnError(
        Code.UNAVAILABLE,
        "; ".join(f"external item {c.item.name!r} ({c.item.where}): {c.words}" for c in failed),
        not_lost="Nothing was written.",
        next=f"{first.item.how}; or go on without it: --skip-checks",
        detail={"external": [c.to_json() for c in failed]},
    )
