"""Child keys of a vault key, by unhardened paths: local, public, the same at every node.

A path ``m/0/5`` gives one number, the *tweak*, and with it the child of every share without a
message between nodes: child public key = X + tweak·G, child share = x_i + tweak. Because the tweak
is added to the constant term of the sharing, the Lagrange coefficients of any t+1 holders, whose
sum is 1, carry it unchanged into the child's private key x + tweak.

Which rule makes the tweaks depends on what the key is for:

=================== ===================================================================
ECDSA, secp256k1    BIP-32 CKDpub
Schnorr, secp256k1  BIP-32 CKDpub on the plain point X, before BIP-340 drops the sign of y
                    and before any taproot tweak: what BIP-86 wallets do
ECDSA, P-256        SLIP-10 CKDpub, with its retry rule
Schnorr, Ed25519    a rule of our own: wallets cannot follow it (docs/protocols/derivation.md)
=================== ===================================================================

Nothing here is secret but the chain code, and what comes of it: with a chain code, X and *one*
child's private key anybody computes the vault key's private key.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from keycairn.curves import Group, Point, group
from keycairn.encoding import tag, xof
from keycairn.errors import Code, KeycairnError, malformed

#: Levels below the root. BIP-32 counts to 255, but each level costs every node a multiplication
#: for every request, and common schemes use two to five. Raising this later is safe; lowering it
#: would lose keys.
MAX_DEPTH = 8
#: Indices are below this; from here on they are hardened, which needs the private key.
HARDENED = 1 << 31
CHAIN_CODE_LEN = 32
#: Hashes of one SLIP-10 step; each fails with probability 2^-32.
MAX_TRIES = 8

_ED25519 = tag("derive/schnorr-ed25519")
_SEGMENT = re.compile(r"0|[1-9][0-9]{0,9}")
_MAX_TEXT = len("m") + MAX_DEPTH * len("/2147483647")


@dataclass(frozen=True)
class Derived:
    """A child of a key.

    Attributes:
        tweak: sum of the steps' tweaks mod q: child private key = private key + tweak.
        public_key: encoded child public key, the plain point also for BIP-340 keys.
        chain_code: the child's chain code, 32 bytes.
    """

    # Not for logs: who knows them links the vault's keys, and one private key then gives all.
    tweak: int = field(repr=False)
    public_key: bytes
    chain_code: bytes = field(repr=False)


def parse_path(path: object) -> tuple[int, ...]:
    """The indices of ``m``, ``m/0``, ``m/0/5`` …; each path has exactly one spelling.

    Raises:
        KeycairnError: E_MALFORMED for anything else: hardened steps, an index of 2^31 or more,
            empty segments, signs, leading zeros, other digits than 0-9, more than MAX_DEPTH steps.
    """
    if not isinstance(path, str):
        raise _bad_path("a derivation path is text")
    if len(path) > _MAX_TEXT:
        raise _bad_path(f"a derivation path has at most {MAX_DEPTH} steps")
    root, *segments = path.split("/")
    if root != "m":
        raise _bad_path("a derivation path starts with m")
    if len(segments) > MAX_DEPTH:
        raise _bad_path(f"a derivation path has at most {MAX_DEPTH} steps")
    return tuple(_index(segment, step) for step, segment in enumerate(segments, 1))


def _index(segment: str, step: int) -> int:
    if segment.endswith(("'", "h", "H")):
        raise _bad_path(
            "a hardened step needs the whole private key, which no node has: use unhardened ones",
            step=step,
        )
    if not _SEGMENT.fullmatch(segment):
        raise _bad_path(
            "a step of a path is a decimal number, without sign or leading zeros", step=step
        )
    index = int(segment)
    if index >= HARDENED:
        raise _bad_path("a step of a path is below 2^31 (from there on: hardened)", step=step)
    return index


def _bad_path(message: str, **detail: int) -> KeycairnError:
    return KeycairnError(
        Code.MALFORMED,
        message,
        not_lost="Nothing was derived or signed.",
        next=f"give a path such as m/0/5: at most {MAX_DEPTH} steps, each 0 to {HARDENED - 1}",
        detail=detail,
    )


def derive(curve: str, scheme: str, public_key: bytes, chain_code: bytes, path: str) -> Derived:
    """The child of a key at ``path``.

    Args:
        curve: "secp256k1", "p256" or "ed25519".
        scheme: "ecdsa" or "schnorr"; a pair with the curve that has a rule.
        public_key: the root's encoded public key, from the key record.
        chain_code: the root's chain code, 32 bytes.
        path: see :func:`parse_path`; ``m`` is the root itself, with tweak 0.

    Raises:
        KeycairnError: E_MALFORMED for a path, or a pair of scheme and curve, that has no rule;
            E_BAD_POINT and E_BAD_LENGTH for a wrong public key or chain code; E_BAD_SCALAR if the
            path has no key (BIP-32: in one step of 2^127; then use another index).
    """
    step = _RULES.get((str(scheme), str(curve)))
    if step is None:
        raise malformed("there is no derivation rule for this scheme on this curve")
    indices = parse_path(path)
    g = group(curve)
    point = g.decode_point(public_key)
    if not isinstance(chain_code, bytes) or len(chain_code) != CHAIN_CODE_LEN:
        raise KeycairnError(Code.BAD_LENGTH, f"a chain code is {CHAIN_CODE_LEN} bytes")
    total, code = 0, chain_code
    for index in indices:
        tweak, point, code = step(g, point, code, index)
        total = (total + tweak) % g.q
    return Derived(total, point.encode(), code)


# -- one step -----------------------------------------------------------------------------------


def _hmac_sha512(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, hashlib.sha512)


def _child(parent: Point, tweak: int) -> Point | None:
    # parent + tweak*G; None where the standards say "invalid".
    g = parent.group
    if tweak >= g.q:
        return None
    if tweak == 0:
        return parent
    try:
        return g.add([g.base_mul(tweak), parent])
    except KeycairnError:  # the identity
        return None


def _no_key() -> KeycairnError:
    return KeycairnError(
        Code.BAD_SCALAR,
        "there is no key at this path",
        not_lost="The root key and all other paths are as they were.",
        next="use another index: this happens once in more than 2^100 paths",
    )


def _bip32(g: Group, parent: Point, code: bytes, index: int) -> tuple[int, Point, bytes]:
    i = _hmac_sha512(code, parent.encode() + index.to_bytes(4, "big"))
    tweak = int.from_bytes(i[:32], "big")
    child = _child(parent, tweak)
    if child is None:
        raise _no_key()
    return tweak, child, i[32:]


def _slip10(g: Group, parent: Point, code: bytes, index: int) -> tuple[int, Point, bytes]:
    # As BIP-32, but an invalid child is not the end: hash on until there is a valid one. P-256's
    # order is 2^-32 below 2^256, so that happens.
    suffix = index.to_bytes(4, "big")
    data = parent.encode() + suffix
    for _ in range(MAX_TRIES):
        i = _hmac_sha512(code, data)
        tweak = int.from_bytes(i[:32], "big")
        child = _child(parent, tweak)
        if child is not None:
            return tweak, child, i[32:]
        data = b"\x01" + i[32:] + suffix
    raise _no_key()


def _ed25519(g: Group, parent: Point, code: bytes, index: int) -> tuple[int, Point, bytes]:
    out = xof(48 + CHAIN_CODE_LEN, _ED25519, code, parent.encode(), index)
    tweak = int.from_bytes(out[:48], "big") % g.q
    child = _child(parent, tweak) if tweak else None
    if child is None:
        raise _no_key()
    return tweak, child, out[48:]


_Step = Callable[[Group, Point, bytes, int], tuple[int, Point, bytes]]
_RULES: dict[tuple[str, str], _Step] = {
    ("ecdsa", "secp256k1"): _bip32,
    ("schnorr", "secp256k1"): _bip32,
    ("ecdsa", "p256"): _slip10,
    ("schnorr", "ed25519"): _ed25519,
}
