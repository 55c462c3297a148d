"""What is measured: every path that docs/protocols/timing.md claims, and those it does not."""

from __future__ import annotations

import hashlib
import hmac
import random
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Final

import numpy as np

from keycairn.curves import ED25519, P256, SECP256K1, p256
from keycairn.encoding.transcript import registered_tags, to_scalar
from keycairn.errors import KeycairnError
from keycairn.node.api import ApiKeys
from keycairn.node.config import Application
from keycairn.ports.seeded import SeededRng
from keycairn.protocols import base_ot
from keycairn.protocols.dkls23 import gadget, ote, residues, u384, vole
from keycairn.protocols.dkls23.ot_hash import OtHash
from keycairn.protocols.dkls23.ote import BobRows, Lane, OtMessage
from keycairn.protocols.dkls23.parameters import COLUMNS, ROWS, XI, row_len
from keycairn.protocols.dkls23.zero import zero_shares
from keycairn.protocols.setup import PairSetup, SetupState
from protocols.timing.welch import Path

MANY: Final = 100_000
SOME: Final = 40_000
FEW: Final = 15_000

_LANE: Final = Lane(bytes(32), 0, 2, 1, bytes(32), 1)


@cache
def _zeros(size: int) -> bytes:
    return bytes(size)


def _bytes(rnd: random.Random, fixed: bool, size: int) -> bytes:
    """Zeros or a random secret: the same randomness, allocations and copies for both."""
    drawn = rnd.randbytes(size)
    return bytes(bytearray(_zeros(size) if fixed else drawn))


# -- compares -------------------------------------------------------------------------------------

_KEYS: Final = tuple(
    Application(f"application {n}", hashlib.sha256(f"key {n}".encode()).digest())
    for n in range(10, 26)
)
_NEAR: Final = hashlib.sha256(b"f" * 32).digest()
#: Every entry differs from the digest of one wrong key in its last byte only.
_NEARLY: Final = ApiKeys(
    [Application(f"application {n}", _NEAR[:-1] + bytes([_NEAR[-1] ^ n])) for n in range(1, 17)]
)
_API_KEYS: Final = ApiKeys(_KEYS)


def _authenticate(keys: ApiKeys, key: str) -> str | None:
    try:
        return keys.application(key)
    except KeycairnError:
        return None


def _which_key(_: random.Random, fixed: bool) -> str:
    return f"key {10 if fixed else 25}"


def _wrong_key(rnd: random.Random, fixed: bool) -> str:
    drawn = rnd.randbytes(16).hex()
    return "".join(["f"] * 32) if fixed else drawn


def _tags(rnd: random.Random, fixed: bool) -> tuple[bytes, bytes]:
    """Differing in the last byte only, or everywhere."""
    mine, other = rnd.randbytes(32), rnd.randbytes(32)
    return mine, (mine[:-1] + bytes([mine[-1] ^ 1]) if fixed else other)


def _early_exit(key: str) -> str | None:
    """Control: what ApiKeys does not do."""
    digest = hashlib.sha256(key.encode()).digest()
    for entry in _KEYS:
        if entry.key_sha256 == digest:
            return entry.name
    return None


def _compares() -> Iterator[Path]:
    yield Path(
        "API key: wrong by the last byte of all entries, or altogether",
        True,
        _wrong_key,
        lambda key: _authenticate(_NEARLY, key),
        MANY,
    )
    yield Path(
        "API key: right, the first or the last entry",
        False,
        _which_key,
        lambda key: _authenticate(_API_KEYS, key),
        MANY,
    )
    yield Path(
        "compare_digest of 32 bytes", True, _tags, lambda pair: hmac.compare_digest(*pair), MANY
    )
    yield Path("control: early exit at the entry", False, _which_key, _early_exit, MANY)


# -- multiplications ------------------------------------------------------------------------------

#: Full length, few bits set: what a variable-time multiplication would show best.
_LIGHT: Final = 2**251 + 1
_LIGHT_BYTES: Final = _LIGHT.to_bytes(32, "big")


def _scalar(rnd: random.Random, fixed: bool) -> int:
    # Of one length, so that the size of a Python integer is the same; and a new object.
    drawn = (rnd.getrandbits(251) | 1 << 251).to_bytes(32, "big")
    return int.from_bytes(_LIGHT_BYTES if fixed else drawn, "big")


