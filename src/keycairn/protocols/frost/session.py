"""The signing session: two rounds between t+1 or more holders of a key.

Every signer checks its own commitments in the list, aggregates, and verifies the final signature
before anything is released; only when that fails are the shares checked one by one to name the
culprit. The signers exchange shares among themselves and each one aggregates; there is no
separate coordinator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from keycairn.curves import bip340
from keycairn.encoding import digest, tag
from keycairn.errors import Abort, Certainty, Code, KeycairnError, malformed
from keycairn.protocols.durable import Spend
from keycairn.protocols.form import Durable, Inbox, Party, Protocol, Round, blame, require_length
from keycairn.protocols.frost.bip340 import BIP340
from keycairn.protocols.frost.core import (
    NonceCommitment,
    SigningPackage,
    aggregate,
    check_commitment_list,
    commit,
    encode_commitment_list,
    sign_share,
    verify_signature_share,
)
from keycairn.protocols.frost.ed25519 import ED25519_SHA512
from keycairn.protocols.frost.suite import SigningKey
from keycairn.protocols.record import FROST_BIP340, FROST_RFC9591, KeyRecord, KeyShare
from keycairn.protocols.wire import Message

NAME, VERSION = "frost/sign", 1
BIP340_NAME = "frost/sign-bip340"
MAX_MESSAGE = 64 << 10

_ID = tag("frost/nonce-id")
_MESSAGE = tag("frost/message")


class SignParams(Message, frozen=True):
    """Parameters of a signing session, equal at every signer."""

    request_id: str
    key_id: str
    record_hash: bytes
    message: bytes


class Bip340SignParams(Message, frozen=True):
    """The same for a BIP-340 key; ``taproot``: sign for the BIP-86 output key."""

    request_id: str
    key_id: str
    record_hash: bytes
    message: bytes
    taproot: bool


class NonceMessage(Message, frozen=True):
    """Round 1, broadcast: D_i, E_i (32 bytes each, 33 on secp256k1)."""

    hiding: bytes
    binding: bytes


class ResponseMessage(Message, frozen=True):
    """Round 2, broadcast: z_i, and the hash of what it was made for (32 bytes each)."""

    value: bytes
    package: bytes


@dataclass(frozen=True)
class FrostSignature:
    """A verified signature, with what the ledger books about its nonce.

    Attributes:
        public_key: what it verifies under: the record's key, or the taproot output key with its
            even y (33 bytes, of which BIP-340 uses the last 32).
        base_r: R as the signature has it, encoded as a point.
    """

    signature: bytes
    public_key: bytes
    base_r: bytes
    presignature_id: bytes


def signing_key(
    record: KeyRecord, *, derivation: int = 0, merkle_root: bytes | None = None
) -> SigningKey:
    """The key that a signature of ``record`` is for.

    Args:
        derivation: tweak of a derived child (curves/derivation.py), which comes before signs and
            taproot; 0 for the key itself.
        merkle_root: None signs for the key itself. Bytes sign for its taproot output key:
            empty as in BIP-86, or 32 bytes, the root of the output's script tree.

    Raises:
        KeycairnError: E_MALFORMED for a key of another protocol, or a taproot tweak of a key that
            isn't BIP-340's.
    """
    x = record.public_point()
    if derivation % record.group.q:
        x = record.group.add([x, record.group.base_mul(derivation)])
    if record.protocol == FROST_BIP340:
        made = bip340.even_key(x) if merkle_root is None else bip340.taproot_key(x, merkle_root)
        moved = -derivation if made.negated else derivation
        offset = (moved + made.offset) % record.group.q
        return SigningKey(BIP340, made.point, made.negated, offset)
    if record.protocol != FROST_RFC9591:
        raise malformed("this key does not sign with FROST")
    if merkle_root is not None:
        raise malformed("only a BIP-340 key has a taproot output key")
    return SigningKey(ED25519_SHA512, x, False, derivation % record.group.q)


def sign(
    party: Party, key: KeyShare, message: bytes, *, merkle_root: bytes | None = None
) -> Protocol[FrostSignature]:
    """Sign ``message`` with the players of the session, t+1 or more holders of ``key``.

    Neither round is echoed: the binding factor covers message, list and public key, so signers
    that were shown different lists produce shares that do not add up (RFC 9591 section 7). Each
    share comes with the hash of its package, so that a signer who showed different nonces to
    different signers can't make honest ones convict each other.

    Args:
        merkle_root: see :func:`signing_key`.

    Raises:
        Abort: E_BAD_POINT, E_BAD_SCALAR with the sender; E_SIG_INVALID with the culprits.
    """
    record = key.record
    record.check_signers(party.players)
    if len(message) > MAX_MESSAGE:
        raise KeycairnError(Code.TOO_LARGE, f"message larger than {MAX_MESSAGE} bytes")
    target = signing_key(record, merkle_root=merkle_root)
    suite, group = target.suite, target.suite.group
    nonces = commit(party.index, key.share, party.rng, suite)
    own = nonces.commitment

    inbox: Inbox = yield Round(
        broadcast=NonceMessage(own.hiding.encode(), own.binding.encode()), echo=False
    )
    listed = {party.index: own}
    for j, m in inbox.broadcast.items():
        with blame(j):
            listed[j] = NonceCommitment(
                j, group.decode_point(m.hiding), group.decode_point(m.binding)
            )
    commitments = [listed[j] for j in party.players]
    check_commitment_list(commitments, party.players, own)
    package = SigningPackage.build(commitments, message, target, nonces)

    nonce_id = digest(_ID, party.sid, encode_commitment_list(commitments))
    base_r = package.group_commitment.encode()
    yield Durable("spend", Spend(nonce_id, base_r, record.key_id, digest(_MESSAGE, message)))
    response = sign_share(package, nonces, key.share, party.index)
    mine = ResponseMessage(group.encode_scalar(response), package.hash)
    inbox = yield Round(broadcast=mine, echo=False)
    responses = {party.index: response}
    for j, m in inbox.broadcast.items():
        require_length(j, "package hash", m.package, 32)
        with blame(j):
            responses[j] = group.decode_scalar(m.value)
    signature = aggregate(package, responses)
    public_key = record.public_key if merkle_root is None else target.public_key.encode()
    try:
        suite.verify(public_key, message, signature)
    except KeycairnError as exc:
        elsewhere = [j for j, m in inbox.broadcast.items() if m.package != package.hash]
        raise _culprits(package, responses, key, elsewhere) from exc
    return FrostSignature(signature, public_key, base_r, nonce_id)


def _culprits(
    package: SigningPackage,
    responses: Mapping[int, int],
    key: KeyShare,
    elsewhere: Sequence[int],
) -> Abort:
    """Who is to blame: certain for a bad share of this very package, one of the others if some
    say that they signed another package (they lie, or a third showed them other nonces)."""
    bad = [
        j
        for j in package.signers
        if j != key.index
        and j not in elsewhere
        and not verify_signature_share(package, j, responses[j], key.record.commitment_of(j))
    ]
    others = [j for j in package.signers if j != key.index] if elsewhere else []
    return Abort(
        Code.SIG_INVALID,
        "the signature does not verify; the nonces are spent",
        culprits=bad or others,
        certainty=(Certainty.CERTAIN if bad else Certainty.ONE_OF if others else Certainty.NOBODY),
        not_lost="The key is safe. The message may have been signed by whoever cheated.",
        next="sign again without the named players",
    )
