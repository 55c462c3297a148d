"""The box of a part: what needs no proof, in AES-256-GCM under the part's secret K.

Version 2 holds the chain codes of the batch and the node's path ledger; version 1 held the chain
codes only. Every node boxes the same chain codes, and the hashes in the context tell which boxes
are honest. A ledger is its node's own word.

The nonce of version 2 is a function of the plaintext. K and the context are the same again if a
snapshot replays the system's randomness, but by then the ledger may have grown, and a constant
nonce would meet two plaintexts.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keycairn.encoding import tag
from keycairn.errors import KeycairnError
from keycairn.ers.context import Context
from keycairn.ers.ledger import MAX_LEDGER, KeyPaths, decode_ledger, smallest_ledger
from keycairn.ers.statement import chain_code_hash

_BOX = tag("ers/box")

CODE_LEN = 32
TAG_LEN = 16
NONCE_LEN = 12
_ZERO_NONCE = bytes(NONCE_LEN)  # version 1: the context fixes the plaintext


@dataclass(frozen=True)
class Contents:
    """What a box gave.

    Attributes:
        codes: chain codes by key position; only those whose hash is the context's.
        ledger: one entry for every key; None if there is no sound ledger (version 1 has none).
    """

    codes: dict[int, bytes]
    ledger: tuple[KeyPaths, ...] | None


def box_lengths(context: Context) -> range:
    """How many bytes the box may have; a ledger may have any length up to its limit."""
    codes = CODE_LEN * len(context.chain_codes)
    if context.version == 1:
        only = codes + TAG_LEN if codes else 0
        return range(only, only + 1)
    fixed = NONCE_LEN + codes + TAG_LEN
    return range(fixed + smallest_ledger(len(context.keys)), fixed + MAX_LEDGER + 1)


def _keys(context: Context, k: int) -> tuple[AESGCM, bytes]:
    """The cipher and the key of its nonces; version 1 uses the first half of the bytes only."""
    material = context.k_group.encode_scalar(k)
    raw = HKDF(hashes.SHA256(), 64, salt=context.ctx, info=_BOX.prefix).derive(material)
    return AESGCM(raw[:32]), raw[32:]


def seal(context: Context, k: int, chain_codes: Sequence[bytes], ledger: bytes) -> bytes:
    """The box, version 2: nonce, then the encryption of all chain codes, in the context's order,
    and of the encoded ledger."""
    cipher, nonce_key = _keys(context, k)
    plain = b"".join(chain_codes) + ledger
    nonce = hmac.digest(nonce_key, plain, hashlib.sha256)[:NONCE_LEN]
    return nonce + cipher.encrypt(nonce, plain, context.ctx)


def unseal(context: Context, k: int, box: bytes) -> Contents:
    """What a box holds. One that does not open, or holds something else, gives less or nothing:
    another node's box has it too."""
    if not box:
        return Contents({}, None)
    cipher, _ = _keys(context, k)
    nonce, sealed = _ZERO_NONCE, box
    if context.version > 1:
        nonce, sealed = box[:NONCE_LEN], box[NONCE_LEN:]
    try:
        plain = cipher.decrypt(nonce, sealed, context.ctx)
    except InvalidTag:
        return Contents({}, None)
    found = {}
    for i, position in enumerate(context.chain_codes):
        code = plain[i * CODE_LEN : (i + 1) * CODE_LEN]
        if (
            len(code) == CODE_LEN
            and chain_code_hash(code) == context.keys[position].chain_code_hash
        ):
            found[position] = code
    return Contents(found, _ledger(context, plain[CODE_LEN * len(context.chain_codes) :]))


def _ledger(context: Context, data: bytes) -> tuple[KeyPaths, ...] | None:
    if context.version == 1:
        return None
    try:
        return decode_ledger(data, len(context.keys))
    except KeycairnError:
        return None
