"""FROST(Ed25519, SHA-512) exactly as RFC 9591, sections 4, 5 and 6.1.

The functions carry the RFC's names where it has them. Signing is two rounds; nonces live in a
:class:`NoncePair` that hands itself out once. Every signer checks its own commitments in the
list, aggregates, and verifies the final signature before anything is released; only when that
fails are the shares checked one by one to name the culprit.

Deviation: none in the arithmetic. The signers exchange shares among themselves and each one
aggregates; there is no separate coordinator.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from keycairn.curves import ED25519, Point
from keycairn.curves.polynomial import lagrange
from keycairn.encoding import SecretScalar, digest, tag
from keycairn.errors import Abort, Certainty, Code, KeycairnError
from keycairn.ports import Rng
from keycairn.protocols.durable import Spend
from keycairn.protocols.form import Durable, Inbox, Party, Protocol, Round, blame, require_length
from keycairn.protocols.record import KeyShare
from keycairn.protocols.wire import Message

NAME, VERSION = "frost/sign", 1
CONTEXT = b"FROST-ED25519-SHA512-v1"
MAX_MESSAGE = 64 << 10

_ID = tag("frost/nonce-id")
_MESSAGE = tag("frost/message")
_PACKAGE = tag("frost/package")
_Q = ED25519.q


# -- RFC 9591 section 6.1: hash functions ------------------------------------------------------


def _h_scalar(label: bytes, data: bytes) -> int:
    return int.from_bytes(hashlib.sha512(CONTEXT + label + data).digest(), "little") % _Q


def h1(data: bytes) -> int:
    """H1: binding factors."""
    return _h_scalar(b"rho", data)


def h2(data: bytes) -> int:
    """H2: the challenge; no context string, so that signatures are plain Ed25519."""
    return int.from_bytes(hashlib.sha512(data).digest(), "little") % _Q


def h3(data: bytes) -> int:
    """H3: nonces."""
    return _h_scalar(b"nonce", data)


def h4(data: bytes) -> bytes:
    """H4: the message."""
    return hashlib.sha512(CONTEXT + b"msg" + data).digest()


def h5(data: bytes) -> bytes:
    """H5: the commitment list."""
    return hashlib.sha512(CONTEXT + b"com" + data).digest()


# -- section 4: nonces, binding factors, group commitment ---------------------------------------


def nonce_generate(share: SecretScalar, random_bytes: bytes) -> int:
    """Section 4.1: a nonce from 32 fresh random bytes, hedged with the share."""
    if len(random_bytes) != 32:
        raise ValueError("nonce_generate takes 32 random bytes")
    return h3(random_bytes + ED25519.encode_scalar(share.reveal()))


@dataclass(frozen=True)
class NonceCommitment:
    """One signer's public nonce commitments (section 5.1)."""

    index: int
    hiding: Point
    binding: Point


class NoncePair:
    """The secret nonces behind one commitment. Used once: :meth:`take` empties it."""

    __slots__ = ("_binding", "_hiding", "_lock", "commitment")

    def __init__(self, index: int, hiding: int, binding: int) -> None:
        self._hiding: SecretScalar | None = SecretScalar(hiding)
        self._binding: SecretScalar | None = SecretScalar(binding)
        self._lock = threading.Lock()
        self.commitment = NonceCommitment(
            index, ED25519.base_mul(hiding), ED25519.base_mul(binding)
        )

    def take(self) -> tuple[SecretScalar, SecretScalar]:
        """Hand out (hiding, binding) and forget them. E_PRESIG_SPENT the second time."""
        with self._lock:
            hiding, binding = self._hiding, self._binding
            self._hiding = self._binding = None
        if hiding is None or binding is None:
            raise KeycairnError(
                Code.PRESIG_SPENT,
                "this nonce pair was used before",
                not_lost="The key is safe: nothing was signed with the nonce a second time.",
                next="send the request again; a fresh nonce is drawn",
            )
        return hiding, binding

    def __repr__(self) -> str:
        return f"NoncePair(index={self.commitment.index}, <secret>)"


