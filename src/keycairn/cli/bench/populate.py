"""Many keys in a vault that is only for measuring: shares dealt in one process into its stores.

The keys are real: polynomials of the vault's degree, a certificate that every node's identity
signed, chain codes. Whoever runs this knows all of them, so it refuses the production profile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from keycairn.curves import group
from keycairn.encoding import SecretBytes, SecretScalar
from keycairn.errors import Code, KeycairnError
from keycairn.ers.statement import chain_code_hash
from keycairn.node.config import NodeConfig, load_config
from keycairn.node.identity import load_identity
from keycairn.node.storage import open_storage
from keycairn.ports import Clock, Rng
from keycairn.protocols.keygen import ready_statement
from keycairn.protocols.record import KeyRecord, protocol_for
from keycairn.store.sql import SqlStore
from keycairn.vault.ports import Batch, NewKey
from keycairn.vault.signer import IdentitySigner

#: Keys that share a batch, as one creation of that size would leave them.
BATCH = 1000


async def populate(
    configs: Sequence[Path],
    count: int,
    clock: Clock,
    rng: Rng,
    *,
    application: str = "default",
    scheme: str = "ecdsa",
    curve: str = "secp256k1",
) -> dict[str, Any]:
    """Deal ``count`` keys into the stores of a vault whose nodes are stopped.

    Args:
        configs: node.toml of every node of the vault.
        application: whose keys they are.

    Raises:
        KeycairnError: E_POLICY for a vault whose profile is production, E_MALFORMED if nodes are
            missing, E_CONFLICT if one runs.
    """
    nodes = sorted((load_config(path) for path in configs), key=lambda c: c.index)
    _check(nodes)
    dealer = _Dealer(nodes, application, scheme, curve, clock, rng)
    started = clock.monotonic()
    async with AsyncExitStack() as stack:
        stores = [
            await stack.enter_async_context(open_storage(config, clock, rng)) for config in nodes
        ]
        made = 0
        while made < count:
            size = min(BATCH, count - made)
            await dealer.deal(stores, size)
            made += size
    return {"name": "populate", "keys": made, "seconds": round(clock.monotonic() - started, 1)}


def _check(nodes: Sequence[NodeConfig]) -> None:
    players = nodes[0].players if nodes else ()
    if tuple(c.index for c in nodes) != players or len({c.vault_id for c in nodes}) != 1:
        raise KeycairnError(Code.MALFORMED, "needs node.toml of every node of one vault")
    for config in nodes:
        if config.profile != "test":
            raise KeycairnError(
                Code.POLICY,
                f"node {config.index} has the production profile: whoever deals keys knows them "
                "all, so none are dealt into it",
                not_lost="Nothing was changed.",
                next='make a vault for measuring, with profile = "test" under [vault] of each node',
                node=config.index,
            )


class _Dealer:
    def __init__(
        self,
        nodes: Sequence[NodeConfig],
        application: str,
        scheme: str,
        curve: str,
        clock: Clock,
        rng: Rng,
    ) -> None:
        self._vault = nodes[0].vault_id
        self._threshold = nodes[0].threshold
        self._players = nodes[0].players
        self._signers = {
            c.index: IdentitySigner(load_identity(c.identity_key_file), {}) for c in nodes
        }
        self._application, self._scheme, self._curve = application, scheme, curve
        self._clock, self._rng = clock, rng
        self._protocol = protocol_for(scheme, curve)

    async def deal(self, stores: Sequence[SqlStore], size: int) -> None:
        """One batch into every store."""
        keys = await asyncio.to_thread(self._keys, size)
        batch_id = self._rng.bytes(32)
        hashes = tuple(by_player[self._players[0]].record.hash for by_player in keys)
        statement = ready_statement(self._vault, batch_id, 1, hashes)
        batch = Batch(
            batch_id=batch_id,
            application=self._application,
            request_id=f"populate-{batch_id.hex()[:32]}",
            request_hash=bytes(32),
            generation=1,
            record_hashes=hashes,
            key_ids=tuple(by_player[self._players[0]].record.key_id for by_player in keys),
            holders=self._players,
            ready={i: signer.sign(statement) for i, signer in self._signers.items()},
            active=True,
            created_us=self._clock.now_us(),
        )
        await asyncio.gather(
            *[
                store.put_batch(batch, [by_player[i] for by_player in keys])
                for i, store in zip(self._players, stores, strict=True)
            ]
        )

    def _keys(self, size: int) -> list[dict[int, NewKey]]:
        return [self._key() for _ in range(size)]

    def _key(self) -> dict[int, NewKey]:
        g = group(self._curve)
        poly = [g.random_scalar(self._rng) for _ in range(self._threshold + 1)]
        shares = {
            i: sum(a * pow(i, k, g.q) for k, a in enumerate(poly)) % g.q for i in self._players
        }
        chain = SecretBytes(self._rng.bytes(32))
        record = KeyRecord(
            key_id="key-" + self._rng.bytes(16).hex(),
            vault=self._vault,
            scheme=self._scheme,
            curve=self._curve,
            protocol=self._protocol,
            purpose="sign",
            threshold=self._threshold,
            holders=self._players,
            public_key=g.base_mul(poly[0]).encode(),
            share_commitments=tuple(g.base_mul(shares[i]).encode() for i in self._players),
            chain_code_hash=chain_code_hash(chain.reveal()),
            generation=1,
        )
        return {i: NewKey(record, SecretScalar(shares[i]), chain) for i in self._players}
