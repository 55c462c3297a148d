"""FROST: nonces in batches, signatures from them, and whole sessions; of every suite."""

from __future__ import annotations

from typing import Any

from keycairn.cli.bench import floors
from keycairn.cli.bench.cast import Cast, from_pool, party_ms, run
from keycairn.cli.bench.row import Subject, measured
from keycairn.client import verify_signature
from keycairn.ports.system import SystemRng
from keycairn.protocols import frost

_RNG = SystemRng()
_POOL = 256


def nonces(cast: Cast, batch: int, runs: int) -> dict[str, Any]:
    """Nonce pairs in sessions of ``batch``, 1 to 256."""
    sent: list[int] = []

    def once() -> float:
        ends = run({i: frost.presign(p, cast.shares[i], batch) for i, p in cast.parties().items()})
        sent.append(ends[1].bytes_sent)
        return party_ms(ends) / batch

    signers = len(cast.players)
    row = measured(
        Subject("nonces", f"schnorr/{cast.curve}", signers, batch),
        "ms_per_nonce_pair_per_party",
        once,
        floors.frost_nonces(signers),
        runs=runs,
        more={"scheme": "schnorr", "curve": cast.curve, "signers": signers, "batch": batch},
    )
    return row | {"bytes_per_nonce_pair_per_peer": sent[-1] // batch // (signers - 1)}


def sign(cast: Cast, runs: int, *, pool: bool) -> dict[str, Any]:
    """Signatures of 32-byte messages, verified by every party and once more here."""
    sent: list[int] = []
    stock: dict[int, list[frost.Presignature]] = {i: [] for i in cast.players}

    def once() -> float:
        message = _RNG.bytes(32)
        wanted = [frost.Request(message)]
        if pool:
            if not stock[1]:
                for i, end in run(
                    {i: frost.presign(p, cast.shares[i], _POOL) for i, p in cast.parties().items()}
                ).items():
                    stock[i] += end.result
            ends = run(
                {
                    i: from_pool(
                        p,
                        lambda i=i: frost.claim(  # type: ignore[misc]
                            cast.shares[i],
                            i,
                            cast.players,
                            [stock[i].pop()],
                            wanted,
                            _RNG.bytes(32),
                        ),
                        frost.use,
                    )
                    for i, p in cast.parties().items()
                }
            )
        else:
            ends = run(
                {i: frost.sign_full(p, cast.shares[i], wanted) for i, p in cast.parties().items()}
            )
        sent.append(ends[1].bytes_sent)
        (made,) = ends[1].result
        public_key = cast.shares[1].record.public_key
        verify_signature("schnorr", cast.curve, public_key, made.signature, message=message)
        return party_ms(ends)

    signers = len(cast.players)
    row = measured(
        Subject(f"sign {'from pool' if pool else 'in full'}", f"schnorr/{cast.curve}", signers),
        "ms_per_signature_per_party",
        once,
        floors.frost_use(signers) if pool else floors.frost_full(signers),
        runs=runs,
        more={
            "scheme": "schnorr",
            "curve": cast.curve,
            "signers": signers,
            "from_pool": pool,
            "signatures": runs,
        },
    )
    return row | {"bytes_sent": sent[-1]}
