"""Addresses of a public key on the chains whose signatures the key can make.

An address is a promise that its owner can spend from it, so each one is tied to the *scheme* as
well as to the curve: an ECDSA key on secp256k1 has an Ethereum and a Bitcoin P2WPKH address, a
BIP-340 key a Bitcoin P2TR address, an Ed25519 key a Solana address, and nothing else is ever given.
A P2TR address of an ECDSA key would be unspendable, and so would a P2WPKH address of a BIP-340 key.
"""

from __future__ import annotations

import hashlib

import base58
import bech32
from Crypto.Hash import RIPEMD160, keccak

from keycairn.curves import bip340, group
from keycairn.curves.secp256k1 import SECP256K1
from keycairn.errors import Code, KeycairnError

#: Names of the addresses in every result, whether a key has them or not.
NAMES = ("ethereum", "bitcoin_p2wpkh", "bitcoin_p2tr", "solana")

_BECH32M = 0x2BC830A3  # BIP-350


def addresses(scheme: str, curve: str, public_key: bytes) -> dict[str, str | None]:
    """Main-net addresses by the names of :data:`NAMES`; None where the key has none.

    Raises:
        KeycairnError: E_MALFORMED for an unknown curve, E_BAD_POINT for bytes that are not a
            canonical point of it.
    """
    group(curve).decode_point(public_key)
    found: dict[str, str | None] = dict.fromkeys(NAMES)
    if (scheme, curve) == ("ecdsa", "secp256k1"):
        found["ethereum"] = ethereum(public_key)
        found["bitcoin_p2wpkh"] = bitcoin_p2wpkh(public_key)
    elif (scheme, curve) == ("schnorr", "secp256k1"):
        found["bitcoin_p2tr"] = bitcoin_p2tr(public_key)
    elif (scheme, curve) == ("schnorr", "ed25519"):
        found["solana"] = base58.b58encode(public_key).decode("ascii")
    return found


def ethereum(public_key: bytes) -> str:
    """Ethereum address with the mixed-case checksum of EIP-55."""
    point = SECP256K1.decode_point(public_key)
    raw = _keccak(SECP256K1.uncompressed(point)[1:])[-20:].hex()
    check = _keccak(raw.encode("ascii")).hex()
    return "0x" + "".join(
        c.upper() if int(digit, 16) >= 8 else c for c, digit in zip(raw, check, strict=False)
    )


def bitcoin_p2wpkh(public_key: bytes) -> str:
    """Native SegWit version 0 address (BIP-141, BIP-173) of a compressed public key."""
    program = RIPEMD160.new(hashlib.sha256(public_key).digest()).digest()
    text = bech32.encode("bc", 0, program)
    if text is None:
        raise KeycairnError(Code.BAD_POINT, "this key has no P2WPKH address")
    return str(text)


def bitcoin_p2tr(public_key: bytes) -> str:
    """Taproot address (BIP-341, BIP-350) of a BIP-340 key, spendable with that key only (BIP-86).

    The address names the *output key*: a signature spends from it if it was made with the taproot
    option, which adds the same tweak.
    """
    output = bip340.taproot_key(SECP256K1.decode_point(public_key)).point
    return _bech32m("bc", 1, bip340.x_only(output))


def _bech32m(prefix: str, version: int, program: bytes) -> str:
    # The library knows only the checksum of BIP-173; BIP-350's differs in the constant.
    data = [version, *(bech32.convertbits(program, 8, 5) or ())]
    values = [*bech32.bech32_hrp_expand(prefix), *data]
    check = bech32.bech32_polymod([*values, *bytes(6)]) ^ _BECH32M
    data += [check >> 5 * (5 - i) & 31 for i in range(6)]
    return prefix + "1" + "".join(bech32.CHARSET[d] for d in data)


def _keccak(data: bytes) -> bytes:
    # Ethereum's Keccak-256 came before SHA-3 and pads differently; hashlib.sha3_256 won't do.
    return keccak.new(digest_bits=256, data=data).digest()
