"""AES (FIPS 197), CBC and GCM decryption (SP 800-38A, -38D). Small, slow, not constant time.

For an encrypted RSA key file (CBC) and the box of a document (GCM): a few thousand blocks at most.
"""

from __future__ import annotations

import hmac
from typing import List, Tuple

from .errors import malformed

BLOCK = 16


def _double(a: int) -> int:
    """a * x in GF(2^8)."""
    return (a << 1) ^ (0x11B if a & 0x80 else 0)


def _times(a: int, b: int) -> int:
    total = 0
    while b:
        total ^= a if b & 1 else 0
        a, b = _double(a), b >> 1
    return total


def _sbox() -> Tuple[int, ...]:
    # The inverse in GF(2^8), then FIPS 197's affine map: five rotations xored, and 0x63.
    powers = [1]
    for _ in range(254):
        powers.append(_times(powers[-1], 3))  # 3 generates the field's multiplicative group
    box = [0x63] * 256
    for i, a in enumerate(powers):
        inverse = rotated = powers[-i % 255]
        for n in range(1, 5):
            rotated ^= (inverse << n | inverse >> (8 - n)) & 0xFF
        box[a] = rotated ^ 0x63
    return tuple(box)


SBOX = _sbox()
INVERSE = tuple(SBOX.index(i) for i in range(256))
# Multiplication tables of MixColumns (2, 3) and its inverse (9, 11, 13, 14).
BY = {c: tuple(_times(a, c) for a in range(256)) for c in (2, 3, 9, 11, 13, 14)}
# Byte i of the state (column by column) after ShiftRows was byte SHIFT[i].
SHIFT = tuple((i + 4 * (i % 4)) % 16 for i in range(16))
UNSHIFT = tuple(SHIFT.index(i) for i in range(16))


class AES:
    """The block cipher with one key of 16, 24 or 32 bytes."""

    def __init__(self, key: bytes) -> None:
        if len(key) not in (16, 24, 32):
            raise malformed("an AES key has 16, 24 or 32 bytes")
        self._round_keys = _expand(key)

    def encrypt(self, block: bytes) -> bytes:
        keys = self._round_keys
        state = _xor(block, keys[0])
        for i in range(1, len(keys)):
            state = [SBOX[state[j]] for j in SHIFT]
            if i < len(keys) - 1:
                state = _mix(state, BY[2], BY[3], None, None)
            state = _xor(state, keys[i])
        return bytes(state)

    def decrypt(self, block: bytes) -> bytes:
        keys = self._round_keys
        state = _xor(block, keys[-1])
        for i in range(len(keys) - 2, -1, -1):
            state = [INVERSE[state[j]] for j in UNSHIFT]
            state = _xor(state, keys[i])
            if i:
                state = _mix(state, BY[14], BY[11], BY[13], BY[9])
        return bytes(state)


_ONE = tuple(range(256))


def _mix(
    state: List[int], a: Tuple[int, ...], b: Tuple[int, ...], c: object, d: object
) -> List[int]:
    # Each column times the circulant matrix of (a, b, c, d); None is the number 1.
    third = c if isinstance(c, tuple) else _ONE
    fourth = d if isinstance(d, tuple) else _ONE
    out = []
    for i in range(0, 16, 4):
        column = state[i : i + 4]
        for j in range(4):
            w, x, y, z = column[j:] + column[:j]
            out.append(a[w] ^ b[x] ^ third[y] ^ fourth[z])
    return out


def _xor(a: "bytes | List[int]", b: "bytes | List[int]") -> List[int]:
    return [x ^ y for x, y in zip(a, b)]


def _expand(key: bytes) -> List[List[int]]:
    size = len(key) // 4
    words = [list(key[4 * i : 4 * i + 4]) for i in range(size)]
    constant = 1
    for i in range(size, 4 * (size + 7)):
        word = words[-1]
        if i % size == 0:
            word = [SBOX[b] for b in word[1:] + word[:1]]
            word[0] ^= constant
            constant = _double(constant)
        elif size == 8 and i % size == 4:
            word = [SBOX[b] for b in word]
        words.append(_xor(words[i - size], word))
    flat = [byte for word in words for byte in word]
    return [flat[i : i + BLOCK] for i in range(0, len(flat), BLOCK)]


def cbc_decrypt(key: bytes, iv: bytes, data: bytes) -> bytes:
    """Without the PKCS #7 padding; E_MALFORMED if it is none (a wrong passphrase)."""
    if len(iv) != BLOCK or not data or len(data) % BLOCK:
        raise malformed("the encrypted key has a wrong length")
    cipher, out, last = AES(key), b"", iv
    for i in range(0, len(data), BLOCK):
        block = data[i : i + BLOCK]
        out += bytes(_xor(cipher.decrypt(block), last))
        last = block
    pad = out[-1]
    if not 1 <= pad <= BLOCK or out[-pad:] != bytes([pad]) * pad:
        raise malformed("a wrong passphrase")
    return out[:-pad]


def _ghash(h: int, data: bytes) -> int:
    # GF(2^128) with the bits of GCM: the first bit of a block is the coefficient of 1.
    total = 0
    for i in range(0, len(data), BLOCK):
        x = total ^ int.from_bytes(data[i : i + BLOCK], "big")
        total, v = 0, h
        for bit in range(127, -1, -1):
            if x >> bit & 1:
                total ^= v
            v = v >> 1 ^ (0xE1 << 120 if v & 1 else 0)
    return total


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def gcm_decrypt(key: bytes, nonce: bytes, data: bytes, additional: bytes) -> "bytes | None":
    """The plaintext of ciphertext || tag (16 bytes), with a nonce of 12 bytes; None if the tag is
    wrong. The tag is checked before anything is decrypted."""
    if len(data) < BLOCK or len(nonce) != 12:
        return None
    sealed, tag = data[:-BLOCK], data[-BLOCK:]
    cipher = AES(key)
    h = int.from_bytes(cipher.encrypt(bytes(BLOCK)), "big")
    lengths = (8 * len(additional)).to_bytes(8, "big") + (8 * len(sealed)).to_bytes(8, "big")
    s = _ghash(h, _padded(additional) + _padded(sealed) + lengths)
    mask = int.from_bytes(cipher.encrypt(nonce + b"\0\0\0\1"), "big")
    if not hmac.compare_digest((s ^ mask).to_bytes(BLOCK, "big"), tag):
        return None
    out = bytearray()
    for i in range(0, len(sealed), BLOCK):
        stream = cipher.encrypt(nonce + (2 + i // BLOCK).to_bytes(4, "big"))
        out += bytes(_xor(sealed[i : i + BLOCK], stream))
    return bytes(out)
