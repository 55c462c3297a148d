"""Runs all players of a protocol in this process and measures each one. For benches only.

Players take turns, so the seconds of one player are its own work and nobody's waiting; bytes are
those of the encoded messages that it sends, without the driver's and the link's framing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from keycairn.ports import Clock
from keycairn.protocols import wire
from keycairn.protocols.form import Durable, Inbox, Protocol, Round


@dataclass
class Measured:
    """What became of one player."""

    result: Any = None
    seconds: float = 0.0
    bytes_sent: int = 0
    journal: list[Durable] = field(default_factory=list)


def run(protocols: Mapping[int, Protocol[Any]], clock: Clock) -> dict[int, Measured]:
    """Run to the end; an abort is raised as it is."""
    measured = {i: Measured() for i in protocols}
    waiting: dict[int, Round] = {}

    def advance(i: int, inbox: Inbox | None) -> None:
        began = clock.monotonic()
        try:
            step = protocols[i].send(inbox)
            while isinstance(step, Durable):
                measured[i].journal.append(step)
                step = protocols[i].send(None)
            waiting[i] = step
        except StopIteration as stop:
            measured[i].result = stop.value
        measured[i].seconds += clock.monotonic() - began

    for i in protocols:
        advance(i, None)
    while waiting:
        sent = dict(waiting)
        waiting.clear()
        for i in sent:
            measured[i].bytes_sent += _size(sent[i], len(sent) - 1)
        for i in sent:
            advance(i, _inbox(i, sent))
    return measured


def _inbox(receiver: int, sent: Mapping[int, Round]) -> Inbox:
    others = {i: r for i, r in sent.items() if i != receiver}
    return Inbox(
        {i: r.broadcast for i, r in others.items() if r.broadcast is not None},
        {i: r.direct[receiver] for i, r in others.items() if receiver in r.direct},
    )


def _size(sent: Round, peers: int) -> int:
    broadcast = 0 if sent.broadcast is None else len(wire.encode(sent.broadcast)) * peers
    return broadcast + sum(len(wire.encode(m)) for m in sent.direct.values())
