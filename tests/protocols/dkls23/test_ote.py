"""OT extension and OT hash: the correlation, and each hash against a plain second version."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keycairn.encoding import xof
from keycairn.encoding.transcript import registered_tags
from keycairn.ports.seeded import SeededRng
from keycairn.protocols.dkls23 import ote
from keycairn.protocols.dkls23.ot_hash import OtHash
from keycairn.protocols.dkls23.ote import Lane, OtMessage, RowHash, extend_alice, extend_bob
from keycairn.protocols.dkls23.parameters import ROWS, XI, choice_len, row_len
from protocols.lockstep import deal_setups

SETUPS = deal_setups((1, 2))
ALICE, BOB = SETUPS[1][2].state(), SETUPS[2][1].state()
DELTA = np.frombuffer(ALICE.delta, np.uint8)
DELTA_BITS = np.unpackbits(DELTA, bitorder="little")


def lane(slots: int = 1, **changes: object) -> Lane:
    made = Lane(bytes(32), 0, 2, 1, SETUPS[1][2].setup_id, slots)
    return dataclasses.replace(made, **changes)


def bob(where: Lane, seed: object = 0) -> tuple[OtMessage, ote.BobRows]:
    return extend_bob(where, BOB.bob_keys, SeededRng(f"bob/{seed}"))


def alice(where: Lane, message: OtMessage) -> ote.AliceRows:
    return extend_alice(where, ALICE.delta, ALICE.alice_keys, message)


def aes(key: bytes, block: bytes) -> bytes:
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305
    return encryptor.update(block)


def xor(*parts: bytes) -> bytes:
    return bytes(np.bitwise_xor.reduce([np.frombuffer(p, np.uint8) for p in parts]))


@pytest.mark.parametrize("slots", [1, 2, 5, 16])
def test_correlation_q_is_t_plus_choice_times_delta(slots: int) -> None:
    for seed in range(3):
        message, rows = bob(lane(slots), seed)
        got = alice(lane(slots), message)
        assert got.consistent
        assert rows.columns.shape == got.columns.shape == (XI * slots, 16)
        expected = rows.columns ^ (np.negative(rows.choices)[:, None] & DELTA)
        assert (got.columns == expected).all()
        assert 0.4 < rows.choices.mean() < 0.6


def gf_multiply(x: int, y: int) -> int:
    """GF(2^128) of GCM (NIST SP 800-38D, algorithm 1): bit 0 is the most significant."""
    z = 0
    for k in range(127, -1, -1):
        if (x >> k) & 1:
            z ^= y
        y = (y >> 1) ^ (0xE1 << 120 if y & 1 else 0)
    return z


def plain_row_hash(where: Lane, u_digest: bytes, row: bytes) -> bytes:
    """R of a row, from the formula."""
    body, pads = row[: choice_len(where.slots)], row[choice_len(where.slots) :]
    blocks = [int.from_bytes(body[k : k + 16], "big") for k in range(0, len(body), 16)]
    out = b""
    for a in (1, 2):
        key = xof(16, registered_tags()["ote/chi"], where.vid, a, u_digest)
        h = int.from_bytes(aes(key, bytes(16)), "big")
        total, power = 0, h
        for block in reversed(blocks):
            power = gf_multiply(power, h)  # Y_m meets h^2, Y_1 meets h^(m+1)
            total ^= gf_multiply(block, power)
        out += xor(total.to_bytes(16, "big"), pads[16 * a - 16 : 16 * a])
    return out


@pytest.mark.parametrize("slots", [1, 3, 16])
def test_row_hash_equals_the_field_formula(slots: int) -> None:
    where, digest = lane(slots), b"d" * 32
    row = SeededRng("row").bytes(row_len(slots))
    got = RowHash(where, digest)(np.frombuffer(row, np.uint8)[None, :])
    assert got.tobytes() == plain_row_hash(where, digest, row)


def test_row_hash_is_linear_and_the_raw_gmac_tag_is_not() -> None:
    """Control experiment: without taking the zero row's tag off, honest players would fail."""
    where = lane(2)
    rng = SeededRng("linear")
    x, y = (np.frombuffer(rng.bytes(row_len(2)), np.uint8)[None, :] for _ in range(2))
    row_hash = RowHash(where, b"d" * 32)
    assert (row_hash(x) ^ row_hash(y) == row_hash(x ^ y)).all()
    assert not row_hash(np.zeros_like(x)).any()
    gcm = AESGCM(bytes(16))

    def raw(z: np.ndarray) -> bytes:
        return gcm.encrypt(bytes(12), b"", z.tobytes())

    assert xor(raw(x), raw(y)) != raw(x ^ y)
    assert xor(raw(x), raw(y)) == xor(raw(x ^ y), raw(x ^ x))


