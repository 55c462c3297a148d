"""The vector OLE: shares of products, and what its check finds."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keycairn.curves import SECP256K1
from keycairn.ports.seeded import SeededRng
from keycairn.protocols.dkls23 import gadget, ote, u384, vole
from keycairn.protocols.dkls23.ote import Lane
from keycairn.protocols.dkls23.parameters import XI
from protocols.lockstep import deal_setups

Q = SECP256K1.q
SETUPS = deal_setups((1, 2))
ALICE, BOB = SETUPS[1][2].state(), SETUPS[2][1].state()
POINTS = b"points"


def lane(slots: int) -> Lane:
    return Lane(bytes(32), 0, 2, 1, SETUPS[1][2].setup_id, slots)


class Run:
    """Both sides up to Alice's correction; the test sends the rest."""

    def __init__(self, inputs: list[tuple[int, int]], seed: object = 0) -> None:
        self.lane = lane(len(inputs))
        rng = SeededRng(f"vole/{seed}")
        self.message, self.bob_rows = ote.extend_bob(self.lane, BOB.bob_keys, rng)
        rows = ote.extend_alice(self.lane, ALICE.delta, ALICE.alice_keys, self.message)
        assert rows.consistent
        self.bob = vole.Bob(self.lane, SECP256K1, self.bob_rows)
        self.alice = vole.Alice(self.lane, SECP256K1, ALICE.delta, rows, inputs, rng)

    def challenge(self, a_tilde: bytes, points: bytes = POINTS) -> vole.Challenge:
        od = self.message.transcript(self.lane)
        return vole.Challenge.of(self.lane, od, a_tilde, points)

    def finish(
        self,
        *,
        a_tilde: bytes | None = None,
        bob_points: bytes = POINTS,
        eta_error: int = 0,
        mu_error: int = 0,
    ) -> tuple[bool, list[tuple[int, int]]]:
        mine = self.alice.a_tilde if a_tilde is None else a_tilde
        eta, mu = self.alice.prove(self.challenge(mine))
        etas = [int.from_bytes(eta[k : k + 32], "big") for k in range(0, len(eta), 32)]
        etas[0] = (etas[0] + eta_error) % Q
        mu = bytes([mu[0] ^ mu_error]) + mu[1:]
        return self.bob.receive(self.challenge(mine, bob_points), mine, etas, mu)


scalars = st.one_of(st.sampled_from([0, 1, Q - 1]), st.integers(0, Q - 1))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(scalars, scalars), min_size=1, max_size=3), st.integers(0, 10**6))
def test_shares_add_up_to_the_product(inputs: list[tuple[int, int]], seed: int) -> None:
    run = Run(inputs, seed)
    fits, d = run.finish()
    assert fits
    for a, b, c_s, d_s in zip(inputs, run.bob.scalars, run.alice.outputs, d, strict=True):
        for w in (0, 1):
            assert (c_s[w] + d_s[w] - a[w] * b) % Q == 0


def test_bob_scalar_is_the_gadget_encoding_of_his_choices() -> None:
    run = Run([(1, 2)])
    g = gadget.vector(SECP256K1)
    expected = sum(int(b) * x for b, x in zip(run.bob_rows.choices, g, strict=True)) % Q
    assert run.bob.scalars == [expected]


def corrected(a_tilde: bytes, column: int, w: int, error: int) -> bytes:
    """ã with ``error`` added modulo 2^384 to one integer."""
    at = (3 * column + w) * 48
    value = (int.from_bytes(a_tilde[at : at + 48], "big") + error) % 2**384
    return a_tilde[:at] + value.to_bytes(48, "big") + a_tilde[at + 48 :]


