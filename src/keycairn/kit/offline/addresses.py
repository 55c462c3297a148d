"""Addresses, WIF and extended keys; with Keccak-256 and RIPEMD-160, which ``hashlib`` may lack."""

from __future__ import annotations

import hashlib
import struct
from typing import Dict, List, Sequence

from .curves import SECP256K1

_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


def addresses(scheme: str, curve: str, public_key: bytes) -> Dict[str, str]:
    """The addresses that a key has, by name: those whose signatures it can make."""
    if (scheme, curve) == ("ecdsa", "secp256k1"):
        return {"ethereum": ethereum(public_key), "bitcoin_p2wpkh": p2wpkh(public_key)}
    if (scheme, curve) == ("schnorr", "secp256k1"):
        return {"bitcoin_p2tr": p2tr(public_key)}
    if (scheme, curve) == ("schnorr", "ed25519"):
        return {"solana": base58(public_key)}
    return {}


def ethereum(public_key: bytes) -> str:
    """With the checksum of EIP-55."""
    x, y = SECP256K1.affine(SECP256K1.decode(public_key))
    text = keccak256(x.to_bytes(32, "big") + y.to_bytes(32, "big"))[-20:].hex()
    check = keccak256(text.encode("ascii")).hex()
    return "0x" + "".join(c.upper() if int(d, 16) > 7 else c for c, d in zip(text, check))


def p2wpkh(public_key: bytes) -> str:
    """BIP-173, witness version 0."""
    return bech32(0, ripemd160(hashlib.sha256(public_key).digest()), 1)


def p2tr(public_key: bytes) -> str:
    """BIP-350 of the output key of BIP-341 with an empty script tree (BIP-86)."""
    inner = SECP256K1.decode(b"\x02" + public_key[1:])
    tag = hashlib.sha256(b"TapTweak").digest()
    tweak = int.from_bytes(hashlib.sha256(tag + tag + public_key[1:]).digest(), "big")
    output = SECP256K1.add(inner, SECP256K1.base_mul(tweak))
    return bech32(1, SECP256K1.encode(output)[1:], 0x2BC830A3)


def wif(x: int) -> str:
    """Wallet import format, main net, compressed."""
    return base58check(b"\x80" + x.to_bytes(32, "big") + b"\x01")


def xprv(x: int, chain_code: bytes) -> str:
    """BIP-32 master key."""
    return base58check(
        bytes.fromhex("0488ade4") + bytes(9) + chain_code + b"\0" + x.to_bytes(32, "big")
    )


def xpub(public_key: bytes, chain_code: bytes) -> str:
    return base58check(bytes.fromhex("0488b21e") + bytes(9) + chain_code + public_key)


# -- encodings


