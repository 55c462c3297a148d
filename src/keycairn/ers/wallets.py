"""A whole secp256k1 private key in the forms that Bitcoin wallets import.

WIF, extended keys (BIP-32, depth 0) and output descriptors (BIP-380, -382, -386) of main net. The
scheme decides what a key's coins lie under: ``wpkh`` for ECDSA keys, ``tr`` for BIP-340 keys, as
:mod:`keycairn.curves.addresses` has it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import base58

from keycairn.curves.derivation import parse_path
from keycairn.curves.secp256k1 import SECP256K1
from keycairn.encoding import SecretBytes, SecretScalar

_WIF = b"\x80"
_XPRV, _XPUB = bytes.fromhex("0488ade4"), bytes.fromhex("0488b21e")
_MASTER = bytes(1 + 4 + 4)  # depth 0, no parent, child number 0
_FUNCTION = {"ecdsa": "wpkh", "schnorr": "tr"}

#: Children of one parent whose indices lie closer than this share a descriptor with a range; a
#: wallet computes every address of a range, so lone far indices have one of their own.
MAX_GAP = 1_000
_MAX_RANGE = 100_000


@dataclass(frozen=True)
class ExtendedKey:
    """The two texts of a master key."""

    xprv: SecretBytes
    xpub: str


def wif(key: SecretScalar) -> str:
    """Wallet import format of a private key whose public key is compressed."""
    return _check(_WIF + SECP256K1.encode_scalar(key.reveal()) + b"\x01")


def extended_key(key: SecretScalar, chain_code: SecretBytes) -> ExtendedKey:
    """The key with its chain code as BIP-32 master key."""
    private = SECP256K1.encode_scalar(key.reveal())
    public = SECP256K1.base_mul(key.reveal()).encode()
    start = _MASTER + chain_code.reveal()
    return ExtendedKey(
        SecretBytes(_check(_XPRV + start + b"\x00" + private).encode("ascii")),
        _check(_XPUB + start + public),
    )


def _check(payload: bytes) -> str:
    return base58.b58encode_check(payload).decode("ascii")


def descriptors(scheme: str, key: str, paths: Iterable[str] = ()) -> list[dict[str, Any]]:
    """Descriptors of a key and of its children, as Bitcoin Core's ``importdescriptors`` takes them.

    Args:
        scheme: "ecdsa" (P2WPKH) or "schnorr" (P2TR, BIP-86).
        key: an extended key (private or public); WIF or a hexadecimal public key without children.
        paths: ``m/0/5`` …; the key itself comes first whether named or not.

    Returns:
        objects with desc, timestamp (0: search the whole chain) and, where desc has a ``*``, range
        (first and last index).
    """
    function = _FUNCTION[scheme]
    found = [_descriptor(function, key)]
    parents: dict[tuple[int, ...], list[int]] = {}
    for indices in sorted({parse_path(path) for path in paths} - {()}):
        parents.setdefault(indices[:-1], []).append(indices[-1])
    for parent, children in parents.items():
        base = "".join(f"/{index}" for index in parent)
        for first, last in _runs(children):
            if first == last:
                found.append(_descriptor(function, f"{key}{base}/{first}"))
            else:
                found.append(_descriptor(function, f"{key}{base}/*") | {"range": [first, last]})
    return found


def _descriptor(function: str, key: str) -> dict[str, Any]:
    text = f"{function}({key})"
    return {"desc": f"{text}#{checksum(text)}", "timestamp": 0}


def _runs(rising: list[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for index in rising:
        if runs and index - runs[-1][1] < MAX_GAP and index - runs[-1][0] < _MAX_RANGE:
            runs[-1] = (runs[-1][0], index)
        else:
            runs.append((index, index))
    return runs


# -- BIP-380's checksum: a BCH code over GF(32), of texts in groups of three symbols

_INPUT = (
    "0123456789()[],'/*abcdefgh@:$%{}IJKLMNOPQRSTUVWXYZ&+-.;<=>?!^_|~ijklmnopqrstuvwxyzABCDEFGH`#"
    '"\\ '
)
_OUTPUT = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR = (0xF5DEE51989, 0xA9FDCA3312, 0x1BAB10E32D, 0x3706B1677A, 0x644D626FFD)


def _step(c: int, value: int) -> int:
    top = c >> 35
    c = (c & 0x7FFFFFFFF) << 5 ^ value
    for i, word in enumerate(_GENERATOR):
        c ^= word if top >> i & 1 else 0
    return c


def checksum(descriptor: str) -> str:
    """The eight characters after ``#``; ValueError for a character that no descriptor has."""
    c, classes, count = 1, 0, 0
    for character in descriptor:
        position = _INPUT.index(character)
        c = _step(c, position & 31)
        classes = classes * 3 + (position >> 5)
        count += 1
        if count == 3:
            c, classes, count = _step(c, classes), 0, 0
    if count:
        c = _step(c, classes)
    for _ in range(8):
        c = _step(c, 0)
    c ^= 1
    return "".join(_OUTPUT[c >> 5 * (7 - i) & 31] for i in range(8))
