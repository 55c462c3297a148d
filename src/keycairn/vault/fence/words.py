"""What a witness says besides its place: bans and revocations, as the store has them."""

from __future__ import annotations

from keycairn.vault.fence.witness import BanWord
from keycairn.vault.ports import Store


async def words_of(store: Store) -> tuple[tuple[BanWord, ...], tuple[str, ...]]:
    """Every ban that the node ever knew, and the allow-list entries that it revoked; sorted."""
    bans = sorted(
        (BanWord(row.ban_id, row.peer, row.lifted_us is not None) for row in await store.bans()),
        key=lambda word: word.ban_id,
    )
    revoked = sorted(row.spki_sha256 for row in await store.ers_keys() if row.state == "removed")
    return tuple(bans), tuple(revoked)
