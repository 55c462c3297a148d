"""Key generation in batches, and the setup of a pair."""

from __future__ import annotations

from typing import Any

from keycairn.cli.bench import floors
from keycairn.cli.bench.cast import Cast, party_ms, run
from keycairn.cli.bench.row import Subject, measured
from keycairn.protocols.keygen import KeygenParams, keygen
from keycairn.protocols.record import VARIANTS
from keycairn.protocols.setup import pair_setup


def dkg(
    scheme: str, curve: str, players: int, threshold: int, batch: int, runs: int
) -> dict[str, Any]:
    """Keys in sessions of ``batch``, 1 to 1000; what all holders agree on is checked by each."""
    cast = Cast(scheme, curve, players)
    variant = VARIANTS.get((scheme, curve))
    params = KeygenParams("bench", scheme, curve, threshold, batch, "bench", variant)
    sent: list[int] = []

    def once() -> float:
        ends = run({i: keygen(p, "bench", params) for i, p in cast.parties().items()})
        sent.append(ends[1].bytes_sent)
        return party_ms(ends) / batch

    row = measured(
        Subject("dkg", f"{scheme}/{curve}", players, batch),
        "ms_per_key_per_node",
        once,
        floors.keygen(players, threshold),
        runs=runs,
        more={
            "scheme": scheme,
            "curve": curve,
            "players": players,
            "threshold": threshold,
            "batch": batch,
        },
    )
    return row | {"bytes_per_key_per_peer": sent[-1] // batch // (players - 1)}


def setup(runs: int) -> dict[str, Any]:
    """The base OTs of a pair, both directions."""
    cast = Cast("ecdsa", "secp256k1", 2)
    sent: list[int] = []

    def once() -> float:
        ends = run({i: pair_setup(p) for i, p in cast.parties().items()})
        sent.append(ends[1].bytes_sent)
        return party_ms(ends)

    row = measured(
        Subject("setup", "secp256k1", 2),
        "ms_per_player",
        once,
        floors.setup(),
        runs=runs,
        more={"curve": "secp256k1", "players": 2},
    )
    return row | {"bytes_sent": sent[-1]}
