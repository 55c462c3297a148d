"""Every message of every round × every field × every alteration: docs/protocols/cheating.md.

Player 4 cheats; the findings stand in places.py, frames.py and programmes.py, and were written
from the protocol pages. After every tenth cheat (with --full: after each) the honest players run
the session again without player 4, on the same nodes.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Awaitable, Callable
from typing import Any
from unittest import mock

import pytest

import keycairn.protocols
from keycairn.errors import Code
from keycairn.protocols import session, wire
from keycairn.protocols.dkls23.pairwise import Pairwise
from keycairn.protocols.form import Round
from protocols.cheating import make_table
from protocols.cheating.frames import FRAME_FIELDS, NAMES, FrameRow, frame_rows, run_frame
from protocols.cheating.places import PLACES, Place
from protocols.cheating.programmes import PROGRAMMES, Programme, run_programme
from protocols.cheating.scenes import SCENES, Stage
from protocols.cheating.table import Row, differences, invariants, rows, run_row
from protocols.cheating.virtual import play

PRESIGN = importlib.import_module("keycairn.protocols.dkls23.presign")
Cheat = Row | FrameRow | Programme


async def honest(stage: Stage, scene: str) -> list[str]:
    """The nodes still serve: everybody but player 4 runs the session to its end."""
    setting = SCENES[scene]
    stage.forget()
    outcomes = await setting.scene(stage, setting.honest)
    return [f"then, without player 4: {o.error!r}" for o in outcomes.values() if o.error]


async def tried(cheats: list[Any], run: Callable[..., Awaitable[Any]], every: int) -> list[str]:
    """Play all cheats on one stage; everything that was not as expected."""
    wrong: list[str] = []
    stage = await Stage.open()
    for number, cheat in enumerate(cheats, 1):
        scene = cheat.scene
        outcomes = await run(stage, cheat)
        found = differences(stage, outcomes, cheat.verdicts, cheat.spent)
        found += invariants(stage, outcomes, SCENES[scene].judges)
        if number % every == 0 or number == len(cheats):
            found += await honest(stage, scene)
        wrong += [f"{cheat}: {said}" for said in found]
        if scene == "pair-setup" or any(v.ban for v in cheat.verdicts.values()):
            stage.renew()
    return wrong


@pytest.fixture
def every(pytestconfig: pytest.Config) -> int:
    return 1 if pytestconfig.getoption("--full") else 10


#: The same messages on another curve: with --full.
AGAIN = ("dkls23/sign p256",)
BY_PLACE = [
    pytest.param(
        scene,
        place,
        id=f"{scene}-{place.message.__name__}",
        marks=[pytest.mark.full] if scene in AGAIN else [],
    )
    for scene, places in PLACES.items()
    for place in places
]


@pytest.mark.parametrize(("scene", "place"), BY_PLACE)
def test_altered_messages(scene: str, place: Place, every: int) -> None:
    cheats = [r for r in rows() if r.scene == scene and r.place is place]
    if scene == "dkls23/presign" and every > 1:
        cheats = cheats[::3]  # "dkls23/sign" begins with the same messages
    assert play(tried(cheats, run_row, every)) == []


@pytest.mark.parametrize("kind", NAMES, ids=NAMES.values())
def test_altered_frames_never_ban(kind: int, every: int) -> None:
    cheats = [r for r in frame_rows() if r.kind == kind]
    assert not any(v.ban for r in cheats for v in r.verdicts.values())
    assert play(tried(cheats, run_frame, every)) == []


def test_altered_programmes(every: int) -> None:
    assert play(tried(list(PROGRAMMES), run_programme, every)) == []


# -- nothing is missing ---------------------------------------------------------------------------


def protocol_messages() -> set[type[wire.Message]]:
    """All message classes of the protocols' floor."""
    for module in pkgutil.walk_packages(keycairn.protocols.__path__, "keycairn.protocols."):
        importlib.import_module(module.name)
    found, waiting = set(), [wire.Message]
    while waiting:
        for kind in waiting.pop().__subclasses__():
            waiting.append(kind)
            if kind.__module__.startswith("keycairn.protocols."):
                found.add(kind)
    return found


def test_no_message_of_any_round_is_missing() -> None:
    """Parameter records travel inside HELLO, whose rows alter them as a whole."""
    in_rounds = {place.message for places in PLACES.values() for place in places}
    frames = {session.Frame, session.Hello, session.Echo, session.AbortNotice}
    rest = protocol_messages() - in_rounds - frames
    assert {kind for kind in rest if not kind.__name__.endswith(("Params", "Item"))} == set()


