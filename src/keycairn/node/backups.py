"""This node's own bundles, made while it runs: ``keycairn.backup`` composed with the open store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from keycairn.backup.create import BundleInputs, create_bundles
from keycairn.encoding import SecretBytes
from keycairn.encryptors import read_secret
from keycairn.errors import Code, KeycairnError
from keycairn.node.config import NodeConfig
from keycairn.node.encryptor import require_settled
from keycairn.node.evidence import Evidence
from keycairn.node.logs import logger
from keycairn.node.views import bundle_json
from keycairn.ports import Clock, Rng
from keycairn.vault.api import Identity
from keycairn.vault.ports import BundleRow, Store

_AGAIN = "keycairn backup create --config node.toml"
#: Between two looks whether stored evidence was touched, and between two at every byte of it.
_LOOK_SECONDS = 10.0
_WHOLE_SECONDS = 3600.0


class NodeBackups:
    """Implements :class:`keycairn.node.management.Backups` and the receipts of the API."""

    def __init__(
        self,
        config: NodeConfig,
        store: Store,
        identity: Identity,
        clock: Clock,
        rng: Rng,
        unreadable: set[str],
    ) -> None:
        self._config = config
        self._store = store
        self._identity = identity
        self._clock = clock
        self._rng = rng
        #: Held while bundles are made: one at a time, and none during a rotation.
        self.guard = asyncio.Lock()
        self.evidence = Evidence(store, clock, config.data_directory, unreadable)

    def use(self, config: NodeConfig) -> None:
        """From now on it is this configuration: the encryptor was rotated."""
        self._config = config

    async def create(self) -> dict[str, Any]:
        """Write a bundle to every target; the receipt of the first is this node's evidence.

        A target that is away or full keeps nothing from the others: it is in ``failed``.

        Raises:
            KeycairnError: E_POLICY when no target or recipient is configured; what
                ``create_bundles`` raises; the first target's error when there is no bundle.
        """
        backup = self._config.backup
        if not backup.targets or not backup.recipients:
            raise KeycairnError(
                Code.POLICY,
                "this node's configuration says neither where bundles go nor who can open them",
                next="set targets and recipients (age1…) under [backup] in node.toml and restart",
                node=self._config.index,
            )
        async with self.guard:
            require_settled(self._config)
            began = self._clock.monotonic()
            made = await create_bundles(
                self._store,
                BundleInputs(self._config.file, self._forbidden()),
                backup.targets,
                identity=self._identity,
                recipients=backup.recipients,
                clock=self._clock,
                rng=self._rng,
            )
            rows = [one.row for one in made if one.row is not None]
            for row in rows:
                await self.evidence.book(row)
            milliseconds = round(1000 * (self._clock.monotonic() - began))
        failed = [one for one in made if one.error is not None]
        for one in failed:
            code = one.error.code.value if one.error else ""
            logger().warning("finding", finding="no bundle", where=one.target, code=code)
        if not rows:
            raise failed[0].error or KeycairnError(Code.UNAVAILABLE, "no bundle was written")
        first = bundle_json(rows[0], operator=True)
        return (
            first
            | {
                "node": self._config.index,
                "milliseconds": milliseconds,  # JSON of this project holds no floats
                "verified": True,
                "copies": [row.location for row in rows[1:]],
                "failed": [
                    {"target": one.target, **one.error.to_json()["error"]}
                    for one in failed
                    if one.error
                ],
            }
        )

    def _forbidden(self) -> tuple[SecretBytes, ...]:
        # A bundle that held the master secret beside the data it opens would be no backup but a
        # leak. It is looked for as bytes and as hexadecimal text, wherever it came from.
        try:
            secret = read_secret(self._config.encryptor).reveal()
        except KeycairnError:
            return ()  # The secret may be kept away while the node runs.
        return (SecretBytes(secret), SecretBytes(secret.hex().encode("ascii")))

    async def watch(self, documents: Callable[[bool], Awaitable[Sequence[str]]]) -> None:
        """Look at all evidence for as long as the node runs: often whether files were touched, now
        and then whether all bytes are what was written.

        Not when a key is used: a file system that hangs must not hang the signatures with it.

        Args:
            documents: does the same for ERS documents and returns the hashes that are lost; True
                asks it to read all of them.
        """
        due = self._clock.monotonic()
        while True:
            whole = self._clock.monotonic() >= due
            if whole:
                due = self._clock.monotonic() + _WHOLE_SECONDS
            try:
                for location in await self.evidence.check(whole=whole):
                    logger().warning("finding", finding="bundle lost", where=location, next=_AGAIN)
                for sha256 in await documents(whole):
                    logger().warning("finding", finding="document lost", sha256=sha256)
            except KeycairnError as exc:
                # The disk is away: what can't be looked at neither counts more nor less.
                if whole:
                    logger().warning("finding", finding="evidence unreadable", code=exc.code.value)
            await asyncio.sleep(_LOOK_SECONDS)

    async def list(self) -> Sequence[BundleRow]:
        """Receipts, newest first."""
        return sorted(await self.evidence.rows(), key=lambda r: r.created_us, reverse=True)

    async def receipts(self) -> Sequence[dict[str, Any]]:
        """Receipts without places, for applications."""
        return [bundle_json(row, operator=False) for row in await self.list()]