def base58(data: bytes) -> str:
    number, text = int.from_bytes(data, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        text = _BASE58[digit] + text
    return "1" * (len(data) - len(data.lstrip(b"\0"))) + text


def base58check(data: bytes) -> str:
    return base58(data + hashlib.sha256(hashlib.sha256(data).digest()).digest()[:4])


def bech32(version: int, program: bytes, constant: int) -> str:
    """A main-net SegWit address; the constant tells BIP-173 from BIP-350."""
    bits = int.from_bytes(program, "big")
    count = -(-8 * len(program) // 5)
    bits <<= 5 * count - 8 * len(program)
    data = [version] + [bits >> 5 * i & 31 for i in range(count - 1, -1, -1)]
    expanded = [3, 3, 0, 2, 3]  # the prefix "bc": high bits, 0, low bits
    check = _polymod(expanded + data + [0] * 6) ^ constant
    data += [check >> 5 * i & 31 for i in range(5, -1, -1)]
    return "bc1" + "".join(_BECH32[d] for d in data)


def _polymod(values: List[int]) -> int:
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for i, word in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            check ^= word if top >> i & 1 else 0
    return check


# -- Keccak-256: SHA-3's sponge with the first padding


def keccak256(data: bytes) -> bytes:
    """As Ethereum has it; ``hashlib.sha3_256`` pads differently."""
    rate = 136
    data += b"\x01" + bytes(-(len(data) + 1) % rate)
    data = data[:-1] + bytes([data[-1] | 0x80])
    state = [0] * 25
    for start in range(0, len(data), rate):
        for i, lane in enumerate(struct.unpack("<17Q", data[start : start + rate])):
            state[i] ^= lane
        state = _keccak_f(state)
    return struct.pack("<4Q", *state[:4])


def _rotate64(a: int, n: int) -> int:
    n %= 64
    return (a << n | a >> (64 - n)) & 0xFFFFFFFFFFFFFFFF


def _keccak_f(a: List[int]) -> List[int]:
    # Lane (x, y) is a[x + 5y]; the names of the steps are FIPS 202's.
    lfsr = 1
    for _ in range(24):
        c = [a[x] ^ a[x + 5] ^ a[x + 10] ^ a[x + 15] ^ a[x + 20] for x in range(5)]  # theta
        d = [c[x - 1] ^ _rotate64(c[(x + 1) % 5], 1) for x in range(5)]
        a = [lane ^ d[i % 5] for i, lane in enumerate(a)]
        b = list(a)  # rho and pi
        x, y, current = 1, 0, a[1]
        for t in range(24):
            x, y = y, (2 * x + 3 * y) % 5
            turned = _rotate64(current, (t + 1) * (t + 2) // 2)
            current, b[x + 5 * y] = a[x + 5 * y], turned
        for row in range(0, 25, 5):  # chi
            for i in range(5):
                a[row + i] = b[row + i] ^ (~b[row + (i + 1) % 5] & b[row + (i + 2) % 5])
        for j in range(7):  # iota
            if lfsr & 1:
                a[0] ^= 1 << ((1 << j) - 1)
            lfsr = lfsr << 1 ^ (0x171 if lfsr & 0x80 else 0)
    return a


# -- RIPEMD-160

_LEFT_ORDER = (
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
    7, 4, 13, 1, 10, 6, 15, 3, 12, 0, 9, 5, 2, 14, 11, 8,
    3, 10, 14, 4, 9, 15, 8, 1, 2, 7, 0, 6, 13, 11, 5, 12,
    1, 9, 11, 10, 0, 8, 12, 4, 13, 3, 7, 15, 14, 5, 6, 2,
    4, 0, 5, 9, 7, 12, 2, 10, 14, 1, 3, 8, 11, 6, 15, 13,
)  # fmt: skip
_RIGHT_ORDER = (
    5, 14, 7, 0, 9, 2, 11, 4, 13, 6, 15, 8, 1, 10, 3, 12,
    6, 11, 3, 7, 0, 13, 5, 10, 14, 15, 8, 12, 4, 9, 1, 2,
    15, 5, 1, 3, 7, 14, 6, 9, 11, 8, 12, 2, 10, 0, 4, 13,
    8, 6, 4, 1, 3, 11, 15, 0, 5, 12, 2, 13, 9, 7, 10, 14,
    12, 15, 10, 4, 1, 5, 8, 7, 6, 2, 13, 14, 0, 3, 9, 11,
)  # fmt: skip
_LEFT_TURN = (
    11, 14, 15, 12, 5, 8, 7, 9, 11, 13, 14, 15, 6, 7, 9, 8,
    7, 6, 8, 13, 11, 9, 7, 15, 7, 12, 15, 9, 11, 7, 13, 12,
    11, 13, 6, 7, 14, 9, 13, 15, 14, 8, 13, 6, 5, 12, 7, 5,
    11, 12, 14, 15, 14, 15, 9, 8, 9, 14, 5, 6, 8, 6, 5, 12,
    9, 15, 5, 11, 6, 8, 13, 12, 5, 12, 13, 14, 11, 8, 5, 6,
)  # fmt: skip
_RIGHT_TURN = (
    8, 9, 9, 11, 13, 15, 15, 5, 7, 7, 8, 11, 14, 14, 12, 6,
    9, 13, 15, 7, 12, 8, 9, 11, 7, 7, 12, 7, 6, 15, 13, 11,
    9, 7, 15, 11, 8, 6, 6, 14, 12, 13, 5, 14, 13, 13, 7, 5,
    15, 5, 8, 11, 14, 14, 6, 14, 6, 9, 12, 9, 12, 5, 15, 8,
    8, 5, 12, 9, 12, 5, 14, 6, 8, 13, 6, 5, 15, 13, 11, 11,
)  # fmt: skip
_LEFT_ADD = (0x00000000, 0x5A827999, 0x6ED9EBA1, 0x8F1BBCDC, 0xA953FD4E)
_RIGHT_ADD = (0x50A28BE6, 0x5C4DD124, 0x6D703EF3, 0x7A6D76E9, 0x00000000)
_MASK = 0xFFFFFFFF


def ripemd160(data: bytes) -> bytes:
    """ISO/IEC 10118-3; OpenSSL 3 offers it only with its legacy provider."""
    padded = data + b"\x80" + bytes((55 - len(data)) % 64) + struct.pack("<Q", 8 * len(data))
    state = [0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0]
    for start in range(0, len(padded), 64):
        words = struct.unpack("<16L", padded[start : start + 64])
        left = _line(state, words, _LEFT_ORDER, _LEFT_TURN, _LEFT_ADD, False)
        right = _line(state, words, _RIGHT_ORDER, _RIGHT_TURN, _RIGHT_ADD, True)
        state = [
            (state[(i + 1) % 5] + left[(i + 2) % 5] + right[(i + 3) % 5]) & _MASK for i in range(5)
        ]
    return struct.pack("<5L", *state)


def _mix(kind: int, x: int, y: int, z: int) -> int:
    if kind == 0:
        return x ^ y ^ z
    if kind == 1:
        return x & y | ~x & z
    if kind == 2:
        return (x | ~y & _MASK) ^ z
    if kind == 3:
        return x & z | y & ~z
    return x ^ (y | ~z & _MASK)


def _turn(a: int, n: int) -> int:
    return (a << n | a >> (32 - n)) & _MASK


def _line(
    state: List[int],
    words: Sequence[int],
    order: Sequence[int],
    turns: Sequence[int],
    adds: Sequence[int],
    reverse: bool,
) -> List[int]:
    a, b, c, d, e = state
    for j in range(80):
        kind = 4 - j // 16 if reverse else j // 16
        t = (a + _mix(kind, b, c, d) + words[order[j]] + adds[j // 16]) & _MASK
        a, e, d, c, b = e, d, _turn(c, 10), b, (_turn(t, turns[j]) + e) & _MASK
    return [a, b, c, d, e]
