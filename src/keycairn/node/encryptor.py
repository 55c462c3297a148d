"""This node's encryptor at work: check it, rotate it, and finish a rotation that was interrupted.

A rotation replaces the keyring in one transaction. If it moves to another ``[encryptor]``, the
configuration has to follow, and that is another file. So that a crash in between leaves a node
that starts:

1. the new section is written to ``encryptor.next.toml`` in the data directory, with the hash of
   the new keyring;
2. the keyring is replaced: **this is the moment of the change**;
3. node.toml gets the new section;
4. ``encryptor.next.toml`` is removed.

At every start :func:`settle` looks at that file. If its hash is that of the keyring in the
database, 2 happened: the new section counts, and 3 and 4 are made up for. If not, 2 did not
happen: the file goes. Where node.toml can't be written the new section counts until somebody has
put it there.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tomli_w

from keycairn.encryptors import (
    EncryptorConfig,
    check_encryptor,
    describe_keyring,
    encryptor_of,
    rotate,
    section_config,
)
from keycairn.errors import Code, KeycairnError
from keycairn.node.brake import braked
from keycairn.node.config import NodeConfig
from keycairn.node.files import require_private, write_private
from keycairn.node.logs import logger
from keycairn.node.tables import read_toml
from keycairn.ports import Clock, Rng
from keycairn.ports.crash import no_crash
from keycairn.store.core import SqlCore
from keycairn.store.keyring import current_keyring, replace_keyring

PENDING = "encryptor.next.toml"
_HEADER = re.compile(r"\s*\[\s*encryptor\s*\]\s*(#.*)?$")
_ANY_HEADER = re.compile(r"\s*\[")


def pending_file(config: NodeConfig) -> Path:
    """Where a rotation keeps the new section until node.toml has it."""
    return config.data_directory / PENDING


def section_of(path: Path, *, production: bool) -> EncryptorConfig:
    """``[encryptor]`` of a TOML file; whatever else stands there is not looked at.

    Raises:
        KeycairnError: E_MALFORMED, E_POLICY (others can write the file, unfit kind).
    """
    require_private(path, "configuration file")
    values = read_toml(path).get("encryptor")
    if not isinstance(values, dict):
        raise KeycairnError(
            Code.MALFORMED,
            f"{path} has no section [encryptor]",
            not_lost="Nothing was changed.",
            next="write the new [encryptor] section into that file, as it would stand in node.toml",
        )
    return section_config(values, path.parent, where=str(path), production=production)


def settle(config: NodeConfig, keyring: bytes) -> NodeConfig:
    """Finish a rotation that was interrupted, or clear it away. Call under the node's lock.

    Args:
        config: as node.toml has it.
        keyring: as it stands in the database.

    Returns:
        the configuration with the encryptor that belongs to this keyring.
    """
    path = pending_file(config)
    if not path.exists():
        return config
    try:
        values = tomllib.loads(path.read_text("utf-8"))
        named, section = values["keyring_sha256"], values["encryptor"]
    except (OSError, ValueError, KeyError):
        named, section = "", {}
    if named != _sha256(keyring):
        _remove(path)
        return config
    made = section_config(
        section, path.parent, where=str(path), production=config.profile == "production"
    )
    if made == config.encryptor or _write_config(config, made):
        _remove(path)
    else:
        logger().warning("encryptor", message=_by_hand(config))
    return replace(config, encryptor=made)


def require_settled(config: NodeConfig) -> None:
    """Refuse what must not be done while node.toml names another encryptor than the database.

    Raises:
        KeycairnError: E_CONFLICT.
    """
    if pending_file(config).exists():
        raise KeycairnError(
            Code.CONFLICT,
            "node.toml does not name the encryptor that the database was moved to",
            not_lost="The node runs; older bundles are untouched.",
            next=_by_hand(config),
            node=config.index,
        )


@dataclass(frozen=True)
class Rotated:
    """What a rotation did."""

    before: Mapping[str, str]
    after: Mapping[str, str]
    moved: bool
    settled: bool

    def to_json(self) -> dict[str, Any]:
        """Result keys of ``encryptor rotate``, without ``next``."""
        return {
            "from": dict(self.before),
            "to": dict(self.after),
            "moved": self.moved,
            "config_written": self.settled,
        }


class NodeEncryptor:
    """The encryptor of an open node: serves ``encryptor check`` and ``rotate``.

    Args:
        config: with the encryptor that opened the store.
        store: open.
        clock: for the brake.
        rng: draws master keys and nonces.
        guard: held during a rotation; the same as for bundles, so that none holds the database of
            after and the configuration of before.
        moved: is told the configuration after a rotation.
        crash: hook of test builds.
    """

    def __init__(
        self,
        config: NodeConfig,
        store: SqlCore,
        clock: Clock,
        rng: Rng,
        *,
        guard: asyncio.Lock | None = None,
        moved: Callable[[NodeConfig], None] = lambda _: None,
        crash: Callable[[str], None] = no_crash,
    ) -> None:
        self._config = config
        self._store = store
        self._clock = clock
        self._rng = rng
        self._guard = guard or asyncio.Lock()
        self._moved = moved
        self._crash = crash

    async def check(self) -> dict[str, Any]:
        """Reach the encryptor, open the keyring in the database, wrap and unwrap a fresh key."""
        keyring = await current_keyring(self._store)
        return await asyncio.to_thread(check_node, self._config, keyring, self._clock, self._rng)

    async def rotate(self, to_config: Path | None = None) -> dict[str, Any]:
        """A new master key, under the same encryptor or under that of the file ``to_config``.

        Raises:
            KeycairnError: what the encryptors raise (nothing changed); E_CONFLICT when somebody
                else replaced the keyring; E_UNAVAILABLE from the database.
        """
        async with self._guard:
            require_settled(self._config)
            production = self._config.profile == "production"
            new = self._config.encryptor
            if to_config is not None:
                new = await asyncio.to_thread(section_of, to_config, production=production)
            old_keyring = await current_keyring(self._store)
            made = await asyncio.to_thread(self._wrapped, old_keyring, new)
            self._crash("encryptor/wrapped")
            before, after = describe_keyring(old_keyring), describe_keyring(made)
            moved = new != self._config.encryptor
            if moved:
                await asyncio.to_thread(_write_pending, self._config, new, made)
                self._crash("encryptor/pending")
            try:
                await replace_keyring(
                    self._store, old_keyring, made, was=before["kind"], now=after["kind"]
                )
            except KeycairnError as exc:
                # After E_UNAVAILABLE nobody knows which stands there: the next start will.
                if exc.code is not Code.UNAVAILABLE:
                    _remove(pending_file(self._config))
                raise
            self._crash("encryptor/replaced")
            settled = not moved or await asyncio.to_thread(_write_config, self._config, new)
            self._crash("encryptor/configured")
            if moved and settled:
                _remove(pending_file(self._config))
            self._config = replace(self._config, encryptor=new)
            self._moved(self._config)
            helps = [f"keycairn backup create --config {self._config.file}"]
            if not settled:
                helps.insert(0, _by_hand(self._config))
            return Rotated(before, after, moved, settled).to_json() | {
                "node": self._config.index,
                "encryptor": encryptor_of(new, self._rng).describe(),
                "next": helps,
            }

    def _wrapped(self, keyring: bytes, new: EncryptorConfig) -> bytes:
        c = self._config
        with braked(c, self._clock):
            made = rotate(keyring, c.encryptor, new, vault=c.vault_id, node=c.index, rng=self._rng)
        return made.encode()


def check_node(config: NodeConfig, keyring: bytes | None, clock: Clock, rng: Rng) -> dict[str, Any]:
    """``encryptor check`` for a keyring, or for none (before a node or its restore). Blocks."""
    with braked(config, clock) if keyring is not None else contextlib.nullcontext():
        report = check_encryptor(
            config.encryptor, keyring, vault=config.vault_id, node=config.index, rng=rng
        )
    return {"node": config.index, **report.to_json()}


def _sha256(keyring: bytes) -> str:
    return hashlib.sha256(keyring).hexdigest()


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _by_hand(config: NodeConfig) -> str:
    return (
        f"put the section [encryptor] of {pending_file(config)} into {config.file}, then restart "
        "the node"
    )


def _write_pending(config: NodeConfig, new: EncryptorConfig, keyring: bytes) -> None:
    values = {"keyring_sha256": _sha256(keyring), "encryptor": new.section()}
    text = (
        "# Written by keycairn encryptor rotate, removed when node.toml has this section.\n"
        + tomli_w.dumps(values)
    )
    write_private(pending_file(config), text.encode())


def _write_config(config: NodeConfig, new: EncryptorConfig) -> bool:
    """Put the section into node.toml; False if that can't be done from here."""
    try:
        text = config.file.read_bytes().decode("utf-8")
        made = with_section(text, new.section(config.home))
        if made is None:
            return False
        write_private(config.file, made.encode())
    except (OSError, UnicodeDecodeError, KeycairnError):
        return False
    return True


def with_section(text: str, section: Mapping[str, Any]) -> str | None:
    """A configuration's text with this ``[encryptor]``, all else as it was, comments too.

    None if the text is written in a way that can't be edited so.
    """
    lines = text.splitlines(keepends=True)
    starts = [n for n, line in enumerate(lines) if _HEADER.match(line)]
    if len(starts) != 1:
        return None
    end = starts[0] + 1
    while end < len(lines) and not _ANY_HEADER.match(lines[end]):
        end += 1
    # Comments and empty lines before the next header belong to that one.
    while end > starts[0] + 1 and (not lines[end - 1].strip() or lines[end - 1].lstrip()[0] == "#"):
        end -= 1
    body = tomli_w.dumps({"encryptor": dict(section)})
    made = "".join(lines[: starts[0]]) + body + "".join(lines[end:])
    try:
        before, after = tomllib.loads(text), tomllib.loads(made)
    except tomllib.TOMLDecodeError:
        return None
    return made if after == {**before, "encryptor": dict(section)} else None
