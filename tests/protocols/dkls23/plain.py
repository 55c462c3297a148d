"""The two-party multiplication once more, in Python integers: slow, plain, and the oracle.

The product computes the same on whole numpy arrays. Here every OT is a loop turn and every number
an integer, as the formulas of docs/protocols/dkls23.md read. Tests compare the two byte by byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from keycairn.curves import Group
from keycairn.encoding import digest, xof
from keycairn.encoding.transcript import registered_tags
from keycairn.protocols.dkls23 import gadget
from keycairn.protocols.dkls23.ote import Lane
from keycairn.protocols.dkls23.parameters import ROWS, XI, row_len

M = 2**384
Triple = tuple[int, int, int]


def expand(lane: Lane, keys: Sequence[bytes]) -> np.ndarray:
    """The PRG of the rows, each by the encoder of the transcript."""
    t, length = registered_tags()["ote/prg"], row_len(lane.slots)
    rows = b"".join([xof(length, t, lane.vid, i, key) for i, key in enumerate(keys)])
    return np.frombuffer(rows, np.uint8).reshape(ROWS, length)


def columns(rows: np.ndarray, slots: int) -> np.ndarray:
    """Transposition by way of one byte for each bit."""
    used = np.unpackbits(rows[:, : XI * slots // 8], axis=1, bitorder="little")
    return np.packbits(used.T, axis=1, bitorder="little")


def masks(lane: Lane, columns: np.ndarray) -> list[Triple]:
    """OTH of every column: three integers below 2^384."""
    key = xof(16, registered_tags()["ote/hashkey"], lane.vid)
    aes = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305
    out = []
    for c, column in enumerate(columns):
        inner = aes.update(column.tobytes())
        blocks = b""
        for b in range(9):
            tweak = c.to_bytes(8, "little") + b.to_bytes(8, "little")
            blocks += xor(aes.update(xor(inner, tweak)), inner)
        first, second, check = (int.from_bytes(blocks[k : k + 48], "big") for k in (0, 48, 96))
        out.append((first, second, check))
    return out


def xor(x: bytes, y: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(x, y, strict=True))


def combine(q: int, theta: tuple[int, int], values: Triple) -> int:
    return (values[2] + theta[0] * values[0] + theta[1] * values[1]) % q


def products(group: Group, values: Sequence[Triple]) -> list[tuple[int, int]]:
    """Inner products of the two input columns with the gadget, for every slot."""
    g = gadget.vector(group)
    sums = []
    for start in range(0, len(values), XI):
        slot = values[start : start + XI]
        first, second = (
            sum(a * v[w] for a, v in zip(g, slot, strict=True)) % group.q for w in (0, 1)
        )
        sums.append((first, second))
    return sums


def mu(lane: Lane, combined: Sequence[int]) -> bytes:
    raw = b"".join([value.to_bytes(32, "big") for value in combined])
    return digest(registered_tags()["vole/mu"], lane.vid, raw)


@dataclass
class Alice:
    """Alice's side of one chunk; ``inputs`` are (a_0, a_1, â) for every slot."""

    lane: Lane
    group: Group
    columns: np.ndarray
    delta: bytes
    inputs: Sequence[Triple]

    def correction(self) -> bytes:
        alpha0 = masks(self.lane, self.columns)
        alpha1 = masks(self.lane, self.columns ^ np.frombuffer(self.delta, np.uint8))
        return b"".join(
            ((x - y + a) % M).to_bytes(48, "big")
            for c, (zero, one) in enumerate(zip(alpha0, alpha1, strict=True))
            for x, y, a in zip(zero, one, self.inputs[c // XI], strict=True)
        )

    def outputs(self) -> list[tuple[int, int]]:
        q = self.group.q
        shares = products(self.group, masks(self.lane, self.columns))
        return [(-first % q, -second % q) for first, second in shares]

    def prove(self, theta: tuple[int, int]) -> tuple[bytes, bytes]:
        q = self.group.q
        eta = b"".join(combine(q, theta, a).to_bytes(32, "big") for a in self.inputs)
        alpha = masks(self.lane, self.columns)
        return eta, mu(self.lane, [combine(q, theta, values) for values in alpha])


@dataclass
class Bob:
    """Bob's side of one chunk; ``choices`` holds 416 bits for every slot."""

    lane: Lane
    group: Group
    columns: np.ndarray
    choices: Sequence[int]

    def shares(self, a_tilde: bytes) -> list[Triple]:
        """ḋ = γ + β·ã mod 2^384."""
        out = []
        for c, gamma in enumerate(masks(self.lane, self.columns)):
            raw = [a_tilde[k : k + 48] for k in range(144 * c, 144 * c + 144, 48)]
            first, second, check = (
                (g + int(self.choices[c]) * int.from_bytes(r, "big")) % M
                for g, r in zip(gamma, raw, strict=True)
            )
            out.append((first, second, check))
        return out

    def outputs(self, a_tilde: bytes) -> list[tuple[int, int]]:
        return products(self.group, self.shares(a_tilde))

    def mu(self, theta: tuple[int, int], a_tilde: bytes, eta: Sequence[int]) -> bytes:
        """What Alice's μ must be."""
        q = self.group.q
        combined = [
            (combine(q, theta, values) - int(self.choices[c]) * eta[c // XI]) % q
            for c, values in enumerate(self.shares(a_tilde))
        ]
        return mu(self.lane, combined)
