"""The chain codes of a batch, in one AES-256-GCM box under the part's secret K.

Every node boxes the same chain codes; the hashes in the context tell which boxes are honest.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keycairn.encoding import tag
from keycairn.ers.context import Context
from keycairn.ers.statement import chain_code_hash

_BOX = tag("ers/box")

CODE_LEN = 32
TAG_LEN = 16
_NONCE = bytes(12)  # a key is used once: it depends on K and on the whole context


def box_len(context: Context) -> int:
    """Bytes of the box: 0 without chain codes, else 32 for each and the GCM tag."""
    count = len(context.chain_codes)
    return CODE_LEN * count + TAG_LEN if count else 0


def _cipher(context: Context, k: int) -> AESGCM:
    material = context.k_group.encode_scalar(k)
    return AESGCM(HKDF(hashes.SHA256(), 32, salt=context.ctx, info=_BOX.prefix).derive(material))


def seal(context: Context, k: int, chain_codes: Sequence[bytes]) -> bytes:
    """The box of all chain codes, in the context's order; empty if there are none."""
    if not chain_codes:
        return b""
    return _cipher(context, k).encrypt(_NONCE, b"".join(chain_codes), context.ctx)


def unseal(context: Context, k: int, box: bytes) -> dict[int, bytes]:
    """Chain codes by key position; only those whose hash is the context's.

    A box that does not open, or holds something else, gives fewer or none: another node's box
    has them too.
    """
    if not box:
        return {}
    try:
        plain = _cipher(context, k).decrypt(_NONCE, box, context.ctx)
    except InvalidTag:
        return {}
    codes = {
        position: plain[i * CODE_LEN : (i + 1) * CODE_LEN]
        for i, position in enumerate(context.chain_codes)
    }
    return {
        position: code
        for position, code in codes.items()
        if len(code) == CODE_LEN and chain_code_hash(code) == context.keys[position].chain_code_hash
    }
