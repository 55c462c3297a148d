"""Writes the tables of docs/protocols/cheating.md from what places.py, frames.py and programmes.py
expect; a test fails when the page is not what this gives.

    python tests/protocols/cheating/make_table.py           # writes the page
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[3]
PAGE: Final = ROOT / "docs" / "protocols" / "cheating.md"
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "tests"))

from protocols.cheating.frames import NAMES, FrameRow, frame_rows  # noqa: E402
from protocols.cheating.places import CHEATER, ECHO, NOBODY, OTHERS, Finding  # noqa: E402
from protocols.cheating.programmes import PROGRAMMES, Programme  # noqa: E402
from protocols.cheating.scenes import SCENES  # noqa: E402
from protocols.cheating.shapes import Kind  # noqa: E402
from protocols.cheating.table import VICTIM, WHOLE, Row, rows  # noqa: E402

BEGIN, END = "<!-- begin of the tables -->\n", "<!-- end of the tables -->\n"

_BLAMED = {CHEATER: "4", OTHERS: "one of the others", NOBODY: "nobody"}

#: Heading → the scenes whose rows stand under it.
FAMILIES: Final = {
    "Key generation": ("keygen ed25519", "keygen secp256k1"),
    "Pair setup": ("pair-setup",),
    "DKLs23: presign and sign in one session": ("dkls23/sign", "dkls23/sign p256"),
    "DKLs23: presign": ("dkls23/presign",),
    "DKLs23: sign with presignatures": ("dkls23/use",),
    "FROST: draw nonces and sign in one session": ("frost/sign ed25519", "frost/sign bip340"),
    "FROST: nonces": ("frost/nonces ed25519", "frost/nonces bip340"),
    "FROST: sign with nonces": ("frost/use ed25519", "frost/use bip340"),
    "ERS session": ("ers/document",),
}


def render() -> str:
    """Everything between the two marks of the page."""
    by_scene: dict[str, list[Row]] = {name: [] for name in SCENES}
    for row in rows():
        by_scene[row.scene].append(row)
    frames = list(frame_rows())
    count = sum(map(len, by_scene.values())) + len(frames) + len(PROGRAMMES)
    out = [f"{count} cheats: {sum(map(len, by_scene.values()))} altered messages, "
           f"{len(frames)} altered frames, {len(PROGRAMMES)} altered programmes.\n"]  # fmt: skip
    for title, scenes in FAMILIES.items():
        out += [f"\n## {title}\n\n", *_messages([r for s in scenes for r in by_scene[s]])]
    out += ["\n## Frames\n\n", *_frames(frames)]
    out += ["\n## Altered programmes\n\n", *_programmes(PROGRAMMES)]
    return "".join(out)


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |\n"


def _head(*cells: str) -> str:
    return _line(*cells) + _line(*["---"] * len(cells))


def _ends(found: Finding) -> tuple[str, str, str]:
    """What, who, ban."""
    code = found.code.value if found.code else "–"
    blamed = _BLAMED[found.blamed] if found.code else "–"
    return code, blamed, "**yes**" if found.ban else "no"


def _to_one(row: Row) -> str:
    """What becomes of the players if only player 1 gets the altered message."""
    if len(SCENES[row.scene].judges) == 1:
        return "–"
    verdicts = row.verdicts
    victim, rest = verdicts[VICTIM], verdicts[3]
    if victim is ECHO:
        return "echo: all, E_EQUIVOCATION, 4"
    if victim.code is None:
        return "–"
    if rest == victim:
        return "all alike"
    others = "have a result" if rest.code is None else "hear, blame nobody"
    return f"1 alone; the others {others}"


def _spent(row: Row) -> str:
    if not SCENES[row.scene].books:
        return "–"
    return "yes" if row.spent[SCENES[row.scene].judges[0]] else "no"


def _messages(cheats: Iterable[Row]) -> Iterator[str]:
    yield _head(
        "message", "field", "altered", "found by", "ends with", "blamed", "ban", "spent",
        "to player 1 only",
    )  # fmt: skip
    lines: dict[tuple[str, ...], list[str]] = {}
    pending: dict[tuple[str, str, str, str], Row] = {}
    for row in cheats:
        name = (row.scene, row.place.message.__name__, row.field, row.change.name)
        if row.only_to is None:
            pending[name] = row
        if row.only_to is None and len(SCENES[row.scene].judges) > 1:
            continue
        to_all, message = pending[name], row.place.message.__name__
        field, change = row.field, row.change.name
        if row.change.kind is Kind.TYPE and field != WHOLE:
            field, change = WHOLE, "a number in place of a field"
        key = (message, field, to_all.finding.by, *_ends(to_all.finding), _spent(to_all),
               _to_one(row))  # fmt: skip
        names = lines.setdefault(key, [])
        if change not in names:
            names.append(change)
    for (message, field, by, code, blamed, ban, spent, one), names in lines.items():
        label = "the body" if field == WHOLE else f"`{field}`"
        yield _line(f"`{message}`", label, ", ".join(names), by, code, blamed, ban, spent, one)


def _frames(cheats: list[FrameRow]) -> Iterator[str]:
    yield _head("session", "frame", "field", "altered", "ends with", "blamed", "found by")
    alike = groupby(
        (row for row in cheats if row.only_to is None),
        lambda r: (r.scene, NAMES[r.kind], r.field, *_ends(r.finding)[:2], r.finding.by),
    )
    for (scene, kind, field, code, blamed, by), group in alike:
        names = ", ".join(row.name for row in group)
        yield _line(scene, kind, f"`{field}`", names, code, blamed, by)


def _programmes(cheats: Iterable[Programme]) -> Iterator[str]:
    yield _head("session", "what player 4 does", "found by", "ends with", "blamed", "ban", "at")
    for cheat in cheats:
        found = cheat.finding
        where = "–" if found.code is None else "all" if cheat.only is None else "1 alone"
        yield _line(cheat.scene, cheat.name, found.by, *_ends(found), where)


def page() -> str:
    """The page as it should be."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{render()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
