"""Threshold Schnorr signatures: FROST as RFC 9591 has it, for several suites.

docs/protocols/frost.md. What calls this package uses only the names below; from the bottom up::

    suite                       what a ciphersuite is: group, hashes, encodings, parity rule
    ed25519, secp256k1, bip340  the suites
    core                        nonces, binding factors, shares, aggregation (RFC 9591)
    session                     the protocol between signers

``ED25519_SHA512`` is the suite of every function that is not told another one.
"""

from keycairn.protocols.frost.bip340 import BIP340
from keycairn.protocols.frost.core import (
    NonceCommitment,
    NoncePair,
    SigningPackage,
    aggregate,
    check_commitment_list,
    commit,
    compute_binding_factors,
    compute_challenge,
    compute_group_commitment,
    encode_commitment_list,
    nonce_generate,
    sign_share,
    verify_signature_share,
)
from keycairn.protocols.frost.ed25519 import CONTEXT, ED25519_SHA512, h1, h2, h3, h4, h5, verify
from keycairn.protocols.frost.secp256k1 import SECP256K1_SHA256
from keycairn.protocols.frost.session import (
    BIP340_NAME,
    MAX_MESSAGE,
    NAME,
    VERSION,
    Bip340SignParams,
    FrostSignature,
    NonceMessage,
    ResponseMessage,
    SignParams,
    sign,
    signing_key,
)
from keycairn.protocols.frost.suite import SigningKey, Suite

__all__ = [
    "BIP340",
    "BIP340_NAME",
    "CONTEXT",
    "ED25519_SHA512",
    "MAX_MESSAGE",
    "NAME",
    "SECP256K1_SHA256",
    "VERSION",
    "Bip340SignParams",
    "FrostSignature",
    "NonceCommitment",
    "NonceMessage",
    "NoncePair",
    "ResponseMessage",
    "SignParams",
    "SigningKey",
    "SigningPackage",
    "Suite",
    "aggregate",
    "check_commitment_list",
    "commit",
    "compute_binding_factors",
    "compute_challenge",
    "compute_group_commitment",
    "encode_commitment_list",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "nonce_generate",
    "sign",
    "sign_share",
    "signing_key",
    "verify",
    "verify_signature_share",
]