def commit(index: int, share: SecretScalar, rng: Rng) -> NoncePair:
    """Section 5.1: fresh nonces and their commitments."""
    return NoncePair(
        index, nonce_generate(share, rng.bytes(32)), nonce_generate(share, rng.bytes(32))
    )


def _encode_index(index: int) -> bytes:
    return ED25519.encode_scalar(index)


def encode_commitment_list(commitments: Sequence[NonceCommitment]) -> bytes:
    """Section 4.3, ``encode_group_commitment_list``."""
    return b"".join(
        _encode_index(c.index) + c.hiding.encode() + c.binding.encode() for c in commitments
    )


def check_commitment_list(
    commitments: Sequence[NonceCommitment], signers: Sequence[int], own: NonceCommitment
) -> None:
    """Refuse a list that isn't exactly the agreed signers, sorted, with our own pair in it (R-06).

    Raises:
        KeycairnError: E_MALFORMED.
    """
    indices = [c.index for c in commitments]
    if indices != sorted(set(indices)) or indices != list(signers):
        raise KeycairnError(
            Code.MALFORMED, "commitment list must hold every signer once, in order, nobody else"
        )
    if own not in commitments:
        raise KeycairnError(Code.MALFORMED, "commitment list does not hold this signer's own pair")


def compute_binding_factors(
    public_key: Point, commitments: Sequence[NonceCommitment], message: bytes
) -> dict[int, int]:
    """Section 4.4."""
    prefix = public_key.encode() + h4(message) + h5(encode_commitment_list(commitments))
    return {c.index: h1(prefix + _encode_index(c.index)) for c in commitments}


def compute_group_commitment(
    commitments: Sequence[NonceCommitment], factors: Mapping[int, int]
) -> Point:
    """Section 4.5. Raises E_BAD_POINT if it is the identity."""
    return ED25519.add(
        [c.hiding for c in commitments]
        + [ED25519.mul_public(c.binding, factors[c.index]) for c in commitments]
    )


def compute_challenge(group_commitment: Point, public_key: Point, message: bytes) -> int:
    """Section 4.6."""
    return h2(group_commitment.encode() + public_key.encode() + message)


# -- section 5: signing, aggregation, verification ----------------------------------------------


@dataclass(frozen=True)
class SigningPackage:
    """What all signers share for one signature: list, message, key; and what follows from it."""

    commitments: tuple[NonceCommitment, ...]
    message: bytes
    public_key: Point
    factors: Mapping[int, int]
    group_commitment: Point
    challenge: int

    @classmethod
    def build(
        cls, commitments: Sequence[NonceCommitment], message: bytes, public_key: Point
    ) -> SigningPackage:
        factors = compute_binding_factors(public_key, commitments, message)
        r = compute_group_commitment(commitments, factors)
        c = compute_challenge(r, public_key, message)
        return cls(tuple(commitments), message, public_key, factors, r, c)

    @property
    def signers(self) -> tuple[int, ...]:
        return tuple(c.index for c in self.commitments)

    @property
    def hash(self) -> bytes:
        """Names key, message and commitment list: shares for another package don't fit."""
        return digest(
            _PACKAGE,
            self.public_key.encode(),
            self.message,
            encode_commitment_list(self.commitments),
        )


def sign_share(package: SigningPackage, nonces: NoncePair, share: SecretScalar, index: int) -> int:
    """Section 5.2: z_i. Consumes the nonces whatever happens.

    Raises:
        KeycairnError: E_PRESIG_SPENT; E_MALFORMED for a list without this signer's pair.
    """
    hiding, binding = nonces.take()
    check_commitment_list(package.commitments, package.signers, nonces.commitment)
    weight = lagrange(ED25519, package.signers, index)
    return (
        hiding.reveal()
        + binding.reveal() * package.factors[index]
        + weight * share.reveal() * package.challenge
    ) % _Q


def verify_signature_share(
    package: SigningPackage, index: int, response: int, commitment: Point
) -> bool:
    """Section 5.4: whether z_i fits the signer's nonce commitments and X_i."""
    own = next(c for c in package.commitments if c.index == index)
    weight = lagrange(ED25519, package.signers, index)
    try:
        expected = ED25519.combine(
            [
                (1, own.hiding),
                (package.factors[index], own.binding),
                (package.challenge * weight, commitment),
            ]
        )
        return ED25519.base_mul(response) == expected
    except KeycairnError:
        return False


