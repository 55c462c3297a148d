"""Control experiments: each takes one precaution away, and a cheat or an accident that the product
withstands then succeeds.

Numbers are those of the argument in docs/protocols/dkls23.md ("Deviations") and of the checklist
in docs/protocols/cheating.md. Fields too wide to attack (2^128) are attacked at 2^8: what grinding
costs is the size of the field, and the test counts the tries.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from keycairn.curves import P256, SECP256K1
from keycairn.encoding import to_scalar, xof
from keycairn.encoding.transcript import registered_tags
from keycairn.ports.seeded import SeededRng
from keycairn.protocols.dkls23 import gadget, ote, residues, u384, vole
from keycairn.protocols.dkls23.ot_hash import OtHash
from keycairn.protocols.dkls23.ote import AliceRows, BobRows, Lane, OtMessage, RowHash
from keycairn.protocols.dkls23.parameters import ROWS, XI, choice_len, row_len
from protocols.lockstep import deal_setups

Q = SECP256K1.q
M = 2**384
SETUPS = deal_setups((1, 2))
ALICE, BOB = SETUPS[1][2].state(), SETUPS[2][1].state()
DELTA_BITS = np.unpackbits(np.frombuffer(ALICE.delta, np.uint8), bitorder="little")


def lane(slots: int = 1, sid: bytes = bytes(32)) -> Lane:
    return Lane(sid, 0, 2, 1, SETUPS[1][2].setup_id, slots)


class Multiplication:
    """Both sides of one chunk with Alice's ``inputs``, up to what each sends."""

    def __init__(self, inputs: Sequence[tuple[int, int]], seed: object = 0) -> None:
        self.inputs = list(inputs)
        self.lane = lane(len(inputs))
        self.rng = SeededRng(f"masks/{seed}")
        self.message, self.bob_rows = ote.extend_bob(self.lane, BOB.bob_keys, self.rng)
        self.rows = ote.extend_alice(self.lane, ALICE.delta, ALICE.alice_keys, self.message)
        self.bob = vole.Bob(self.lane, SECP256K1, self.bob_rows)
        self.alice = vole.Alice(self.lane, SECP256K1, ALICE.delta, self.rows, self.inputs, self.rng)
        self.od = self.message.transcript(self.lane)

    def challenge(self, a_tilde: bytes) -> vole.Challenge:
        return vole.Challenge.of(self.lane, self.od, a_tilde, b"points")

    def accepts(self, a_tilde: bytes | None = None) -> bool:
        """Whether Bob's check passes, with Alice's check values honestly computed for ã."""
        return self.received(a_tilde)[0]

    def received(self, a_tilde: bytes | None = None) -> tuple[bool, list[tuple[int, int]]]:
        sent = self.alice.a_tilde if a_tilde is None else a_tilde
        challenge = self.challenge(sent)
        eta, mu = self.alice.prove(challenge)
        return self.bob.receive(challenge, sent, scalars(eta), mu)

    def products_fit(self, d: Sequence[tuple[int, int]]) -> bool:
        return all(
            (c[w] + d_s[w] - a[w] * b) % Q == 0
            for a, b, c, d_s in zip(
                self.inputs, self.bob.scalars, self.alice.outputs, d, strict=True
            )
            for w in (0, 1)
        )


def scalars(data: bytes) -> list[int]:
    return [int.from_bytes(data[k : k + 32], "big") for k in range(0, len(data), 32)]


def entries(a_tilde: bytes) -> list[tuple[int, int, int]]:
    """ã of every column."""
    flat = [int.from_bytes(a_tilde[k : k + 48], "big") for k in range(0, len(a_tilde), 48)]
    return [(flat[k], flat[k + 1], flat[k + 2]) for k in range(0, len(flat), 3)]


def shifted(a_tilde: bytes, column: int, w: int, error: int) -> bytes:
    """ã with an error added modulo 2^384 to one number."""
    at = (3 * column + w) * 48
    value = (int.from_bytes(a_tilde[at : at + 48], "big") + error) % M
    return a_tilde[:at] + value.to_bytes(48, "big") + a_tilde[at + 48 :]


