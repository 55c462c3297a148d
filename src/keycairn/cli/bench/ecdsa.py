"""Threshold ECDSA: presignatures in batches, signatures from them, and whole sessions."""

from __future__ import annotations

from typing import Any

from keycairn.cli.bench import floors
from keycairn.cli.bench.cast import Cast, from_pool, party_ms, run
from keycairn.cli.bench.lockstep import Measured
from keycairn.cli.bench.row import Subject, measured
from keycairn.client import verify_signature
from keycairn.ports.system import SystemRng
from keycairn.protocols import dkls23

_RNG = SystemRng()


def presign(cast: Cast, batch: int, runs: int) -> dict[str, Any]:
    """Presignatures in sessions of ``batch``, 1 to 256."""
    sent: list[int] = []

    def once() -> float:
        ends = _presigned(cast, batch)
        sent.append(ends[1].bytes_sent)
        return party_ms(ends) / batch

    signers = len(cast.players)
    row = measured(
        Subject("presign", f"ecdsa/{cast.curve}", signers, batch),
        "ms_per_presignature_per_party",
        once,
        floors.presign(signers, batch),
        runs=runs,
        more={"scheme": "ecdsa", "curve": cast.curve, "signers": signers, "batch": batch},
    )
    return row | {"bytes_per_presignature_per_peer": sent[-1] // batch // (signers - 1)}


def sign(cast: Cast, runs: int, *, pool: bool) -> dict[str, Any]:
    """Signatures, verified by every party and once more here: from presignatures that were made
    before (``pool``), or in sessions that make their own."""
    sent: list[int] = []
    stock = {i: list(e.result) for i, e in _stocked(cast, runs + 1).items()} if pool else {}

    def once() -> float:
        digest = _RNG.bytes(32)
        wanted = [dkls23.Request(digest)]
        if pool:
            ends = run(
                {
                    i: from_pool(
                        p,
                        lambda i=i: dkls23.claim(  # type: ignore[misc]
                            cast.shares[i],
                            i,
                            cast.players,
                            cast.setups[i],
                            [stock[i].pop()],
                            wanted,
                        ),
                        dkls23.use,
                    )
                    for i, p in cast.parties().items()
                }
            )
        else:
            ends = run(
                {
                    i: dkls23.sign_full(p, cast.shares[i], cast.setups[i], wanted)
                    for i, p in cast.parties().items()
                }
            )
        sent.append(ends[1].bytes_sent)
        (made,) = ends[1].result
        public_key = cast.shares[1].record.public_key
        verify_signature("ecdsa", cast.curve, public_key, made.compact(), digest=digest)
        return party_ms(ends)

    signers = len(cast.players)
    row = measured(
        Subject(f"sign {'from pool' if pool else 'in full'}", f"ecdsa/{cast.curve}", signers),
        "ms_per_signature_per_party",
        once,
        floors.ecdsa_use(signers) if pool else floors.ecdsa_full(signers),
        runs=runs,
        more={
            "scheme": "ecdsa",
            "curve": cast.curve,
            "signers": signers,
            "from_pool": pool,
            "signatures": runs,
        },
    )
    return row | {"bytes_sent": sent[-1]}


def _presigned(cast: Cast, count: int) -> dict[int, Measured]:
    return run(
        {
            i: dkls23.presign(p, cast.shares[i], cast.setups[i], count)
            for i, p in cast.parties().items()
        }
    )


def _stocked(cast: Cast, count: int) -> dict[int, Measured]:
    """``count`` presignatures, in as many sessions as that takes."""
    ends = _presigned(cast, min(count, 256))
    for start in range(256, count, 256):
        for i, end in _presigned(cast, min(count - start, 256)).items():
            ends[i].result += end.result
    return ends
