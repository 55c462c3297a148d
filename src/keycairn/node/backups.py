"""This node's own bundles, made while it runs: ``keycairn.backup`` composed with the open store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from keycairn.backup.create import (
    BundleInputs,
    create_bundles,
    dump_receipt,
    file_word,
    read_inventory,
    receipt,
)
from keycairn.backup.manifest import Point
from keycairn.backup.nodefile import is_object_store
from keycairn.backup.retention import OWN_LEVELS, choose
from keycairn.backup.targets import target_of
from keycairn.encoding import SecretBytes
from keycairn.encryptors import read_secret
from keycairn.errors import Code, KeycairnError
from keycairn.node.config import NodeConfig
from keycairn.node.encryptor import require_settled
from keycairn.node.evidence import Evidence
from keycairn.node.logs import logger
from keycairn.node.points import Points
from keycairn.node.schedule import Scheduler
from keycairn.node.storage import database_of
from keycairn.node.views import bundle_json
from keycairn.ports import Clock, Rng
from keycairn.store.database import Server
from keycairn.vault.api import Identity
from keycairn.vault.hold import CreationHold
from keycairn.vault.ports import BundleRow, KeyRow, Store

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
        hold: CreationHold | None = None,
        require_active: Callable[[], None] = lambda: None,
    ) -> None:
        self._require_active = require_active
        self._config = config
        self._store = store
        self._identity = identity
        self._clock = clock
        self._rng = rng
        #: Held while bundles are made: one at a time, and none during a rotation.
        self.guard = asyncio.Lock()
        self.evidence = Evidence(store, clock, config.data_directory, unreadable)
        backup = config.backup
        self.schedule = Scheduler(
            backup.schedule, backup.jitter_seconds, clock, rng, self._good, self._scheduled
        )
        self.points = Points(
            hold or CreationHold(),
            self.create,
            self._newest_point,
            busy=self.guard.locked,
            led=self._led_by,
        )

    def use(self, config: NodeConfig) -> None:
        """From now on it is this configuration: the encryptor was rotated."""
        self._config = config

    async def create(
        self, point: Point | None = None, taken: Callable[[], None] = lambda: None
    ) -> dict[str, Any]:
        """Write a bundle to every target; the receipt of the first is this node's evidence.

        A target that is away or full keeps nothing from the others: it is in ``failed``.

        Args:
            point: the backup point that it belongs to.
            taken: called once the database was copied.

        Raises:
            KeycairnError: E_POLICY when no target or recipient is configured; what
                ``create_bundles`` raises; the first target's error when there is no bundle.
        """
        try:
            made = await self._create(point, taken)
        except KeycairnError as exc:
            self.schedule.failed(exc)
            raise
        self.schedule.succeeded()
        return made

    async def _create(self, point: Point | None, taken: Callable[[], None]) -> dict[str, Any]:
        # A bundle of a node that is QUARANTINED would be a copy of a database that was put back.
        self._require_active()
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
                await asyncio.to_thread(self._inputs),
                backup.targets,
                identity=self._identity,
                recipients=backup.recipients,
                clock=self._clock,
                rng=self._rng,
                point=point,
                taken=taken,
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
                "point": None if point is None else point.number,
                "copies": [row.location for row in rows[1:]],
                "failed": [
                    {"target": one.target, **one.error.to_json()["error"]}
                    for one in failed
                    if one.error
                ],
            }
        )

    def _inputs(self) -> BundleInputs:
        config = self._config
        server = None
        if config.backup.server_dump:
            server = database_of(config)
        return BundleInputs(
            config.file, self._forbidden(), server if isinstance(server, Server) else None
        )

    def _forbidden(self) -> tuple[SecretBytes, ...]:
        # A bundle that held the master secret beside the data it opens would be no backup but a
        # leak. It is looked for as bytes and as hexadecimal text, wherever it came from.
        found: list[SecretBytes] = []
        # The secrets may be kept away while the node runs.
        with suppress(KeycairnError):
            secret = read_secret(self._config.encryptor).reveal()
            found += [SecretBytes(secret), SecretBytes(secret.hex().encode("ascii"))]
        if self._config.database_password is not None:
            with suppress(KeycairnError):
                found.append(read_secret(self._config.database_password))
        return tuple(found)

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

    async def _good(self) -> Sequence[BundleRow]:
        """Receipts of this program's own bundles that nobody doubts now, newest first."""
        away = self.evidence.unreadable
        return [r for r in await self.list() if r.level in OWN_LEVELS and r.sha256 not in away]

    async def _newest_point(self) -> int:
        return max((r.detail.get("point") or 0 for r in await self.list()), default=0)

    async def _scheduled(self) -> None:
        made = await self.create()
        logger().info("backup", where=made["bundle"], size=made["size"], count=made["keys"])
        with suppress(KeycairnError):  # Said when asked for; the bundle is made.
            await self.prune(dry_run=False)

    async def _led_by(self, peer: int) -> None:
        """A peer's point made this node write a bundle: a peer must not fill the targets."""
        logger().info("backup point", peer=peer)
        await self.prune(dry_run=False)

    async def prune(self, *, dry_run: bool) -> dict[str, Any]:
        """Remove what ``[backup] keep`` doesn't keep (:mod:`keycairn.backup.retention`).

        Each target is judged alone; one that is away loses nothing, and is in ``failed``.
        """
        if not dry_run:
            self._require_active()
        async with self.guard:
            keys = (await read_inventory(self._store)).keys
            wanted = {k: (held.generation, held.record_hash) for k, held in keys.items()}
            out: dict[str, Any] = {"node": self._config.index, "dry_run": dry_run}
            out |= {"pruned": [], "kept": [], "bad": [], "failed": []}
            for text in self._config.backup.targets:
                target = target_of(text)
                rows = [
                    r
                    for r in await self.evidence.rows()
                    if r.level in OWN_LEVELS and target.holds(r.location)
                ]
                try:
                    await asyncio.to_thread(target.check)
                    chosen = await asyncio.to_thread(
                        choose, rows, self._config.backup.keep, wanted, self.evidence.is_good
                    )
                    pruned = () if dry_run else chosen.pruned
                    if pruned:
                        # Not from an inventory that was put back: a write finds that out.
                        names = [row.sha256 for row in pruned]
                        await self._store.audit("backup.prune", {"bundles": names})
                    for row in pruned:
                        self._require_active()
                        # The file first: a receipt without its file is found out and dropped.
                        await asyncio.to_thread(target.remove, row.location)
                        await self.evidence.drop(row)
                except KeycairnError as exc:
                    out["failed"].append({"target": target.place, **exc.to_json()["error"]})
                    continue
                out["pruned"] += [bundle_json(r, operator=True) for r in chosen.pruned]
                out["bad"] += [bundle_json(r, operator=True) for r in chosen.bad]
                out["kept"] += [
                    bundle_json(r, operator=True) | {"why": chosen.kept[r.sha256]}
                    for r in rows
                    if r.sha256 in chosen.kept
                ]
            return out

    async def register(self, location: str, *, dump: bool) -> dict[str, Any]:
        """Book what lies at ``location``: a bundle of this node without a receipt, or a dump that
        the operator's own tools made.

        A dump can't be looked into from here, so it is no evidence that a key is backed up: for
        the keys that were there when it was made coverage says "can't tell".

        Raises:
            KeycairnError: E_POLICY (an object store that is no target of this node),
                E_NOT_FOUND, E_UNAVAILABLE, E_CONFLICT (another node's bundle),
                E_STORE_INTEGRITY (damaged), E_MALFORMED (no bundle).
        """
        home = self._config.data_directory
        targets = [target_of(text) for text in self._config.backup.targets]
        if is_object_store(location) and not any(t.holds(location) for t in targets):
            # this node calls no address that somebody else than its configuration names.
            raise KeycairnError(
                Code.POLICY,
                "that address is in none of this node's targets",
                not_lost="Nothing was booked.",
                next="add its target under [backup] targets, or fetch the file and register that",
            )
        if dump:
            row = await asyncio.to_thread(dump_receipt, Path(location), self._clock)
            before = {
                key.record.key_id: (key.record.generation, key.record.hash)
                for key in await self._all_keys()
                if key.created_us < row.created_us
            }
            row = replace(row, keys=before)
        else:
            row = await asyncio.to_thread(
                receipt, location, self._identity.public, self._clock, scratch=home
            )
            if row.detail["vault"] != self._config.vault_id:
                raise KeycairnError(
                    Code.CONFLICT,
                    f"this is a bundle of vault {row.detail['vault']}",
                    not_lost="Nothing was booked.",
                )
        known = {r.sha256: r for r in await self.evidence.rows()}.get(row.sha256)
        if known is not None and known.level == "trial":
            row = replace(row, level=known.level)
        await self.evidence.book(row)
        await self._store.audit("backup.registered", {"sha256": row.sha256, "level": row.level})
        return bundle_json(row, operator=True) | {
            "node": self._config.index,
            "verified": row.level in OWN_LEVELS,
            "counts": row.level in OWN_LEVELS,
        }

    async def _all_keys(self) -> Sequence[KeyRow]:
        found: tuple[KeyRow, ...] = ()
        while page := await self._store.keys(after=found[-1].record.key_id if found else ""):
            found = (*found, *page)
        return found

    async def verified(self, sha256: str) -> dict[str, Any]:
        """Note that the operator's trial of a booked bundle succeeded; E_NOT_FOUND."""
        for row in await self.evidence.rows():
            if row.sha256 == sha256 and row.level in OWN_LEVELS:
                row = replace(row, level="trial", verified_us=self._clock.now_us())
                await self.evidence.book(row)
                return bundle_json(row, operator=True)
        raise KeycairnError(
            Code.NOT_FOUND,
            "this node has no receipt of that bundle",
            next="keycairn backup register BUNDLE --config node.toml",
        )

    async def status(self) -> dict[str, Any]:
        """Age, schedule and failures; what can't be looked at; bundles without a receipt."""
        state = await self.schedule.state()
        rows = await self.list()
        booked = {row.location for row in rows}
        stem = f"keycairn-{file_word(self._config.vault_id)}-node{self._config.index}-"
        targets, loose = [], []
        for text in self._config.backup.targets:
            target = target_of(text)
            try:
                names = await asyncio.to_thread(target.names)
            except KeycairnError as exc:
                targets.append({"target": target.place, "ok": False, "why": exc.message})
                continue
            targets.append({"target": target.place, "ok": True, "why": ""})
            places = [target.location(n) for n in names if n.startswith(stem)]
            loose += [place for place in places if place not in booked]
        away = await self._away()
        findings = [*await self.findings()]
        findings += [
            {
                "finding": "bundle without a receipt",
                "where": place,
                "next": f"keycairn backup register {place} --config {self._config.file}",
            }
            for place in loose
        ]
        return state | {
            "node": self._config.index,
            "targets": targets,
            "unreadable": away,
            "point": await self._newest_point() or None,
            "findings": findings,
        }

    async def _away(self) -> Sequence[str]:
        away = self.evidence.unreadable
        return sorted(r.location for r in await self.evidence.rows() if r.sha256 in away)

    async def findings(self) -> Sequence[dict[str, Any]]:
        """What somebody should see to, without asking any target."""
        found = [*(await self.schedule.state())["findings"]]
        away = await self._away()
        if away:
            found.append(
                {
                    "finding": "bundles can't be looked at",
                    "where": away[0],
                    "count": len(away),
                    "next": "mount the target, or see that the object store answers",
                }
            )
        return found

    async def receipts(self) -> Sequence[dict[str, Any]]:
        """Receipts without places, for applications."""
        return [bundle_json(row, operator=False) for row in await self.list()]
