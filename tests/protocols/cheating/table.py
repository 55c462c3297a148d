"""The rows of the table, what each must end with, and how one is run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from keycairn.errors import Abort, Certainty, Code, KeycairnError, PeerAborted
from keycairn.protocols import session, wire
from keycairn.protocols.session import Frame
from protocols.cheating.places import (
    CHEATER,
    ECHO,
    MALFORMED,
    NOBODY,
    PLACES,
    SAME,
    Finding,
    Place,
)
from protocols.cheating.scenes import CHEATER as FOUR
from protocols.cheating.scenes import SCENES, Stage
from protocols.cheating.shapes import Change, Kind, changes
from protocols.network import ECHO as ECHO_FRAME
from protocols.network import Copy, Outcome, World

VICTIM = 1
WHOLE = "(body)"

#: Alterations of a whole body, which the codec refuses.
BODIES: dict[str, Callable[[bytes], bytes]] = {
    "junk": lambda _: b"\xc1",
    "nothing": lambda _: b"",
    "a byte more": lambda body: body + b"\0",
    "a field more": lambda body: bytes([body[0] + 1]) + body[1:] + b"\xc0",
    "a field less": lambda body: bytes([body[0] - 1]) + body[1:],
    "not canonical": lambda body: b"\xdc\0" + bytes([body[0] & 0x0F]) + body[1:],
}


@dataclass(frozen=True)
class Row:
    """One cheat: in a scene, player 4's message of a place is altered."""

    scene: str
    place: Place
    field: str
    change: Change
    only_to: int | None

    def __str__(self) -> str:
        to = "all" if self.only_to is None else f"player {self.only_to}"
        name = self.place.message.__name__
        return f"{self.scene}: {name}.{self.field}, {self.change.name}, to {to}"

    @property
    def finding(self) -> Finding:
        """What finds it, if it comes to the receivers alike."""
        if self.field == WHOLE or self.change.kind is Kind.TYPE:
            return MALFORMED
        return self.place.fields[self.field].finding(self.change)

    @property
    def verdicts(self) -> dict[int, Finding]:
        """What each honest player ends with. Code None and blame NOBODY: it has a result."""
        finding, judges = self.finding, SCENES[self.scene].judges
        if self.only_to is None:
            return {i: finding for i in judges}
        if self.place.echo and finding not in (SAME, MALFORMED):
            return {i: ECHO for i in judges}
        rest = finding if finding.joint else bystander(finding, self.place)
        return {i: finding if i == self.only_to else rest for i in judges}

    @property
    def spent(self) -> dict[int, bool]:
        """Which honest player has booked a presignature as used."""
        place = self.place
        if not SCENES[self.scene].books:
            return dict.fromkeys(self.verdicts, False)
        late = self.finding.code in (None, Code.SIG_INVALID)
        return {
            i: late
            or place.spent == "before"
            or (place.spent == "passed" and self.only_to not in (None, i))
            for i in self.verdicts
        }


def bystander(finding: Finding, place: Place) -> Finding:
    """An honest player that was sent the right message: it has its result already, or it hears
    that the other one left. It never bans, and blames nobody."""
    if finding.code is None or place.last:
        return Finding(None, NOBODY, "has its result")
    return Finding(finding.code, NOBODY, "hears")


def rows() -> Iterator[Row]:
    """All cheats by altered messages."""
    for scene, places in PLACES.items():
        targets = (None, VICTIM) if len(SCENES[scene].judges) > 1 else (None,)
        for place in places:
            for name, spec in place.fields.items():
                for change in changes(spec.shape):
                    yield from (Row(scene, place, name, change, to) for to in targets)
            for what, apply in BODIES.items():
                change = Change(what, Kind.TYPE, lambda body, _, f=apply: f(body))
                yield from (Row(scene, place, WHOLE, change, to) for to in targets)


class Cheat:
    """The man in the middle who alters player 4's message as a row says, and signs it for it.

    A cheat to all is consistent: player 4's echo confirms what it sent, and what the others echo
    of it is kept from player 4's own driver, which knows nothing of the cheat. For "another's"
    value player 4 waits until it has that message (it *rushes*).
    """

    def __init__(self, stage: Stage, row: Row) -> None:
        self.stage, self.row = stage, row
        self.hits = 0
        self._other = 3 if 3 in SCENES[row.scene].judges else VICTIM
        self._theirs: Any = None
        self._held: list[Copy] = []
        self._echo_step = -1
        self._sent: tuple[bytes, bytes] | None = None  # hash and signature as the others have it
        self._meant: tuple[bytes, bytes] | None = None  # as player 4's driver has it

    def __call__(self, copy: Copy) -> list[Frame] | None:
        row = self.row
        if copy.frame.kind == ECHO_FRAME and copy.frame.step == self._echo_step:
            return self._echo(copy)
        if self.stage.message_of(copy) is not row.place.message:
            return None
        if (copy.sender, copy.receiver) == (self._other, FOUR):
            self._theirs = copy.body(row.place.message)
            for held in self._held:
                self.stage.world.inject(FOUR, held.receiver, self._altered(held))
            self._held = []
        if copy.sender != FOUR or row.only_to not in (None, copy.receiver):
            return None
        if row.change.name == "another's" and self._theirs is None:
            self._held.append(copy)
            return []
        return [self._altered(copy)]

    def _altered(self, copy: Copy) -> Frame:
        self.hits += 1
        frame = signed(self.stage.world, copy, self._body(copy))
        if frame.signature and self.row.only_to is None:
            self._echo_step = frame.step + 1
            self._sent = self._entry(frame)
            self._meant = self._entry(copy.frame)
        return frame

    def _entry(self, frame: Frame) -> tuple[bytes, bytes]:
        return session.body_hash(frame.sid, frame.step, FOUR, frame.body), frame.signature

    def _echo(self, copy: Copy) -> list[Frame] | None:
        entry = self._sent if copy.sender == FOUR else self._meant
        if FOUR not in (copy.sender, copy.receiver) or entry is None:
            return None
        own = SCENES[self.row.scene].players.index(FOUR)
        echo = copy.body(session.Echo)
        hashes, signatures = list(echo.hashes), list(echo.signatures)
        hashes[own], signatures[own] = entry
        return [copy.but(body=session.Echo(tuple(hashes), tuple(signatures)))]

    def _body(self, copy: Copy) -> bytes:
        row = self.row
        if row.field == WHOLE:
            return row.change.apply(copy.frame.body, None)  # type: ignore[no-any-return]
        mine = copy.body(row.place.message)
        theirs = mine if self._theirs is None else self._theirs
        value = row.change.apply(getattr(mine, row.field), getattr(theirs, row.field))
        return wire.encode(msgspec.structs.replace(mine, **{row.field: value}))


