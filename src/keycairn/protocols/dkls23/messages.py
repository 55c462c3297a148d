"""The wire messages of presigning and signing. Sizes: docs/protocols/dkls23.md.

Columns: a field that ends in ``[]`` in the comments is one byte string with a fixed-size element
for every slot of the session. A field that is a tuple has one byte string for every chunk, with a
fixed-size element for every slot (or OT) of the chunk. Nothing here is checked but types; the
functions below check lengths before any loop, then points and scalars.
"""

from __future__ import annotations

from dataclasses import dataclass

from keycairn.curves import Group, Point
from keycairn.errors import Abort, Code
from keycairn.protocols.dkls23.ote import OtMessage
from keycairn.protocols.dkls23.parameters import CHECK_LEN, ROWS, row_len
from keycairn.protocols.dkls23.vole import correction_len
from keycairn.protocols.form import blame, require_length, split
from keycairn.protocols.wire import Message


class Commit(Message, frozen=True):
    """Presign round 1, broadcast: commitment to R[], pk[] and n[] (32 bytes)."""

    commitment: bytes


class OtRequest(Message, frozen=True):
    """Presign round 1, direct: the sender is Bob. Per chunk u, x̂ and t̂."""

    u: tuple[bytes, ...]  # 128 · row_len(slots)
    x_hat: tuple[bytes, ...]  # 32
    t_hat: tuple[bytes, ...]  # 128 · 32


class Opening(Message, frozen=True):
    """Presign round 2, broadcast: opens the commitment."""

    nonce_points: bytes  # R[]: 33
    key_points: bytes  # pk[]: 33
    commitments: bytes  # n[]: 32
    salt: bytes  # 32


class VoleReply(Message, frozen=True):
    """Presign round 2, direct: the sender is Alice with inputs (r, sk). All per chunk."""

    a_tilde: tuple[bytes, ...]  # 144 · 416 per slot
    eta: tuple[bytes, ...]  # 32 per slot
    mu: tuple[bytes, ...]  # 32
    gamma_u: tuple[bytes, ...]  # 33 per slot
    gamma_v: tuple[bytes, ...]  # 33 per slot
    psi: tuple[bytes, ...]  # 32 per slot


class Ack(Message, frozen=True):
    """Presign round 3, broadcast: hash of all commitments and presignature ids (32)."""

    ack: bytes


class Reveal(Message, frozen=True):
    """Full session, after the acknowledgement, to all: ν[], which n committed to (32 each)."""

    nu: bytes


class Partial(Message, frozen=True):
    """The last message, to all: this signer's summands of every numerator and denominator of s,
    w[] and u[] (32 each)."""

    w: bytes
    u: bytes


@dataclass(frozen=True)
class Opened:
    """A decoded :class:`Opening`; one element for every slot."""

    nonce_points: list[Point]
    key_points: list[Point]
    commitments: list[bytes]


@dataclass(frozen=True)
class ReplyChunk:
    """A decoded chunk of a :class:`VoleReply`. Points stay beside their encodings for hashing."""

    a_tilde: bytes
    eta: list[int]
    mu: bytes
    gamma_u_bytes: bytes
    gamma_v_bytes: bytes
    gamma_u: list[Point]
    gamma_v: list[Point]
    psi: list[int]


def _points(group: Group, data: bytes) -> list[Point]:
    return [group.decode_point(piece) for piece in split(data, group.point_len)]


def _scalars(group: Group, data: bytes) -> list[int]:
    return [group.decode_scalar(piece) for piece in split(data, group.scalar_len)]


def require_chunks(
    player: int, what: str, column: tuple[bytes, ...], sizes: tuple[int, ...]
) -> None:
    """E_BAD_LENGTH unless ``column`` has one byte string of the right size for every chunk."""
    require_length(player, what, column, len(sizes))
    for chunk, size in zip(column, sizes, strict=True):
        if len(chunk) != size:
            raise Abort(
                Code.BAD_LENGTH,
                f"player {player}: a chunk of {what} must have exactly {size} bytes",
                culprits=[player],
            )


def parse_request(player: int, message: OtRequest, chunks: tuple[int, ...]) -> list[OtMessage]:
    """One :class:`OtMessage` for every chunk; raises E_BAD_LENGTH naming ``player``."""
    require_chunks(player, "u", message.u, tuple(ROWS * row_len(c) for c in chunks))
    require_chunks(player, "x̂", message.x_hat, (CHECK_LEN,) * len(chunks))
    require_chunks(player, "t̂", message.t_hat, (ROWS * CHECK_LEN,) * len(chunks))
    return [
        OtMessage(*fields) for fields in zip(message.u, message.x_hat, message.t_hat, strict=True)
    ]


def parse_opening(player: int, group: Group, message: Opening, count: int) -> Opened:
    """Lengths, then points. Raises E_BAD_LENGTH or E_BAD_POINT naming ``player``."""
    require_length(player, "R", message.nonce_points, group.point_len * count)
    require_length(player, "pk", message.key_points, group.point_len * count)
    require_length(player, "n", message.commitments, 32 * count)
    require_length(player, "salt", message.salt, 32)
    with blame(player):
        return Opened(
            _points(group, message.nonce_points),
            _points(group, message.key_points),
            split(message.commitments, 32),
        )


def parse_reply(
    player: int, group: Group, message: VoleReply, chunks: tuple[int, ...]
) -> list[ReplyChunk]:
    """Lengths, then points and scalars of every chunk.

    Raises:
        Abort: E_BAD_LENGTH, E_BAD_POINT, E_BAD_SCALAR naming ``player``.
    """
    point, scalar = group.point_len, group.scalar_len
    require_chunks(player, "ã", message.a_tilde, tuple(correction_len(c) for c in chunks))
    require_chunks(player, "η", message.eta, tuple(scalar * c for c in chunks))
    require_chunks(player, "μ", message.mu, (32,) * len(chunks))
    require_chunks(player, "Γu", message.gamma_u, tuple(point * c for c in chunks))
    require_chunks(player, "Γv", message.gamma_v, tuple(point * c for c in chunks))
    require_chunks(player, "ψ", message.psi, tuple(scalar * c for c in chunks))
    with blame(player):
        return [
            ReplyChunk(
                message.a_tilde[k],
                _scalars(group, message.eta[k]),
                message.mu[k],
                message.gamma_u[k],
                message.gamma_v[k],
                _points(group, message.gamma_u[k]),
                _points(group, message.gamma_v[k]),
                _scalars(group, message.psi[k]),
            )
            for k in range(len(chunks))
        ]