def chosen(run: Multiplication, bit: int = 1) -> int:
    """A column in which Bob's choice bit is ``bit``."""
    return int(np.flatnonzero(run.bob_rows.choices == bit)[0])


# -- 11.4: integers modulo 2^384 ------------------------------------------------------------------

_SECRETS = [(Q - 1, Q - 2), (12345, Q // 2)]


def truncate(monkeypatch: pytest.MonkeyPatch, limbs: int, *, arithmetic: bool) -> None:
    """Masks of ``64·limbs`` bits; with ``arithmetic``, sums too are modulo 2^(64·limbs)."""
    honest = vole._masks

    def masks(*args: Any) -> Any:
        out = honest(*args)
        out[..., limbs:] = 0
        return out

    def cut(operation: Callable[..., Any]) -> Callable[..., Any]:
        def narrow(*args: Any, **named: Any) -> Any:
            out = operation(*args, **named)
            out[..., limbs:] = 0
            return out

        return narrow

    monkeypatch.setattr(vole, "_masks", masks)
    if arithmetic:
        monkeypatch.setattr(u384, "add", cut(u384.add))
        monkeypatch.setattr(u384, "sub", cut(u384.sub))


def test_11_4_control_integers_modulo_2_256_wrap_and_would_ban_honest_players(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """α⁰ + a passes 2^256 in about every second column: the residue is off, the check fails."""
    assert all(Multiplication(_SECRETS, seed).accepts() for seed in range(5))
    truncate(monkeypatch, 4, arithmetic=True)
    assert not any(Multiplication(_SECRETS, seed).accepts() for seed in range(5))


def test_11_4_the_only_wrap_is_within_an_input_of_2_384(monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks of the worst kind: α⁰ = 2^384 - q is the largest that no input can make wrap."""

    def run(mask: int) -> bool:
        honest = vole._masks

        def masks(*args: Any) -> Any:
            out = honest(*args)
            out[...] = u384.from_ints([mask])[0]
            return out

        with monkeypatch.context() as patch:
            patch.setattr(vole, "_masks", masks)
            return Multiplication([(Q - 1, 1)]).accepts()

    assert run(M - Q)
    assert not run(M - 1)


def test_11_4_control_masks_narrower_than_the_modulus_show_the_inputs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With masks of 256 bits nothing wraps and every check passes, but ã is no one-time pad: its
    mean over the 416 columns of a slot is the input, up to 2^256·0.02."""

    def guess(run: Multiplication, modulus: int) -> float:
        signed = [
            (e[0] + modulus // 2) % modulus - modulus // 2 for e in entries(run.alice.a_tilde)
        ]
        return sum(signed) / len(signed)

    inputs = [(1, 1)], [(Q - 1, 1)]
    ours = [guess(Multiplication(a, "wide"), M) for a in inputs]
    assert min(abs(g) for g in ours) > 2.0**300  # noise of the pad, a million times any input
    truncate(monkeypatch, 4, arithmetic=False)
    small, large = (Multiplication(a, "narrow") for a in inputs)
    assert small.accepts()
    assert large.accepts()
    assert abs(guess(small, M)) < 0.1 * 2.0**256
    assert abs(guess(large, M) - Q) < 0.1 * 2.0**256


def unreduced(
    q: int, weights: Sequence[int], digits: np.ndarray, minus: np.ndarray | None = None
) -> bytes:
    """The check's combination modulo 2^384 in place of q."""
    w, count, slots, n = digits.shape
    assert count == u384.DIGITS
    out = []
    for s, c in itertools.product(range(slots), range(n)):
        value = sum(
            weight * sum(int(digits[k, t, s, c]) << (16 * t) for t in range(count))
            for k, weight in zip(range(w), weights, strict=True)
        )
        if minus is not None:
            value -= sum(int(minus[k, s, c]) << (32 * k) for k in range(minus.shape[0]))
        out.append((value % M).to_bytes(48, "big"))
    return b"".join(out)


def test_11_4_control_a_check_modulo_2_384_lets_an_input_off_by_2_383_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """θ·2^383 vanishes modulo 2^384 for every even θ: the cheater looks for one, and passes where
    Bob's choice bit is 1 as well. Modulo q it never does."""

    def receive(run: Multiplication, a_tilde: bytes, *, broken: bool) -> tuple[bool, bool]:
        challenge = run.challenge(a_tilde)
        if not broken:
            fits, d = run.received(a_tilde)
            return fits, run.products_fit(d)
        monkeypatch.setattr(residues, "combine", unreduced)
        # η as an integer: â + θ_0·a_0 + θ_1·a_1, so that honest players pass modulo 2^384.
        eta = [
            a[2] + challenge.theta[0] * a[0] + challenge.theta[1] * a[1] for a in run.alice._inputs
        ]
        _, mu = run.alice.prove(challenge)
        wide = [residues.split([e % M]) for e in eta]
        minus = np.concatenate(wide, axis=1)
        monkeypatch.setattr(residues, "split", lambda values: minus)
        fits, d = run.bob.receive(challenge, a_tilde, eta, mu)
        monkeypatch.undo()
        return fits, run.products_fit(d)

    found = 0
    for seed in range(12):
        run = Multiplication([(5, 7)], f"383/{seed}")
        wrong = shifted(run.alice.a_tilde, chosen(run), 0, 2**383)
        assert receive(run, wrong, broken=False) == (False, False)
        even = run.challenge(wrong).theta[0] % 2 == 0
        assert receive(run, run.alice.a_tilde, broken=True) == (True, True)
        assert receive(run, wrong, broken=True) == (even, False)
        found += even
    assert 2 <= found <= 10


# -- 11.2, 11.8: no narrow field in a challenge ---------------------------------------------------


def narrow_theta(bits: int) -> Any:
    """θ of ``bits`` bits."""
    honest = vole.Challenge.of.__func__  # type: ignore[attr-defined]

    def of(cls: type, *args: Any) -> Any:
        theta = honest(cls, *args).theta
        return cls((theta[0] % 2**bits, theta[1] % 2**bits))

    return classmethod(of)


def ground_error(run: Multiplication, tries: int) -> bytes | None:
    """Fiat-Shamir ground offline: an error e in an input column and -T·e in the check column, for
    e = 1, 2, …, until the challenge happens to be T."""
    column, wanted = chosen(run), 3
    for e in range(1, tries + 1):
        first = shifted(run.alice.a_tilde, column, 0, e)
        sent = shifted(first, column, 2, -wanted * e % Q)
        if run.challenge(sent).theta[0] == wanted:
            return sent
    return None


def test_11_8_control_a_theta_of_8_bits_is_ground_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """So a θ of 64 bits costs 2^64 hashes offline, and no risk: Bob chose the wrong column, the
    check passes, the product is wrong. With 128 bits the same tries find nothing."""
    run = Multiplication([(5, 7)], "theta")
    assert ground_error(run, 2000) is None
    monkeypatch.setattr(vole.Challenge, "of", narrow_theta(8))
    sent = ground_error(run, 2000)
    assert sent is not None
    fits, d = run.received(sent)
    assert fits
    assert not run.products_fit(d)


def test_11_8_every_challenge_is_drawn_with_128_bits_or_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: dict[str, list[int]] = {}

    def spy(n: int, t: Any, *fields: Any) -> bytes:
        drawn.setdefault(t.name, []).append(n)
        return xof(n, t, *fields)

    monkeypatch.setattr(ote, "xof", spy)
    monkeypatch.setattr(vole, "xof", spy)
    run = Multiplication([(5, 7)])
    assert run.accepts()
    assert drawn == {"ote/chi": [16, 16, 16, 16], "vole/theta": [32]}
    thetas = [t for seed in range(64) for t in Multiplication([(1, 1)], seed).challenge(b"").theta]
    together, common = 0, 2**128 - 1
    for theta in thetas:
        together, common = together | theta, common & theta
    # Every one of the 128 bits was seen as 1 and as 0.
    assert together == 2**128 - 1
    assert common == 0


# -- 11.1: which check, over what -----------------------------------------------------------------


def cheating_bob(
    where: Lane, row: int, error: np.ndarray, hashing: Callable[[Lane, bytes], Any]
) -> OtMessage:
    """One row of u is made with other choice bits; challenge and check values are honest."""
    x = np.frombuffer(SeededRng("x").bytes(row_len(where.slots)), np.uint8)
    pairs = [BOB.bob_keys[k : k + 32] for k in range(0, 4096, 32)]
    t = ote._expand(where, [p[:16] for p in pairs])
    u = (t ^ ote._expand(where, [p[16:] for p in pairs]) ^ x).copy()
    u[row] ^= error
    row_hash = hashing(where, ote._u_digest(where, u.tobytes()))
    return OtMessage(u.tobytes(), row_hash(x[None, :]).tobytes(), row_hash(t).tobytes())


def consistent(where: Lane, message: OtMessage) -> bool:
    return ote.extend_alice(where, ALICE.delta, ALICE.alice_keys, message).consistent


def secret_row() -> int:
    """A row with Δ_i = 1, where an inconsistency shows."""
    return int(np.flatnonzero(DELTA_BITS)[-1])


def single_bits(where: Lane) -> Iterator[np.ndarray]:
    """Errors of one choice bit, the next one, two …"""
    for mask in range(1, 1 << 16):
        error = np.zeros(row_len(where.slots), np.uint8)
        error[0], error[1] = mask & 0xFF, mask >> 8
        yield error


class NarrowHash(RowHash):
    """The check value cut to 8 bits."""

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        out = super().__call__(rows).copy()
        out[:, 1:] = 0
        return out


class AndHash(RowHash):
    """AND with a random mask where a field multiplication belongs."""

    def __init__(self, where: Lane, u_digest: bytes) -> None:
        super().__init__(where, u_digest)
        size = choice_len(where.slots)
        tag = registered_tags()["ote/chi"]
        self._mask = np.frombuffer(xof(size, tag, where.vid, 1, u_digest), np.uint8)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        masked = (rows[:, : self._body] & self._mask).reshape(len(rows), -1, 16)
        folded = np.bitwise_xor.reduce(masked, axis=1)
        return np.concatenate([folded, folded], axis=1) ^ rows[:, self._body :]


@pytest.mark.parametrize(
    ("broken", "tries"), [(NarrowHash, 2000), (AndHash, 40)], ids=["8 bits", "AND"]
)
def test_11_1_control_a_check_with_a_kernel_that_can_be_found_is_ground_out(
    monkeypatch: pytest.MonkeyPatch, broken: type[RowHash], tries: int
) -> None:
    """The cheater tries errors until its own challenge does not see them: Δ_i = 1 and it passes,
    without a guess. Our hash of 256 bits sees all of them."""
    where, row = lane(), secret_row()
    for error in itertools.islice(single_bits(where), 40):
        assert not consistent(where, cheating_bob(where, row, error, RowHash))
    monkeypatch.setattr(ote, "RowHash", broken)
    for number, error in enumerate(single_bits(where)):
        assert number < tries, "no error found that the broken check does not see"
        if not broken(where, ote._u_digest(where, _u(where, row, error)))(error[None, :]).any():
            assert consistent(where, cheating_bob(where, row, error, broken))
            break


def _u(where: Lane, row: int, error: np.ndarray) -> bytes:
    return cheating_bob(where, row, error, lambda *_: lambda rows: np.zeros((1, 1), np.uint8)).u


def adapted(where: Lane, u_digest: bytes) -> np.ndarray:
    """An error in a choice bit that pads cancel in the hash under this very challenge."""
    error = np.zeros(row_len(where.slots), np.uint8)
    error[0] = 1
    error[choice_len(where.slots) :] = RowHash(where, u_digest)(error[None, :])[0]
    assert not RowHash(where, u_digest)(error[None, :]).any()
    return error


def test_11_1_control_a_challenge_that_does_not_cover_the_last_rows_is_known_before_the_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """χ from the first row alone: the cheater knows R before it chooses its error elsewhere, lets
    the pads cancel it, and is consistent for every Δ."""
    where, row = lane(), secret_row()
    assert row > 0
    honest = ote._u_digest

    def first_row(lane_: Lane, u: bytes) -> bytes:
        return honest(lane_, u[: row_len(lane_.slots)])

    def attack(digest: Callable[[Lane, bytes], bytes]) -> bool:
        clean = cheating_bob(where, row, np.zeros(row_len(1), np.uint8), RowHash)
        error = adapted(where, digest(where, clean.u))
        return consistent(where, cheating_bob(where, row, error, RowHash))

    assert not attack(honest)
    monkeypatch.setattr(ote, "_u_digest", first_row)
    assert attack(first_row)


@pytest.mark.parametrize("half", [0, 1])
def test_11_1_both_gmac_keys_are_compared_in_every_row(half: int) -> None:
    """A check of one key would see no error in the other's half."""
    message, _ = ote.extend_bob(lane(), BOB.bob_keys, SeededRng("halves"))
    assert consistent(lane(), message)
    for row in range(0, ROWS, 9):
        at = 32 * row + 16 * half + row % 16
        t_hat = message.t_hat[:at] + bytes([message.t_hat[at] ^ 1]) + message.t_hat[at + 1 :]
        assert not consistent(lane(), dataclasses.replace(message, t_hat=t_hat))


def test_11_1_the_two_gmac_keys_are_independent() -> None:
    """Equal halves would be one key of 128 bits, twice."""
    row = np.frombuffer(SeededRng("row").bytes(row_len(1)), np.uint8).copy()
    row[-32:] = 0
    hashed = RowHash(lane(), bytes(32))(row[None, :])[0]
    assert (hashed[:16] != hashed[16:]).any()


def test_11_1_control_without_pads_the_check_value_tells_guesses_of_the_choice_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """x̂ = R(β) alone: whoever guesses β can confirm it, and 256 linear equations are known."""

    def confirms(message: OtMessage, choices: np.ndarray) -> bool:
        row = np.zeros(row_len(1), np.uint8)
        row[: XI // 8] = np.packbits(choices, bitorder="little")
        row_hash = RowHash(lane(), ote._u_digest(lane(), message.u))
        return row_hash(row[None, :]).tobytes() == message.x_hat

    class NoPads:
        def bytes(self, n: int) -> bytes:
            used = XI // 8
            return SeededRng("bits").bytes(used) + bytes(n - used)

    ours, rows = ote.extend_bob(lane(), BOB.bob_keys, SeededRng("pads"))
    assert not confirms(ours, rows.choices)
    theirs, rows = ote.extend_bob(lane(), BOB.bob_keys, NoPads())
    assert confirms(theirs, rows.choices)
    assert not confirms(theirs, 1 - rows.choices)


# -- 11.3: masks of different columns, and of one column -----------------------------------------


def difference_of_inputs(run_rows: AliceRows, inputs: Sequence[tuple[int, int]]) -> set[int]:
    """ã of two slots' first columns, subtracted: what a reader of the wire sees."""
    alice = vole.Alice(
        lane(len(inputs)), SECP256K1, ALICE.delta, run_rows, inputs, SeededRng("equal")
    )
    sent = entries(alice.a_tilde)
    return {(sent[0][w] - sent[XI][w]) % M for w in (0, 1)}


def test_11_3_control_without_the_column_number_equal_columns_show_a_difference_of_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two equal columns in two slots have equal masks then, and ã - ã' is r - r' and sk - sk'."""
    inputs = [(111, 222), (11, 2)]
    columns = np.frombuffer(SeededRng("columns").bytes(16 * XI), np.uint8).reshape(XI, 16)
    rows = AliceRows(np.concatenate([columns, columns]), True)
    assert not difference_of_inputs(rows, inputs) & {100, 220}
    honest = OtHash.__call__

    def numberless(self: OtHash, given: np.ndarray) -> np.ndarray:
        return np.concatenate([honest(self, given[k : k + 1]) for k in range(len(given))])

    monkeypatch.setattr(OtHash, "__call__", numberless)
    assert difference_of_inputs(rows, inputs) == {100, 220}


def test_11_3_control_one_mask_for_all_three_numbers_shows_r_minus_sk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def seen(run: Multiplication) -> set[int]:
        return {(e[0] - e[1]) % M for e in entries(run.alice.a_tilde)}

    assert len(seen(Multiplication([(1000, 58)]))) == XI
    honest = vole._masks

    def same(*args: Any) -> Any:
        out = honest(*args)
        out[:, :, 1:] = out[:, :, :1]
        return out

    monkeypatch.setattr(vole, "_masks", same)
    assert seen(Multiplication([(1000, 58)])) == {942}


def test_10_control_one_check_input_for_two_slots_shows_a_combination_of_the_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """η - η' = θ_0·(a_0 - a'_0) + θ_1·(a_1 - a'_1) then: linear in the nonce and key shares."""

    def shown(run: Multiplication) -> bool:
        challenge = run.challenge(run.alice.a_tilde)
        eta = scalars(run.alice.prove(challenge)[0])
        (a, b), (c, d) = run.inputs
        return (eta[0] - eta[1]) % Q == (
            challenge.theta[0] * (a - c) + challenge.theta[1] * (b - d)
        ) % Q

    inputs = [(111, 222), (11, 2)]
    assert not shown(Multiplication(inputs))
    monkeypatch.setattr(vole, "randbelow", lambda *_: 4711)
    assert shown(Multiplication(inputs))


def test_10_control_a_theta_known_before_the_corrections_passes_the_check_for_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """θ from Bob's message alone: e in the input column, -θ_0·e in the check column. (The product
    check in the exponent still stands: test_presign_cheaters.py.)"""

    def attack(run: Multiplication) -> tuple[bool, bool]:
        column, theta = chosen(run), run.challenge(run.alice.a_tilde).theta[0]
        first = shifted(run.alice.a_tilde, column, 0, 1)
        fits, d = run.received(shifted(first, column, 2, -theta % Q))
        return fits, run.products_fit(d)

    assert attack(Multiplication([(5, 7)])) == (False, False)
    honest = vole.Challenge.of.__func__  # type: ignore[attr-defined]
    early = classmethod(lambda cls, lane_, od, *_: honest(cls, lane_, od, b""))
    monkeypatch.setattr(vole.Challenge, "of", early)
    assert attack(Multiplication([(5, 7)])) == (True, False)


# -- 11.5: hashing to a scalar --------------------------------------------------------------------


@pytest.mark.parametrize("group", [SECP256K1, P256], ids=lambda g: g.name)
def test_11_5_scalars_come_from_48_bytes(group: Any) -> None:
    tag = registered_tags()["gadget"]
    raw = xof(48, tag, group.name, 7)
    assert to_scalar(group.q, tag, group.name, 7) == int.from_bytes(raw, "big") % group.q
    assert gadget.vector(group)[7] == int.from_bytes(raw, "big") % group.q


def test_11_5_control_32_bytes_are_biased_where_q_is_not_close_to_2_256() -> None:
    """Shown on a modulus of 0.75·2^256, where the bias is 1/4 and can be counted; on P-256 it is
    2^-32, on secp256k1 2^-128. From 48 bytes there is none."""
    tag, modulus = registered_tags()["gadget"], 3 * 2**254

    def low(size: int) -> float:
        values = [int.from_bytes(xof(size, tag, "bias", k), "big") % modulus for k in range(6000)]
        return sum(v < 2**254 for v in values) / 6000  # the third that 32 bytes hit twice

    assert low(32) == pytest.approx(1 / 2, abs=0.04)
    assert low(48) == pytest.approx(1 / 3, abs=0.04)


# -- the rows of Bob: nothing here is skipped ------------------------------------------------------


def test_13_masks_of_bob_are_those_of_his_choice_and_no_others() -> None:
    """γ is α⁰ or α¹ as β says; the other one stays unknown to him."""
    run = Multiplication([(5, 7)])
    alpha0 = u384.to_ints(run.alice._alpha)
    gamma = u384.to_ints(run.bob._gamma)
    bits = np.repeat(run.bob_rows.choices, 3)
    assert isinstance(run.bob_rows, BobRows)
    assert [a == g for a, g in zip(alpha0, gamma, strict=True)] == [not b for b in bits]
