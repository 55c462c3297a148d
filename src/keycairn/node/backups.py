"""This node's own bundles, made while it runs: ``keycairn.backup`` composed with the open store."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from keycairn.backup.create import BundleInputs, create_bundle
from keycairn.encoding import SecretBytes
from keycairn.encryptors import read_secret
from keycairn.errors import Code, KeycairnError
from keycairn.node.config import NodeConfig
from keycairn.node.logs import logger
from keycairn.node.views import bundle_json
from keycairn.ports import Clock, Rng
from keycairn.store.files import mark_of
from keycairn.vault.api import Identity
from keycairn.vault.ports import BundleRow, Store

_AGAIN = "keycairn backup create --config node.toml"
#: Between two looks whether stored evidence was touched, and between two at every byte of it.
_LOOK_SECONDS = 10.0
_WHOLE_SECONDS = 3600.0


class _State(Enum):
    """What a look at a stored bundle found."""

    SAME = "same"
    GONE = "gone, or other bytes than were written"
    CANT_TELL = "can't be looked at"


class NodeBackups:
    """Implements :class:`keycairn.node.management.Backups` and the receipts of the API."""

    def __init__(
        self, config: NodeConfig, store: Store, identity: Identity, clock: Clock, rng: Rng
    ) -> None:
        self._config = config
        self._store = store
        self._identity = identity
        self._clock = clock
        self._rng = rng
        self._one = asyncio.Lock()
        self._rows: Sequence[BundleRow] | None = None
        self._dropped: dict[str, BundleRow] = {}
        self._marks: dict[str, tuple[_State, tuple[int, ...]]] = {}

    async def create(self) -> dict[str, Any]:
        """Write a bundle to every target; the receipt of the first is this node's evidence.

        Raises:
            KeycairnError: E_POLICY when no target or recipient is configured; what
                ``create_bundle`` raises.
        """
        backup = self._config.backup
        if not backup.targets or not backup.recipients:
            raise KeycairnError(
                Code.POLICY,
                "this node's configuration says neither where bundles go nor who can open them",
                next="set targets and recipients (age1…) under [backup] in node.toml and restart",
                node=self._config.index,
            )
        async with self._one:
            began = self._clock.monotonic()
            rows = [await self._write(number) for number in range(len(backup.targets))]
            milliseconds = round(1000 * (self._clock.monotonic() - began))
        first = bundle_json(rows[0], operator=True)
        copies = [row.location for row in rows[1:]]
        return first | {
            "node": self._config.index,
            "milliseconds": milliseconds,  # JSON of this project holds no floats
            "verified": True,
            "copies": copies,
        }

    async def _write(self, number: int) -> BundleRow:
        target = self._config.backup.targets[number]
        await asyncio.to_thread(_make_directory, target)
        row = await create_bundle(
            self._store,
            BundleInputs(self._config.file, self._forbidden()),
            target,
            identity=self._identity,
            recipients=self._config.backup.recipients,
            clock=self._clock,
            rng=self._rng,
        )
        await self._store.put_bundle(row)
        self._rows = None
        return row

    def _forbidden(self) -> tuple[SecretBytes, ...]:
        # A bundle that held the master secret beside the data it opens would be no backup but a
        # leak. It is looked for as bytes and as hexadecimal text, wherever it came from.
        try:
            secret = read_secret(self._config.encryptor).reveal()
        except KeycairnError:
            return ()  # The secret may be kept away while the node runs.
        return (SecretBytes(secret), SecretBytes(secret.hex().encode("ascii")))

    async def check_receipts(self, *, whole: bool = True) -> list[str]:
        """Drop the receipts of stored bundles that are gone or are not what was written.

        A receipt is evidence for the backup policy, and a bundle that isn't there protects
        nothing. A target that can't be looked at right now proves nothing either way: its
        receipts stay. A bundle that comes back while the node runs, as with a file system that
        was not mounted for a while, counts again.

        Args:
            whole: read all bundles; otherwise only those whose files were touched since.

        Returns:
            the locations that no longer count.
        """
        if self._rows is None:
            self._rows = await self._store.bundles()
        lost: list[str] = []
        for row in self._rows:
            if await asyncio.to_thread(self._look, row, whole) is _State.GONE:
                lost.append(row.location)
                self._dropped[row.sha256] = row
                self._rows = None
                await self._store.delete_bundle(row.sha256)
        for row in list(self._dropped.values()):
            if await asyncio.to_thread(self._look, row, False) is _State.SAME:
                del self._dropped[row.sha256]
                self._rows = None
                await self._store.put_bundle(row)
                logger().info("bundle is back", where=row.location)
        return lost

    def _look(self, row: BundleRow, whole: bool) -> _State:
        path = Path(row.location)
        try:
            mark = mark_of(path.stat())
            known = None if whole else self._marks.get(row.sha256)
            if known is not None and known[1] == mark:
                return known[0]
            digest = hashlib.sha256()
            with path.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
        except FileNotFoundError:
            return _State.GONE if path.parent.is_dir() else _State.CANT_TELL
        except OSError:
            return _State.CANT_TELL
        found = _State.SAME if digest.hexdigest() == row.sha256 else _State.GONE
        self._marks[row.sha256] = (found, mark)
        return found

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
                for location in await self.check_receipts(whole=whole):
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
        return sorted(await self._store.bundles(), key=lambda r: r.created_us, reverse=True)

    async def receipts(self) -> Sequence[dict[str, Any]]:
        """Receipts without places, for applications."""
        return [bundle_json(row, operator=False) for row in await self.list()]


def _make_directory(target: Any) -> None:
    try:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise KeycairnError(
            Code.UNAVAILABLE,
            f"the backup target {target} cannot be made: {exc.strerror}",
            not_lost="Older bundles and the node itself are untouched.",
        ) from exc
