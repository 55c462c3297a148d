"""The file of a recovered key: everything about it in one JSON object, read back by this tool."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from keycairn.curves import GROUPS, Group
from keycairn.curves.pem import private_key_pem
from keycairn.encoding import SecretBytes, SecretScalar, decode_hex, decode_json
from keycairn.errors import Code, KeycairnError, malformed
from keycairn.ers.children import addresses_of
from keycairn.ers.recover import RecoveredKey
from keycairn.ers.statement import CURVES
from keycairn.ers.wallets import extended_key, wif

FORMAT = "keycairn-recovered-key"
VERSION = 1
#: A key file with the longest list of paths is smaller.
MAX_KEY_FILE = 4 << 20

_ENCODING = {
    "secp256k1": "scalar, 32 bytes big-endian",
    "p256": "scalar, 32 bytes big-endian; private_key_pem is the same key in PKCS #8",
    "ed25519": "scalar, 32 bytes little-endian; NOT an RFC 8032 seed: wallets that ask for a "
    "seed cannot import it, `keycairn-recover sign` signs with it",
}


def render(key: RecoveredKey, forms: frozenset[str]) -> bytes:
    """The file of a recovered key: JSON with ``private_key`` in hex.

    Args:
        forms: further forms of the private key that go into it: "pem", "wif", "xprv". Fields of
            forms that are not asked for, or that the key does not have, are null.
    """
    s, code = key.statement, key.chain_code
    bitcoin = s.curve == "secp256k1"
    extended = extended_key(key.private_key, code) if bitcoin and code else None
    pem = private_key_pem(s.curve, key.private_key.reveal()) if "pem" in forms else None
    body = {
        "format": FORMAT,
        "version": VERSION,
        "key_id": s.key_id,
        "curve": s.curve,
        "scheme": s.scheme,
        "protocol": s.protocol,
        "public_key": s.public_key.hex(),
        "private_key": s.group.encode_scalar(key.private_key.reveal()).hex(),
        "private_key_encoding": _ENCODING.get(s.curve, "scalar"),
        "private_key_pem": pem,
        "wif": wif(key.private_key) if bitcoin and "wif" in forms else None,
        "xprv": extended.xprv.reveal().decode() if extended and "xprv" in forms else None,
        "xpub": extended.xpub if extended else None,
        "addresses": addresses_of(s.scheme, s.curve, s.public_key),
        "chain_code": code.reveal().hex() if code else None,
        "chain_code_lost": key.chain_code_lost,
        "generation": s.generation,
        "record_hash": s.record_hash.hex(),
        "nodes": list(key.nodes),
        "paths": None if key.paths is None else list(key.paths),
        "paths_left_out": key.paths_left_out,
    }
    return to_json(body)


def to_json(body: Any) -> bytes:
    """JSON for people: indented, with a new line at its end."""
    return (json.dumps(body, indent=2) + "\n").encode("ascii")


@dataclass(frozen=True)
class RecoveredKeyFile:
    """A recovered key read back from its file. ``scheme`` says what it signs with."""

    key_id: str
    scheme: str
    group: Group
    public_key: bytes
    private_key: SecretScalar
    chain_code: SecretBytes | None = None
    paths: tuple[str, ...] = ()

    @property
    def curve(self) -> str:
        return self.group.name


def load_key(data: bytes) -> RecoveredKeyFile:
    """Read a recovered key's file; E_MALFORMED, or E_BAD_SCALAR if it does not fit itself."""
    value = decode_json(data, max_bytes=MAX_KEY_FILE)
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise malformed("not a recovered key file of keycairn-recover")
    if value.get("version") != VERSION or value.get("curve") not in CURVES:
        raise malformed("a key file of a version or curve that is not known here")
    group = GROUPS[value["curve"]]
    scheme = value.get("scheme")
    if scheme not in ("ecdsa", "schnorr"):
        raise malformed("a key file of a scheme that is not known here")
    public = decode_hex(value.get("public_key"), length=group.point_len, what="public_key")
    raw = decode_hex(value.get("private_key"), length=group.scalar_len, what="private_key")
    x = group.decode_scalar(raw, nonzero=True)
    if group.base_mul(x).encode() != public:
        raise KeycairnError(Code.BAD_SCALAR, "the private key does not fit the public key")
    code = value.get("chain_code")
    return RecoveredKeyFile(
        str(value.get("key_id")),
        scheme,
        group,
        public,
        SecretScalar(x),
        None if code is None else SecretBytes(decode_hex(code, length=32, what="chain_code")),
        _paths(value.get("paths")),
    )


def _paths(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(path, str) for path in value):
        raise malformed("the paths of a key file are a list of texts")
    return tuple(value)
