"""A batch of keys as a peer shows it: proof that this node once promised to keep its shares.

READY is signed only after the share is durable. So a batch that bears this node's own READY and is
not in its database is a change that the database lost.
"""

from __future__ import annotations

from keycairn.protocols.form import Signer
from keycairn.protocols.keygen import ready_statement
from keycairn.protocols.wire import Message
from keycairn.vault.ports import Batch

_MAX_KEYS = 1000
_NAME = 128


class BatchWord(Message, frozen=True):
    """Public part of a batch and the READY signatures that its sender has."""

    batch_id: bytes
    generation: int
    record_hashes: tuple[bytes, ...]
    key_ids: tuple[str, ...]
    holders: tuple[int, ...]
    ready: tuple[tuple[int, bytes], ...]


def word_of(batch: Batch) -> BatchWord:
    """A stored batch as it is shown to a holder."""
    return BatchWord(
        batch.batch_id,
        batch.generation,
        batch.record_hashes,
        batch.key_ids,
        batch.holders,
        tuple(sorted(batch.ready.items())),
    )


def signed_by(word: BatchWord, player: int, *, vault: str, signer: Signer) -> bool:
    """Whether the batch is well-formed and bears ``player``'s READY."""
    shape = (
        len(word.batch_id) == 32
        and 0 < len(word.key_ids) == len(word.record_hashes) <= _MAX_KEYS
        and all(len(h) == 32 for h in word.record_hashes)
        and all(0 < len(k) <= _NAME for k in word.key_ids)
        and len(word.ready) <= len(word.holders) <= _NAME
        and player in word.holders
    )
    signature = dict(word.ready).get(player)
    if not shape or signature is None:
        return False
    statement = ready_statement(vault, word.batch_id, word.generation, word.record_hashes)
    return signer.verify(player, statement, signature)


def certified(word: BatchWord, *, vault: str, signer: Signer) -> bool:
    """Whether every holder's READY is there and good."""
    return all(signed_by(word, h, vault=vault, signer=signer) for h in word.holders)
