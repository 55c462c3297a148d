"""Signing at a node: gate, one session per request, spends that are durable first."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from keycairn.encoding import digest as hash_of
from keycairn.encoding import tag
from keycairn.errors import Code, KeycairnError, PeerAborted, malformed
from keycairn.ports import Clock
from keycairn.protocols.durable import Ban, Spend
from keycairn.protocols.record import KeyShare
from keycairn.vault.api import Sign, Signature, VaultParameters
from keycairn.vault.claims import Claims
from keycairn.vault.coverage import KeyCoverage, gate
from keycairn.vault.fence.incarnation import Incarnation
from keycairn.vault.jobs import EcdsaJob, FrostJob, Job, check_shape
from keycairn.vault.keys import Keys, not_found
from keycairn.vault.ports import AnsweredBefore, KeyRow, RequestRow, SpendRow, Store
from keycairn.vault.sessions import Sessions, check_names
from keycairn.vault.setups import SetupBook

_REQUEST = tag("request/sign")
#: With more items than this, paths are derived, and signatures made, in a thread.
_MANY = 4
#: A key that signs is read again after so many seconds, so many keys at once. Nothing may change
#: meanwhile but its evidence, which need not be noticed sooner.
_HOT_SECONDS, _HOT = 1.0, 256


@dataclass(frozen=True)
class _Hot:
    """A key that has just been asked for."""

    row: KeyRow
    coverage: KeyCoverage
    key: KeyShare


class SigningJournal:
    """Spends and bans of a signing session.

    Args:
        paths: what the key's ledger takes in with the spend.
        request: (application, request id), for which nothing is spent once it has a result.
    """

    def __init__(
        self,
        store: Store,
        sessions: Sessions,
        clock: Clock,
        incarnation: bytes,
        paths: Sequence[str] = (),
        request: tuple[str, str] | None = None,
    ) -> None:
        self._request = request
        self._store = store
        self._sessions = sessions
        self._clock = clock
        self._incarnation = incarnation
        self._paths = paths

    async def commit(self, what: str, record: Any) -> None:
        if isinstance(record, tuple):
            rows = [self._row(spend) for spend in record]
            await self._store.spend_all(rows, self._paths, self._request)
        elif isinstance(record, Ban):
            # A ban must reach the disk even if the client has gone and this session is cancelled.
            await asyncio.shield(self._sessions.ban(record.peers, record.reason))
        else:
            raise ValueError(f"signing has no durable step {what}")

    def _row(self, spend: Spend) -> SpendRow:
        return SpendRow(
            spend.presignature_id,
            self._incarnation,
            spend.key_id,
            spend.base_r,
            spend.digest,
            self._clock.now_us(),
        )


class Signing:
    """Signs for applications.

    Args:
        spawn: runs work in the background.
    """

    def __init__(
        self,
        params: VaultParameters,
        incarnation: Incarnation,
        *,
        store: Store,
        sessions: Sessions,
        setups: SetupBook,
        keys: Keys,
        claims: Claims,
        clock: Clock,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._spawn = spawn
        self._hot: dict[str, _Hot] = {}
        #: Results on their way to the disk, by application and place.
        self._settling: dict[tuple[str, str], RequestRow] = {}
        self._params = params
        self._store = store
        self._sessions = sessions
        self._setups = setups
        self._keys = keys
        self._claims = claims
        self._incarnation = incarnation
        self._journal = partial(SigningJournal, store, sessions, clock)
        #: Signatures given out, by where they came from.
        self.signed = {"pool": 0, "full": 0}

    async def sign(self, application: str, request: Sign) -> tuple[Signature, ...]:
        """See ``Service.sign``."""
        names = request.names
        # What this incarnation begins must not end in the name of a later one.
        incarnation = self._incarnation.id
        check_names(names, self._params.players)
        hot = await self._look_up(application, request.key_id)
        row, record = hot.row, hot.row.record
        check_shape(record, request)
        explicit = _presignature(request)
        record.check_signers(names.players)
        if self._params.index not in names.players:
            raise KeycairnError(Code.BAD_INDEX, "this node is not among the players")
        if f"{record.scheme}.sign" not in self._params.operations:
            raise KeycairnError(
                Code.POLICY,
                f"this node's configuration does not allow {record.scheme}.sign",
                not_lost="Nothing was signed by this request; nodes that allow it can sign.",
                next="choose other --nodes, or set sign = true under "
                f"[operations.{record.scheme}] in this node's node.toml",
            )
        if row.state != "active":
            raise KeycairnError(
                Code.CONFLICT,
                "the key is pending: not every holder has confirmed that it keeps its share",
                not_lost="This node keeps its share.",
                next="start the missing nodes; keycairn key list shows pending keys",
            )
        gate("sign", hot.coverage, frozenset(self._params.gate), node=self._params.index)
        self._keep(hot)
        # Not the presignature: a repeated request takes another one, or none.
        hashed = hash_of(
            _REQUEST,
            request.key_id,
            [[i.digest if i.digest is not None else i.message, i.path] for i in request.items],
            request.taproot,
        )

        place = (application, f"sign/{names.request_id}")

        async def check() -> None:
            if place in self._settling or await self._store.request(*place) is not None:
                raise AnsweredBefore

        async def work() -> tuple[Signature, ...]:
            try:
                if place in self._settling or not self._sessions.connected(names.players):
                    await check()
                with self._sessions.admitted():
                    result = await self._run(hot, request, explicit, place, check, incarnation)
            except AnsweredBefore:
                # A signer that has no result yet needn't wait for this one.
                await self._sessions.decline(names, Code.CONFLICT)
                done = self._settling.get(place) or await self._store.request(*place)
                if done is None:
                    raise
                return _from_row(done, hashed)
            self._settle(RequestRow(*place, hashed, _to_json(result)))
            return result

        return await self._sessions.once(application, "sign", names, hashed, work)

    async def _run(
        self,
        hot: _Hot,
        request: Sign,
        explicit: bytes | None,
        place: tuple[str, str],
        check: Callable[[], Awaitable[None]],
        incarnation: bytes,
    ) -> tuple[Signature, ...]:
        """Sign, unless ``check`` raises: a repeated request has its result already.

        From the pool that shows in the spend's own transaction, which is sooner than to look first.
        """
        self._sessions.refuse_banned(request.names.players)
        job = await self._job(request, hot.key)
        taken = await self._claims.take(hot.row, job, explicit, check)
        journal = self._journal(incarnation, job.paths, place)
        if taken is None:
            await check()
            made = await self._sessions.run(job.full_spec(), job.full, journal, public=False)
            self.signed["full"] += len(made)
            return tuple(job.signature(m) for m in made)
        try:
            made = await self._sessions.run(
                job.use_spec(taken.ids, taken.claim.opening),
                lambda party: job.use(party, taken.claim),
                journal,
                public=False,
                inline=len(job.items) <= _MANY,
            )
        except PeerAborted as exc:
            if exc.code is Code.PRESIG_UNKNOWN:
                self._claims.refused(taken)
            raise
        finally:
            self._claims.end(taken)
        self.signed["pool"] += len(made)
        return tuple(job.signature(m) for m in made)

    async def _look_up(self, application: str, key_id: str) -> _Hot:
        """The key, its evidence and its share; for a second from memory if it may sign."""
        hot = self._hot.get(key_id)
        if hot is None:
            row = await self._keys.of(application, key_id)
            coverage = await self._keys.coverage(row)
            hot = _Hot(row, coverage, await self._store.key_share(key_id))
        elif hot.row.application != application:
            raise not_found()
        return hot

    def _keep(self, hot: _Hot) -> None:
        key_id = hot.row.record.key_id
        if key_id not in self._hot and len(self._hot) < _HOT:
            self._hot[key_id] = hot
            asyncio.get_running_loop().call_later(_HOT_SECONDS, self._hot.pop, key_id, None)

    def _settle(self, row: RequestRow) -> None:
        """Make a result durable, with the next write that hurries.

        The signatures needn't wait for it: their spends are durable. After a crash in between, the
        repeated request takes new presignatures (R-02).
        """
        place = (row.application, row.request_id)
        self._settling[place] = row

        async def save() -> None:
            try:
                await self._store.put_request(row, hurry=False)
            finally:
                del self._settling[place]

        self._spawn(save())

    def forget(self) -> None:
        """What is remembered of keys for a second goes."""
        self._hot.clear()

    async def _job(self, request: Sign, key: KeyShare) -> Job:
        index, vault = self._params.index, self._params.vault_id
        make: Callable[[], Job]
        if key.record.scheme != "ecdsa":
            make = partial(FrostJob, request, key, vault, index)
        else:
            peers = [p for p in request.names.players if p != index]
            setups = await self._setups.ensure(peers, self._params.session_seconds)
            make = partial(EcdsaJob, request, key, vault, index, setups)
        if len([i for i in request.items if i.path]) > _MANY:
            return await self._sessions.off_loop(make)
        return make()


def _presignature(request: Sign) -> bytes | None:
    if request.presignature is None:
        return None
    try:
        found = bytes.fromhex(request.presignature)
    except ValueError:
        found = b""
    if len(found) != 32 or found.hex() != request.presignature:
        raise malformed("the id of a presignature is 64 hex digits, lower case")
    return found


def _to_json(signatures: Sequence[Signature]) -> dict[str, Any]:
    return {"signatures": [_one_to_json(s) for s in signatures]}


def _one_to_json(s: Signature) -> dict[str, Any]:
    return {
        "signature": s.signature.hex(),
        "der": None if s.der is None else s.der.hex(),
        "recovery_id": s.recovery_id,
        "public_key": s.public_key.hex(),
        "nodes": list(s.nodes),
        "base_r": s.base_r.hex(),
        "presignature_id": s.presignature_id.hex(),
    }


def _from_row(row: RequestRow, hashed: bytes) -> tuple[Signature, ...]:
    if row.request_hash != hashed:
        raise KeycairnError(
            Code.CONFLICT,
            "this request_id was used for another signature",
            not_lost="Nothing was signed by this request.",
            next="use a fresh request_id",
        )
    return tuple(_one_from_json(r) for r in row.result["signatures"])


def _one_from_json(r: Mapping[str, Any]) -> Signature:
    return Signature(
        signature=bytes.fromhex(r["signature"]),
        der=None if r["der"] is None else bytes.fromhex(r["der"]),
        recovery_id=r["recovery_id"],
        public_key=bytes.fromhex(r["public_key"]),
        nodes=tuple(r["nodes"]),
        base_r=bytes.fromhex(r["base_r"]),
        presignature_id=bytes.fromhex(r["presignature_id"]),
    )