def _short_scalar(rnd: random.Random, fixed: bool) -> int:
    drawn = (rnd.getrandbits(251) | 1 << 251).to_bytes(32, "big")
    return int.from_bytes(bytes(31) + b"\3" if fixed else drawn, "big")


def _multiplications() -> Iterator[Path]:
    for group, samples in ((SECP256K1, MANY), (ED25519, MANY), (P256, SOME)):
        point = group.base_mul(4711)
        name = group.name
        yield Path(f"{name}: secret × generator", True, _scalar, group.base_mul, samples)
        yield Path(
            f"{name}: secret × point",
            True,
            _scalar,
            lambda k, g=group, p=point: g.mul_secret(p, k),
            samples,
        )
    raw = P256.coordinates(P256.base_mul(4711))
    yield Path("p256 without libcrypto: secret × generator", False, _scalar, p256._base, SOME)
    yield Path(
        "p256 without libcrypto: secret × point",
        True,
        _scalar,
        lambda k: p256._wheel_mul(raw, k),
        SOME,
    )
    point = SECP256K1.base_mul(4711)
    other = SECP256K1.base_mul(5)
    yield Path(
        "secp256k1: secret × point compared (Γ check)",
        True,
        _scalar,
        lambda k: SECP256K1.is_product(point, k, other),
        MANY,
    )
    yield Path(
        "secp256k1: a secret of 2 bits × generator",
        False,
        _short_scalar,
        SECP256K1.base_mul,
        MANY,
    )
    yield Path(
        "control: public multiplication (secp256k1)",
        False,
        _scalar,
        lambda k: SECP256K1.mul_public(point, k),
        SOME,
    )


# -- OT extension, vector OLE ---------------------------------------------------------------------

_RNG = SeededRng("timing")
_MESSAGE: Final = OtMessage(_RNG.bytes(ROWS * row_len(1)), _RNG.bytes(32), _RNG.bytes(ROWS * 32))
_MESSAGE.u_digest(_LANE)
_KEYS_OF_ROWS: Final = _RNG.bytes(ROWS * 16)
_OT_HASH: Final = OtHash(_LANE)


def _rows(rnd: random.Random, fixed: bool) -> Any:
    raw = _bytes(rnd, fixed, ROWS * row_len(1))
    return np.frombuffer(raw, np.uint8).reshape(ROWS, row_len(1))


def _columns(rnd: random.Random, fixed: bool) -> Any:
    return np.frombuffer(_bytes(rnd, fixed, 16 * XI), np.uint8).reshape(XI, 16)


