"""Cheats in the frames themselves: the handshake, echoes, notices, and the fields around a body.

The scene is a signature by DKLs23, where a mistaken verdict would cost the most: nothing here may
ban. Findings are those of docs/protocols/index.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from keycairn.errors import Code
from keycairn.protocols import wire
from keycairn.protocols.session import AbortNotice, Echo, Frame, Hello
from protocols.cheating.places import CHEATER, MALFORMED, NOBODY, NOTHING, Finding
from protocols.cheating.scenes import CHEATER as FOUR
from protocols.cheating.scenes import SCENES, Stage
from protocols.cheating.table import VICTIM
from protocols.network import ABORT, BROADCAST, CONFIRM, DIRECT, ECHO, HELLO, Copy, Outcome

SCENE: Final = "dkls23/sign"
NAMES: Final = {
    HELLO: "HELLO", CONFIRM: "CONFIRM", BROADCAST: "BROADCAST", DIRECT: "DIRECT",
    ECHO: "ECHO", ABORT: "ABORT",
}  # fmt: skip

#: Sessions from presignatures.
USES: Final = ("dkls23/use", "frost/use ed25519")
#: Alterations that change nothing where there is no pair setup.
_OF_A_PAIR: Final = ("another setup", "none", "unsorted", "twice the same")

MISMATCH: Final = Finding(Code.SESSION_MISMATCH, NOBODY, "handshake", joint=True)
FOREIGN: Final = Finding(Code.SESSION_MISMATCH, NOBODY, "session id", joint=True)
#: The frame is dropped, and player 4 seems silent.
SILENCE: Final = Finding(Code.PEER_TIMEOUT, NOBODY, "dropped", joint=True)
TWICE: Final = Finding(Code.EQUIVOCATION, CHEATER, "mailbox")
OPENED: Final = Finding(Code.BAD_COMMIT, CHEATER, "commitment to ν")
SIGNATURE: Final = Finding(Code.BAD_PROOF, CHEATER, "signature")
FALSE_ECHO: Final = Finding(Code.BAD_PROOF, CHEATER, "signature")
ECHO_LENGTH: Final = Finding(Code.BAD_LENGTH, CHEATER, "length")

Apply = Callable[[Frame], Frame]


def notice(code: Code) -> Finding:
    """Somebody left: nobody is blamed, whatever it says."""
    return Finding(code, NOBODY, "notice", joint=True)


@dataclass(frozen=True)
class FrameRow:
    """One cheat: player 4's first frame of a kind is altered."""

    kind: int
    field: str
    name: str
    apply: Apply
    finding: Finding
    only_to: int | None = None
    scene: str = SCENE

    def __str__(self) -> str:
        to = "all" if self.only_to is None else f"player {self.only_to}"
        return f"{self.scene}: {NAMES[self.kind]}.{self.field}, {self.name}, to {to}"

    @property
    def verdicts(self) -> dict[int, Finding]:
        found = self.finding
        judges = SCENES[self.scene].judges
        if self.only_to is None or found.joint or found.code is None:
            return dict.fromkeys(judges, found)
        # Who got another nonce is in a session of another id.
        rest = FOREIGN if found is OPENED else Finding(found.code, NOBODY, "hears")
        return {i: found if i == self.only_to else rest for i in judges}

    @property
    def spent(self) -> dict[int, bool]:
        # A session from presignatures spends before its HELLO leaves.
        return dict.fromkeys(self.verdicts, self.scene in USES or self.finding.code is None)


def _set(**fields: Any) -> Apply:
    return lambda frame: msgspec.structs.replace(frame, **fields)


def _mapped(name: str, change: Callable[[Any], Any]) -> Apply:
    return lambda frame: msgspec.structs.replace(frame, **{name: change(getattr(frame, name))})


def _body(kind: type[wire.Message], change: Callable[[Any], Any]) -> Apply:
    def apply(frame: Frame) -> Frame:
        body = wire.encode(change(wire.decode(kind, frame.body)))
        return msgspec.structs.replace(frame, body=body)

    return apply


def _fields(kind: type[wire.Message], name: str, change: Callable[[Any], Any]) -> Apply:
    return _body(kind, lambda m: msgspec.structs.replace(m, **{name: change(getattr(m, name))}))