def signed(world: World, copy: Copy, body: bytes) -> Frame:
    """The frame with another body and, where it was signed, the sender's valid signature."""
    frame = copy.but(body=body)
    if not frame.signature:
        return frame
    hashed = session.body_hash(frame.sid, frame.step, copy.sender, body)
    statement = session.broadcast_statement(frame.sid, frame.step, copy.sender, hashed)
    return msgspec.structs.replace(frame, signature=world.signers[copy.sender].sign(statement))


async def run_row(stage: Stage, row: Row) -> dict[int, Outcome]:
    """Play the scene with the cheat; checks nothing but that the cheat took place."""
    stage.forget()
    cheat = Cheat(stage, row)
    setting = SCENES[row.scene]
    stage.world.frames(cheat)
    try:
        outcomes: dict[int, Outcome] = await setting.scene(stage, setting.players)
    finally:
        stage.world.frames(lambda _: None)
    assert cheat.hits, f"{row}: no such message went by"
    return outcomes


# -- what must be true ----------------------------------------------------------------------------


def differences(
    stage: Stage,
    outcomes: dict[int, Outcome],
    verdicts: dict[int, Finding],
    spent: dict[int, bool],
) -> list[str]:
    """Everything in which the honest players' ends differ from their verdicts."""
    out = []
    for i, verdict in verdicts.items():
        outcome = outcomes[i]
        said = _said(i, outcome, verdict, set(outcomes))
        out += [f"player {i}: {s}" for s in said]
        bans = [b.peers for b in stage.world[i].events("ban")]
        if bans != ([(FOUR,)] if verdict.ban else []):
            out.append(f"player {i}: bans {bans}")
        books = len(stage.world[i].events("spend"))
        if books != spent[i]:
            out.append(f"player {i}: booked {books} presignatures as spent")
    return out


def _said(i: int, outcome: Outcome, verdict: Finding, players: set[int]) -> Iterator[str]:
    error = outcome.error
    if error is not None and not isinstance(error, KeycairnError):
        yield f"an exception of no type: {error!r}"
        return
    if verdict.code is None:
        if error is not None or outcome.result is None:
            yield f"{error} in place of a result"
        return
    if outcome.result is not None:
        yield "has a result"
    if not isinstance(error, Abort):
        yield f"{error!r} in place of {verdict.code.value}"
        return
    if error.code is not verdict.code:
        yield f"{error.code.value} ({error.message}) in place of {verdict.code.value}"
    if verdict.blamed == CHEATER:
        expected: tuple[tuple[int, ...], Certainty] = ((FOUR,), Certainty.CERTAIN)
    elif verdict.blamed == NOBODY:
        expected = ((), Certainty.NOBODY)
    else:
        expected = (tuple(sorted(players - {i})), Certainty.ONE_OF)
    if (error.culprits, error.certainty) != expected:
        yield f"blames {error.culprits}, {error.certainty.value}"
    if verdict.by == "hears" and not isinstance(error, PeerAborted):
        yield f"finds it by itself: {error}"
    if error.ban != verdict.ban:
        yield "ban" if error.ban else "no ban"


def invariants(stage: Stage, outcomes: dict[int, Outcome], honest: tuple[int, ...]) -> list[str]:
    """What holds whatever the cheat was, also where no verdict is written down.

    A signature that does not verify would have failed in the scene already.
    """
    out = []
    for i in honest:
        error = outcomes[i].error if i in outcomes else None
        if error is not None and not isinstance(error, KeycairnError):
            out.append(f"player {i}: {error!r} is no KeycairnError")
        if isinstance(error, Abort):
            if error.certainty is Certainty.CERTAIN and set(error.culprits) - {FOUR}:
                out.append(f"player {i} blames honest players {error.culprits}")
            if error.certainty is Certainty.ONE_OF and FOUR not in error.culprits:
                out.append(f"player {i}: the cheater is not among {error.culprits}")
            if error.ban and error.code is not Code.OT_CHECK:
                out.append(f"player {i} bans for {error.code.value}")
        for record in stage.world[i].events("ban"):
            if record.peers != (FOUR,) or not isinstance(error, Abort) or not error.ban:
                out.append(f"player {i} has banned {record.peers}")
        for peer, setup in stage.setups[i].items():
            banned = isinstance(error, Abort) and error.ban and peer == FOUR
            if setup.dead != banned:
                out.append(f"player {i}: setup with {peer} is {'dead' if setup.dead else 'alive'}")
    return out
