"""Checking a signature with public data, by OpenSSL, and libsecp256k1 for BIP-340."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from keycairn.curves import bip340, group
from keycairn.errors import Code, KeycairnError, malformed

#: What to try when a signature for an output key does not verify.
_TAPROOT = (
    "give the key's own public key, as key show prints it; the one that sign --taproot prints is "
    "the output key: verify under it without --taproot"
)
_ECDSA: dict[str, ec.EllipticCurve] = {"secp256k1": ec.SECP256K1(), "p256": ec.SECP256R1()}


def verify_signature(
    scheme: str,
    curve: str,
    public_key: bytes,
    signature: bytes,
    *,
    digest: bytes | None = None,
    message: bytes | None = None,
    taproot: bool = False,
) -> None:
    """Return if ``signature`` is valid; raise if not, so that no caller can overlook it.

    Args:
        scheme: "ecdsa" (over a 32-byte ``digest``) or "schnorr" (over a ``message``).
        curve: "secp256k1", "p256" or "ed25519".
        public_key: encoded point; for Schnorr on secp256k1 (BIP-340) also its x-coordinate alone.
        signature: r||s or R||z, 64 bytes. A high s is refused: the vault never makes one.
        taproot: ``public_key`` is the internal key, and the signature one for its BIP-86 output
            key. BIP-340 only.

    Raises:
        KeycairnError: E_SIG_INVALID, or E_MALFORMED and E_BAD_POINT for wrong input.
    """
    if (scheme, curve) == ("schnorr", "secp256k1") and len(public_key) == 32:
        public_key = b"\x02" + public_key
    point = group(curve).decode_point(public_key)
    if taproot and (scheme, curve) != ("schnorr", "secp256k1"):
        raise malformed("only a BIP-340 key (schnorr on secp256k1) has a taproot output key")
    if len(signature) != 64:
        raise malformed("a signature is 64 bytes")
    if (scheme, curve) == ("schnorr", "ed25519"):
        payload = _message(digest, message)
        try:
            Ed25519PublicKey.from_public_bytes(public_key).verify(signature, payload)
        except InvalidSignature as exc:
            raise _invalid() from exc
    elif (scheme, curve) == ("schnorr", "secp256k1"):
        payload = _message(digest, message)
        key = bip340.taproot_key(point).point.encode() if taproot else public_key
        try:
            bip340.verify(key, payload, signature)
        except KeycairnError as exc:
            raise _invalid(_TAPROOT if taproot else "") from exc
    elif scheme == "ecdsa" and curve in _ECDSA:
        if digest is None or message is not None or len(digest) != 32:
            raise malformed("an ECDSA signature is over a digest of 32 bytes")
        _ecdsa(curve, public_key, signature, digest)
    else:
        raise malformed("this scheme is not available on this curve", scheme=scheme, curve=curve)


def _message(digest: bytes | None, message: bytes | None) -> bytes:
    if message is None or digest is not None:
        raise malformed("a Schnorr signature is over a message, not a digest")
    return message


def _ecdsa(curve: str, public_key: bytes, signature: bytes, digest: bytes) -> None:
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    if s > group(curve).q // 2:
        raise _invalid()
    key = ec.EllipticCurvePublicKey.from_encoded_point(_ECDSA[curve], public_key)
    try:
        key.verify(encode_dss_signature(r, s), digest, ec.ECDSA(Prehashed(SHA256())))
    except InvalidSignature as exc:
        raise _invalid() from exc


def _invalid(help_: str = "") -> KeycairnError:
    return KeycairnError(
        Code.SIG_INVALID,
        "the signature is not valid for this public key and this digest or message",
        not_lost="Nothing was changed.",
        next=help_,
    )
