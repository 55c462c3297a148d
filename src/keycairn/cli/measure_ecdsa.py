"""Figures of threshold ECDSA: setup, presignatures, signatures, and what they are made of.

All players run in this process and take turns. A figure is *processor* time of one party, median
of several runs, in one process with the primitives it is compared with: the ratios hold on a
machine that others use as well, and on another machine.

    fresh = lambda players: …        # Party of every player, for a new session
    measure_presign(fresh, shares, setups, batch=100)

The callers deal keys and make setups; nothing here is fit for real keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import median
from typing import Any, TypeAlias

import numpy as np
from coincurve import PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from keycairn.cli import lockstep
from keycairn.curves import SECP256K1
from keycairn.ports import randbelow
from keycairn.ports.system import ProcessClock, SystemRng
from keycairn.protocols import dkls23
from keycairn.protocols.dkls23.ecdsa import verify_ecdsa
from keycairn.protocols.form import Party, Protocol
from keycairn.protocols.record import KeyShare
from keycairn.protocols.setup import PairSetup, pair_setup

Fresh: TypeAlias = Callable[[tuple[int, ...]], Mapping[int, Party]]
Setups: TypeAlias = Mapping[int, Mapping[int, PairSetup]]

_CLOCK, _RNG = ProcessClock(), SystemRng()


def primitives(runs: int = 9, repeats: int = 100) -> dict[str, float]:
    """Microseconds of the calls that the protocols are compared with.

    Base and constant-time multiplication and ECDSA verification on secp256k1, by the libraries
    that the protocols use; AES-128 of one block, out of a megabyte at once.
    """
    group = SECP256K1
    secret = 1 + randbelow(_RNG, group.q - 1)
    point = group.base_mul(secret)
    digest = _RNG.bytes(32)
    r, s = _plain_signature(secret, digest)
    public, der = PublicKey(point.encode()), dkls23.EcdsaSignature(r, s, 0, b"", b"", b"").der()
    blocks = np.frombuffer(_RNG.bytes(1 << 20), np.uint8)
    out = np.empty(len(blocks) + 15, np.uint8)
    aes = Cipher(algorithms.AES(_RNG.bytes(16)), modes.ECB())  # noqa: S305 - a figure, no secret
    calls: dict[str, tuple[Callable[[], Any], int, int]] = {
        "base_mult": (lambda: group.base_mul(secret), repeats, 1),
        "constant_time_mult": (lambda: group.mul_secret(point, secret), repeats, 1),
        "ecdsa_verify": (lambda: public.verify(der, digest, hasher=None), repeats, 1),
        "aes_block": (
            lambda: aes.encryptor().update_into(blocks.data, out.data),
            1,
            len(blocks) // 16,
        ),
    }
    return {
        name: round(1e6 * median(_seconds(call, times) for _ in range(runs)) / times / units, 4)
        for name, (call, times, units) in calls.items()
    }


def _seconds(call: Callable[[], Any], times: int) -> float:
    began = _CLOCK.monotonic()
    for _ in range(times):
        call()
    return _CLOCK.monotonic() - began


def _plain_signature(secret: int, digest: bytes) -> tuple[int, int]:
    """An ordinary low-s ECDSA signature, to have something to verify."""
    group = SECP256K1
    nonce = 1 + randbelow(_RNG, group.q - 1)
    r = group.coordinates(group.base_mul(nonce))[0] % group.q
    s = (int.from_bytes(digest, "big") + r * secret) * group.inverse(nonce) % group.q
    return r, min(s, group.q - s)


def measure_setup(fresh: Fresh, runs: int = 5) -> dict[str, Any]:
    """A pairwise setup: milliseconds of each of the two players, bytes that one sends."""
    ends = [_run({i: pair_setup(p) for i, p in fresh((1, 2)).items()}) for _ in range(runs)]
    return {
        "ms_per_player": round(median(_ms(e) for e in ends), 2),
        "bytes_sent": ends[0][1].bytes_sent,
    }


def measure_presign(
    fresh: Fresh, shares: Mapping[int, KeyShare], setups: Setups, batch: int, runs: int = 5
) -> dict[str, Any]:
    """Presignatures in sessions of ``batch``, with the primitives measured in the same run.

    Args:
        shares, setups: of exactly the signers.
        batch: presignatures of a session, 1 to 256.
    """
    players = tuple(sorted(shares))

    def once() -> dict[int, lockstep.Measured]:
        parties = fresh(players)
        return _run({i: dkls23.presign(p, shares[i], setups[i], batch) for i, p in parties.items()})

    once()  # Tables that are made once (the gadget's) are not part of a figure.
    ends = [once() for _ in range(runs)]
    ms = median(_ms(e) for e in ends) / batch
    reference = primitives()
    return {
        "signers": len(players),
        "batch": batch,
        "ms_per_presignature_per_party": round(ms, 3),
        "bytes_per_presignature_per_peer": ends[0][1].bytes_sent // batch // (len(players) - 1),
        "microseconds": reference,
        "ratio_to": {name: round(1000 * ms / us, 2) for name, us in reference.items()},
    }


def _from_presignature(
    party: Party,
    key: KeyShare,
    setups: Mapping[int, PairSetup],
    presignature: dkls23.Presignature,
    digest: bytes,
) -> Protocol[list[dkls23.EcdsaSignature]]:
    taken = dkls23.claim(
        key, party.index, party.players, setups, [presignature], [dkls23.Request(digest)]
    )
    return (yield from dkls23.sign(party, taken))


def measure_sign(
    fresh: Fresh, shares: Mapping[int, KeyShare], setups: Setups, count: int = 64
) -> dict[str, Any]:
    """Signatures from presignatures: milliseconds of one party, its verification included."""
    players = tuple(sorted(shares))
    made = _run(
        {i: dkls23.presign(p, shares[i], setups[i], count) for i, p in fresh(players).items()}
    )
    figures = []
    for k in range(count):
        digest = _RNG.bytes(32)
        end = _run(
            {
                i: _from_presignature(p, shares[i], setups[i], made[i].result[k], digest)
                for i, p in fresh(players).items()
            }
        )
        figures.append(_ms(end))
        record, (signature,) = shares[players[0]].record, end[players[0]].result
        verify_ecdsa(record.group, record.public_key, digest, signature.r, signature.s)
    ms = median(figures)
    reference = primitives()
    return {
        "signers": len(players),
        "signatures": count,
        "ms_per_signature_per_party": round(ms, 3),
        "ratio_to": {name: round(1000 * ms / us, 2) for name, us in reference.items()},
    }


def _run(protocols: Mapping[int, Any]) -> dict[int, lockstep.Measured]:
    return lockstep.run(protocols, _CLOCK)


def _ms(ends: Mapping[int, lockstep.Measured]) -> float:
    """Milliseconds of one party, the mean of all."""
    return 1000 * sum(e.seconds for e in ends.values()) / len(ends)
