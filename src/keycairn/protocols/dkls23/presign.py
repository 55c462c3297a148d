"""Presigning: two rounds and an acknowledgement make ``count`` presignatures.

DKLs23 (eprint 2023/765), signing protocol, without the message: every signer i draws a nonce
share r_i and a mask φ_i, takes its additive key share sk_i, and the signers multiply pairwise so
that afterwards ``Σu_i = r·φ`` and ``Σv_i = sk·φ`` with ``φ = Σφ_i``.

    round 1   broadcast  commitment to R_i, pk_i, n_i        direct  OT request (as Bob)
              check: OT consistency of every peer
    round 2   broadcast  R_i, pk_i, n_i                      direct  VOLE reply (as Alice), ψ
              check: openings, VOLE, products in the exponent, Σpk_j = X, R
    round 3   broadcast  hash of everything agreed

Round 2 opens R and depends on the masks: it goes to nobody before round 1 of *all* peers passed
and the commitments were echoed. A presignature exists only when all acknowledgements agree.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from keycairn.curves import Group, Point
from keycairn.curves.polynomial import lagrange
from keycairn.encoding import digest, tag
from keycairn.errors import Abort, Certainty, Code, KeycairnError
from keycairn.ports import Rng
from keycairn.protocols.dkls23.messages import (
    Ack,
    Commit,
    Opened,
    Opening,
    ReplyChunk,
    parse_opening,
    parse_reply,
    parse_request,
)
from keycairn.protocols.dkls23.ote import OtMessage
from keycairn.protocols.dkls23.pairwise import Pairwise
from keycairn.protocols.dkls23.parameters import MAX_COUNT, choice_len, chunk_sizes
from keycairn.protocols.dkls23.presignature import Presignature, PresignatureSecrets
from keycairn.protocols.dkls23.zero import zero_shares
from keycairn.protocols.durable import Ban
from keycairn.protocols.form import Durable, Inbox, Party, Protocol, Round, require_length
from keycairn.protocols.record import KeyShare
from keycairn.protocols.setup import PairSetup, judge_all

_NU = tag("presign/nu")
_COMMIT = tag("presign/com")
_ACK = tag("presign/ack")
_ZERO = tag("zero")
_ID = tag("presig/id")

NOTHING_SIGNED = "Nothing was signed; no key share was lost."


def nu_commitment(sid: bytes, player: int, slot: int, nu: bytes) -> bytes:
    """n_j: the commitment to ν_j, bound to session, player and slot."""
    return digest(_NU, sid, player, slot, nu)


@dataclass(frozen=True, repr=False)
class _Own:
    """This signer's secrets of the session, one element for every slot, and their opening.

    ``opened`` is what the others decode from ``opening``.
    """

    r: list[int]
    phi: list[int]
    sk: list[int]
    nu: list[bytes]
    opened: Opened
    opening: Opening

    @classmethod
    def draw(cls, party: Party, group: Group, key_share: int, zero_shares: list[int]) -> _Own:
        rng: Rng = party.rng
        count = len(zero_shares)
        weighted = lagrange(group, party.players, party.index) * key_share
        r = [group.random_scalar(rng) for _ in range(count)]
        phi = [group.random_scalar(rng) for _ in range(count)]
        nu = [rng.bytes(32) for _ in range(count)]
        sk = [(weighted + zero) % group.q for zero in zero_shares]
        opened = Opened(
            [group.base_mul(k) for k in r],
            [group.base_mul(k) for k in sk],
            [nu_commitment(party.sid, party.index, s, n) for s, n in enumerate(nu)],
        )
        opening = Opening(
            b"".join([point.encode() for point in opened.nonce_points]),
            b"".join([point.encode() for point in opened.key_points]),
            b"".join(opened.commitments),
            rng.bytes(32),
        )
        return cls(r, phi, sk, nu, opened, opening)


def _commitment(sid: bytes, player: int, opening: Opening) -> bytes:
    return digest(
        _COMMIT,
        sid,
        player,
        opening.nonce_points,
        opening.key_points,
        opening.commitments,
        opening.salt,
    )


def presign(
    party: Party, key: KeyShare, setups: Mapping[int, PairSetup], count: int
) -> Protocol[list[Presignature]]:
    """Make ``count`` presignatures of ``key`` for the signers ``party.players``.

    ``party.sid`` must cover players, key record, count and all setup ids, and be confirmed by all
    of them: honest players whose ids or setups differ would fail each other's checks and ban.

    Args:
        setups: the pairwise setup of every peer.
        count: 1 to 256.

    Yields, besides rounds: ``Durable("ban", Ban)`` when a peer's consistency check failed.

    Raises:
        KeycairnError: E_MALFORMED, E_BAD_INDEX, E_STORE_INTEGRITY for the caller's own input.
        Abort: E_OT_CHECK with ``ban`` (docs/protocols/dkls23.md says what this reveals to whom);
            E_BAD_LENGTH, E_BAD_POINT, E_BAD_SCALAR, E_BAD_COMMIT naming the peer; E_KEY_SUM;
            E_UNAVAILABLE if a setup ended. All slots are dropped.
    """
    group = _checked(party, key, setups, count)
    sid, me, peers = party.sid, party.index, party.peers
    chunks = chunk_sizes(count)
    for j in peers:
        setups[j].reserve(sum(8 * choice_len(c) for c in chunks))
    zero = zero_shares(group, _ZERO, sid, me, setups, peers, range(count))
    own = _Own.draw(party, group, key.share.reveal(), zero)
    pairs = {j: Pairwise(sid, group, setups[j], chunks, party.rng) for j in peers}

    # Round 1: commit; as Bob, ask for OTs. Then, as Alice, judge every peer's request.
    inbox: Inbox = yield Round(
        broadcast=Commit(_commitment(sid, me, own.opening)),
        direct={j: pairs[j].request() for j in peers},
    )
    coms = {j: inbox.broadcast[j].commitment for j in peers}
    requests: dict[int, list[OtMessage]] = {}
    rejected: list[Abort] = []
    for j in peers:
        try:
            require_length(j, "commitment", coms[j], 32)
            requests[j] = parse_request(j, inbox.direct[j], chunks)
        except Abort as abort:
            rejected.append(abort)
    with judge_all(setups[j] for j in peers):
        failed = [j for j in requests if not pairs[j].judge_request(requests[j])]
        _kill(setups, failed)
    if failed:
        yield Durable("ban", _ban(sid, setups, failed))
    _raise(failed, rejected)

    # Round 2: open; as Alice, reply. Then judge openings and, as Bob, every peer's reply.
    inputs = list(zip(own.r, own.sk, strict=True))
    inbox = yield Round(
        broadcast=own.opening, direct={j: pairs[j].reply(inputs, own.phi) for j in peers}
    )
    opened: dict[int, Opened] = {}
    replies: dict[int, list[ReplyChunk]] = {}
    for j in peers:
        try:
            opened[j] = parse_opening(j, group, inbox.broadcast[j], count)
            parsed = parse_reply(j, group, inbox.direct[j], chunks)
            if not hmac.compare_digest(_commitment(sid, j, inbox.broadcast[j]), coms[j]):
                raise Abort(
                    Code.BAD_COMMIT,
                    f"player {j}: the commitment of round 1 does not open",
                    culprits=[j],
                )
            replies[j] = parsed
        except Abort as abort:
            rejected.append(abort)
    with judge_all(setups[j] for j in peers):
        failed = [
            j
            for j, reply in replies.items()
            if not pairs[j].judge_reply(reply, opened[j].nonce_points, opened[j].key_points)
        ]
        _kill(setups, failed)
    if failed:
        yield Durable("ban", _ban(sid, setups, failed))
    _raise(failed, rejected)

    opened[me] = own.opened
    _check_key_sum(party, key.record.public_point(), [opened[j] for j in party.players], count)
    nonces = _sum_points([opened[j].nonce_points for j in party.players])
    ids = [digest(_ID, sid, s, point.encode()) for s, point in enumerate(nonces)]

    # Round 3: everybody has the same presignatures, or nobody has any.
    coms[me] = _commitment(sid, me, own.opening)
    ack = digest(_ACK, sid, [coms[j] for j in party.players], ids)
    inbox = yield Round(broadcast=Ack(ack))
    for j in peers:
        require_length(j, "acknowledgement", inbox.broadcast[j].ack, 32)
    wrong = [j for j in peers if not hmac.compare_digest(inbox.broadcast[j].ack, ack)]
    if wrong:
        raise Abort(
            Code.BAD_COMMIT,
            f"players {wrong}: the acknowledgement does not fit what they committed to",
            culprits=wrong,
            not_lost=NOTHING_SIGNED,
        )
    for j in peers:
        setups[j].state()  # A session on a setup that ended meanwhile has no result.

    psi = {j: [p for chunk in replies[j] for p in chunk.psi] for j in peers}
    return [
        Presignature(
            id=ids[s],
            sid=sid,
            slot=s,
            index=me,
            players=party.players,
            key_id=key.record.key_id,
            record_hash=key.record.hash,
            base_r=nonces[s].encode(),
            commitments={j: opened[j].commitments[s] for j in party.players},
            setup_ids={j: setups[j].setup_id for j in peers},
            secrets=_combine(group.q, own, pairs, psi, s),
        )
        for s in range(count)
    ]


def _combine(
    q: int, own: _Own, pairs: Mapping[int, Pairwise], psi: Mapping[int, list[int]], s: int
) -> PresignatureSecrets:
    """This signer's shares of r·φ and sk·φ in slot s."""
    phi = own.phi[s] + sum(psi[j][s] for j in pairs)
    u = own.r[s] * phi
    v = own.sk[s] * phi
    for pair in pairs.values():
        u += pair.alice_outputs[s][0] + pair.bob_outputs[s][0]
        v += pair.alice_outputs[s][1] + pair.bob_outputs[s][1]
    return PresignatureSecrets(own.phi[s], u % q, v % q, own.nu[s])


