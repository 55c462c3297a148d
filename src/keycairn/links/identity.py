"""TLS 1.3 with pinned raw Ed25519 identity keys (R-50).

A node's configuration pins its peers' 32-byte public keys and nothing else; TLS libraries want
X.509. So:

* A node presents a **leaf** certificate: key = its identity key, subject "keycairn node i",
  issuer "keycairn identity <hex of the key>", signed with the identity key.
* The verifier makes a **trust anchor** for each pinned key: a CA certificate with that subject
  and that public key. An anchor's own signature is never looked at (RFC 5280 section 6.1: an
  anchor is a name and a key), so the verifier can sign it with a throw-away key.
* OpenSSL then verifies for real (``CERT_REQUIRED`` on both sides): the leaf's signature under the
  pinned key, and possession of the leaf's key. After the handshake the leaf's key is compared
  with the pins (:func:`peer_key`): a pinned peer can't vouch for another key.

Host names play no part, and there is no switch that turns verification off. Dates are fixed and
wide: the pin is what ends, and a node with a wrong clock must still reach its peers. Session
tickets are off, so every connection proves the key anew.
"""

from __future__ import annotations

import datetime
import ssl
import tempfile
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import NameOID

from keycairn.errors import Code, KeycairnError
from keycairn.ports import Rng

_NOT_BEFORE = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
_NOT_AFTER = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)


def raw_public(key: Ed25519PublicKey) -> bytes:
    """The 32 bytes that are pinned."""
    return key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _identity_name(public: bytes) -> x509.Name:
    # X.520 allows a common name of 64 characters: half of the key's hex. It only helps to find
    # the anchor; what is compared in the end is the key.
    return _name(f"keycairn identity {public.hex()[:40]}")


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: bytes,
    issuer_key: bytes,
    signer: Ed25519PrivateKey,
    *,
    ca: bool,
    serial: int,
) -> x509.Certificate:
    public = Ed25519PublicKey.from_public_bytes(key)
    issuer_public = Ed25519PublicKey.from_public_bytes(issuer_key)
    usage = x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(serial)
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=0 if ca else None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_public), critical=False
        )
        .sign(signer, None)
    )


def _serial(rng: Rng) -> int:
    return int.from_bytes(b"\x01" + rng.bytes(15), "big")


def leaf_certificate(identity: Ed25519PrivateKey, index: int, rng: Rng) -> x509.Certificate:
    """What node ``index`` presents."""
    public = raw_public(identity.public_key())
    return _certificate(
        _name(f"keycairn node {index}"),
        _identity_name(public),
        public,
        public,
        identity,
        ca=False,
        serial=_serial(rng),
    )


def trust_anchor(public: bytes, rng: Rng) -> x509.Certificate:
    """The local anchor for a pinned key; signed with a key that is thrown away."""
    name = _identity_name(public)
    throw_away = Ed25519PrivateKey.from_private_bytes(rng.bytes(32))
    return _certificate(name, name, public, public, throw_away, ca=True, serial=_serial(rng))


def _load_identity(
    context: ssl.SSLContext, identity: Ed25519PrivateKey, index: int, rng: Rng
) -> None:
    # The ssl module reads keys from files only. The file is encrypted under a password that lives
    # for this call, so that nothing of use stays behind on a disk.
    password = rng.bytes(32).hex().encode()
    key = identity.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(password),
    )
    leaf = leaf_certificate(identity, index, rng).public_bytes(serialization.Encoding.PEM)
    with tempfile.TemporaryDirectory(prefix="keycairn-") as folder:
        file = Path(folder) / "identity.pem"
        file.write_bytes(key + leaf)
        context.load_cert_chain(file, password=password)


def tls_context(
    identity: Ed25519PrivateKey,
    index: int,
    pins: Iterable[bytes],
    rng: Rng,
    *,
    server: bool,
) -> ssl.SSLContext:
    """A context for mutual TLS 1.3 that trusts the keys ``pins`` (32 bytes each) and nothing else.

    Raises:
        KeycairnError: E_POLICY without pins, E_MALFORMED for bytes that are no Ed25519 key.
    """
    keys = list(pins)
    if not keys:
        raise KeycairnError(
            Code.POLICY, "a link without pinned peers is refused", next="fill in [[peers]]"
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    # Names of hosts say nothing about nodes; the pin is compared after the handshake.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_TICKET
    if server:
        context.num_tickets = 0
    try:
        anchors = [trust_anchor(key, rng) for key in keys]
    except ValueError as exc:
        raise KeycairnError(
            Code.MALFORMED, "a peer's public_key is not an Ed25519 key of 32 bytes"
        ) from exc
    der = b"".join(a.public_bytes(serialization.Encoding.DER) for a in anchors)
    context.load_verify_locations(cadata=der)
    _load_identity(context, identity, index, rng)
    return context


def peer_key(tls: ssl.SSLObject | ssl.SSLSocket | None) -> bytes:
    """The raw Ed25519 key of the peer's leaf, after a handshake.

    Raises:
        KeycairnError: E_AUTHN if there is no TLS, no certificate or another kind of key.
    """
    der = tls.getpeercert(binary_form=True) if tls is not None else None
    if der is not None:
        try:
            key = x509.load_der_x509_certificate(der).public_key()
        except ValueError:
            key = None
        if isinstance(key, Ed25519PublicKey):
            return raw_public(key)
    raise KeycairnError(Code.AUTHN, "the peer showed no Ed25519 identity")
