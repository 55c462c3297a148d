"""The rule of docs/protocols/derivation.md for Ed25519, written again from that page alone.

Run as a script it writes ``derivation-ed25519.json`` beside itself: golden vectors that any other
implementation may use. It shares no code with keycairn.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("derivation-ed25519.json")
Q = 2**252 + 27742317777372353535851937790883648493


def transcript(name: str, version: int, *fields: bytes | int) -> bytes:
    """The encoding of a tag and of fields that are bytes or non-negative integers."""
    out = b"KCT1" + len(name).to_bytes(2, "big") + name.encode() + version.to_bytes(2, "big")
    out += len(fields).to_bytes(8, "big")
    for value in fields:
        raw, kind = value, b"b"
        if isinstance(raw, int):
            raw, kind = raw.to_bytes((raw.bit_length() + 7) // 8, "big"), b"i"
        out += kind + len(raw).to_bytes(8, "big") + raw
    return out


def step(private: int, public: bytes, code: bytes, index: int) -> tuple[int, bytes]:
    """Tweak and child chain code."""
    message = transcript("derive/schnorr-ed25519", 1, code, public, index)
    out = hashlib.shake_128(message).digest(80)
    tweak = int.from_bytes(out[:48], "big") % Q
    if tweak == 0 or (private + tweak) % Q == 0:
        raise ValueError("no key at this path")
    return tweak, out[48:]


def vector(private: int, code: bytes, path: list[int]) -> dict[str, Any]:
    """One vector, from the private key: so public and private derivation are compared."""
    from curves.oracle import EDWARDS

    def public(k: int) -> bytes:
        return EDWARDS.encode(EDWARDS.mul(k))

    made: dict[str, Any] = {
        "private_key": private.to_bytes(32, "little").hex(),
        "public_key": public(private).hex(),
        "chain_code": code.hex(),
        "path": "/".join(["m", *map(str, path)]),
    }
    k, total = private, 0
    for index in path:
        tweak, code = step(k, public(k), code, index)
        k, total = (k + tweak) % Q, (total + tweak) % Q
    return {
        **made,
        "tweak": total.to_bytes(32, "little").hex(),
        "child_public_key": public(k).hex(),
        "child_chain_code": code.hex(),
    }


PATHS = (
    [], [0], [1], [255], [256], [2**31 - 1], [0, 5], [5, 0], [44, 501, 0, 0],
    [0] * 8, [2**31 - 1] * 8, [1, 2, 3, 4, 5, 6, 7, 8],
)  # fmt: skip
ERRORS = (
    "", "/", "m/", "m//0", "m/0/", "/0", "0/5", "M/0", "m/0'", "m/0h", "m/2147483648",
    "m/4294967296", "m/00", "m/05", "m/+1", "m/-1", "m/ 1", "m/1 ", "m/\u0663", "m/1e3",
    "m/0/0/0/0/0/0/0/0/0",
)  # fmt: skip


def make() -> dict[str, Any]:
    """The whole file."""
    valid = []
    for n, path in enumerate(PATHS):
        seed = hashlib.sha512(b"derivation vector %d" % n).digest()
        private = (1, Q - 1, 2)[n] if n < 3 else int.from_bytes(seed[:32], "little") % Q
        code = (bytes(32), b"\xff" * 32)[n] if n < 2 else seed[32:]
        valid.append(vector(private, code, path))
    return {
        "description": "keycairn, derivation of Ed25519 keys, rule derive/schnorr-ed25519 version "
        "1 (docs/protocols/derivation.md). Scalars and points little-endian as in RFC 8032; "
        "private_key and tweak are scalars mod the group order, not seeds.",
        "valid": valid,
        "error": [{"path": path, "code": "E_MALFORMED"} for path in ERRORS],
    }


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    FILE.write_text(json.dumps(make(), indent=1) + "\n", encoding="ascii")
