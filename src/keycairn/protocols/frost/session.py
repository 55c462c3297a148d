"""Signing with FROST, between t+1 or more holders of a key.

Every signer checks its own commitments in the list, aggregates, and verifies the final signature
before anything is released; only when that fails are the shares checked one by one to name the
culprit. The signers exchange shares among themselves and each one aggregates; there is no
separate coordinator.

Two ways lead here. :func:`use` takes nonces that all signers hold; :func:`sign_full` draws them in
the session. Everything is for several requests at once; one is the usual number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from keycairn.curves import bip340
from keycairn.errors import Abort, Certainty, Code, KeycairnError, malformed
from keycairn.protocols.form import (
    Inbox,
    Party,
    Protocol,
    Round,
    blame,
    elements,
)
from keycairn.protocols.frost.bip340 import BIP340
from keycairn.protocols.frost.core import (
    NoncePair,
    SigningPackage,
    aggregate,
    sign_share,
    verify_signature_share,
)
from keycairn.protocols.frost.ed25519 import ED25519_SHA512
from keycairn.protocols.frost.messages import (
    MAX_ITEMS,
    MAX_MESSAGE,
    ResponseMessage,
    message_hash,
)
from keycairn.protocols.frost.nonces import Presignature
from keycairn.protocols.frost.nonces import presign as draw_nonces
from keycairn.protocols.frost.suite import SigningKey, Suite
from keycairn.protocols.presignature import check_fits, spends
from keycairn.protocols.record import FROST_BIP340, FROST_RFC9591, KeyRecord, KeyShare
from keycairn.protocols.session import NONCE_LEN, Opening


@dataclass(frozen=True)
class Request:
    """Sign ``message`` (at most 64 KiB).

    Attributes:
        tweak: of a derived child (curves/derivation.py); 0 for the key itself.
        merkle_root: see :func:`signing_key`.
    """

    message: bytes
    tweak: int = field(default=0, repr=False)
    merkle_root: bytes | None = None


@dataclass(frozen=True)
class FrostSignature:
    """A verified signature, with what the ledger books about its nonce.

    Attributes:
        public_key: what it verifies under: the key's, the derived child's, or the taproot output
            key with its even y (33 bytes, of which BIP-340 uses the last 32).
        base_r: R as the signature has it, encoded as a point.
    """

    signature: bytes
    public_key: bytes
    base_r: bytes
    presignature_id: bytes


def suite_of(record: KeyRecord) -> Suite:
    """The ciphersuite of a key; E_MALFORMED for a key of another protocol."""
    if record.protocol == FROST_BIP340:
        return BIP340
    if record.protocol != FROST_RFC9591:
        raise malformed("this key does not sign with FROST")
    return ED25519_SHA512


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
    suite = suite_of(record)
    x = record.public_point()
    if derivation % record.group.q:
        x = record.group.add([x, record.group.base_mul(derivation)])
    if suite is BIP340:
        made = bip340.even_key(x) if merkle_root is None else bip340.taproot_key(x, merkle_root)
        moved = -derivation if made.negated else derivation
        offset = (moved + made.offset) % record.group.q
        return SigningKey(BIP340, made.point, made.negated, offset)
    if merkle_root is not None:
        raise malformed("only a BIP-340 key has a taproot output key")
    return SigningKey(ED25519_SHA512, x, False, derivation % record.group.q)


@dataclass(frozen=True, repr=False)
class Claim:
    """Nonces taken for requests: spent, whatever follows. Made by :func:`claim`.

    Attributes:
        opening: goes into the session's spec.
    """

    key: KeyShare
    requests: tuple[Request, ...]
    packages: tuple[SigningPackage, ...]
    pairs: tuple[NoncePair, ...]
    public_keys: tuple[bytes, ...]
    base_rs: tuple[bytes, ...]
    presignature_ids: tuple[bytes, ...]
    opening: Opening


def claim(
    key: KeyShare,
    index: int,
    players: tuple[int, ...],
    presignatures: Sequence[Presignature],
    requests: Sequence[Request],
    nonce: bytes,
) -> Claim:
    """Take one nonce pair for each request, and work out what is public about its use.

    The shares are made in the session, after the spend (R-02): see :func:`use`.

    What can be refused is refused while all of them are unused. After that they are spent: the
    caller runs the one session whose spec has the claim's opening, or none.

    Args:
        index: this player.
        players: the signers, sorted.
        requests: 1 to 100.
        nonce: 32 fresh random bytes for the HELLO.

    Raises:
        KeycairnError: E_MALFORMED, E_BAD_INDEX, E_TOO_LARGE for the caller's own input and
            E_PRESIG_UNKNOWN for nonces of another key, generation or signer set (all stay
            unused); E_PRESIG_SPENT (those before it are spent, too); E_BAD_POINT if nonces
            cancel out.
    """
    if len(nonce) != NONCE_LEN:
        raise malformed(f"the nonce of a HELLO has {NONCE_LEN} bytes")
    targets = _targets(key.record, requests)
    key.record.check_signers(players)
    if index != key.index or index not in players:
        raise KeycairnError(Code.BAD_INDEX, "this player is not among the signers of its key")
    check_fits(
        presignatures,
        index=index,
        players=players,
        record_hash=key.record.hash,
        requests=len(requests),
    )
    pairs = tuple(p.take_pair() for p in presignatures)
    packages = tuple(
        SigningPackage.build(p.commitments, r.message, target, pair)
        for p, r, target, pair in zip(presignatures, requests, targets, pairs, strict=True)
    )
    base_rs = tuple(package.group_commitment.encode() for package in packages)
    opening = Opening(
        spends(presignatures, base_rs, [message_hash(r.message) for r in requests]), nonce
    )
    return Claim(
        key,
        tuple(requests),
        packages,
        pairs,
        tuple(_public(key.record, r, t) for r, t in zip(requests, targets, strict=True)),
        base_rs,
        tuple(p.id for p in presignatures),
        opening,
    )


def presign(party: Party, key: KeyShare, count: int) -> Protocol[list[Presignature]]:
    """Draw ``count`` nonce pairs (1 to 256) for later: see ``nonces.presign``."""
    return (yield from draw_nonces(party, key, suite_of(key.record), count))


def sign_full(
    party: Party, key: KeyShare, requests: Sequence[Request]
) -> Protocol[list[FrostSignature]]:
    """Draw nonces and sign in one session: two rounds, neither of them echoed.

    The binding factor covers message, list and public key, so signers that were shown different
    lists produce shares that do not add up (RFC 9591 section 7).

    Arguments and errors are those of :func:`claim`, :func:`use` and ``nonces.presign``. Yields,
    besides rounds: ``Durable("spend", tuple[Spend, ...])`` before the shares leave.
    """
    _targets(key.record, requests)
    suite = suite_of(key.record)
    made = yield from draw_nonces(party, key, suite, len(requests), echo=False)
    taken = claim(key, party.index, party.players, made, requests, bytes(NONCE_LEN))
    yield taken.opening.spend
    return (yield from use(party, taken))


def use(party: Party, claim: Claim) -> Protocol[list[FrostSignature]]:
    """Sign the requests of a claim: one round.

    Each share comes with the hash of its package, so that a signer who showed different nonces to
    different signers can't make honest ones convict each other.

    Raises:
        KeycairnError: E_PRESIG_SPENT if the claim was used before.
        Abort: E_BAD_LENGTH, E_BAD_SCALAR with the sender; E_SIG_INVALID with the culprits.
    """
    packages = claim.packages
    group = packages[0].key.suite.group
    responses = [
        {party.index: sign_share(package, pair, claim.key.share, party.index)}
        for package, pair in zip(packages, claim.pairs, strict=True)
    ]
    mine = ResponseMessage(
        b"".join(group.encode_scalar(of_all[party.index]) for of_all in responses),
        b"".join(package.hash for package in packages),
    )
    inbox: Inbox = yield Round(broadcast=mine, echo=False)
    elsewhere: list[list[int]] = [[] for _ in packages]
    for j, m in inbox.broadcast.items():
        count = len(packages)
        values = elements(j, "z", m.value, group.scalar_len, count, Code.BAD_SCALAR)
        hashes = elements(j, "package hash", m.package, 32, count, Code.BAD_LENGTH)
        with blame(j):
            for k, value in enumerate(values):
                responses[k][j] = group.decode_scalar(value)
        for k, hashed in enumerate(hashes):
            if hashed != packages[k].hash:
                elsewhere[k].append(j)
    made = []
    for k, package in enumerate(packages):
        signature = aggregate(package, responses[k])
        try:
            package.key.suite.verify(claim.public_keys[k], package.message, signature)
        except KeycairnError as exc:
            raise _culprits(package, responses[k], claim.key, elsewhere[k]) from exc
        made.append(
            FrostSignature(
                signature, claim.public_keys[k], claim.base_rs[k], claim.presignature_ids[k]
            )
        )
    return made


def _targets(record: KeyRecord, requests: Sequence[Request]) -> list[SigningKey]:
    """The keys that the requests are for."""
    if not 1 <= len(requests) <= MAX_ITEMS:
        raise malformed(f"1 to {MAX_ITEMS} messages in one session")
    if any(len(r.message) > MAX_MESSAGE for r in requests):
        raise KeycairnError(Code.TOO_LARGE, f"message larger than {MAX_MESSAGE} bytes")
    if any(not 0 <= r.tweak < record.group.q for r in requests):
        raise KeycairnError(Code.BAD_SCALAR, "the tweak is not below the group order")
    return [signing_key(record, derivation=r.tweak, merkle_root=r.merkle_root) for r in requests]


def _public(record: KeyRecord, request: Request, target: SigningKey) -> bytes:
    """What the signature verifies under, as the key's owner knows it: with its own sign of y."""
    if request.merkle_root is not None:
        return target.public_key.encode()
    if not request.tweak:
        return record.public_key
    x, group = record.public_point(), record.group
    return group.add([x, group.base_mul(request.tweak)]).encode()


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
