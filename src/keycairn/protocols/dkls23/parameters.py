"""The constants of threshold ECDSA. Part of the protocol version: never read from a message.

κ = 256 bits of the order, λ_c = 128 bits computational, λ_s = 80 bits statistical security.
"""

from __future__ import annotations

from typing import Final

#: ξ = κ + 2·λ_s: correlated OTs of one multiplication (DKLs23, eprint 2023/765).
XI: Final = 416
#: ℓ: inputs that one multiplication takes at once (the nonce share and the key share).
INPUTS: Final = 2
#: ℓ + ρ: columns of a VOLE, ρ = 1 of them for the check (docs/protocols/dkls23.md, deviations).
COLUMNS: Final = INPUTS + 1
#: Rows of the OT extension, bits of Δ.
ROWS: Final = 128
#: Bytes of one mask: integers modulo 2^384.
MASK_LEN: Final = 48
#: Bytes of the random pads at the end of a row, which hide the choice bits in the check value.
PAD_LEN: Final = 32
#: Bytes of one check value: two GMAC keys of 16 bytes each.
CHECK_LEN: Final = 32
#: Slots (presignatures) of one chunk, the unit of proof.
MAX_CHUNK: Final = 16
#: Presignatures of one session; its largest message then stays under the wire's 16 MiB.
MAX_COUNT: Final = 256


def chunk_sizes(count: int) -> tuple[int, ...]:
    """Slots of each chunk of a session with ``count`` slots: 16, 16, …, the rest."""
    full, rest = divmod(count, MAX_CHUNK)
    return (MAX_CHUNK,) * full + ((rest,) if rest else ())


def choice_len(slots: int) -> int:
    """Bytes of choice bits in a row: ``16·m`` with ``m = ⌈416·slots/128⌉``."""
    return 16 * -(-XI * slots // ROWS)


def row_len(slots: int) -> int:
    """L: bytes of a row, choice bits and pads."""
    return choice_len(slots) + PAD_LEN