def aggregate(package: SigningPackage, responses: Mapping[int, int]) -> bytes:
    """Section 5.3: the 64-byte Ed25519 signature R || z."""
    z = sum(responses[i] for i in package.signers) % _Q
    return package.group_commitment.encode() + ED25519.encode_scalar(z)


def verify(public_key: bytes, message: bytes, signature: bytes) -> None:
    """Ed25519 verification (libsodium). Raises E_SIG_INVALID."""
    if len(signature) != 64 or len(public_key) != 32:
        raise KeycairnError(Code.SIG_INVALID, "an Ed25519 signature is 64 bytes, a key 32")
    try:
        VerifyKey(public_key).verify(message, signature)
    except (BadSignatureError, ValueError) as exc:
        raise KeycairnError(Code.SIG_INVALID, "the signature does not verify") from exc


# -- the session ---------------------------------------------------------------------------------


class SignParams(Message, frozen=True):
    """Parameters of a signing session, equal at every signer."""

    request_id: str
    key_id: str
    record_hash: bytes
    message: bytes


class NonceMessage(Message, frozen=True):
    """Round 1, broadcast: D_i, E_i (32 bytes each)."""

    hiding: bytes
    binding: bytes


class ResponseMessage(Message, frozen=True):
    """Round 2, broadcast: z_i, and the hash of what it was made for (32 bytes each)."""

    value: bytes
    package: bytes


@dataclass(frozen=True)
class FrostSignature:
    """A verified signature, with what the ledger books about its nonce."""

    signature: bytes
    base_r: bytes
    presignature_id: bytes


def sign(party: Party, key: KeyShare, message: bytes) -> Protocol[FrostSignature]:
    """Sign ``message`` with the players of the session, t+1 or more holders of ``key``.

    Neither round is echoed: the binding factor covers message, list and public key, so signers
    that were shown different lists produce shares that do not add up (RFC 9591 section 7). Each
    share comes with the hash of its package, so that a signer who showed different nonces to
    different signers can't make honest ones convict each other.

    Raises:
        Abort: E_BAD_POINT, E_BAD_SCALAR with the sender; E_SIG_INVALID with the culprits.
    """
    record = key.record
    record.check_signers(party.players)
    if len(message) > MAX_MESSAGE:
        raise KeycairnError(Code.TOO_LARGE, f"message larger than {MAX_MESSAGE} bytes")
    public_key = record.public_point()
    nonces = commit(party.index, key.share, party.rng)
    own = nonces.commitment

    inbox: Inbox = yield Round(
        broadcast=NonceMessage(own.hiding.encode(), own.binding.encode()), echo=False
    )
    listed = {party.index: own}
    for j, m in inbox.broadcast.items():
        with blame(j):
            listed[j] = NonceCommitment(
                j, ED25519.decode_point(m.hiding), ED25519.decode_point(m.binding)
            )
    commitments = [listed[j] for j in party.players]
    check_commitment_list(commitments, party.players, own)
    package = SigningPackage.build(commitments, message, public_key)

    nonce_id = digest(_ID, party.sid, encode_commitment_list(commitments))
    base_r = package.group_commitment.encode()
    yield Durable("spend", Spend(nonce_id, base_r, record.key_id, digest(_MESSAGE, message)))
    response = sign_share(package, nonces, key.share, party.index)
    mine = ResponseMessage(ED25519.encode_scalar(response), package.hash)
    inbox = yield Round(broadcast=mine, echo=False)
    responses = {party.index: response}
    for j, m in inbox.broadcast.items():
        require_length(j, "package hash", m.package, 32)
        with blame(j):
            responses[j] = ED25519.decode_scalar(m.value)
    signature = aggregate(package, responses)
    try:
        verify(record.public_key, message, signature)
    except KeycairnError as exc:
        elsewhere = [j for j, m in inbox.broadcast.items() if m.package != package.hash]
        raise _culprits(package, responses, key, elsewhere) from exc
    return FrostSignature(signature, base_r, nonce_id)


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