def test_no_field_of_any_message_or_frame_is_missing() -> None:
    for places in PLACES.values():
        for place in places:
            assert tuple(place.fields) == place.message.__struct_fields__, place.message
    covered = {row.field for row in frame_rows()}
    assert covered >= FRAME_FIELDS


@pytest.mark.parametrize("scene", SCENES)
def test_places_are_the_rounds_that_the_protocol_runs(scene: str) -> None:
    """Message, way and echo of every round, in order, as an honest run sends them."""
    seen: list[tuple[type, str, bool]] = []

    async def run() -> None:
        stage = await Stage.open()
        noted = stage.rounds

        class Notes(dict[int, Round]):
            def __setitem__(self, player: int, sent: Round) -> None:
                if player == 4:
                    if sent.broadcast is not None:
                        seen.append((type(sent.broadcast), "broadcast", sent.echo))
                    if sent.direct:
                        seen.append((type(next(iter(sent.direct.values()))), "direct", False))
                noted[player] = sent
                super().__setitem__(player, sent)

        stage.rounds = Notes()
        outcomes = await SCENES[scene].scene(stage, SCENES[scene].players)
        assert not any(o.error for o in outcomes.values())

    play(run())
    expected = [(p.message, p.kind, p.echo) for p in PLACES[scene]]
    assert seen[: len(expected)] == expected
    # What a pair setup or a presigning makes is used in the same scene.
    assert len(seen) == len(expected) or scene in ("pair-setup", "dkls23/presign")


def test_the_page_is_what_the_table_says() -> None:
    """If not: python tests/protocols/cheating/make_table.py"""
    assert make_table.PAGE.read_text(encoding="utf-8") == make_table.page()


def test_every_test_that_the_page_names_exists() -> None:
    tests = make_table.ROOT / "tests"
    written = {
        name
        for file in tests.rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)", file.read_text(encoding="utf-8"))
    }
    named = set(re.findall(r"`(test_\w+)`", make_table.PAGE.read_text(encoding="utf-8")))
    assert len(named) > 40
    assert named - written == set()


# -- the table can fail ---------------------------------------------------------------------------

_TRUE = mock.Mock(return_value=True)
_CHECKS = {
    "commitments not compared": (
        mock.patch.object(PRESIGN.hmac, "compare_digest", _TRUE),
        ("Opening", "salt", "first bit"),
    ),
    "OT check not evaluated": (
        mock.patch.object(
            Pairwise,
            "judge_request",
            lambda self, messages, honest=Pairwise.judge_request: (honest(self, messages), True)[1],
        ),
        ("OtRequest", "t_hat", "first bit"),
    ),
    "VOLE and Γ checks not evaluated": (
        mock.patch.object(
            Pairwise,
            "judge_reply",
            lambda self, *rest, honest=Pairwise.judge_reply: (honest(self, *rest), True)[1],
        ),
        ("VoleReply", "mu", "first bit"),
    ),
}


@pytest.mark.parametrize("name", _CHECKS)
def test_control_a_check_that_is_left_out_is_noticed(name: str) -> None:
    patch, (message, field, change) = _CHECKS[name]
    cheats = [
        r
        for r in rows()
        if r.scene == "dkls23/sign"
        and (r.place.message.__name__, r.field, r.change.name) == (message, field, change)
    ]
    with patch:
        wrong = play(tried(cheats, run_row, 1))
    assert len(cheats) == 2
    assert len({said.split(": player")[0] for said in wrong}) >= 1


def test_control_findings_are_compared_in_every_part() -> None:
    """Another code, blame, ban, or spend than expected shows."""

    async def run() -> list[int]:
        stage = await Stage.open()
        row = next(r for r in rows() if r.scene == "dkls23/sign" and r.finding.ban)
        outcomes = await run_row(stage, row)
        verdict = row.verdicts[1]
        others = [
            {1: make_table.Finding(Code.BAD_COMMIT, verdict.blamed, "", ban=True)},
            {1: make_table.Finding(verdict.code, make_table.OTHERS, "", ban=True)},
            {1: make_table.Finding(verdict.code, verdict.blamed, "")},
            {1: make_table.Finding(None, make_table.NOBODY, "")},
        ]
        told = [len(differences(stage, outcomes, other, row.spent)) for other in others]
        told.append(len(differences(stage, outcomes, row.verdicts, {1: True, 3: True})))
        return [*told, -len(differences(stage, outcomes, row.verdicts, row.spent))]

    *told, same = play(run())
    assert all(told)
    assert same == 0
