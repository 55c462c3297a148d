"""Signing with a presignature: open ν, re-randomise, send two numbers, verify.

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
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
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
from keycairn.protocols.dkls23.presignature import Presignature
from keycairn.protocols.dkls23.zero import zero_share
from keycairn.protocols.durable import Spend
from keycairn.protocols.form import Durable, Inbox, Party, Protocol, Round, blame, require_length
from keycairn.protocols.record import KeyShare
from keycairn.protocols.setup import PairSetup

_SESSION = tag("sign/session")
_DELTA = tag("sign/delta")
_ZERO = tag("sign/zero")


def sign(
    party: Party,
    key: KeyShare,
    setups: Mapping[int, PairSetup],
    presignature: Presignature,
    digest: bytes,
    tweak: int = 0,
) -> Protocol[EcdsaSignature]:
    """Sign ``digest`` for the public key ``X + tweak·G``.

    Once the presignature is taken it is spent, whatever happens; a failure is never repeated with
    it. The caller fixes key, digest, tweak and presignature before and keeps the result by
    request: a repeated request gets the same signature or a new presignature.

    Args:
        setups: the pairwise setups the presignature was made on.
        digest: exactly 32 bytes.
        tweak: additive derivation tweak τ in [0, q).

    Yields, besides rounds: ``Durable("spend", Spend)`` before ν is opened.

    Raises:
        KeycairnError: E_MALFORMED, E_BAD_INDEX, E_BAD_SCALAR for the caller's own input and
            E_PRESIG_UNKNOWN for another key's, generation's, signer set's or setup's
            presignature (it stays unused); E_PRESIG_SPENT.
        Abort: E_BAD_LENGTH, E_BAD_COMMIT, E_BAD_SCALAR naming the peer; E_SIG_INVALID naming the
            others (certain with two signers only), never a ban, and the digest then counts as
            possibly signed; E_UNAVAILABLE if a setup ended. The presignature is spent.
    """
    group, record = key.record.group, key.record
    public_key = _checked(party, key, setups, presignature, digest, tweak)
    me, peers = party.index, party.peers
    secrets = presignature.take()
    yield Durable(
        "spend",
        Spend(presignature.id, presignature.base_r, record.key_id, digest),
    )

    inbox: Inbox = yield Round(broadcast=Reveal(secrets.nu), echo=False)
    nus = {me: secrets.nu}
    for j in peers:
        nus[j] = inbox.broadcast[j].nu
        require_length(j, "ν", nus[j], 32)
        expected = nu_commitment(presignature.sid, j, presignature.slot, nus[j])
        if not hmac.compare_digest(expected, presignature.commitments[j]):
            raise Abort(
                Code.BAD_COMMIT,
                f"player {j}: ν does not open the presignature's commitment",
                culprits=[j],
                not_lost=f"{NOTHING_SIGNED} The presignature is spent.",
            )
    tau = group.encode_scalar(tweak)
    revealed = [nus[j] for j in party.players]
    players = list(party.players)
    session = hash_of(
        _SESSION, party.sid, presignature.id, record.hash, players, tau, digest, revealed
    )
    delta = to_scalar(
        group.q,
        _DELTA,
        record.public_key,
        tau,
        digest,
        presignature.base_r,
        presignature.id,
        players,
        revealed,
    )
    nonce_point = _rerandomised(group.decode_point(presignature.base_r), delta)
    x, y_parity = affine_x_parity(nonce_point)
    r = x % group.q
    if r == 0:
        _unusable()

    h = int.from_bytes(digest, "big")
    z_u, z_w = (zero_share(group, _ZERO, session, me, setups, peers, label) for label in ("u", "w"))
    u = (secrets.u + delta * secrets.phi + z_u) % group.q
    v = secrets.v + tweak * secrets.phi
    w = (h * secrets.phi + r * v + z_w) % group.q
    mine = Partial(group.encode_scalar(w), group.encode_scalar(u))
    inbox = yield Round(broadcast=mine, echo=False)
    for j in peers:
        with blame(j):
            w += group.decode_scalar(inbox.broadcast[j].w)
            u += group.decode_scalar(inbox.broadcast[j].u)
    try:
        r, s, recovery_id = finish(group, x, y_parity, w, u)
        verify_ecdsa(group, public_key.encode(), digest, r, s)
    except KeycairnError:
        raise _invalid(party, digest) from None
    return EcdsaSignature(r, s, recovery_id, presignature.base_r, presignature.id)


def sign_full(
    party: Party,
    key: KeyShare,
    setups: Mapping[int, PairSetup],
    digest: bytes,
    tweak: int = 0,
) -> Protocol[EcdsaSignature]:
    """Presign and sign in one session: five rounds, no stored presignature.

    Arguments and errors are those of :func:`presign` and :func:`sign`.
    """
    _check_request(key, digest, tweak)
    (presignature,) = yield from presign(party, key, setups, 1)
    return (yield from sign(party, key, setups, presignature, digest, tweak))


def _check_request(key: KeyShare, digest: bytes, tweak: int) -> Point:
    """Digest and tweak; gives the public key to verify against, ``X + τ·G``."""
    group = key.record.group
    if type(digest) is not bytes or len(digest) != 32:
        raise KeycairnError(Code.MALFORMED, "the digest must be exactly 32 bytes")
    if type(tweak) is not int or not 0 <= tweak < group.q:
        raise KeycairnError(Code.BAD_SCALAR, "the tweak is not below the group order")
    public = key.record.public_point()
    return group.add([public, group.base_mul(tweak)]) if tweak else public


def _checked(
    party: Party,
    key: KeyShare,
    setups: Mapping[int, PairSetup],
    presignature: Presignature,
    digest: bytes,
    tweak: int,
) -> Point:
    """Everything that can be refused while the presignature is still unused."""
    public_key = _check_request(key, digest, tweak)
    check_signer(party, key, setups)
    fits = (
        presignature.record_hash == key.record.hash
        and presignature.players == party.players
        and all(presignature.setup_ids.get(j) == setups[j].setup_id for j in party.peers)
    )
    if not fits:
        raise KeycairnError(
            Code.PRESIG_UNKNOWN,
            "the presignature was made for another key, generation, signer set or setup",
            not_lost="The presignature was not used.",
            detail={"presignature_id": presignature.id.hex()},
        )
    for j in party.peers:
        setups[j].state()
    return public_key


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


def _invalid(party: Party, digest: bytes) -> Abort:
    return Abort(
        Code.SIG_INVALID,
        "the combined signature does not verify; nothing was released",
        culprits=party.peers,
        certainty=Certainty.CERTAIN if len(party.peers) == 1 else Certainty.ONE_OF,
        not_lost="No key share was lost. The presignature is spent, and the digest counts as "
        "possibly signed: a cheating signer may hold the valid signature.",
        next="find out what the named signers signed before you sign again",
        detail={"digest": digest.hex(), "possibly_signed": True},
    )