def test_tmmo_equals_a_plain_version() -> None:
    where = lane(1)
    columns = np.frombuffer(SeededRng("columns").bytes(16 * XI), np.uint8).reshape(XI, 16)
    got = OtHash(where)(columns)
    key = xof(16, registered_tags()["ote/hashkey"], where.vid)
    for c in (0, 1, 255, 256, XI - 1):
        inner = aes(key, columns[c].tobytes())
        blocks = [
            xor(aes(key, xor(inner, c.to_bytes(8, "little") + b.to_bytes(8, "little"))), inner)
            for b in range(9)
        ]
        assert got[c].tobytes() == b"".join(blocks)


def test_t037_equal_columns_have_different_masks() -> None:
    """The column number is in the hash: a row of equal columns has 3·416 different masks."""
    masks = OtHash(lane(1))(np.zeros((XI, 16), np.uint8)).reshape(-1, 48)
    assert len({m.tobytes() for m in masks}) == 3 * XI


VARIANTS = [
    {"sid": b"\1" + bytes(31)},
    {"chunk": 1},
    {"bob": 1, "alice": 2},
    {"setup_id": bytes(32)},
]


@pytest.mark.parametrize("change", VARIANTS)
def test_t037_streams_and_masks_differ_by_session_chunk_direction_and_setup(change: dict) -> None:
    first, second = lane(), lane(**change)
    (one, rows), (two, _) = bob(first), bob(second)
    a = np.frombuffer(one.u, np.uint8).reshape(ROWS, -1)
    b = np.frombuffer(two.u, np.uint8).reshape(ROWS, -1)
    # The same choice bits were used in both: were a stream repeated, its row would be equal.
    assert not any((a[i] == b[i]).all() for i in range(ROWS))
    # Rows of equal PRG output would make u ⊕ u' the same in all rows (x ⊕ x').
    assert len({(a[i] ^ b[i]).tobytes() for i in range(ROWS)}) == ROWS
    assert not (OtHash(first)(rows.columns) == OtHash(second)(rows.columns)).all(axis=2).any()


def test_the_same_vid_twice_would_show_the_choice_bits() -> None:
    """Control experiment, why the session id is fresh: u ⊕ u' = x ⊕ x' in every row."""
    (one, rows), (two, others) = bob(lane(), 1), bob(lane(), 2)
    difference = np.frombuffer(xor(one.u, two.u), np.uint8).reshape(ROWS, -1)
    assert (difference == difference[0]).all()
    shown = np.unpackbits(difference[0], bitorder="little")[:XI]
    assert (shown == rows.choices ^ others.choices).all()