def _checked(party: Party, key: KeyShare, setups: Mapping[int, PairSetup], count: int) -> Group:
    """The caller's own input; everything that would make an honest node look guilty."""
    check_signer(party.index, party.players, key, setups)
    if type(count) is not int or not 1 <= count <= MAX_COUNT:
        raise KeycairnError(
            Code.MALFORMED, f"count must be 1 to {MAX_COUNT}", detail={"max": MAX_COUNT}
        )
    group = key.record.group
    if group.base_mul(key.share.reveal()) != key.record.commitment_of(party.index):
        raise KeycairnError(
            Code.STORE_INTEGRITY,
            "this node's key share does not fit its key record",
            not_lost="Nothing was sent; the other holders' shares are unchanged.",
            next="keycairn doctor",
        )
    return group


def check_signer(
    index: int, players: tuple[int, ...], key: KeyShare, setups: Mapping[int, PairSetup]
) -> None:
    """Raise unless this player may run DKLs23 with these players, this key and these setups.

    Raises:
        KeycairnError: E_BAD_INDEX for the set of signers, E_MALFORMED for another protocol's key,
            E_UNAVAILABLE for a setup that is missing or another pair's.
    """
    if key.record.protocol != "dkls23":
        raise KeycairnError(Code.MALFORMED, "this key is not signed with DKLs23")
    key.record.check_signers(players)
    if index != key.index or index not in players:
        raise KeycairnError(Code.BAD_INDEX, "this player is not among the signers of its key")
    for j in players:
        setup = setups.get(j)
        if j != index and (setup is None or (setup.index, setup.peer) != (index, j)):
            raise KeycairnError(Code.UNAVAILABLE, f"there is no pairwise setup with player {j}")


