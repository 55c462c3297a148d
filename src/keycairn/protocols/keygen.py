"""Distributed key generation: Feldman sharing by every holder, committed before it is shown.

Procedure (docs/protocols/keygen.md; Feldman 1987; Pedersen 1991; commit-and-prove against the
rogue-key and last-mover attacks as in Gennaro-Jarecki-Krawczyk-Rabin 2007 and RFC 9591's
recommended DKG). One session makes ``count`` keys:

1. commit to everything that round 2 opens (one hash for all keys),
2. open: Feldman commitments, proofs of knowledge, chain-code parts; send every peer its shares,
3. compare the record hash of all keys,
4. make the shares durable as *pending* together with this holder's READY signature, and send
   it: READY is a promise to keep the share,
5. READY of all holders is the *certificate*: only then is a key active and acknowledged.

Whoever aborts before step 4 has stored nothing. After step 4 a missing READY leaves the keys
pending; nodes exchange READY signatures at every contact until the certificate is complete.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from keycairn.curves import Group, Point, group
from keycairn.curves.pok import ProofOfKnowledge, check_knowledge, prove_knowledge
from keycairn.curves.polynomial import Polynomial, evaluate_commitment
from keycairn.encoding import SecretBytes, SecretScalar, digest, encode, tag
from keycairn.errors import Abort, Code, KeycairnError
from keycairn.ers.statement import chain_code_hash
from keycairn.protocols.durable import Certified, PendingBatch, PendingKey
from keycairn.protocols.form import Durable, Inbox, Party, Protocol, Round, blame, require_length
from keycairn.protocols.record import KeyRecord, check_kind, protocol_for
from keycairn.protocols.wire import Message

NAME, VERSION = "keygen", 1
MAX_COUNT = 1000
MAX_PLAYERS = 32

_COM = tag("dkg/com")
_POK = tag("dkg/pok")
_CHAIN = tag("dkg/chain")
_KEY_ID = tag("dkg/key-id")
_RECORDS = tag("dkg/records")
_READY = tag("ready")


class KeygenParams(Message, frozen=True):
    """Parameters of a creation session, equal at every holder.

    ``application`` is whose keys these will be at every node: a stranger's key at one node must
    not take the owner's place in a session whose name it could guess.
    """

    request_id: str
    scheme: str
    curve: str
    threshold: int
    count: int
    application: str = ""
    variant: str | None = None


class Commitment(Message, frozen=True):
    """Round 1, broadcast: 32-byte hash of the round-2 opening."""

    value: bytes


class Opening(Message, frozen=True):
    """Round 2, broadcast. Per key: t+1 points, a proof (K then z), 32 bytes of chain code."""

    points: tuple[tuple[bytes, ...], ...]
    proofs: tuple[bytes, ...]
    chain: tuple[bytes, ...]
    salt: bytes


class Shares(Message, frozen=True):
    """Round 2, direct: f_i(j) of every key, encoded scalars."""

    values: tuple[bytes, ...]


class RecordHash(Message, frozen=True):
    """Round 3, broadcast: hash over the record hashes of all keys."""

    value: bytes


class Ready(Message, frozen=True):
    """Round 4, broadcast: the READY signature."""

    signature: bytes


@dataclass(frozen=True)
class Created:
    """Result: the records, and the certificate that makes them active."""

    batch_id: bytes
    records: tuple[KeyRecord, ...]
    ready: Mapping[int, bytes]


def check_params(players: Sequence[int], params: KeygenParams) -> None:
    """Refuse impossible parameters before a session starts (T-028).

    Raises:
        KeycairnError: E_MALFORMED for t, n, count or the kind of key; E_BAD_INDEX for players.
    """
    if any(type(p) is not int or p < 1 for p in players) or len(set(players)) != len(players):
        raise KeycairnError(Code.BAD_INDEX, "players must be distinct positive integers")
    n, t = len(players), params.threshold
    if not 2 <= n <= MAX_PLAYERS:
        raise KeycairnError(Code.MALFORMED, f"a key has 2 to {MAX_PLAYERS} holders")
    if type(t) is not int or not 1 <= t <= n - 1:
        raise KeycairnError(Code.MALFORMED, f"threshold must be 1 to {n - 1} for {n} holders")
    if type(params.count) is not int or not 1 <= params.count <= MAX_COUNT:
        raise KeycairnError(Code.MALFORMED, f"count must be 1 to {MAX_COUNT}")
    check_kind(params.scheme, params.curve, params.variant)


def largest_round(params: KeygenParams) -> int:
    """Bytes that no message of the session passes: per key t+1 points, a proof, a chain code."""
    return 4096 + params.count * (256 + 64 * (params.threshold + 1))


def ready_statement(
    vault: str, batch_id: bytes, generation: int, record_hashes: Sequence[bytes]
) -> bytes:
    """What READY signs: session, generation number and every record hash, in order."""
    return encode(_READY, vault, batch_id, generation, list(record_hashes))


def keygen(party: Party, vault: str, params: KeygenParams) -> Protocol[Created]:
    """Run key generation as one holder.

    Args:
        party: all players are holders.
        vault: vault id, bound into every record.
        params: see :func:`check_params`.

    Raises:
        Abort: E_BAD_LENGTH, E_BAD_POINT, E_BAD_SCALAR, E_BAD_COMMIT, E_BAD_PROOF, E_BAD_SHARE
            with the dealer; E_KEY_SUM when a sum is the identity.
    """
    check_params(party.players, params)
    dealer = _Dealer(party, params)

    inbox: Inbox = yield Round(broadcast=Commitment(dealer.commitment()))
    commitments = {j: m.value for j, m in inbox.broadcast.items()}
    for j, value in commitments.items():
        require_length(j, "commitment", value, 32)

    inbox = yield Round(broadcast=dealer.opening, direct=dealer.shares())
    dealings = {party.index: dealer.own_dealing()}
    for j in party.peers:
        dealings[j] = _check_dealing(
            party, params, j, commitments[j], inbox.broadcast[j], inbox.direct[j]
        )
    keys = [_assemble(party, vault, params, dealings, k) for k in range(params.count)]

    hashes = [key.record.hash for key in keys]
    combined = digest(_RECORDS, party.sid, hashes)
    inbox = yield Round(broadcast=RecordHash(combined))
    for j, message in inbox.broadcast.items():
        if message.value != combined:
            raise Abort(Code.BAD_COMMIT, f"player {j} announced other key records", culprits=[j])

    statement = ready_statement(vault, party.sid, 1, hashes)
    ready = {party.index: party.signer.sign(statement)}
    yield Durable(
        "keygen/pending",
        PendingBatch(party.sid, party.index, 1, tuple(keys), ready[party.index]),
    )
    # No echo: a READY signature is transferable, so a difference can't hide.
    inbox = yield Round(broadcast=Ready(ready[party.index]), echo=False)
    for j, message in inbox.broadcast.items():
        if not party.signer.verify(j, statement, message.signature):
            raise Abort(Code.BAD_PROOF, f"player {j}: READY is not signed", culprits=[j])
        ready[j] = message.signature
    yield Durable("keygen/certificate", Certified(party.sid, ready))
    return Created(party.sid, tuple(key.record for key in keys), ready)


@dataclass(frozen=True)
class _Dealing:
    """What one dealer contributed, checked: points and this player's share, per key."""

    points: tuple[tuple[Point, ...], ...]
    shares: tuple[SecretScalar, ...]
    chain: tuple[bytes, ...]


