"""Signing with a recovered key, for the time until the coins are moved.

Single-party signing by a private key that is whole again; nothing here is part of the threshold
protocols. Every signature is verified by another library before it is given out.
"""

from __future__ import annotations

import hashlib
from typing import Any

import coincurve
from coincurve._libsecp256k1 import ffi, lib
from coincurve.context import GLOBAL_CONTEXT
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from keycairn.curves import ED25519, P256, SECP256K1, bip340, ecdsa
from keycairn.encoding import SecretScalar, encode, tag
from keycairn.errors import Code, KeycairnError, malformed
from keycairn.ports import Rng

_NONCE = tag("ers/ed25519-nonce")
_EXTRA = bytes.fromhex("da6fb38c")  # SECP256K1_SCHNORRSIG_EXTRAPARAMS_MAGIC


def sign_ed25519(key: SecretScalar, message: bytes, rng: Rng) -> bytes:
    """A 64-byte signature that verifies under RFC 8032, from a scalar instead of a seed.

    The nonce is hedged: SHA-512 of 64 fresh bytes, the scalar and the message, so neither a
    failing random source nor an equal message repeats it.
    """
    x = key.reveal()
    scalar = ED25519.encode_scalar(x)
    public = ED25519.base_mul(x).encode()
    material = encode(_NONCE, rng.bytes(64), scalar, message)
    r = int.from_bytes(hashlib.sha512(material).digest(), "little") % ED25519.q
    big_r = ED25519.base_mul(r).encode()
    h = int.from_bytes(hashlib.sha512(big_r + public + message).digest(), "little")
    signature = big_r + ED25519.encode_scalar(r + h * x)
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except InvalidSignature as exc:
        raise _invalid() from exc
    return signature


def sign_ecdsa(curve: str, key: SecretScalar, digest: bytes) -> dict[str, Any]:
    """Low-s ECDSA over a 32-byte digest with an RFC 6979 nonce: by libsecp256k1, or OpenSSL on
    P-256.

    Returns:
        signature (r||s, hex), der (hex), recovery_id.
    """
    if len(digest) != 32:
        raise malformed("an ECDSA digest has 32 bytes")
    if curve == P256.name:
        return _sign_p256(key.reveal(), digest)
    private = coincurve.PrivateKey(SECP256K1.encode_scalar(key.reveal()))
    compact = private.sign_recoverable(digest, hasher=None)
    der = private.sign(digest, hasher=None)
    if not private.public_key.verify(der, digest, hasher=None):
        raise _invalid()
    return {"signature": compact[:64].hex(), "der": der.hex(), "recovery_id": compact[64]}


def _sign_p256(x: int, digest: bytes) -> dict[str, Any]:
    private = ec.derive_private_key(x, ec.SECP256R1())
    hashed = ec.ECDSA(Prehashed(SHA256()), deterministic_signing=True)
    r, s = decode_dss_signature(private.sign(digest, hashed))
    s = min(s, P256.q - s)
    public = P256.base_mul(x).encode()
    ecdsa.verify(P256, public, digest, r, s)
    return {
        "signature": (r.to_bytes(32, "big") + s.to_bytes(32, "big")).hex(),
        "der": ecdsa.der(r, s).hex(),
        "recovery_id": ecdsa.recovery_id(P256, public, digest, r, s),
    }


def sign_bip340(
    key: SecretScalar, message: bytes, rng: Rng, *, taproot: bool = False
) -> tuple[bytes, bytes]:
    """A BIP-340 signature over a message of any length, by libsecp256k1.

    Args:
        key: x, as recovered: libsecp256k1 minds the sign.
        taproot: sign for the BIP-86 output key, so that coins at the key's P2TR address move.

    Returns:
        the signature (64 bytes), and the encoded point that it verifies under.
    """
    x = key.reveal()
    public = SECP256K1.base_mul(x)
    if taproot:
        output = bip340.taproot_key(public)
        public, x = output.point, output.private(x)
    keypair = ffi.new("secp256k1_keypair *")
    extra = ffi.new("secp256k1_schnorrsig_extraparams *")
    aux = ffi.from_buffer(rng.bytes(32))
    extra.magic, extra.ndata = _EXTRA, aux  # BIP-340's own nonce function, with fresh bytes
    made = ffi.new("unsigned char[64]")
    context = GLOBAL_CONTEXT.ctx
    if not (
        lib.secp256k1_keypair_create(context, keypair, SECP256K1.encode_scalar(x))
        and lib.secp256k1_schnorrsig_sign_custom(
            context, made, message, len(message), keypair, extra
        )
    ):
        raise _invalid()
    signature = bytes(ffi.buffer(made))
    bip340.verify(public.encode(), message, signature)
    return signature, public.encode()


def _invalid() -> KeycairnError:
    return KeycairnError(Code.SIG_INVALID, "the signature does not verify; it is not given out")
