"""Making an ERS document: every holder proves its part, everybody checks every part.

Parts are broadcast with echo, so all holders end with the same document, byte for byte, or with
none. The proof itself is :mod:`keycairn.ers`; this session only carries it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from keycairn.errors import Abort, Code, KeycairnError
from keycairn.ers.context import VERSION as FORMAT_VERSION
from keycairn.ers.document import Document, Part
from keycairn.ers.ledger import MAX_LEDGER
from keycairn.ers.prove import make_part
from keycairn.ers.rsa import RsaPublicKey
from keycairn.ers.statement import KeyStatement
from keycairn.ers.verify import ExpectedKey, verify_part
from keycairn.protocols.durable import Release
from keycairn.protocols.form import Durable, Inbox, Party, Protocol, Round
from keycairn.protocols.record import KeyRecord, KeyShare
from keycairn.protocols.wire import MAX_MESSAGE, Message

NAME, VERSION = "ers/document", 2
MAX_KEYS = 1000


class ErsParams(Message, frozen=True):
    """Parameters of an ERS session, equal at every holder."""

    request_id: str
    key_ids: tuple[str, ...]
    record_hashes: tuple[bytes, ...]
    rsa_spki_sha256: str
    params: str
    label: str


class PartMessage(Message, frozen=True):
    """Round 1, broadcast: one holder's part, canonical CBOR."""

    part: bytes


@dataclass(frozen=True)
class ErsOutput:
    """The complete document, verified against this holder's own records."""

    document: Document


def largest_round(keys: int) -> int:
    """Bytes that no part passes, whatever the parameter set and the number of holders."""
    return min(MAX_MESSAGE, (256 << 10) + 8192 * keys + MAX_LEDGER)


def statement_of(record: KeyRecord) -> KeyStatement:
    """What a part says about a key, from its record."""
    return KeyStatement(
        key_id=record.key_id,
        curve=record.curve,
        scheme=record.scheme,
        protocol=record.protocol,
        threshold=record.threshold,
        holders=record.holders,
        public_key=record.public_key,
        share_commitments=record.share_commitments,
        generation=record.generation,
        chain_code_hash=record.chain_code_hash,
        record_hash=record.hash,
    )


def make_document(
    party: Party,
    vault: str,
    params: ErsParams,
    rsa: RsaPublicKey,
    keys: Sequence[KeyShare],
    paths: Mapping[str, Sequence[str]] | None = None,
) -> Protocol[ErsOutput]:
    """Make the document of ``keys``; the players of the session are all their holders, or enough
    of them to recover (t+1): then it is a partial document, and the caller's business.

    Args:
        rsa: the recovery key, looked up on this node's own allow-list (R-31).
        keys: records and shares, in the parameters' order.
        paths: by key id, the derivation paths in this node's ledger; they go into its own part,
            and the other nodes write theirs.

    Yields, besides the round: ``Durable("ers/release", Release)`` before the part leaves.

    Raises:
        Abort: E_ERS_INVALID naming the player whose part does not verify.
    """
    _check(party, params, rsa, keys)
    statements = tuple(statement_of(k.record) for k in keys)
    mine = make_part(
        rsa=rsa,
        vault=vault,
        node=party.index,
        label=params.label,
        params=params.params,
        keys=statements,
        shares=[k.share for k in keys],
        chain_codes=[k.chain_code for k in keys],
        rng=party.rng,
        paths=paths,
    )
    # The list may have changed since the session was asked for (T-103).
    yield Durable("ers/release", Release(party.sid, rsa.spki_sha256, params.key_ids))
    inbox: Inbox = yield Round(broadcast=PartMessage(mine.to_cbor()))
    parts = {party.index: mine}
    expected = [
        ExpectedKey(s.key_id, s.public_key, s.curve, s.generation, s.record_hash)
        for s in statements
    ]
    for j in party.peers:
        parts[j] = _check_part(j, inbox.broadcast[j].part, statements, expected, params, vault, rsa)
    return ErsOutput(Document(tuple(parts[j] for j in party.players)))


def _check_part(
    j: int,
    raw: bytes,
    statements: tuple[KeyStatement, ...],
    expected: Sequence[ExpectedKey],
    params: ErsParams,
    vault: str,
    rsa: RsaPublicKey,
) -> Part:
    try:
        part = Part.from_cbor(raw)
        verify_part(part, rsa=rsa, expected=expected, label=params.label, vault=vault, node=j)
        # The whole statement, not only what a stranger would compare.
        if part.context.keys != statements or part.context.params_name != params.params:
            raise KeycairnError(Code.ERS_INVALID, "the part is about other keys or parameters")
        if part.context.version != FORMAT_VERSION:
            raise KeycairnError(Code.ERS_INVALID, "the part is of another version of the format")
    except KeycairnError as exc:
        raise Abort(
            Code.ERS_INVALID,
            f"player {j}: {exc.message}",
            culprits=[j],
            not_lost="Keys and shares are unchanged; only this document was not made.",
            next="repair or replace the named node, then keycairn ers create again",
            detail=exc.detail,
        ) from exc
    return part


def _check(party: Party, params: ErsParams, rsa: RsaPublicKey, keys: Sequence[KeyShare]) -> None:
    if not 1 <= len(keys) <= MAX_KEYS:
        raise KeycairnError(Code.MALFORMED, f"a document holds 1 to {MAX_KEYS} keys")
    if tuple(k.record.key_id for k in keys) != params.key_ids or rsa.spki_sha256 != (
        params.rsa_spki_sha256
    ):
        raise KeycairnError(Code.MALFORMED, "keys do not fit the session's parameters")
    for k in keys:
        holders = k.record.holders
        if not set(party.players) <= set(holders) or len(party.players) <= k.record.threshold:
            raise KeycairnError(
                Code.BAD_INDEX,
                "only holders take part in a key's document, and t+1 of them or more",
                detail={"key": k.record.key_id, "holders": list(k.record.holders)},
            )
