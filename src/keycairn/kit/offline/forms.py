"""The files that come out: the same, byte for byte, as those of ``keycairn-recover``.

``KEY.json`` has everything about a key, ``KEY.children.json`` the derived keys in use with their
addresses, ``KEY.pem`` is for OpenSSL. (Output descriptors and Ethereum keystores are made from
KEY.json, by ``keycairn-recover export`` or by a wallet that takes hex, WIF or xprv.)
"""

from __future__ import annotations

import base64
import json
import re
from typing import Any, Dict, List, Optional, Sequence, Set, Tuple

from .addresses import addresses, wif, xprv, xpub
from .curves import CURVES
from .derivation import Child, child_at, parse_path
from .errors import ToolError, malformed
from .recover import Recovered, Warn
from .rsa import der, der_integer

_ENCODING = {
    "secp256k1": "scalar, 32 bytes big-endian",
    "p256": "scalar, 32 bytes big-endian; private_key_pem is the same key in PKCS #8",
    "ed25519": "scalar, 32 bytes little-endian; NOT an RFC 8032 seed: wallets that ask for a "
    "seed cannot import it, `keycairn-recover sign` signs with it",
}
#: AlgorithmIdentifier: id-ecPublicKey and the curve's name.
_EC = bytes.fromhex("06072a8648ce3d0201")
_NAMED = {
    "secp256k1": bytes.fromhex("06052b8104000a"),
    "p256": bytes.fromhex("06082a8648ce3d030107"),
}


def pem(curve: str, x: int) -> Optional[str]:
    """PKCS #8 (RFC 5958, RFC 5915), not encrypted; None where there is no such form."""
    if curve not in _NAMED:
        return None
    a, b = CURVES[curve].affine(CURVES[curve].base_mul(x))  # type: ignore[attr-defined]
    point = der(3, b"\0\x04" + a.to_bytes(32, "big") + b.to_bytes(32, "big"))
    inner = der(0x30, der_integer(1) + der(4, x.to_bytes(32, "big")) + der(0xA1, point))
    whole = der(0x30, der_integer(0) + der(0x30, _EC + _NAMED[curve]) + der(4, inner))
    text = base64.b64encode(whole).decode("ascii")
    lines = [text[i : i + 64] for i in range(0, len(text), 64)]
    return "\n".join(["-----BEGIN PRIVATE KEY-----", *lines, "-----END PRIVATE KEY-----", ""])


def to_json(body: Any) -> bytes:
    return (json.dumps(body, indent=2) + "\n").encode("ascii")


def key_json(back: Recovered) -> bytes:
    """``KEY.json``: docs/ers-format.md, section 10."""
    key, x, code = back.key, back.x, back.chain_code
    bitcoin = key.curve == "secp256k1"
    return to_json(
        {
            "format": "keycairn-recovered-key",
            "version": 1,
            "key_id": key.key_id,
            "curve": key.curve,
            "scheme": key.scheme,
            "protocol": key.protocol,
            "public_key": key.public_key.hex(),
            "private_key": key.group.encode_scalar(x).hex(),
            "private_key_encoding": _ENCODING[key.curve],
            "private_key_pem": pem(key.curve, x),
            "wif": wif(x) if bitcoin else None,
            "xprv": xprv(x, code) if bitcoin and code else None,
            "xpub": xpub(key.public_key, code) if bitcoin and code else None,
            "addresses": addresses(key.scheme, key.curve, key.public_key),
            "chain_code": code.hex() if code else None,
            "chain_code_lost": back.chain_code_lost,
            "generation": key.generation,
            "record_hash": key.record_hash.hex(),
            "nodes": list(back.nodes),
            "paths": None if back.paths is None else list(back.paths),
            "paths_left_out": back.paths_left_out,
        }
    )


def children(back: Recovered, more: Sequence[str], warn: Warn) -> List[Child]:
    """The children at the ledger's paths and at ``more``; what has no key is warned of."""
    found: List[Child] = []
    if back.chain_code is None:
        return found
    for path in sorted({*(back.paths or ()), *more}, key=parse_path):
        try:
            found.append(child_at(back.key.curve, back.key.scheme, back.x, back.chain_code, path))
        except ToolError as exc:
            if exc.code != "E_BAD_SCALAR":
                raise
            warn("the ledger names %s, where there is no key" % path)
    return found


def children_json(back: Recovered, found: Sequence[Child]) -> bytes:
    """``KEY.children.json``."""
    key, rows = back.key, []
    for child in found:
        row: Dict[str, Any] = {
            "path": child.path,
            "public_key": child.public_key.hex(),
            "private_key": key.group.encode_scalar(child.x).hex(),
            "addresses": addresses(key.scheme, key.curve, child.public_key),
        }
        if key.curve == "secp256k1":
            row["wif"] = wif(child.x)
        rows.append(row)
    return to_json(
        {
            "format": "keycairn-recovered-children",
            "version": 1,
            "key_id": key.key_id,
            "curve": key.curve,
            "scheme": key.scheme,
            "public_key": key.public_key.hex(),
            "paths_left_out": back.paths_left_out,
            "children": rows,
        }
    )


def stem(key_id: str, taken: Set[str]) -> str:
    """A file name for a key, without dots, so that no key's file is another's."""
    first = re.sub(r"[^A-Za-z0-9_-]", "_", key_id)[:64]
    name, number = first, 2
    while name in taken:
        name, number = "%s-%d" % (first, number), number + 1
    taken.add(name)
    return name


def read_key(data: bytes) -> Tuple[Dict[str, Any], int]:
    """A KEY.json again, and its scalar; E_MALFORMED, E_BAD_SCALAR."""
    try:
        body = json.loads(data.decode("ascii"))
        if body["format"] != "keycairn-recovered-key" or body["version"] != 1:
            raise ValueError
        group = CURVES[body["curve"]]
        x = group.scalar(bytes.fromhex(body["private_key"]))
        right = x != 0 and group.public(x).hex() == body["public_key"]
    except (ValueError, KeyError, TypeError, ToolError):
        raise malformed("not a recovered key's file (KEY.json)") from None
    if not right:
        raise ToolError("E_BAD_SCALAR", "the private key does not fit the public key")
    return body, x