class _Dealer:
    """This player's own contribution."""

    def __init__(self, party: Party, params: KeygenParams) -> None:
        self.party = party
        self.g = group(params.curve)
        rng = party.rng
        self.polynomials = [
            Polynomial.random(self.g, params.threshold, rng) for _ in range(params.count)
        ]
        self.points = tuple(f.commit() for f in self.polynomials)
        proofs = []
        for k, (f, points) in enumerate(zip(self.polynomials, self.points, strict=True)):
            proof = prove_knowledge(
                _POK,
                f.coefficients[0].reveal(),
                points[0],
                sid=party.sid,
                prover=party.index,
                label=k,
                rng=rng,
            )
            proofs.append(proof.commitment.encode() + self.g.encode_scalar(proof.response))
        self.opening = Opening(
            tuple(tuple(p.encode() for p in points) for points in self.points),
            tuple(proofs),
            tuple(rng.bytes(32) for _ in range(params.count)),
            rng.bytes(32),
        )

    def commitment(self) -> bytes:
        return _commit(self.party.sid, self.party.index, self.opening)

    def shares(self) -> dict[int, Message]:
        return {
            j: Shares(tuple(self.g.encode_scalar(f.evaluate(j).reveal()) for f in self.polynomials))
            for j in self.party.peers
        }

    def own_dealing(self) -> _Dealing:
        own = tuple(f.evaluate(self.party.index) for f in self.polynomials)
        return _Dealing(self.points, own, self.opening.chain)


