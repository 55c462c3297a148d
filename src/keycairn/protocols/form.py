"""What a protocol is: a plain generator that yields its sends and receives a round's messages.

    def keygen(party: Party, params: KeygenParams) -> Protocol[KeygenOutput]:
        first = yield Round(broadcast=Commit(...))
        second = yield Round(broadcast=Open(...), direct={j: Share(...) for j in party.peers})
        yield Durable("keygen/pending", Pending(...))
        return KeygenOutput(...)

No I/O, no clock, no ambient randomness inside: ``party.rng`` is injected. The driver
(:mod:`keycairn.protocols.driver`) does transport, time-outs, echo broadcast, strict decoding and
the blame for what it sees; the generator raises :class:`~keycairn.errors.Abort` for what only it
can see.

Every player of a session sends the same message types in a round, so the driver decodes a round
with the types of this player's own messages (``direct`` may be empty for all).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar
from typing import Protocol as TypingProtocol

from keycairn.errors import Abort, Code, KeycairnError
from keycairn.ports import Rng
from keycairn.protocols.wire import Message

R = TypeVar("R")


class Signer(TypingProtocol):
    """This node's identity key, and the pinned public keys of all players.

    ``sign`` and ``verify`` are Ed25519 over transcript-encoded bytes; pure, no I/O.
    """

    def sign(self, data: bytes) -> bytes:
        """64-byte signature of this node over ``data``."""
        ...

    def verify(self, player: int, data: bytes, signature: bytes) -> bool:
        """Whether ``signature`` is ``player``'s over ``data``."""
        ...


@dataclass(frozen=True)
class Party:
    """What one player knows about its place in a session.

    Attributes:
        index: this player's number, from configuration.
        players: all players of the session, sorted, this one among them.
        sid: the 32-byte session id that every player confirmed (docs/protocols/index.md).
        rng: randomness port.
        signer: identity signatures.
        nonces: what every player put into its HELLO as its nonce, this one included.
    """

    index: int
    players: tuple[int, ...]
    sid: bytes
    rng: Rng
    signer: Signer
    nonces: Mapping[int, bytes] = field(default_factory=dict)

    @property
    def peers(self) -> tuple[int, ...]:
        """All players but this one, sorted."""
        return tuple(j for j in self.players if j != self.index)


@dataclass(frozen=True)
class Round:
    """Send this, and give me what all others sent in the same round.

    Attributes:
        broadcast: the same message to all. Unless ``echo`` is False the driver confirms with
            signed hashes that everybody received the same (rule 3) before the round ends.
        direct: one message for every peer (all of them, or none).
        echo: False only where docs/protocols names another means of agreement.
    """

    broadcast: Message | None = None
    direct: Mapping[int, Message] = field(default_factory=dict)
    echo: bool = True


@dataclass(frozen=True)
class Durable:
    """Make this durable before anything else leaves; the driver hands it to the journal.

    The generator is resumed with ``None`` once the journal has committed. ``what`` names the
    event ("keygen/pending", "spend", …) and is a crash point before and after.
    """

    what: str
    record: Any


@dataclass(frozen=True)
class Inbox:
    """Messages of one round, from every peer: complete, decoded, never from this player.

    ``broadcast`` and ``direct`` map the peer's index to its message (typed as the round's own
    messages were). ``signatures`` holds the peers' signatures on their broadcasts.
    """

    broadcast: Mapping[int, Any]
    direct: Mapping[int, Any]


Step: TypeAlias = "Round | Durable"
Protocol: TypeAlias = Generator[Step, Any, R]
Factory: TypeAlias = Callable[[Party], "Protocol[R]"]


@contextmanager
def blame(player: int, code: Code | None = None) -> Iterator[None]:
    """Turn a decoding or check failure over ``player``'s message into an abort that names it.

    ``code`` replaces the inner error's code (a share that does not parse is E_BAD_SHARE).
    """
    try:
        yield
    except Abort:
        raise
    except KeycairnError as exc:
        raise Abort(code or exc.code, f"player {player}: {exc.message}", culprits=[player]) from exc


def require_length(player: int, what: str, vector: object, expected: int) -> None:
    """Raise an abort with E_BAD_LENGTH unless ``len(vector) == expected`` (R-08)."""
    if not hasattr(vector, "__len__") or len(vector) != expected:
        raise Abort(
            Code.BAD_LENGTH,
            f"player {player}: {what} must have exactly {expected} elements",
            culprits=[player],
        )


def split(data: bytes, size: int) -> list[bytes]:
    """Cut a column into its elements of ``size`` bytes."""
    return [data[k : k + size] for k in range(0, len(data), size)]


def elements(
    player: int, what: str, column: bytes, size: int, count: int, code: Code
) -> list[bytes]:
    """The ``count`` elements of a column of a player's message; an abort with ``code`` that names
    the player unless it has exactly that length (R-08)."""
    if len(column) != size * count:
        raise Abort(
            code, f"player {player}: {what} must have {count} times {size} bytes", culprits=[player]
        )
    return split(column, size)
