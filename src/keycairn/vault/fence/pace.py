"""How fast the fence does what it does by itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Pace:
    """All in seconds.

    Attributes:
        heartbeat: between two renewals of the anchor.
        look: between two looks at the clocks, and at peers that have not answered.
        jump: wall and monotonic clock may drift apart by so much between two looks. More, and the
            machine was suspended, or put back with its memory, or its clock was set.
        quiet: before it rejoins unattended a node has been in touch with all peers for so long
            without a break: the links of a twin would have broken it by then (links dial again
            after at most 7.5 s, and 3 s later at the latest where both ends dial).
        answer: how long a rejoin waits for peers that are connected.
    """

    heartbeat: float = 60.0
    look: float = 5.0
    jump: float = 30.0
    quiet: float = 12.0
    answer: float = 5.0