def flip(data: bytes, bit: int) -> bytes:
    out = bytearray(data)
    out[bit // 8] ^= 1 << (bit % 8)
    return bytes(out)


@pytest.mark.parametrize("name", ["u", "x_hat", "t_hat"])
@pytest.mark.parametrize("bit", [0, 7, 100, 255])
def test_any_flipped_bit_of_the_message_fails_the_check(name: str, bit: int) -> None:
    message, _ = bob(lane())
    broken = dataclasses.replace(message, **{name: flip(getattr(message, name), bit)})
    assert not alice(lane(), broken).consistent


def test_the_same_bit_in_all_rows_fails_the_check() -> None:
    message, _ = bob(lane())
    u = np.frombuffer(message.u, np.uint8).reshape(ROWS, -1).copy()
    u[:, 5] ^= 4
    assert not alice(lane(), dataclasses.replace(message, u=u.tobytes())).consistent


def test_the_challenge_covers_every_row() -> None:
    """χ hashes the whole u: a cheater that could change an unhashed bit would know R before."""
    message, _ = bob(lane())
    base = ote._u_digest(lane(), message.u)
    size = 8 * len(message.u)
    for bit in (0, 8 * 999, 8 * 1000, size // 2, size - 8 * row_len(1), size - 1):
        assert ote._u_digest(lane(), flip(message.u, bit)) != base
    rows = np.frombuffer(message.u, np.uint8)[: row_len(1)][None, :]
    first, second = RowHash(lane(), base), RowHash(lane(), bytes(32))
    assert (first(rows) != second(rows)).any()


def test_the_transcript_covers_the_whole_message() -> None:
    """od, by which θ binds Bob's message: u, x̂ and t̂ to the last bit."""
    message, _ = bob(lane())
    base = message.transcript(lane())
    for name in ("u", "x_hat", "t_hat"):
        whole = getattr(message, name)
        for bit in (0, 8 * len(whole) - 1):
            changed = dataclasses.replace(message, **{name: flip(whole, bit)})
            assert changed.transcript(lane()) != base


def cheating_bob(
    where: Lane, row: int, bits: tuple[int, ...], guess: int, hashing: type
) -> OtMessage:
    """Row ``row`` is made with other choice bits; the rest, challenge included, is honest.

    With ``guess`` 1 the check value of the row is adapted to Δ_row = 1.
    """
    x = np.frombuffer(SeededRng("cheat").bytes(row_len(where.slots)), np.uint8)
    pairs = [BOB.bob_keys[k : k + 32] for k in range(0, 4096, 32)]
    t = ote._expand(where, [p[:16] for p in pairs])
    u = (t ^ ote._expand(where, [p[16:] for p in pairs]) ^ x).copy()
    error = np.zeros_like(x)
    for bit in bits:
        error[bit // 8] ^= 1 << (bit % 8)
    u[row] ^= error
    row_hash = hashing(where, ote._u_digest(where, u.tobytes()))
    t_hat = row_hash(t).copy()
    if guess:
        t_hat[row] ^= row_hash(error[None, :])[0]
    return OtMessage(u.tobytes(), row_hash(x[None, :]).tobytes(), t_hat.tobytes())


@pytest.mark.parametrize("guess", [0, 1])
def test_an_inconsistent_row_passes_only_if_its_delta_bit_was_guessed(guess: int) -> None:
    """Why a failure bans: pass or fail, one session tells one bit of the long-lived Δ."""
    passed = [
        alice(lane(), cheating_bob(lane(), row, (3,), guess, RowHash)).consistent
        for row in range(ROWS)
    ]
    assert passed == [bit == guess for bit in DELTA_BITS]


class XorHash(RowHash):
    """The check as DKLs18 first printed it: XOR where a multiplication belongs."""

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        blocks = np.bitwise_xor.reduce(rows[:, : self._body].reshape(len(rows), -1, 16), axis=1)
        return np.concatenate([blocks, blocks], axis=1) ^ rows[:, self._body :]


def test_a_check_that_only_xors_misses_what_ours_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control experiment (GHSA-7f6p-phw2-8253): errors 128 columns apart cancel, unseen."""
    row = int(np.flatnonzero(DELTA_BITS)[0])
    ours = cheating_bob(lane(), row, (3, 131), 0, RowHash)
    assert not alice(lane(), ours).consistent
    monkeypatch.setattr(ote, "RowHash", XorHash)
    theirs = cheating_bob(lane(), row, (3, 131), 0, XorHash)
    assert alice(lane(), theirs).consistent


def test_pads_hide_the_choice_bits_in_the_check_value() -> None:
    """Same choice bits, other pads: x̂ differs in all 32 bytes' worth of randomness."""
    where = lane()
    row = np.frombuffer(SeededRng("pads").bytes(row_len(1)), np.uint8).copy()
    other = row.copy()
    other[-32:] ^= np.frombuffer(SeededRng("mask").bytes(32), np.uint8)
    row_hash = RowHash(where, b"d" * 32)
    difference = row_hash(row[None, :]) ^ row_hash(other[None, :])
    assert difference.tobytes() == SeededRng("mask").bytes(32)
