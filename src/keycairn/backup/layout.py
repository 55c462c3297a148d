"""Where each part of a bundle goes in the restored directory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from keycairn.backup.collect import CONFIG, INDEX, Index, Origin
from keycairn.backup.disk import CHUNK, open_regular
from keycairn.backup.manifest import Part
from keycairn.backup.nodefile import NodeFile, safe_relative
from keycairn.backup.rewrite import Change, Mapped, Rewriter
from keycairn.errors import Code, KeycairnError

#: Where the copy of the database waits while a restore puts it into a server's.
IMAGE = ".keycairn-restore.db"
#: Holds what lay outside of the node's directory and has no other place in the new one.
BESIDE = "restored-files"


@dataclass(frozen=True)
class Placed:
    """A part and its place, relative to the new directory."""

    part: Part
    to: PurePosixPath
    executable: bool = False


@dataclass(frozen=True)
class Launch:
    """A file of the operator's: where it is now, where it was."""

    to: str
    original: str
    there: bool  # an identical file still stands at the original place
    executable: bool = False

    def to_json(self, into: Path) -> dict[str, Any]:
        """``{file, original, there}``."""
        return {"file": str(into / self.to), "original": self.original, "there": self.there}


@dataclass(frozen=True)
class Layout:
    """The new directory, before any of it is written."""

    config: NodeFile
    config_name: str
    config_bytes: bytes
    changes: tuple[Change, ...]
    placed: tuple[Placed, ...]
    launch: tuple[Launch, ...]

    @property
    def copy(self) -> str:
        """Place of the database's copy: the node's database itself, or :data:`IMAGE`."""
        file = self.config.database()
        return IMAGE if file is None else _inside(file.inside)


def make_layout(
    parts: tuple[Part, ...],
    index: Index,
    old: NodeFile,
    raw: bytes,
    *,
    home: Path,
    mapped: Mapped,
) -> Layout:
    """Decide every place. Reads the machine (are originals still there?), writes nothing.

    Raises:
        KeycairnError: E_MALFORMED (mapping), E_STORE_INTEGRITY (a place outside of ``home``, or
            two parts in one place).
    """
    by_name = {part.name: part for part in parts}
    there = {
        name: _same(Path(origin.path), by_name[name])
        for name, origin in index.origins.items()
        if origin.inside is None and origin.role in ("file", "include")
    }
    elsewhere = {
        origin.key: f"files/{origin.key}"
        for name, origin in index.origins.items()
        if origin.role == "file" and name in there and not there[name]
    }
    included = {
        str(named.path): _beside(str(named.path))
        for named in old.includes()
        if named.inside is None and not named.path.exists()
    }
    rewriter = Rewriter(old, home, elsewhere=elsewhere, included=included)
    new = rewriter.rewrite(mapped)
    config_name = index.origins[CONFIG].inside or "node.toml"
    placed: dict[PurePosixPath, Placed] = {}
    launch = []
    for name, origin in index.origins.items():
        if name in (CONFIG, INDEX) or origin.role == "dump":
            continue  # A dump is for people; a restore takes the copy.
        to = safe_relative(_place(name, origin, new, elsewhere))
        if origin.role == "include" and origin.inside is None:
            launch.append(Launch(str(to), origin.path, there[name], origin.executable))
        _put(placed, Placed(by_name[name], to, origin.executable))
    if rewriter.changes:
        _put(placed, Placed(by_name[CONFIG], safe_relative(f"{BESIDE}/node.toml.original")))
    config_place = safe_relative(config_name)
    if any(config_place in (to, *to.parents) for to in placed):
        raise _collision(config_name)
    return Layout(
        new,
        config_name,
        rewriter.to_bytes(raw),
        tuple(rewriter.changes),
        tuple(placed.values()),
        tuple(launch),
    )


def _place(name: str, origin: Origin, new: NodeFile, elsewhere: Mapping[str, str]) -> str:
    if origin.role == "database":
        file = new.database()
        return IMAGE if file is None else _inside(file.inside)
    if origin.role == "ers":
        tail = name.removeprefix("ers/")
        return str(PurePosixPath(_inside(new.ers_store().inside)) / tail)
    if origin.role == "file":
        now = {named.key: named.inside for named in new.files()}.get(origin.key)
        return now or elsewhere.get(origin.key) or origin.inside or _beside(origin.path)
    return origin.inside or _beside(origin.path)


def _inside(place: str | None) -> str:
    if place is None:
        raise KeycairnError(Code.STORE_INTEGRITY, "the bundle names a place outside of its node")
    return place


def _beside(path: str) -> str:
    return f"{BESIDE}/{path.lstrip('/')}"


def _put(placed: dict[PurePosixPath, Placed], item: Placed) -> None:
    other = placed.get(item.to)
    if other is not None and other.part.sha256 != item.part.sha256:
        raise _collision(str(item.to))
    parents = [p for p in item.to.parents if p in placed]
    if parents or any(item.to in p.to.parents for p in placed.values()):
        raise _collision(str(item.to))
    placed.setdefault(item.to, item)


def _collision(place: str) -> KeycairnError:
    return KeycairnError(
        Code.STORE_INTEGRITY,
        f"two parts of the bundle would be restored to {place}",
        not_lost="Nothing was written.",
        next="map one of them to another place with --map",
    )


def _same(path: Path, part: Part) -> bool:
    """Whether the file at ``path`` has this part's content."""
    digest = hashlib.sha256()
    try:
        if path.stat().st_size != part.size:
            return False
        with open_regular(path) as stream:
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
    except OSError:
        return False
    return digest.digest() == part.sha256
