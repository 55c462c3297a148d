"""Threshold Schnorr signatures: FROST as RFC 9591 has it, for several suites.

docs/protocols/frost.md. What calls this package uses only the names below; from the bottom up::

    suite                       what a ciphersuite is: group, hashes, encodings, parity rule
    ed25519, secp256k1, bip340  the suites
    core                        nonces, binding factors, shares, aggregation (RFC 9591)
    messages, nonces            nonce pairs made ahead, one batch in a session
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
from keycairn.protocols.frost.messages import (
    MAX_ITEMS,
    MAX_MESSAGE,
    NAME,
    PRESIGN_NAME,
    USE_NAME,
    VERSION,
    Item,
    NonceMessage,
    PresignParams,
    ResponseMessage,
    SignParams,
    UseParams,
    message_hash,
)
from keycairn.protocols.frost.nonces import Presignature
from keycairn.protocols.frost.secp256k1 import SECP256K1_SHA256
from keycairn.protocols.frost.session import (
    Claim,
    FrostSignature,
    Request,
    claim,
    presign,
    sign_full,
    signing_key,
    suite_of,
    use,
)
from keycairn.protocols.frost.suite import SigningKey, Suite

__all__ = [
    "BIP340",
    "CONTEXT",
    "ED25519_SHA512",
    "MAX_ITEMS",
    "MAX_MESSAGE",
    "NAME",
    "PRESIGN_NAME",
    "SECP256K1_SHA256",
    "USE_NAME",
    "VERSION",
    "Claim",
    "FrostSignature",
    "Item",
    "NonceCommitment",
    "NonceMessage",
    "NoncePair",
    "PresignParams",
    "Presignature",
    "Request",
    "ResponseMessage",
    "SignParams",
    "SigningKey",
    "SigningPackage",
    "Suite",
    "UseParams",
    "aggregate",
    "check_commitment_list",
    "claim",
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
    "message_hash",
    "nonce_generate",
    "presign",
    "sign_full",
    "sign_share",
    "signing_key",
    "suite_of",
    "use",
    "verify",
    "verify_signature_share",
]
