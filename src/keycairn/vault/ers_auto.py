"""Recovery documents that nobody asked for, made as soon as keys are, where the policy names ers.

Every node watches its own keys. The lowest holder that is here invites the others to a session for
a batch of keys without a complete document; whoever sees nothing happen waits its turn, so that a
coordinator that is down or does nothing is passed over. An invitation is not trusted: each node
looks up the RSA key on its own list, and makes a part only for keys that it holds and that lack a
document here too, one document at a time. The client that created the keys need not be there.

A holder that is away, or whose part was bad, leaves a *partial* document of t+1 holders or more: it
recovers the keys, and is shown as PARTIAL, but no policy counts it. The complete one follows once
the holder is back.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from keycairn.errors import Abort, Code, KeycairnError, PeerAborted
from keycairn.ers.rsa import RsaPublicKey, load_rsa_public_key
from keycairn.ports import Clock, Rng
from keycairn.protocols import ers_session
from keycairn.protocols.link import Link
from keycairn.vault.api import VaultParameters
from keycairn.vault.control import DocumentInvite, DocumentOffer
from keycairn.vault.emergency import Documents
from keycairn.vault.ers_keys import ErsKeys
from keycairn.vault.ers_state import COMPLETE, ErsEvidence, ErsStatus
from keycairn.vault.exchange import Exchange
from keycairn.vault.policy import Answer, Policy, evaluate, names_term
from keycairn.vault.ports import Batch, KeyRow, Store
from keycairn.vault.sessions import Sessions

_log = logging.getLogger("keycairn.vault")

#: Keys of one document.
BATCH = ers_session.MAX_KEYS
#: A holder so many places behind the first one that is here waits so long for its turn.
TURN_SECONDS = 20.0
#: After so long without a complete document a partial one is made.
PARTIAL_SECONDS = 60.0
#: Without a complete document for so long: somebody should see to it.
_ALARM_SECONDS = 120.0
_FIRST_PAUSE, _LONGEST_PAUSE, _BUSY_PAUSE = 2.0, 600.0, 1.0
#: All keys are looked through so often, and not more than a fiftieth of the time.
_SWEEP_SECONDS, _SWEEP_SHARE = 600.0, 50.0
#: A peer's invitations may keep this node busy for a fifth of the time.
_REST = 4.0
_LONGEST_REST = 60.0
_PAGE = 1000
_NAME = re.compile(r"ers-auto/([0-9]{1,9})/[0-9a-f]{32}")


@dataclass
class Missing:
    """A key without a complete document at this node."""

    application: str
    holders: tuple[int, ...]
    threshold: int
    since: float  # monotonic
    have: tuple[int, ...] = ()  # of its best partial document
    failures: int = 0
    not_before: float = 0.0


@dataclass(frozen=True)
class _Job:
    key_ids: tuple[str, ...]
    players: tuple[int, ...]


class Automatic:
    """Makes documents in the background, between :meth:`start` and :meth:`stop`."""

    def __init__(
        self,
        params: VaultParameters,
        policy: Policy,
        documents: Documents,
        ers_keys: ErsKeys,
        *,
        store: Store,
        sessions: Sessions,
        exchange: Exchange,
        link: Link,
        clock: Clock,
        rng: Rng,
    ) -> None:
        self._params = params
        self._documents = documents
        self._ers_keys = ers_keys
        self._store = store
        self._sessions = sessions
        self._exchange = exchange
        self._link = link
        self._clock = clock
        self._rng = rng
        self.active = (
            params.ers_automatic and names_term(policy, "ers") and "ers.create" in params.operations
        )
        without = {"ers": Answer.NO, "node_backup": Answer.YES}
        self._required = evaluate(policy, without, None) is not Answer.YES
        self.made = 0
        self._missing: dict[str, Missing] = {}
        self._swept: float | None = None  # when the next sweep is due; None: now
        self._wake = asyncio.Event()
        self._stopped = False
        self._busy = False
        self._rests: dict[int, float] = {}  # until when a peer's invitations are not followed
        self._refused: dict[str, float] = {}  # RSA keys that some node doesn't allow, until when
        self._blamed: dict[int, float] = {}  # players whose part was bad, until when
        self._last: KeycairnError | None = None
        self._no_key = False
        exchange.on(DocumentInvite, self._invited)

    def start(self) -> None:
        """Begin, if the configuration wants it."""
        if self.active:
            self._exchange.spawn(self._run())

    def stop(self) -> None:
        """Begin no more; what is being made may end."""
        self._stopped = True
        self._wake.set()

    # -- what happens at the node ----------------------------------------------------------------

    def created(self, batch: Batch) -> None:
        """Keys became active. They may have a document already."""
        if self.active:
            self._exchange.spawn(self._note(batch.key_ids))

    async def _note(self, key_ids: Sequence[str]) -> None:
        rows = [row for k in key_ids if (row := await self._store.key(k)) is not None]
        await self._judge(rows)
        self._wake.set()

    def contact(self, peer: int) -> None:
        """A peer is here (again): what failed without it may work now."""
        for missing in self._missing.values():
            if peer in missing.holders:
                missing.failures, missing.not_before = 0, 0.0
        self._blamed.pop(peer, None)
        self._wake.set()

    def look(self) -> None:
        """Look through all keys: the list of RSA keys changed."""
        self._swept = None
        self._refused.clear()
        self._wake.set()

    async def _sweep(self) -> None:
        begun = self._clock.monotonic()
        seen: set[str] = set()
        evidence = await self._documents.evidence()
        after = ""
        while not self._stopped:
            page = await self._store.keys(after=after, limit=_PAGE)
            if page:
                await self._judge(page, evidence)
                seen.update(row.record.key_id for row in page)
                after = page[-1].record.key_id
            if len(page) < _PAGE:
                break
        for gone in [k for k in self._missing if k not in seen]:
            del self._missing[gone]
        now = self._clock.monotonic()
        self._swept = now + max(_SWEEP_SECONDS, _SWEEP_SHARE * (now - begun))

    async def _judge(self, rows: Sequence[KeyRow], evidence: ErsEvidence | None = None) -> None:
        """Keep in mind which of these keys lack a complete document."""
        active = [row for row in rows if row.state == "active"]
        if not active:
            return
        now = self._clock.monotonic()
        statuses = await self._documents.statuses(active, evidence)
        for row, found in zip(active, statuses, strict=True):
            record = row.record
            if found.status == COMPLETE:
                self._missing.pop(record.key_id, None)
                continue
            known = self._missing.get(record.key_id)
            if known is None:
                known = Missing(row.application, record.holders, record.threshold, now)
                self._missing[record.key_id] = known
            known.have = found.players

    # -- coordinating ------------------------------------------------------------------------------

    async def _run(self) -> None:
        while not self._stopped:
            self._wake.clear()
            pause = _BUSY_PAUSE
            try:
                if self._swept is None or self._clock.monotonic() >= self._swept:
                    await self._sweep()
                job, pause = self._choose()
                rsa = await self._target() if job is not None else None
                if job is not None and rsa is not None:
                    await self._coordinate(job, rsa)
                    continue
                if job is not None:
                    pause = _LONGEST_PAUSE  # until the list changes
            except KeycairnError as exc:
                self._last = exc  # The database is away; the node says so itself.
                pause = _FIRST_PAUSE
            except Exception:
                # A fault of ours must not leave all keys without documents for good.
                _log.exception("automatic documents failed")
                pause = _LONGEST_PAUSE
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()

    async def _target(self) -> RsaPublicKey | None:
        """The newest RSA key of this node's list that no other node refused lately."""
        now = self._clock.monotonic()
        named: list[str] = []
        candidates: list[RsaPublicKey] = []
        for _, key in await self._ers_keys.usable():
            if isinstance(key, RsaPublicKey):
                candidates.append(key)
            else:
                named.append(key)
        if not candidates and named:
            # The configuration has only its hash; documents that exist hold the key itself.
            candidates += await self._documents.rsa_of(named)
        self._no_key = not candidates
        fit = [k for k in candidates if self._refused.get(k.spki_sha256, 0.0) <= now]
        return next(iter(fit or candidates), None)

    def _choose(self) -> tuple[_Job | None, float]:
        """What to make now, or how long to wait for it at most."""
        now = self._clock.monotonic()
        pause = _SWEEP_SECONDS if self._swept is None else max(0.0, self._swept - now)
        if self._busy:
            return None, min(pause, 0.1)
        chosen: list[str] = []
        first: tuple[str, tuple[int, ...]] | None = None
        players: tuple[int, ...] = ()
        for key_id, missing in self._missing.items():
            place = (missing.application, missing.holders)
            if first is not None and place != first:
                continue
            when, who = self._turn(missing, now)
            if when > now:
                pause = min(pause, when - now)
            elif who and (first is None or who == players):
                first, players = place, who
                chosen.append(key_id)
                if len(chosen) == BATCH:
                    break
        return (_Job(tuple(chosen), players) if chosen else None), pause

    def _turn(self, missing: Missing, now: float) -> tuple[float, tuple[int, ...]]:
        """When this node may invite for a key, and whom; nobody while that can't help."""
        here = [p for p in missing.holders if self._here(p, now)]
        if self._params.index not in here:
            return now, ()
        when = missing.since + TURN_SECONDS * here.index(self._params.index)
        when = max(when, missing.not_before)
        if len(here) < len(missing.holders):
            if len(here) <= missing.threshold or len(missing.have) >= len(here):
                return now, ()
            when = max(when, missing.since + PARTIAL_SECONDS)
        return when, tuple(here)

    def _here(self, player: int, now: float) -> bool:
        if player == self._params.index:
            return True
        up = self._link.is_up(player) and not self._sessions.banned(player)
        return up and self._blamed.get(player, 0.0) <= now

    async def _coordinate(self, job: _Job, rsa: RsaPublicKey) -> None:
        rows = [row for k in job.key_ids if (row := await self._store.key(k)) is not None]
        name = f"ers-auto/{self._params.index}/{self._rng.bytes(16).hex()}"
        invite = DocumentInvite(
            name,
            tuple(row.record.key_id for row in rows),
            tuple(row.record.hash for row in rows),
            rsa.spki,
            job.players,
        )
        try:
            await self._make(name, rows, job.players, rsa, invite)
        except KeycairnError as exc:
            self._failed(job, rsa, exc)

    def _failed(self, job: _Job, rsa: RsaPublicKey, exc: KeycairnError) -> None:
        now = self._clock.monotonic()
        self._last = exc
        busy = exc.code is Code.CONFLICT
        if exc.code is Code.KEY_NOT_ALLOWED:
            self._refused[rsa.spki_sha256] = now + _LONGEST_PAUSE
        if isinstance(exc, Abort) and not isinstance(exc, PeerAborted):
            for player in exc.culprits:
                self._blamed[player] = now + _LONGEST_PAUSE
        # Two nodes that invite each other again and again must not stay in step.
        shake = 0.5 + self._rng.bytes(1)[0] / 255
        for key_id in job.key_ids:
            missing = self._missing.get(key_id)
            if missing is not None:
                missing.failures += not busy
                pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(missing.failures, 12))
                missing.not_before = now + (_BUSY_PAUSE if busy else pause) * shake

    # -- joining -----------------------------------------------------------------------------------

    async def _invited(self, peer: int, invite: DocumentInvite) -> None:
        if not _well_formed(peer, self._params.index, invite):
            return
        rows, code = await self._follow(peer, invite)
        rsa: RsaPublicKey | None = None
        if code is None:
            try:
                rsa = await self._ers_keys.allowed(
                    load_rsa_public_key(invite.rsa_spki, allow_2048=True).spki
                )
            except KeycairnError as exc:
                code = Code.KEY_NOT_ALLOWED if exc.code is not Code.UNAVAILABLE else exc.code
        if rsa is None:
            await self._sessions.refuse(invite.name, invite.players, code or Code.POLICY)
            return
        self._busy = True  # now: the task begins later
        self._exchange.spawn(self._join(peer, invite, rows, rsa))

    async def _follow(
        self, peer: int, invite: DocumentInvite
    ) -> tuple[Sequence[KeyRow], Code | None]:
        """The keys of an invitation, and why this node does not follow it; None if it does."""
        if not self.active:
            return (), Code.POLICY
        if self._busy or self._stopped:
            return (), Code.CONFLICT
        if self._rests.get(peer, 0.0) > self._clock.monotonic():
            return (), Code.CONFLICT
        if any(self._sessions.banned(p) for p in invite.players):
            return (), Code.PEER_BANNED
        rows: list[KeyRow] = []
        for key_id, record_hash in zip(invite.key_ids, invite.record_hashes, strict=True):
            row = await self._store.key(key_id)
            if row is None or row.record.hash != record_hash:
                return (), Code.POLICY
            if row.state != "active":
                return (), Code.CONFLICT  # its certificate may be on its way
            rows.append(row)
        if len({(row.application, row.record.holders) for row in rows}) != 1:
            return (), Code.POLICY
        found = await self._documents.statuses(rows)
        if any(_adds(s, invite.players) for s in found):
            return rows, None
        # Complete here: the peer needs our document, and not a new one.
        here = tuple({s.document.sha256 for s in found if s.document is not None})
        if all(s.status == COMPLETE for s in found):
            await self._exchange.send(peer, DocumentOffer(here))
        return (), Code.CONFLICT

    async def _join(
        self, peer: int, invite: DocumentInvite, rows: Sequence[KeyRow], rsa: RsaPublicKey
    ) -> None:
        begun = self._clock.monotonic()
        try:
            await self._make(invite.name, rows, invite.players, rsa)
        except KeycairnError:
            now = self._clock.monotonic()
            self._rests[peer] = now + min(_LONGEST_REST, _REST * (now - begun))
            raise

    # -- the session -------------------------------------------------------------------------------

    async def _make(
        self,
        name: str,
        rows: Sequence[KeyRow],
        players: tuple[int, ...],
        rsa: RsaPublicKey,
        invite: DocumentInvite | None = None,
    ) -> None:
        self._busy = True
        try:
            self._sessions.require_active()
            if invite is not None:
                for peer in players:
                    if peer != self._params.index:
                        await self._exchange.send(peer, invite)
            await self._documents.make(name, players, rows, rsa)
            self.made += 1
            self._last = None
            await self._judge(rows)
        finally:
            self._busy = False
            self._wake.set()

    # -- what somebody should see to --------------------------------------------------------------

    def waiting(self) -> int:
        """How many keys lack a complete document, as far as was looked."""
        return len(self._missing)

    async def findings(self) -> list[dict[str, Any]]:
        """Keys that have lacked a complete document for a while."""
        if not self.active:
            return []
        now = self._clock.monotonic()
        late = [k for k, m in self._missing.items() if now >= m.since + _ALARM_SECONDS]
        if self._no_key and not self._required:
            return []  # Nobody chose ERS; whatever else the policy names is looked after elsewhere.
        if self._missing and self._no_key:
            late = list(self._missing)
            why = "the policy names ers, and no RSA key is on this node's list"
            step = "keycairn ers key add --rsa-public-key FILE, then keycairn ers key confirm"
        else:
            away = sorted(
                {p for k in late for p in self._missing[k].holders if not self._here(p, now)}
            )
            why = self._last.message if self._last is not None else "no session was finished yet"
            step = "keycairn ers status shows which; it is tried again by itself"
            if away:
                why = f"player {', '.join(map(str, away))} is not here, or gave a bad part"
                step = "start or repair that node; its part follows by itself"
        if not late:
            return []
        return [
            {
                "finding": "no complete ERS document",
                "key_ids": late[:_PAGE],
                "count": len(late),
                "why": why,
                "next": step,
            }
        ]


def _adds(found: ErsStatus, players: tuple[int, ...]) -> bool:
    """Whether a document of these players is better than what is here."""
    return found.status != COMPLETE and len(players) > len(found.players)


def _well_formed(peer: int, index: int, invite: DocumentInvite) -> bool:
    name = _NAME.fullmatch(invite.name)
    players = invite.players
    return (
        name is not None
        and name[1] == str(peer)
        and list(players) == sorted(set(players))
        and {peer, index} <= set(players)
        and 1 <= len(invite.key_ids) <= BATCH
        and len(set(invite.key_ids)) == len(invite.key_ids)
        and len(invite.record_hashes) == len(invite.key_ids)
        and all(len(k) <= 128 for k in invite.key_ids)
        and all(len(h) == 32 for h in invite.record_hashes)
        and len(invite.rsa_spki) <= 4096
    )