def _bits(rnd: random.Random, fixed: bool) -> Any:
    return np.unpackbits(np.frombuffer(_bytes(rnd, fixed, XI // 8), np.uint8))


def _numbers(rnd: random.Random, fixed: bool) -> Any:
    """Alice's masks of one slot: (1, 416, 3, 6)."""
    raw = np.frombuffer(_bytes(rnd, fixed, 48 * COLUMNS * XI), np.uint8)
    return u384.from_bytes(raw.reshape(1, XI, COLUMNS, 48))


def _digits(rnd: random.Random, fixed: bool) -> Any:
    return u384.digits(_numbers(rnd, fixed))


def _bob(rnd: random.Random, fixed: bool) -> vole.Bob:
    choices = _bits(rnd, fixed)
    bob = vole.Bob.__new__(vole.Bob)
    bob._lane, bob._group = _LANE, SECP256K1
    bob._choices = BobRows(choices, _COLUMNS).choices.reshape(1, XI)
    bob._gamma = _GAMMA.copy()
    return bob


_COLUMNS: Final = np.frombuffer(_RNG.bytes(16 * XI), np.uint8).reshape(XI, 16)
_GAMMA: Final = vole._masks(_OT_HASH, _COLUMNS)
_A_TILDE: Final = _RNG.bytes(48 * COLUMNS * XI)
_ETA: Final = [int.from_bytes(_RNG.bytes(31), "big")]
_CHALLENGE: Final = vole.Challenge((2**127 + 3, 2**126 + 5))
_WIRE: Final = u384.from_bytes(np.frombuffer(_A_TILDE, np.uint8).reshape(1, XI, COLUMNS, 48))


def _share(choices: Any) -> Any:
    """ḋ = γ + β·ã."""
    shares = u384.times_bit(choices.reshape(1, XI)[:, :, None], _WIRE)
    return u384.add(shares, _GAMMA, out=shares)


def _select(prepared: tuple[Any, bytes, bytes]) -> Any:
    return base_ot.Receiver._ordered(*prepared)


def _receiver(rnd: random.Random, fixed: bool) -> tuple[Any, bytes, bytes]:
    receiver = base_ot.Receiver.__new__(base_ot.Receiver)
    bits = _bytes(rnd, fixed, 16)
    receiver._bits = np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little").tobytes()
    return receiver, _COLUMN, _COLUMN[::-1]


_COLUMN: Final = _RNG.bytes(base_ot.COLUMN_LEN)


def _oblivious_transfer() -> Iterator[Path]:
    yield Path(
        "OT extension: select by Δ, and the row check",
        True,
        lambda rnd, fixed: _bytes(rnd, fixed, 16),
        lambda delta: ote.extend_alice(_LANE, delta, _KEYS_OF_ROWS, _MESSAGE),
        FEW,
    )
    yield Path("base OT: order by Δ", True, _receiver, _select, MANY)
    yield Path("bit matrix: transposition", True, _rows, lambda rows: ote._columns(rows, 1), MANY)
    yield Path("OT hash (TMMO)", True, _columns, _OT_HASH, MANY)
    yield Path("VOLE: shares γ + β·ã mod 2^384", True, _bits, _share, MANY)
    yield Path(
        "VOLE: combination mod q",
        True,
        _digits,
        lambda digits: residues.combine(SECP256K1.q, _CHALLENGE.weights, digits),
        FEW,
    )
    yield Path(
        "VOLE: Bob's check and outputs, by β",
        True,
        _bob,
        lambda bob: bob.receive(_CHALLENGE, _A_TILDE, _ETA, bytes(32)),
        FEW,
    )


# -- integers mod q -------------------------------------------------------------------------------


def _setup(rnd: random.Random, fixed: bool) -> dict[int, PairSetup]:
    zeta = _bytes(rnd, fixed, 32)
    return {2: PairSetup(1, 2, bytes(32), SetupState(bytes(16), bytes(2048), bytes(4096), zeta))}


def _pair_of_ints(short: bool) -> Callable[[random.Random, bool], tuple[int, int]]:
    def prepare(rnd: random.Random, fixed: bool) -> tuple[int, int]:
        a, b = (rnd.getrandbits(251) | 1 << 251 for _ in range(2))
        chosen = (3 if short else _LIGHT) if fixed else a
        return int.from_bytes(chosen.to_bytes(32, "big"), "big"), b

    return prepare


def _integers() -> Iterator[Path]:
    q = SECP256K1.q
    tag = registered_tags()["zero"]
    yield Path(
        "hash to a scalar, mod q at its end",
        False,
        lambda rnd, fixed: _bytes(rnd, fixed, 32),
        lambda zeta: to_scalar(q, tag, zeta, bytes(32), 1, 2, 0),
        MANY,
    )
    yield Path(
        "zero-share of a signer, by the seed",
        False,
        _setup,
        lambda setups: zero_shares(SECP256K1, tag, bytes(32), 1, setups, (2,), [0]),
        MANY,
    )
    yield Path(
        "integers: a·b mod q, a of 256 bits",
        False,
        _pair_of_ints(False),
        lambda p: p[0] * p[1] % q,
        MANY,
    )
    yield Path(
        "integers: a·b mod q, a of 2 bits",
        False,
        _pair_of_ints(True),
        lambda p: p[0] * p[1] % q,
        MANY,
    )
    yield Path(
        "gadget products with their end mod q",
        False,
        _digits,
        lambda digits: gadget.products(SECP256K1, digits[:2]),
        FEW,
    )
    yield Path(
        "Bob's scalar from β",
        False,
        _bits,
        lambda bits: gadget.encode_choices(SECP256K1, bits),
        SOME,
    )


PATHS: Final = (*_compares(), *_multiplications(), *_oblivious_transfer(), *_integers())