def _kill(setups: Mapping[int, PairSetup], failed: Sequence[int]) -> None:
    for j in failed:
        setups[j].kill()


def _ban(sid: bytes, setups: Mapping[int, PairSetup], failed: Sequence[int]) -> Ban:
    """What the journal keeps: which session and setups, but not which check."""
    evidence = {
        "session": sid.hex(),
        "setup_ids": {str(j): setups[j].setup_id.hex() for j in failed},
    }
    return Ban(tuple(failed), Code.OT_CHECK.value, evidence)


def _raise(failed: Sequence[int], rejected: Sequence[Abort]) -> None:
    """Raise the session's one abort, if there is a reason: a failed check before all others."""
    if failed:
        # One text for all checks, rows, chunks and slots: which one failed is nobody's business.
        raise Abort(
            Code.OT_CHECK,
            f"a consistency check of players {list(failed)} failed",
            culprits=failed,
            ban=True,
            not_lost=NOTHING_SIGNED,
            next="keycairn node peers",
        )
    if rejected:
        first = rejected[0]
        culprits = [j for abort in rejected if abort.code is first.code for j in abort.culprits]
        raise Abort(first.code, first.message, culprits=culprits, not_lost=NOTHING_SIGNED)


def _check_key_sum(party: Party, public_key: Point, opened: Sequence[Opened], count: int) -> None:
    """``Σ_j pk_j = X`` in every slot: all signers used their shares of this very key."""
    group = public_key.group
    for s in range(count):
        try:
            fits = group.add([o.key_points[s] for o in opened]) == public_key
        except KeycairnError:
            fits = False
        if not fits:
            raise Abort(
                Code.KEY_SUM,
                "the signers' key shares do not add up to the public key",
                culprits=party.peers,
                certainty=Certainty.CERTAIN if len(party.peers) == 1 else Certainty.ONE_OF,
                not_lost=NOTHING_SIGNED,
            )


def _sum_points(columns: Sequence[Sequence[Point]]) -> list[Point]:
    """R of every slot."""
    try:
        return [slot[0].group.add(slot) for slot in zip(*columns, strict=True)]
    except KeycairnError:
        raise Abort(
            Code.BAD_POINT, "the joint nonce point is the identity", not_lost=NOTHING_SIGNED
        ) from None
