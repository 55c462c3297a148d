"""The figures of threshold ECDSA: that they are made at all, and of what."""

from __future__ import annotations

import itertools

import pytest

from keycairn.cli import measure_ecdsa
from keycairn.protocols.form import Party
from protocols.lockstep import deal, deal_setups, parties

_sessions = itertools.count()


def fresh(players: tuple[int, ...]) -> dict[int, Party]:
    return parties(players, f"measure/{next(_sessions)}")


@pytest.mark.parametrize("signers", [(1, 2), (1, 2, 3)])
def test_presignatures_and_signatures(signers: tuple[int, ...]) -> None:
    keys = deal(n=3, t=len(signers) - 1)
    shares = {i: keys[i] for i in signers}
    setups = deal_setups(signers)
    row = measure_ecdsa.measure_presign(fresh, shares, setups, batch=2, runs=1)
    assert (row["signers"], row["batch"]) == (len(signers), 2)
    assert 60_000 < row["bytes_per_presignature_per_peer"] < 80_000
    assert row["ms_per_presignature_per_party"] > 0
    assert row["ratio_to"].keys() == row["microseconds"].keys()
    signed = measure_ecdsa.measure_sign(fresh, shares, setups, count=2)
    assert signed["signatures"] == 2
    assert signed["ms_per_signature_per_party"] > 0


def test_setup_and_primitives() -> None:
    row = measure_ecdsa.measure_setup(fresh, runs=1)
    assert row["bytes_sent"] > 8_500
    figures = measure_ecdsa.primitives(runs=1, repeats=2)
    assert set(figures) == {"base_mult", "constant_time_mult", "ecdsa_verify", "aes_block"}
    assert all(us > 0 for us in figures.values())
