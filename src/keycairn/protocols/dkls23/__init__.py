"""Threshold ECDSA: DKLs23 with presignatures (docs/protocols/dkls23.md).

Doerner, Kondi, Lee, shelat, *Threshold ECDSA in Three Rounds* (eprint 2023/765). Dishonest
majority: any t+1 holders sign, and up to t of them may cheat. What calls this package uses only
the names below; the other modules each tell one part of the story, from the bottom up::

    parameters, u384, residues,
    gadget, zero                       numbers
    ote, ot_hash, vole                 the two-party multiplication
    messages, pairwise, presign        presignatures
    presignature, ecdsa, sign          signatures
"""

from keycairn.protocols.dkls23.ecdsa import EcdsaSignature, verify_ecdsa
from keycairn.protocols.dkls23.presign import presign
from keycairn.protocols.dkls23.presignature import Presignature
from keycairn.protocols.dkls23.session import (
    MAX_ITEMS,
    NAME,
    PRESIGN_NAME,
    USE_NAME,
    VERSION,
    Item,
    PresignParams,
    SignParams,
    UseParams,
    largest_round,
)
from keycairn.protocols.dkls23.sign import Claim, Request, claim, sign, sign_full, use
from keycairn.protocols.durable import Ban, Spend

__all__ = [
    "MAX_ITEMS",
    "NAME",
    "PRESIGN_NAME",
    "USE_NAME",
    "VERSION",
    "Ban",
    "Claim",
    "EcdsaSignature",
    "Item",
    "PresignParams",
    "Presignature",
    "Request",
    "SignParams",
    "Spend",
    "UseParams",
    "claim",
    "largest_round",
    "presign",
    "sign",
    "sign_full",
    "use",
    "verify_ecdsa",
]
