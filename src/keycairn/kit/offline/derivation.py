"""Child keys by unhardened paths: BIP-32, SLIP-10 for P-256, keycairn's own rule for Ed25519.

docs/protocols/derivation.md has the rules; a child's private key is x + tweak.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Optional, Tuple

from .curves import CURVES, Curve, Point
from .encoding import big, xof
from .errors import ToolError, invalid, malformed

MAX_DEPTH = 8
_STEP = re.compile(r"0|[1-9][0-9]{0,9}")
SCHEMES = (
    ("ecdsa", "secp256k1"),
    ("schnorr", "secp256k1"),
    ("ecdsa", "p256"),
    ("schnorr", "ed25519"),
)


@dataclass(frozen=True)
class Child:
    """A child key; x*G was compared with the public key."""

    path: str
    public_key: bytes
    x: int


def parse_path(path: object) -> Tuple[int, ...]:
    """The indices of m/0/5; E_MALFORMED."""
    if not isinstance(path, str) or len(path) > 1 + MAX_DEPTH * 11:
        raise malformed("a derivation path is text of at most %d steps" % MAX_DEPTH)
    root, *steps = path.split("/")
    good = root == "m" and len(steps) <= MAX_DEPTH and all(_STEP.fullmatch(s) for s in steps)
    if not good or any(int(s) >= 1 << 31 for s in steps):
        raise malformed("a derivation path is m, or m/ and unhardened steps: m/0/5")
    return tuple(int(s) for s in steps)


def child_at(curve: str, scheme: str, x: int, chain_code: bytes, path: str) -> Child:
    """The child at a path.

    Raises:
        ToolError: E_MALFORMED; E_BAD_SCALAR if there is no key at the path; E_ERS_INVALID if the
            private child does not have the public child's key.
    """
    if (scheme, curve) not in SCHEMES:
        raise malformed("there is no derivation rule for %s on %s" % (scheme, curve))
    group = CURVES[curve]
    point, code, total = group.base_mul(x), chain_code, 0
    for index in parse_path(path):
        tweak, point, code = _step(group, point, code, index)
        total += tweak
    child = (x + total) % group.q
    public = group.encode(point)
    if child == 0 or group.public(child) != public:
        raise invalid("child", "the child at %s has another public key" % path)
    return Child(path, public, child)


def _no_key() -> ToolError:
    return ToolError("E_BAD_SCALAR", "there is no key at this path")


def _add(group: Curve, parent: Point, tweak: int) -> Optional[Point]:
    if tweak >= group.q:
        return None
    child = group.add(group.base_mul(tweak), parent)
    return None if group.is_zero(child) else child


def _step(group: Curve, parent: Point, code: bytes, index: int) -> Tuple[int, Point, bytes]:
    encoded = group.encode(parent)
    if group.name == "ed25519":
        out = xof(80, "derive/schnorr-ed25519", code, encoded, index)
        tweak = int.from_bytes(out[:48], "big") % group.q
        child = _add(group, parent, tweak) if tweak else None
        if child is None:
            raise _no_key()
        return tweak, child, out[48:]
    data = encoded + big(index, 4)
    # BIP-32 gives up when there is no child; SLIP-10 hashes on (P-256: once in 2^32).
    for _ in range(8 if group.name == "p256" else 1):
        i = hmac.new(code, data, hashlib.sha512).digest()
        tweak = int.from_bytes(i[:32], "big")
        child = _add(group, parent, tweak)
        if child is not None:
            return tweak, child, i[32:]
        data = b"\x01" + i[32:] + big(index, 4)
    raise _no_key()
