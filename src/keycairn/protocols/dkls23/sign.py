"""Signing with presignatures: open ν, re-randomise, send two numbers, verify.

Groth and Shoup, *On the security of ECDSA with additive key derivation and presignatures*
(eprint 2021/1330), on the sharings of DKLs23 (eprint 2023/765)::

    spend the presignature durably, then open ν_i
    δ  = F(X, τ, digest, R, id, signers, all ν)       R' = R + δ·G,   r' = x(R') mod q
    u'_i = u_i + δ·φ_i + z^u_i                        v'_i = v_i + τ·φ_i
    w_i  = digest·φ_i + r'·v'_i + z^w_i               s = Σw_i / Σu'_i

There is no echo: the zero-shares z are derived from a hash of the whole request, so that signers
who disagree on digest, tweak, signers or any ν send each other noise. The committed ν keep a
cheater from choosing among many δ. **δ does not make reuse safe**: two uses of one presignature
are two linear equations in (r, key) and give the key.

Two ways lead here. :func:`use` takes presignatures that all signers hold; its ν are the nonces of
the session's HELLO. :func:`sign_full` makes its presignatures in the session and opens ν in a round
of its own. Everything is for several requests at once; one is the usual number.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from keycairn.curves import Point
from keycairn.encoding import digest as hash_of
from keycairn.encoding import tag, to_scalar
from keycairn.errors import Abort, Certainty, Code, KeycairnError
from keycairn.protocols.dkls23.ecdsa import (
    EcdsaSignature,
    affine_x_parity,
    finish,
    verify_ecdsa,
)
from keycairn.protocols.dkls23.messages import Partial, Reveal
from keycairn.protocols.dkls23.presign import (
    NOTHING_SIGNED,
    check_signer,
    nu_commitment,
    presign,
)
from keycairn.protocols.dkls23.presignature import Presignature, PresignatureSecrets
from keycairn.protocols.dkls23.session import MAX_ITEMS
from keycairn.protocols.dkls23.zero import zero_shares
from keycairn.protocols.form import (
    Inbox,
    Party,
    Protocol,
    Round,
    blame,
    elements,
)
from keycairn.protocols.presignature import OneSession, check_fits, spends, unknown
from keycairn.protocols.record import KeyShare
from keycairn.protocols.session import Opening
from keycairn.protocols.setup import PairSetup

_SESSION = tag("sign/session")
_DELTA = tag("sign/delta")
_ZERO = tag("sign/zero")


@dataclass(frozen=True)
class Request:
    """Sign ``digest`` (32 bytes) for the public key ``X + tweak·G``.

    ``tweak`` is the additive derivation tweak τ in [0, q); 0 is the key itself.
    """

    digest: bytes
    tweak: int = field(default=0, repr=False)


@dataclass(frozen=True, repr=False)
class Claim:
    """Presignatures taken for requests: spent, whatever follows. Made by :func:`claim`.

    Attributes:
        opening: goes into the session's spec.
        session: lets one session have the claim, and no other.
    """

    key: KeyShare
    setups: Mapping[int, PairSetup]
    presignatures: tuple[Presignature, ...]
    requests: tuple[Request, ...]
    public_keys: tuple[Point, ...]
    secrets: tuple[PresignatureSecrets, ...]
    session: OneSession = field(default_factory=OneSession)

    @property
    def opening(self) -> Opening:
        return Opening(
            spends(
                self.presignatures,
                [p.base_r for p in self.presignatures],
                [r.digest for r in self.requests],
            ),
            b"".join(s.nu for s in self.secrets),
        )


def claim(
    key: KeyShare,
    index: int,
    players: tuple[int, ...],
    setups: Mapping[int, PairSetup],
    presignatures: Sequence[Presignature],
    requests: Sequence[Request],
) -> Claim:
    """Take one presignature for each request.

    What can be refused is refused while all of them are unused. After that they are spent: the
    caller runs the one session whose spec has the claim's opening, or none. It fixes requests and
    presignatures before, and keeps the result by request: a repeated request gets the same
    signatures or new presignatures.

    Args:
        index: this player.
        players: the signers, sorted.
        setups: the live pairwise setups; presignatures made on others are refused.
        requests: 1 to 100.

    Raises:
        KeycairnError: E_MALFORMED, E_BAD_INDEX, E_BAD_SCALAR for the caller's own input and
            E_PRESIG_UNKNOWN for another key's, generation's, signer set's or setup's
            presignature (all stay unused); E_PRESIG_SPENT (those before it are spent, too);
            E_UNAVAILABLE if a setup ended.
    """
    public_keys = _check_requests(key, requests)
    check_signer(index, players, key, setups)
    check_fits(
        presignatures,
        index=index,
        players=players,
        record_hash=key.record.hash,
        requests=len(requests),
    )
    for p in presignatures:
        if any(setups[j].setup_id != p.setup_ids.get(j) for j in players if j != index):
            raise unknown("the presignature was made on a setup that has ended", p.id)
    for j in players:
        if j != index:
            setups[j].state()
    return Claim(
        key,
        setups,
        tuple(presignatures),
        tuple(requests),
        public_keys,
        tuple(p.take() for p in presignatures),
    )


def use(party: Party, claim: Claim) -> Protocol[list[EcdsaSignature]]:
    """Sign the requests of a claim: one round.

    ``party`` is a session's whose spec had ``claim.opening`` and named the presignatures.

    Raises:
        KeycairnError: E_PRESIG_SPENT if the claim was used before.
        Abort: E_BAD_LENGTH, E_BAD_COMMIT, E_BAD_SCALAR naming the peer; E_SIG_INVALID naming the
            others (certain with two signers only), never a ban, and all digests then count as
            possibly signed; E_UNAVAILABLE if a setup ended.
    """
    claim.session.begin()
    return (yield from _sign(party, claim, party.nonces))


def sign_full(
    party: Party,
    key: KeyShare,
    setups: Mapping[int, PairSetup],
    requests: Sequence[Request],
) -> Protocol[list[EcdsaSignature]]:
    """Presign and sign in one session: five rounds, no stored presignature.

    Arguments and errors are those of :func:`presign`, :func:`claim` and :func:`use`. Yields,
    besides rounds: ``Durable("spend", tuple[Spend, ...])`` before ν is opened.
    """
    _check_requests(key, requests)
    made = yield from presign(party, key, setups, len(requests))
    return (yield from sign(party, claim(key, party.index, party.players, setups, made, requests)))


def sign(party: Party, claim: Claim) -> Protocol[list[EcdsaSignature]]:
    """As :func:`use`, in a confirmed session: spends, and opens ν in a round of its own."""
    claim.session.begin()
    opening = claim.opening
    yield opening.spend
    inbox: Inbox = yield Round(broadcast=Reveal(opening.nonce), echo=False)
    opened = {party.index: opening.nonce} | {j: inbox.broadcast[j].nu for j in party.peers}
    return (yield from _sign(party, claim, opened))


def _sign(
    party: Party, claim: Claim, opened: Mapping[int, bytes]
) -> Protocol[list[EcdsaSignature]]:
    """From the opened ν of all signers (32 bytes for each request) to the signatures."""
    group = claim.key.record.group
    nus = _nus(party, claim.presignatures, opened)
    slots = [_Slot.begin(party, claim, k, nus[k]) for k in range(len(nus))]
    mine = Partial(
        b"".join(group.encode_scalar(slot.w) for slot in slots),
        b"".join(group.encode_scalar(slot.u) for slot in slots),
    )
    inbox: Inbox = yield Round(broadcast=mine, echo=False)
    size = group.scalar_len
    for j in party.peers:
        partial = inbox.broadcast[j]
        ws, us = (
            elements(j, what, column, size, len(slots), Code.BAD_SCALAR)
            for what, column in (("w", partial.w), ("u", partial.u))
        )
        with blame(j):
            for slot, w, u in zip(slots, ws, us, strict=True):
                slot.w += group.decode_scalar(w)
                slot.u += group.decode_scalar(u)
    try:
        return [slot.finish() for slot in slots]
    except KeycairnError:
        raise _invalid(party, claim.requests) from None


def _nus(
    party: Party, presignatures: Sequence[Presignature], opened: Mapping[int, bytes]
) -> list[dict[int, bytes]]:
    """ν of every signer for every presignature, checked against the commitments."""
    nus: list[dict[int, bytes]] = [{} for _ in presignatures]
    for j in party.players:
        mine = elements(j, "ν", opened[j], 32, len(presignatures), Code.BAD_LENGTH)
        for k, (p, nu) in enumerate(zip(presignatures, mine, strict=True)):
            expected = nu_commitment(p.sid, j, p.slot, nu)
            if not hmac.compare_digest(expected, p.commitments[j]):
                raise Abort(
                    Code.BAD_COMMIT,
                    f"player {j}: ν does not open the presignature's commitment",
                    culprits=[j],
                    not_lost=f"{NOTHING_SIGNED} The presignature is spent.",
                )
            nus[k][j] = nu
    return nus


@dataclass
class _Slot:
    """One request on its way: sums of w and u, and what they are finished with."""

    presignature: Presignature
    request: Request
    public_key: Point
    x: int
    y_parity: int
    w: int
    u: int

    @classmethod
    def begin(cls, party: Party, claim: Claim, k: int, nus: Mapping[int, bytes]) -> _Slot:
        """δ, R' and this signer's summands."""
        record, group = claim.key.record, claim.key.record.group
        p, request, secrets = claim.presignatures[k], claim.requests[k], claim.secrets[k]
        players = list(party.players)
        tau = group.encode_scalar(request.tweak)
        revealed = [nus[j] for j in party.players]
        session = hash_of(
            _SESSION, party.sid, p.id, record.hash, players, tau, request.digest, revealed
        )
        delta = to_scalar(
            group.q,
            _DELTA,
            record.public_key,
            tau,
            request.digest,
            p.base_r,
            p.id,
            players,
            revealed,
        )
        x, y_parity = affine_x_parity(_rerandomised(group.decode_point(p.base_r), delta))
        r = x % group.q
        if r == 0:
            _unusable()
        z_u, z_w = zero_shares(
            group, _ZERO, session, party.index, claim.setups, party.peers, ("u", "w")
        )
        h = int.from_bytes(request.digest, "big")
        u = (secrets.u + delta * secrets.phi + z_u) % group.q
        v = secrets.v + request.tweak * secrets.phi
        w = (h * secrets.phi + r * v + z_w) % group.q
        return cls(p, request, claim.public_keys[k], x, y_parity, w, u)

    def finish(self) -> EcdsaSignature:
        """The signature, verified. E_BAD_SCALAR, E_SIG_INVALID."""
        group = self.public_key.group
        r, s, recovery_id = finish(group, self.x, self.y_parity, self.w, self.u)
        verify_ecdsa(group, self.public_key.encode(), self.request.digest, r, s)
        p = self.presignature
        return EcdsaSignature(r, s, recovery_id, p.base_r, p.id, self.public_key.encode())


def _check_requests(key: KeyShare, requests: Sequence[Request]) -> tuple[Point, ...]:
    """Digests and tweaks; gives the public keys to verify against, ``X + τ·G``."""
    group, public = key.record.group, key.record.public_point()
    if not 1 <= len(requests) <= MAX_ITEMS:
        raise KeycairnError(Code.MALFORMED, f"1 to {MAX_ITEMS} digests in one session")
    keys = []
    for request in requests:
        digest, tweak = request.digest, request.tweak
        if type(digest) is not bytes or len(digest) != 32:
            raise KeycairnError(Code.MALFORMED, "the digest must be exactly 32 bytes")
        if type(tweak) is not int or not 0 <= tweak < group.q:
            raise KeycairnError(Code.BAD_SCALAR, "the tweak is not below the group order")
        keys.append(group.add([public, group.base_mul(tweak)]) if tweak else public)
    return tuple(keys)


def _rerandomised(base: Point, delta: int) -> Point:
    """R' = R + δ·G."""
    group = base.group
    if delta == 0:
        _unusable()
    try:
        return group.add([base, group.base_mul(delta)])
    except KeycairnError:
        _unusable()


def _unusable() -> NoReturn:
    """δ = 0, R' the identity or r' = 0: probability 2^-255, refused all the same."""
    raise Abort(
        Code.PRESIG_SPENT,
        "this presignature cannot be used for this request and is spent",
        not_lost=NOTHING_SIGNED,
        next="sign again with another presignature",
    )


def _invalid(party: Party, requests: Sequence[Request]) -> Abort:
    digests = [r.digest.hex() for r in requests]
    return Abort(
        Code.SIG_INVALID,
        "the combined signature does not verify; nothing was released",
        culprits=party.peers,
        certainty=Certainty.CERTAIN if len(party.peers) == 1 else Certainty.ONE_OF,
        not_lost="No key share was lost. The presignature is spent, and the digest counts as "
        "possibly signed: a cheating signer may hold the valid signature.",
        next="find out what the named signers signed before you sign again",
        detail={"digests": digests, "possibly_signed": True},
    )