@pytest.mark.parametrize("w", [0, 1, 2])
@pytest.mark.parametrize("error", [1, 2**383, Q - 1])
def test_an_error_in_one_correction_fails_exactly_if_bob_chose_it(w: int, error: int) -> None:
    """2^383 too: a check computed modulo 2^384 would not see it for an even challenge."""
    for column in range(6):
        run = Run([(5, 7)], column)
        fits, _ = run.finish(a_tilde=corrected(run.alice.a_tilde, column, w, error))
        assert fits == (run.bob_rows.choices[column] == 0)


def test_a_multiple_of_q_is_no_error() -> None:
    """The integers may differ; only residues matter."""
    run = Run([(5, 7)])
    fits, d = run.finish(a_tilde=corrected(run.alice.a_tilde, 3, 0, Q))
    assert fits
    assert (run.alice.outputs[0][0] + d[0][0] - 5 * run.bob.scalars[0]) % Q == 0


def test_eta_mu_and_points_are_bound() -> None:
    assert Run([(5, 7)]).finish()[0]
    assert not Run([(5, 7)]).finish(eta_error=1)[0]
    assert not Run([(5, 7)]).finish(mu_error=1)[0]
    assert not Run([(5, 7)]).finish(bob_points=b"other points")[0]


def test_challenge_covers_everything() -> None:
    run = Run([(5, 7)])
    od, a = run.message.transcript(run.lane), run.alice.a_tilde
    base = vole.Challenge.of(run.lane, od, a, b"u", b"v")
    others = [
        vole.Challenge.of(lane(2), bytes(32), a, b"u", b"v"),
        vole.Challenge.of(run.lane, od, corrected(a, XI - 1, 2, 1), b"u", b"v"),
        vole.Challenge.of(run.lane, od, a, b"uv", b""),
        vole.Challenge.of(run.lane, od, a, b"u", b"w"),
    ]
    assert all(other.theta != base.theta for other in others)
    assert all(0 <= theta < 2**128 for theta in base.theta)


def test_challenge_is_the_documented_hash() -> None:
    """θ_0 ‖ θ_1 = X_32("vole/theta", vid, od, H("vole/corrections", vid, ã), Γᵘ, Γᵛ), version 2."""
    run = Run([(5, 7)])
    od, a = run.message.transcript(run.lane), run.alice.a_tilde

    def encoded(name: str, version: int, *fields: bytes) -> bytes:
        head = b"KCT1" + len(name).to_bytes(2, "big") + name.encode() + version.to_bytes(2, "big")
        return (
            head
            + len(fields).to_bytes(8, "big")
            + b"".join(b"b" + len(f).to_bytes(8, "big") + f for f in fields)
        )

    corrections = hashlib.sha256(encoded("vole/corrections", 1, run.lane.vid, a)).digest()
    theta = encoded("vole/theta", 2, run.lane.vid, od, corrections, b"u", b"v")
    raw = hashlib.shake_128(theta).digest(32)
    expected = (int.from_bytes(raw[:16], "big"), int.from_bytes(raw[16:], "big"))
    assert vole.Challenge.of(run.lane, od, a, b"u", b"v").theta == expected


def test_masks_and_check_inputs_are_fresh_for_every_slot() -> None:
    """With one â for two slots, η - η' would show a combination of the inputs."""
    run = Run([(5, 7), (5, 7)])
    assert run.alice._inputs[0][2] != run.alice._inputs[1][2]
    flat = u384.to_ints(run.alice._alpha)
    assert len(set(flat)) == len(flat) == 2 * 3 * XI


def test_corrections_look_uniform() -> None:
    """ã is one-time padded: its top bytes do not tell whether the inputs are 0 or q - 1."""
    for inputs in ([(0, 0)], [(Q - 1, Q - 1)]):
        raw = Run(inputs).alice.a_tilde
        assert (
            len(set(hashlib.sha256(raw[k : k + 48]).digest() for k in range(0, 48 * 900, 48)))
            == 900
        )
        ones = sum(byte.bit_count() for byte in raw)
        assert abs(ones - 4 * len(raw)) < 5 * (2 * len(raw)) ** 0.5