def _flip(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


#: Hello's fields → alterations by name. All of them are differences between requests.
_HELLO: Final[dict[str, dict[str, Callable[[Any], Any]]]] = {
    "protocol": {"another": lambda _: "keygen", "empty": lambda _: ""},
    "protocol_version": {"one below": lambda v: v - 1, "one above": lambda v: v + 1},
    "vault": {"another": lambda v: v + "x", "empty": lambda _: ""},
    "name": {"another": lambda v: v + "x", "empty": lambda _: ""},
    "players": {
        "one less": lambda p: p[:-1],
        "one more": lambda p: (*p, 5),
        "unsorted": lambda p: p[::-1],
        "twice the same": lambda p: (*p, p[-1]),
        "empty": lambda _: (),
    },
    "params": {
        "last bit": lambda p: p[:-1] + bytes([p[-1] ^ 1]),
        "longer": lambda p: p + b"\0",
        "empty": lambda _: b"",
    },
    "incarnation": {
        "first bit": _flip,
        "shorter": lambda v: v[:-1],
        "longer": lambda v: v + b"\0",
        "empty": lambda _: b"",
    },
    "nonce": {
        "first bit": _flip,
        "zeros": lambda v: bytes(len(v)),
        "shorter": lambda v: v[:-1],
        "longer": lambda v: v + b"\0",
        "empty": lambda _: b"",
    },
    "bindings": {
        "another setup": lambda b: tuple((p, _flip(s)) for p, s in b),
        "none": lambda _: (),
        "one more": lambda b: (*b, (9, bytes(32))),
        "unsorted": lambda b: b[::-1],
        "twice the same": lambda b: (*b, b[-1]),
    },
}


def _hello() -> Iterator[tuple[int, str, str, Apply, Finding]]:
    for name, changes in _HELLO.items():
        for what, change in changes.items():
            yield HELLO, f"body.{name}", what, _fields(Hello, name, change), MISMATCH
        wrong = _fields(Hello, name, lambda old: "7" if isinstance(old, int) else 7)
        yield HELLO, f"body.{name}", "another type", wrong, MALFORMED
    yield HELLO, "body", "junk", _set(body=b"\xc1"), MALFORMED
    yield HELLO, "body", "empty", _set(body=b""), MALFORMED
    yield HELLO, "version", "0", _set(version=0), MISMATCH
    yield HELLO, "version", "2", _set(version=2), MISMATCH
    # There is no session id yet, and nothing is signed.
    yield HELLO, "sid", "32 bytes", _set(sid=b"x" * 32), NOTHING
    yield HELLO, "sid", "33 bytes", _set(sid=bytes(33)), SILENCE
    yield HELLO, "signature", "64 bytes", _set(signature=bytes(64)), NOTHING
    yield HELLO, "signature", "65 bytes", _set(signature=bytes(65)), SILENCE
    yield HELLO, "step", "1", _set(step=1), SILENCE
    yield HELLO, "kind", "CONFIRM", _set(kind=CONFIRM), SILENCE
    yield HELLO, "kind", "ABORT", _set(kind=ABORT), SILENCE


def _confirm() -> Iterator[tuple[int, str, str, Apply, Finding]]:
    for what, change in {
        "first bit": _flip, "zeros": lambda _: bytes(32), "shorter": lambda b: b[:-1],
        "longer": lambda b: b + b"\0", "empty": lambda _: b"",
    }.items():  # fmt: skip
        yield CONFIRM, "body", what, _mapped("body", change), MISMATCH
    yield CONFIRM, "sid", "32 bytes", _set(sid=b"x" * 32), NOTHING
    yield CONFIRM, "signature", "64 bytes", _set(signature=bytes(64)), NOTHING
    yield CONFIRM, "kind", "BROADCAST", _set(kind=BROADCAST), SILENCE
    yield CONFIRM, "step", "0", _set(step=0), SILENCE


def _round(kind: int) -> Iterator[tuple[int, str, str, Apply, Finding]]:
    yield kind, "sid", "another", _set(sid=b"x" * 32), FOREIGN
    yield kind, "sid", "empty", _set(sid=b""), FOREIGN
    yield kind, "sid", "33 bytes", _set(sid=bytes(33)), SILENCE
    yield kind, "kind", "HELLO", _set(kind=HELLO), SILENCE
    yield kind, "kind", "6", _set(kind=6), SILENCE
    yield kind, "step", "before", _mapped("step", lambda n: n - 1), SILENCE
    yield kind, "step", "2 ahead", _mapped("step", lambda n: n + 2), SILENCE
    # Another message of the same step is in that slot already, or comes.
    other = DIRECT if kind == BROADCAST else BROADCAST
    if kind != ECHO:
        yield kind, "kind", NAMES[other], _set(kind=other), TWICE


def _signatures() -> Iterator[tuple[int, str, str, Apply, Finding]]:
    for what, change in {
        "first bit": _flip, "zeros": lambda _: bytes(64), "shorter": lambda s: s[:-1],
        "empty": lambda _: b"",
    }.items():  # fmt: skip
        yield BROADCAST, "signature", what, _mapped("signature", change), SIGNATURE
    yield BROADCAST, "signature", "65 bytes", _set(signature=bytes(65)), SILENCE
    yield DIRECT, "signature", "64 bytes", _set(signature=bytes(64)), NOTHING
    yield ECHO, "signature", "64 bytes", _set(signature=bytes(64)), NOTHING


def _echo() -> Iterator[tuple[int, str, str, Apply, Finding]]:
    def entry(at: int, change: Callable[[bytes], bytes]) -> Callable[[Any], Any]:
        return lambda v: (*v[:at], change(v[at]), *v[at + 1 :])

    for at, whose in ((0, "of 1's"), (1, "of 3's"), (2, "of its own")):
        for what, change in {
            "first bit": _flip, "zeros": lambda _: bytes(32), "shorter": lambda h: h[:-1],
            "empty": lambda _: b"",
        }.items():  # fmt: skip
            yield (
                ECHO,
                "body.hashes",
                f"{what} {whose}",
                _fields(Echo, "hashes", entry(at, change)),
                FALSE_ECHO,
            )
        # Only where hashes differ are signatures looked at.
        apply = _fields(Echo, "signatures", entry(at, lambda _: bytes(64)))
        yield ECHO, "body.signatures", f"zeros {whose}", apply, NOTHING
    for name in ("hashes", "signatures"):
        for what, count in {
            "none": lambda _: (), "one less": lambda v: v[:-1], "one more": lambda v: (*v, v[0]),
        }.items():  # fmt: skip
            yield ECHO, f"body.{name}", what, _fields(Echo, name, count), ECHO_LENGTH
    yield ECHO, "body", "junk", _set(body=b"\xc1"), MALFORMED


def _every_kind() -> Iterator[tuple[int, str, str, Apply, Finding]]:
    for kind in (HELLO, CONFIRM, BROADCAST, DIRECT, ECHO):
        yield kind, "route", "another", _set(route=bytes(32)), SILENCE
        if kind != HELLO:
            for version in (0, 2):
                yield kind, "version", str(version), _set(version=version), SILENCE


def _aborts() -> Iterator[tuple[int, str, str, Apply, Finding]]:
    def leave(code: str) -> Apply:
        body = wire.encode(AbortNotice(code))
        return _set(kind=ABORT, body=body, signature=b"")

    for code in Code:
        hidden = code in (Code.AUTHN, Code.RATE_LIMIT)
        said = notice(Code.UNAVAILABLE if hidden else code)
        yield ABORT, "body.code", code.value, leave(code.value), said
    yield ABORT, "body.code", "no code", leave("E_GUILTY_IS_3"), notice(Code.UNAVAILABLE)
    yield ABORT, "body.code", "empty", leave(""), notice(Code.UNAVAILABLE)
    yield ABORT, "body", "junk", _set(kind=ABORT, body=b"\xc1"), SILENCE
    number = wire.encode(AbortNotice(7))  # type: ignore[arg-type]
    yield ABORT, "body.code", "another type", _set(kind=ABORT, body=number), SILENCE
    old = wire.encode(AbortNotice("E_OT_CHECK"))
    yield ABORT, "sid", "another", _set(kind=ABORT, body=old, sid=b"x" * 32), SILENCE


def _uses() -> Iterator[FrameRow]:
    """HELLO again, where it opens a presignature and no CONFIRM follows it."""
    for scene in USES:
        for kind, name, what, apply, finding in _hello():
            if scene != "dkls23/use" and name == "body.bindings" and what in _OF_A_PAIR:
                continue
            # There ν is opened, and every receiver alone checks it against what was committed.
            if (scene, name) == ("dkls23/use", "body.nonce") and what in ("first bit", "zeros"):
                finding = OPENED
            for to in (None, VICTIM):
                yield FrameRow(kind, name, what, apply, finding, to, scene)


def frame_rows() -> Iterator[FrameRow]:
    """All cheats by altered frames, to all and to one."""
    yield from _uses()
    sources = (
        _hello(), _confirm(), _round(BROADCAST), _round(DIRECT), _round(ECHO), _signatures(),
        _echo(), _every_kind(), _aborts(),
    )  # fmt: skip
    for source in sources:
        for kind, name, what, apply, finding in source:
            for to in (None, VICTIM):
                yield FrameRow(kind, name, what, apply, finding, to)


async def run_frame(stage: Stage, row: FrameRow) -> dict[int, Outcome]:
    """Play the scene with the cheat. An ABORT row replaces player 4's first broadcast."""
    stage.forget()
    kind = BROADCAST if row.kind == ABORT else row.kind
    step: list[int] = []

    def cheat(copy: Copy) -> list[Frame] | None:
        if copy.sender != FOUR or copy.frame.kind != kind:
            return None
        if (step or [copy.frame.step])[0] != copy.frame.step:
            return None
        step.append(copy.frame.step)
        return [row.apply(copy.frame)] if row.only_to in (None, copy.receiver) else None

    stage.world.frames(cheat)
    try:
        setting = SCENES[row.scene]
        outcomes: dict[int, Outcome] = await setting.scene(stage, setting.players)
    finally:
        stage.world.frames(lambda _: None)
    assert step, f"{row}: no such frame went by"
    return outcomes


#: Every field of every frame and of the bodies that are not a protocol's.
FRAME_FIELDS: Final = {
    *Frame.__struct_fields__,
    *(f"body.{name}" for kind in (Hello, Echo, AbortNotice) for name in kind.__struct_fields__),
}
