"""Sessions: what a run is called, what it depends on, and the frames that carry it.

The session id covers protocol and version, vault, session name, the players with their
incarnations, the whole typed parameter record and a fresh nonce of every player
(docs/protocols/index.md, R-12). It is agreed in two steps before any secret is used: HELLO
(everything but the id) and CONFIRM (the id). A mismatch names the field and blames nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from keycairn.encoding import digest, tag
from keycairn.encoding import encode as transcript
from keycairn.errors import Abort, Code, KeycairnError
from keycairn.protocols.form import Durable
from keycairn.protocols.wire import MAX_MESSAGE, Message, decode, encode

WIRE_VERSION = 1
NONCE_LEN = 32
#: Largest body of a round in sessions about single signatures or a single pair.
SMALL_ROUNDS = 256 << 10

_ROUTE = tag("session/route")
_SID = tag("session/id")
_BROADCAST = tag("session/broadcast")
_BODY = tag("session/body")

HELLO, CONFIRM, BROADCAST, DIRECT, ECHO, ABORT = range(6)


class Frame(Message, frozen=True):
    """One message of a session on the wire.

    ``step`` counts HELLO (0), CONFIRM (1, unless the session is from presignatures), then one per
    round and one per echo. ``sid`` is empty
    in a HELLO and, when the id is not agreed yet, in an ABORT. ``signature`` is the sender's, on
    broadcasts in sessions of three or more.
    """

    version: int
    route: bytes
    sid: bytes
    step: int
    kind: int
    body: bytes
    signature: bytes


class Hello(Message, frozen=True):
    """Everything the session depends on, as this player was asked for it."""

    protocol: str
    protocol_version: int
    vault: str
    name: str
    players: tuple[int, ...]
    params: bytes
    incarnation: bytes
    nonce: bytes
    bindings: tuple[tuple[int, bytes], ...]


class Echo(Message, frozen=True):
    """Hash and signature of every player's broadcast, as received (own one included)."""

    hashes: tuple[bytes, ...]
    signatures: tuple[bytes, ...]


class AbortNotice(Message, frozen=True):
    """A player ends the session; the code says why, never which check or row."""

    code: str


@dataclass(frozen=True)
class Opening:
    """How a session from presignatures begins: spend, then open (docs/protocols/index.md).

    Attributes:
        spend: made durable before the HELLO leaves.
        nonce: this player's nonce in the HELLO; DKLs23 opens its ν there.
    """

    spend: Durable
    nonce: bytes = field(repr=False)


@dataclass(frozen=True)
class SessionSpec:
    """What one node was asked to run.

    Attributes:
        name: the session name of the request.
        protocol: name of the protocol ("keygen", "frost/sign", …) and its version.
        vault: vault id.
        players: sorted indices of everybody who takes part.
        params: the typed parameter record; nothing that the run depends on is outside it.
        bindings: what this player shares with single peers and the run depends on (the id of the
            pair setup), by peer. Both ends of a pair must name the same value.
        largest: bytes that the body of a round may have. A larger one is dropped, so that a peer
            can't make this node hold more than the protocol needs.
        opening: of a session from presignatures. Such a session has no CONFIRM: what its players
            send after the HELLO fits together only if they agree on everything (protocols.md).
    """

    name: str
    protocol: str
    version: int
    vault: str
    players: tuple[int, ...]
    params: Message
    bindings: Mapping[int, bytes] = field(default_factory=dict)
    largest: int = MAX_MESSAGE
    opening: Opening | None = None

    @property
    def first_round(self) -> int:
        """The step of the first round: behind HELLO, and CONFIRM where there is one."""
        return 1 if self.opening else 2

    @property
    def route(self) -> bytes:
        """Where frames of this session go: 32 bytes from vault and session name only, so that
        players who disagree on anything else meet and can see what differs."""
        return route_of(self.vault, self.name)

    def hello(self, incarnation: bytes, nonce: bytes) -> Hello:
        return Hello(
            self.protocol,
            self.version,
            self.vault,
            self.name,
            self.players,
            encode(self.params),
            incarnation,
            nonce,
            tuple(sorted(self.bindings.items())),
        )


def route_of(vault: str, name: str) -> bytes:
    """Routing id of a session name."""
    return digest(_ROUTE, vault, name)


def check_hello(mine: Hello, theirs: Hello, params: Message, me: int, peer: int) -> None:
    """Raise E_SESSION_MISMATCH naming the first field that differs; nobody is blamed."""
    for name in ("protocol", "protocol_version", "vault", "name", "players"):
        if getattr(mine, name) != getattr(theirs, name):
            raise _mismatch(name, peer)
    if mine.params != theirs.params:
        raise _mismatch(_differing_field(params, theirs.params), peer)
    if len(theirs.nonce) != len(mine.nonce) or len(theirs.incarnation) != len(mine.incarnation):
        raise _mismatch("nonce", peer)
    bound = [p for p, _ in theirs.bindings]
    if bound != sorted(set(bound)) or not set(bound) <= set(mine.players):
        raise _mismatch("pair setup", peer)
    if dict(mine.bindings).get(peer) != dict(theirs.bindings).get(me):
        # One of the two has ended, and its holder has not heard of that yet: the peer has just
        # begun an incarnation. A repeated request finds a setup that both have.
        error = _mismatch("pair setup", peer)
        error.detail["setup_ended"] = True
        error.next = "repeat the request; if it happens again: keycairn node peers"
        raise error


def _differing_field(params: Message, theirs: bytes) -> str:
    try:
        other = decode(type(params), theirs)
    except KeycairnError:
        return "parameters"
    return _first_difference(params, other) or "parameters"


def _first_difference(mine: Message, theirs: Message) -> str:
    for name in mine.__struct_fields__:
        a, b = getattr(mine, name), getattr(theirs, name)
        if a == b:
            continue
        if isinstance(a, tuple) and len(a) == len(b) and isinstance(a[0], Message):
            k = next(k for k, pair in enumerate(zip(a, b, strict=True)) if pair[0] != pair[1])
            inner = _first_difference(a[k], b[k])
            return inner if len(a) == 1 else f"{name}[{k}].{inner}"
        return name
    return ""


def _mismatch(field: str, peer: int) -> Abort:
    return Abort(
        Code.SESSION_MISMATCH,
        f"player {peer} was asked for another session: {field} differs",
        next="send the same request body to every node",
        detail={"field": field, "peer": peer},
    )


def session_id(spec: SessionSpec, hellos: Mapping[int, Hello]) -> bytes:
    """The session id (32 bytes) from every player's HELLO."""
    return digest(
        _SID,
        WIRE_VERSION,
        spec.protocol,
        spec.version,
        spec.vault,
        spec.name,
        [[i, hellos[i].incarnation, hellos[i].bindings] for i in sorted(hellos)],
        encode(spec.params),
        [hellos[i].nonce for i in sorted(hellos)],
    )


def body_hash(sid: bytes, step: int, sender: int, body: bytes) -> bytes:
    """What echo compares: hash of a broadcast body with its place."""
    return digest(_BODY, sid, step, sender, body)


def broadcast_statement(sid: bytes, step: int, sender: int, hashed: bytes) -> bytes:
    """What the sender of a broadcast signs."""
    return transcript(_BROADCAST, sid, step, sender, hashed)