def _commit(sid: bytes, sender: int, o: Opening) -> bytes:
    # The sender's number is inside: a copied commitment does not open for the copier (T-021).
    return digest(_COM, sid, sender, o.points, o.proofs, o.chain, o.salt)


def _check_dealing(
    party: Party,
    params: KeygenParams,
    j: int,
    commitment: bytes,
    o: Opening,
    shares: Shares,
) -> _Dealing:
    """All checks on player j's round 2, in the order of the specification."""
    g, count = group(params.curve), params.count
    require_length(j, "list of commitments", o.points, count)
    for vector in o.points:
        require_length(j, "Feldman commitment", vector, params.threshold + 1)
    if len(o.proofs) != count:
        raise Abort(Code.BAD_PROOF, f"player {j}: wrong number of proofs", culprits=[j])
    require_length(j, "list of chain-code parts", o.chain, count)
    for part in (*o.chain, o.salt):
        require_length(j, "chain-code part or salt", part, 32)
    with blame(j):
        points = tuple(tuple(g.decode_point(p) for p in vector) for vector in o.points)
    if _commit(party.sid, j, o) != commitment:
        raise Abort(Code.BAD_COMMIT, f"player {j}: the commitment does not open", culprits=[j])
    with blame(j, Code.BAD_PROOF):
        for k, (raw, vector_points) in enumerate(zip(o.proofs, points, strict=True)):
            check_knowledge(
                _POK, _decode_proof(g, raw), vector_points[0], sid=party.sid, prover=j, label=k
            )
    if len(shares.values) != count:
        raise Abort(Code.BAD_SHARE, f"player {j}: wrong number of shares", culprits=[j])
    with blame(j, Code.BAD_SHARE):
        values = tuple(
            _check_share(g, raw, vector_points, party.index)
            for raw, vector_points in zip(shares.values, points, strict=True)
        )
    return _Dealing(points, values, o.chain)


def _decode_proof(g: Group, raw: bytes) -> ProofOfKnowledge:
    if len(raw) != g.point_len + g.scalar_len:
        raise KeycairnError(Code.BAD_PROOF, "proof of knowledge has the wrong length")
    return ProofOfKnowledge(g.decode_point(raw[: g.point_len]), g.decode_scalar(raw[g.point_len :]))


def _check_share(g: Group, raw: bytes, commitment: Sequence[Point], index: int) -> SecretScalar:
    value = g.decode_scalar(raw, nonzero=True)
    if g.base_mul(value) != evaluate_commitment(commitment, index):
        raise KeycairnError(Code.BAD_SHARE, "share does not fit the dealer's commitment")
    return SecretScalar(value)


def _assemble(
    party: Party, vault: str, params: KeygenParams, dealings: Mapping[int, _Dealing], k: int
) -> PendingKey:
    """Sum the dealings of key ``k``: this holder's share, and the record all holders share."""
    g = group(params.curve)
    order = sorted(dealings)
    try:
        summed = tuple(
            g.add([dealings[j].points[k][e] for j in order]) for e in range(params.threshold + 1)
        )
        commitments = tuple(evaluate_commitment(summed, j) for j in party.players)
    except KeycairnError as exc:
        raise Abort(Code.KEY_SUM, "the joint key or a share commitment is the identity") from exc
    share = sum(dealings[j].shares[k].reveal() for j in order) % g.q
    mine = commitments[party.players.index(party.index)]
    if share == 0 or g.base_mul(share) != mine:
        raise Abort(Code.KEY_SUM, "this player's share does not fit the joint commitment")
    chain = digest(_CHAIN, party.sid, k, [dealings[j].chain[k] for j in order])
    record = KeyRecord(
        key_id="key-" + digest(_KEY_ID, party.sid, k)[:16].hex(),
        vault=vault,
        scheme=params.scheme,
        curve=params.curve,
        protocol=protocol_for(params.scheme, params.curve),
        purpose="sign",
        threshold=params.threshold,
        holders=party.players,
        public_key=summed[0].encode(),
        share_commitments=tuple(p.encode() for p in commitments),
        chain_code_hash=chain_code_hash(chain),
        generation=1,
    )
    return PendingKey(record, SecretScalar(share), SecretBytes(chain))
