"""Which figures a command of ``bench`` makes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from keycairn.cli.bench import dkg, ecdsa, schnorr
from keycairn.cli.bench.cast import Cast
from keycairn.errors import malformed
from keycairn.protocols.record import SUITES

Row = dict[str, Any]
Kind = tuple[str, str]


def kinds(scheme: str | None = None, curve: str | None = None) -> list[Kind]:
    """(scheme, curve) of every kind of key that fits.

    Raises:
        KeycairnError: E_MALFORMED if none does.
    """
    found = [k for k in SUITES if scheme in (None, k[0]) and curve in (None, k[1])]
    if not found:
        known = ", ".join(f"{s} on {c}" for s, c in SUITES)
        raise malformed(f"no keys of that kind; there are: {known}")
    return found


def runs_for(batch: int) -> int:
    """How often a session of that size runs: a second or so for each figure."""
    return max(5, min(100, 400 // batch))


def presign(found: Iterable[Kind], signers: int, batches: Iterable[int]) -> Iterator[Row]:
    for scheme, curve in found:
        if scheme == "ecdsa":
            cast = Cast(scheme, curve, signers)
            for batch in batches:
                yield ecdsa.presign(cast, batch, runs_for(batch))


def frost(found: Iterable[Kind], signers: int, count: int) -> Iterator[Row]:
    for scheme, curve in found:
        if scheme == "schnorr":
            cast = Cast(scheme, curve, signers)
            yield schnorr.nonces(cast, 100, runs_for(100))
            yield schnorr.sign(cast, count, pool=True)
            yield schnorr.sign(cast, count, pool=False)


def sign(found: Iterable[Kind], signers: int, count: int) -> Iterator[Row]:
    """From the pool, and in a whole session."""
    for scheme, curve in found:
        cast = Cast(scheme, curve, signers)
        measure = ecdsa.sign if scheme == "ecdsa" else schnorr.sign
        for pool in (True, False):
            yield measure(cast, count, pool=pool)


def keygen(
    found: Iterable[Kind], players: int, threshold: int, batches: Iterable[int]
) -> Iterator[Row]:
    for scheme, curve in found:
        for batch in batches:
            yield dkg.dkg(scheme, curve, players, threshold, batch, runs_for(batch))


def everything(*, quick: bool) -> Iterator[Row]:
    """What has a target, and the rest of what a release is judged by. ``quick`` leaves out all
    without a target, and takes fewer runs: a few seconds."""
    if quick:
        pair = Cast("ecdsa", "secp256k1", 2)
        yield dkg.setup(3)
        yield ecdsa.presign(pair, 1, 20)
        yield ecdsa.presign(pair, 100, 3)
        yield ecdsa.sign(pair, 60, pool=True)
        for curve in ("secp256k1", "ed25519"):
            yield schnorr.sign(Cast("schnorr", curve, 2), 60, pool=True)
        yield dkg.dkg("ecdsa", "secp256k1", 3, 1, 100, 3)
        return
    yield dkg.setup(9)
    for signers in (2, 3):
        yield from presign(kinds("ecdsa"), signers, (1, 16, 100))
        yield from sign(kinds(), signers, 100)
    yield from frost(kinds("schnorr"), 2, 100)
    yield from keygen(kinds(), 3, 1, (1, 100))
