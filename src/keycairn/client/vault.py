"""A whole vault: the same call to every node that takes part, and one answer that all gave.

Nobody coordinates a session. This client holds credentials for several nodes and makes the calls
that each node's user would make: the same body, the same session name, at the same time.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import httpx

from keycairn.client.agree import agreed, combine, says_why
from keycairn.client.merge import SAME_KEY, UNKNOWN, merge_coverage, merge_key
from keycairn.client.node import NodeClient
from keycairn.client.profile import VaultProfile, load_profile
from keycairn.client.signing import Item, Signing
from keycairn.curves.derivation import parse_path
from keycairn.errors import Code, KeycairnError
from keycairn.ers.document import Document
from keycairn.ers.ledger import by_index
from keycairn.ports import Clock, Rng
from keycairn.ports.system import SystemClock, SystemRng

T = TypeVar("T")
#: Seconds for the other nodes' answers once one node has refused for a reason of its own.
_PATIENCE = 2.0
#: The same once one node could not be reached, or gave up on its peers: they have the same limit.
_PATIENCE_FAILED = 10.0
#: The same once one node is done: the others have had every message that they need.
_PATIENCE_DONE = 60.0
#: Seconds for the other nodes once one has told what it knows.
_PATIENCE_READ = 5.0
#: Worth another attempt with a new session id: the nodes met at different moments, or one was
#: starting. The request id makes sure that nothing is done twice.
_AGAIN = frozenset({Code.PEER_TIMEOUT, Code.UNAVAILABLE, Code.SESSION_MISMATCH})


#: Earlier attempts under one request id that a call looks past.
_MAX_REPLAYS = 64
#: Attempts that met the end of a pair setup and count for nothing.
_MAX_ENDED = 2


class Vault:
    """All nodes of a vault, for one application.

    Args:
        profile: where the nodes are.
        rng: names of sessions and requests.
        clock: how long nodes are taken to be healthy.
        transports: replaces the network by node index, for tests.
    """

    def __init__(
        self,
        profile: VaultProfile,
        *,
        rng: Rng | None = None,
        clock: Clock | None = None,
        transports: Mapping[int, httpx.AsyncBaseTransport] | None = None,
    ) -> None:
        self.profile = profile
        self._rng = rng or SystemRng()
        self._signing = Signing(self, clock or SystemClock())
        self.nodes: dict[int, NodeClient] = {
            n.index: NodeClient(
                n.url,
                n.api_key,
                index=n.index,
                ca=n.ca,
                transport=(transports or {}).get(n.index),
            )
            for n in profile.nodes
        }

    @classmethod
    def open(cls, path: Path) -> Vault:
        """The vault of a ``vault.toml``."""
        return cls(load_profile(path))

    async def __aenter__(self) -> Vault:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.gather(*(n.close() for n in self.nodes.values()))

    # -- keys

    async def create_keys(
        self,
        scheme: str,
        curve: str,
        *,
        threshold: int | None = None,
        count: int = 1,
        variant: str | None = None,
        request_id: str | None = None,
        nodes: Collection[int] | None = None,
        attempts: int = 1,
    ) -> list[dict[str, Any]]:
        """Make keys that all nodes (or ``nodes``) hold.

        Returns only what every holder acknowledged with the same public key and record hash. If
        it fails half-way, the same ``request_id`` gives the same keys.
        """
        players = self._players(nodes)
        body = {
            "scheme": scheme,
            "curve": curve,
            "threshold": self.profile.threshold if threshold is None else threshold,
            "count": count,
            "variant": variant,
        }
        answers = await self.run_session(
            players, body, lambda n, b: n.create_keys(b), request_id, attempts
        )
        counts = {i: {"number of keys": len(keys)} for i, keys in answers.items()}
        agreed(counts, ("number of keys",))
        merged = []
        for position in range(len(answers[players[0]])):
            views = {i: keys[position] for i, keys in answers.items()}
            agreed(views, SAME_KEY)
            merged.append(merge_key(views, {}))
        return merged

    async def list_keys(self) -> list[dict[str, Any]]:
        """All keys that any node knows, each merged over its holders."""
        answers, silent = await self._ask(lambda n: n.list_keys())
        ids = sorted({k["key_id"] for keys in answers.values() for k in keys})
        by_node = {i: {k["key_id"]: k for k in keys} for i, keys in answers.items()}
        return [self._merged(key_id, by_node, silent) for key_id in ids]

    async def show_key(self, key_id: str, path: str | None = None) -> dict[str, Any]:
        """A key, or its child at ``path``; addresses only if all holders' nodes give the same."""
        view, _ = await self.look_at(key_id, path, None)
        return view

    async def key_paths(self, key_id: str) -> list[str]:
        """The derivation paths in use that any node knows of, by rising indices."""
        answers, _ = await self._ask(lambda n: n.key_paths(key_id))
        found = set()
        for path in {path for paths in answers.values() for path in paths}:
            with suppress(KeycairnError):  # One node's word: what is no path is left out.
                parse_path(path)
                found.add(path)
        return by_index(found)

    async def look_at(
        self, key_id: str, path: str | None, nodes: Sequence[int] | None
    ) -> tuple[dict[str, Any], list[int]]:
        """A key as ``nodes`` (all of them) see it, and which of them said so."""
        views, silent = await self._ask(lambda n: n.show_key(key_id, path), nodes)
        return merge_key(views, silent), sorted(views)

    async def wait_key(self, key_id: str, seconds: float) -> dict[str, Any]:
        """Wait until every holder has the key active.

        Raises:
            KeycairnError: E_PEER_TIMEOUT naming the nodes that are behind; E_NOT_FOUND if no
                node knew the key at the end.
        """
        last: dict[str, Any] = {}
        unknown: KeycairnError | None = None
        try:
            async with asyncio.timeout(seconds):
                while True:
                    try:
                        last, unknown = await self.show_key(key_id), None
                        if last["state"] == "active":
                            return last
                    except KeycairnError as exc:
                        if exc.code not in _AGAIN | {Code.NOT_FOUND}:
                            raise
                        unknown = exc if exc.code is Code.NOT_FOUND else None
                    await asyncio.sleep(0.25)
        except TimeoutError:
            if unknown is not None:
                raise unknown from None
            raise KeycairnError(
                Code.PEER_TIMEOUT,
                f"key {key_id} is {last.get('state', 'not known to all nodes')} "
                f"after {seconds:g} seconds",
                not_lost="A pending key is kept until every holder has answered.",
                next="keycairn vault status DIR",
                detail={"key_id": key_id, "missing": last.get("missing", [])},
            ) from None

    # -- signatures

    async def sign(
        self,
        key_id: str,
        *,
        digest: bytes | None = None,
        message: bytes | None = None,
        path: str | None = None,
        presignature: str | None = None,
        taproot: bool = False,
        request_id: str | None = None,
        nodes: Collection[int] | None = None,
        attempts: int = 1,
    ) -> dict[str, Any]:
        """Sign with ``nodes``, or with t+1 holders that are healthy.

        The signature is verified here too before it is returned (client/signing.py).

        Args:
            path: a child of the key signs, such as m/0/5; the result's ``public_key`` is its.
            presignature: id of the presignature that the nodes shall use, from their pools.
            taproot: a BIP-340 key signs for the output key of its P2TR address (BIP-86).
        """
        [made] = await self._signing.sign(
            key_id,
            [Item(digest, message, path)],
            many=False,
            presignature=presignature,
            taproot=taproot,
            request_id=request_id,
            nodes=None if nodes is None else self._players(nodes),
            attempts=attempts,
        )
        return made

    async def sign_many(
        self,
        key_id: str,
        items: Sequence[Item],
        *,
        taproot: bool = False,
        request_id: str | None = None,
        nodes: Collection[int] | None = None,
        attempts: int = 1,
    ) -> list[dict[str, Any]]:
        """Sign 1 to 100 items in one request: one signature for each, in order, or an error.

        Faster than as many calls of :meth:`sign`: the nodes run one session for all of them.
        """
        return await self._signing.sign(
            key_id,
            items,
            many=True,
            presignature=None,
            taproot=taproot,
            request_id=request_id,
            nodes=None if nodes is None else self._players(nodes),
            attempts=attempts,
        )

    # -- presignatures

    async def presignatures(
        self, key_id: str | None = None, nodes: Collection[int] | None = None
    ) -> tuple[dict[int, list[dict[str, Any]]], dict[int, KeycairnError]]:
        """What every node has made ahead, for one key or all of this application's.

        Returns:
            the rows by node, and the errors of nodes that gave none; at least one gave some.
        """
        return await self._each(lambda n: n.presignatures(key_id), nodes)

    async def delete_presignatures(
        self, key_id: str | None = None, nodes: Collection[int] | None = None
    ) -> tuple[dict[int, dict[str, Any]], dict[int, KeycairnError]]:
        """Drop it. Idempotent: repeat it for nodes that failed.

        Returns:
            ``deleted`` by node, and the errors of nodes that did nothing; at least one did it.
        """
        return await self._each(lambda n: n.delete_presignatures(key_id), nodes)

    async def _each(
        self, call: Callable[[NodeClient], Awaitable[T]], nodes: Collection[int] | None
    ) -> tuple[dict[int, T], dict[int, KeycairnError]]:
        answers, errors = await self._gather(self._players(nodes), call, done=_PATIENCE_READ)
        if not answers:
            raise combine(errors)
        return answers, errors

    # -- recovery documents and coverage

    async def ers_create(
        self,
        key_ids: Sequence[str],
        rsa_spki: bytes,
        *,
        params: str = "balanced",
        label: str = "",
        request_id: str | None = None,
        nodes: Collection[int] | None = None,
        attempts: int = 1,
    ) -> dict[str, Any]:
        """One ERS document for ``key_ids``, made by all nodes; every node keeps a copy.

        Args:
            nodes: only these take part, t+1 or more: a partial document, which recovers the keys
                and which no policy counts.
        """
        players = self._players(nodes)
        body = {
            "key_ids": list(key_ids),
            "rsa_spki": rsa_spki.hex(),
            "params": params,
            "label": label,
            "partial": True if nodes is not None else None,
        }
        answers = await self.run_session(
            players, body, lambda n, b: n.create_document(b), request_id, attempts
        )
        agreed(answers, ("sha256", "rsa_spki_sha256", "keys", "parts"))
        result: dict[str, Any] = answers[players[0]]
        document = Document.load(str(result["document"]).encode("utf-8"))
        if document.sha256 != result["sha256"]:
            raise KeycairnError(
                Code.ERS_INVALID,
                f"the document that node {players[0]} sent is not the one that all nodes hold",
                next="fetch it again, or use the copy in a node's ERS store",
                node=players[0],
            )
        return result

    async def ers_status(self, key_id: str | None = None) -> dict[int, list[dict[str, Any]]]:
        """Every node's own answer."""
        answers, _ = await self._ask(lambda n: n.ers_status(key_id))
        return answers

    async def coverage(self, key_id: str | None = None) -> list[dict[str, Any]]:
        """Per key: does the policy hold at every holder, and by what."""
        answers, silent = await self._ask(lambda n: n.coverage(key_id))
        by_node = {i: {r["key_id"]: r for r in rows} for i, rows in answers.items()}
        ids = sorted({k for rows in by_node.values() for k in rows})
        merged = []
        for k in ids:
            unknown = {i: UNKNOWN for i, rows in by_node.items() if k not in rows}
            rows = {i: rows[k] for i, rows in by_node.items() if k in rows}
            merged.append(merge_coverage(rows, silent | unknown))
        return merged

    async def health(self, seconds: float = 2.0) -> dict[int, dict[str, Any]]:
        """Health of every node; one that can't be reached is not ok."""

        async def one(node: NodeClient) -> dict[str, Any]:
            try:
                return await node.health(seconds)
            except KeycairnError as exc:
                return {"ok": False, "reached": False, "reasons": [exc.message]}

        results = await asyncio.gather(*(one(n) for n in self.nodes.values()))
        return dict(zip(self.nodes, results, strict=True))

    # -- helpers

    def _players(self, chosen: Collection[int] | None) -> list[int]:
        players = sorted(self.nodes) if chosen is None else sorted(chosen)
        strangers = [p for p in players if p not in self.nodes]
        if strangers or len(set(players)) != len(players) or not players:
            raise KeycairnError(
                Code.BAD_INDEX,
                f"no node {strangers[0]} in this vault" if strangers else "a node is named twice",
                next=f"choose from {', '.join(map(str, sorted(self.nodes)))}",
            )
        return players

    async def healthy(self, holders: Sequence[int], needed: int) -> list[int]:
        """``needed`` holders that can finish a round, or at least answer. E_UNAVAILABLE."""
        health = await self.health()
        up = [i for i in holders if health.get(i, {}).get("ok")]
        if len(up) < needed:
            # "Not healthy" may be wrong; with enough nodes that answer at all the call decides.
            up += [i for i in holders if i not in up and health.get(i, {}).get("reached", True)]
        if len(up) < needed:
            raise KeycairnError(
                Code.UNAVAILABLE,
                f"{len(up)} of the {needed} nodes that signing needs can be reached",
                not_lost="Keys and shares are unchanged.",
                next="keycairn vault status DIR",
                detail={"nodes": {str(i): health.get(i, {}) for i in holders}},
            )
        return sorted(up[:needed])

    async def run_session(
        self,
        players: Sequence[int],
        body: Mapping[str, Any],
        call: Callable[[NodeClient, Mapping[str, Any]], Awaitable[T]],
        request_id: str | None,
        attempts: int,
        *,
        one_is_enough: bool = False,
        earlier: int = 0,
    ) -> dict[int, T]:
        """The same body to every player at once; all must succeed.

        The session's name follows from the request id, the players and the attempt, so that equal
        requests that run at the same time meet in one session, and nodes that failed in one are
        not asked for its name again with others, who would wait for them in vain.
        ``one_is_enough``: an answer proves itself (a signature that verifies), whatever the other
        nodes say. ``earlier``: attempts that were made before this call.
        """
        request = request_id or self.fresh_name()
        full = {k: v for k, v in body.items() if v is not None}
        number, again = earlier, _MAX_ENDED
        while attempts > 0:
            number += 1
            named = full | {
                "session_id": _session_name(request, number, players),
                "request_id": request,
                "players": list(players),
            }
            answers, errors = await self._gather(
                players,
                _with(call, named),
                refused=_PATIENCE,
                failed=_PATIENCE_FAILED,
                done=_PATIENCE if one_is_enough else _PATIENCE_DONE,
            )
            if not errors or (answers and one_is_enough):
                return answers
            error = combine(errors, sorted(answers))
            error.detail["request_id"] = request
            if error.code is Code.SESSION_REPLAY and number < _MAX_REPLAYS:
                continue  # an earlier call with this request id used the name
            ended = any(e.detail.get("setup_ended") for e in errors.values())
            if ended and again and "presignature" not in full:
                again -= 1  # A node has just begun a new incarnation; nothing was evaluated.
                continue
            attempts -= 1
            if error.code not in _AGAIN or not attempts:
                if answers:
                    error.next = error.next or f"repeat the command with --request-id {request}"
                raise error
        raise KeycairnError(Code.MALFORMED, "attempts must be at least 1")

    async def _ask(
        self, call: Callable[[NodeClient], Awaitable[T]], nodes: Sequence[int] | None = None
    ) -> tuple[dict[int, T], dict[int, str]]:
        """Ask every node (or ``nodes``); some may be silent, not all."""
        answers, errors = await self._gather(nodes or sorted(self.nodes), call, done=_PATIENCE_READ)
        if not answers:
            raise combine(errors)
        return answers, {i: _reason(e) for i, e in errors.items()}

    async def _gather(
        self,
        players: Sequence[int],
        call: Callable[[NodeClient], Awaitable[T]],
        *,
        done: float,
        failed: float | None = None,
        refused: float | None = None,
    ) -> tuple[dict[int, T], dict[int, KeycairnError]]:
        """Ask nodes at once. A node that hangs holds nobody up: once another one has answered,
        the rest get so many seconds more. How many depends on that answer: a result, a failure,
        or a refusal for a reason of its own; None waits on."""
        tasks = {i: asyncio.ensure_future(call(self.nodes[i])) for i in players}
        waiting: set[asyncio.Future[T]] = set(tasks.values())
        try:
            while waiting:
                limits = []
                for task in tasks.values():
                    if task.done():
                        fault = task.exception()
                        limits.append(done if fault is None else failed)
                        limits.append(refused if says_why(fault) else None)
                ended, waiting = await asyncio.wait(
                    waiting,
                    timeout=min((x for x in limits if x is not None), default=None),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if not ended:
                    break
        finally:
            for silent in waiting:
                silent.cancel()
        answers: dict[int, T] = {}
        errors: dict[int, KeycairnError] = {}
        for index, task in tasks.items():
            error = _not_waited_for(index) if task in waiting else task.exception()
            if error is None:
                answers[index] = task.result()
            elif isinstance(error, KeycairnError):
                errors[index] = error
            else:
                raise error
        return answers, errors

    def _merged(
        self,
        key_id: str,
        by_node: Mapping[int, Mapping[str, dict[str, Any]]],
        silent: Mapping[int, str],
    ) -> dict[str, Any]:
        views = {i: keys[key_id] for i, keys in by_node.items() if key_id in keys}
        unknown = {i: UNKNOWN for i in by_node if i not in views}
        return merge_key(views, {**silent, **unknown})

    def fresh_name(self) -> str:
        """A name for a request that nobody else draws."""
        return self._rng.bytes(16).hex()


def _session_name(request_id: str, number: int, players: Sequence[int]) -> str:
    signers = ",".join(map(str, players))
    return hashlib.sha256(f"{request_id}/{number}/{signers}".encode()).hexdigest()


def _with(
    call: Callable[[NodeClient, Mapping[str, Any]], Awaitable[T]], body: Mapping[str, Any]
) -> Callable[[NodeClient], Awaitable[T]]:
    return lambda node: call(node, body)


def _not_waited_for(node: int) -> KeycairnError:
    return KeycairnError(
        Code.PEER_TIMEOUT,
        "its answer was not waited for: the other nodes were through",
        node=node,
        detail={"not_waited_for": True},
    )


def _reason(error: KeycairnError) -> str:
    if error.code is Code.NOT_FOUND:
        return UNKNOWN
    if error.code in (Code.UNAVAILABLE, Code.PEER_TIMEOUT):
        return "no answer"
    return f"{error.code.value}: {error.message}"
