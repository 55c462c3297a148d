"""Signing at a node: gate, one session per signature, spends that are durable first."""

from __future__ import annotations

import asyncio
from typing import Any

from keycairn.encoding import digest as hash_of
from keycairn.encoding import tag
from keycairn.errors import Code, KeycairnError
from keycairn.ports import Clock
from keycairn.protocols import dkls23, frost
from keycairn.protocols.durable import Ban, Spend
from keycairn.protocols.record import FROST_BIP340, KeyRecord, KeyShare
from keycairn.protocols.session import SMALL_ROUNDS, SessionSpec
from keycairn.vault.api import Sign, Signature, VaultParameters
from keycairn.vault.coverage import gate
from keycairn.vault.keys import Keys
from keycairn.vault.ports import RequestRow, SpendRow, Store
from keycairn.vault.sessions import Sessions, check_names
from keycairn.vault.setups import SetupBook

_REQUEST = tag("request/sign")


class SigningJournal:
    """Spends and bans of a signing session."""

    def __init__(self, store: Store, sessions: Sessions, clock: Clock, incarnation: bytes) -> None:
        self._store = store
        self._sessions = sessions
        self._clock = clock
        self._incarnation = incarnation

    async def commit(self, what: str, record: Any) -> None:
        if isinstance(record, tuple):
            await self._store.spend_all([self._row(spend) for spend in record])
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
    """Signs for applications."""

    def __init__(
        self,
        params: VaultParameters,
        incarnation: bytes,
        *,
        store: Store,
        sessions: Sessions,
        setups: SetupBook,
        keys: Keys,
        clock: Clock,
    ) -> None:
        self._params = params
        self._store = store
        self._sessions = sessions
        self._setups = setups
        self._keys = keys
        self._journal = SigningJournal(store, sessions, clock, incarnation)

    async def sign(self, application: str, request: Sign) -> tuple[Signature, ...]:
        """See ``Service.sign``."""
        names = request.names
        check_names(names, self._params.players)
        row = await self._keys.of(application, request.key_id)
        record = row.record
        self._check_shape(record, request)
        record.check_signers(names.players)
        if self._params.index not in names.players:
            raise KeycairnError(Code.BAD_INDEX, "this node is not among the players")
        if f"{record.scheme}.sign" not in self._params.operations:
            raise KeycairnError(
                Code.POLICY,
                f"this node's configuration does not allow {record.scheme}.sign",
                next=f"set sign = true under [operations.{record.scheme}] in node.toml",
            )
        if row.state != "active":
            raise KeycairnError(
                Code.CONFLICT,
                "the key is pending: not every holder has confirmed that it keeps its share",
                not_lost="This node keeps its share.",
                next="start the missing nodes; keycairn key list shows pending keys",
            )
        gate(
            "sign",
            await self._keys.coverage(row),
            frozenset(self._params.gate),
            node=self._params.index,
        )
        item = request.items[0]
        payload = item.digest if item.digest is not None else item.message
        hashed = hash_of(_REQUEST, request.key_id, payload, item.path, request.taproot)

        async def work() -> Signature:
            done = await self._store.request(application, f"sign/{names.request_id}")
            if done is not None:
                return _from_row(done, hashed)
            result = await self._run(request)
            row = RequestRow(application, f"sign/{names.request_id}", hashed, _to_json(result))
            await self._store.put_request(row)
            return result

        return (await self._sessions.once(application, "sign", names, hashed, work),)

    def _check_shape(self, record: KeyRecord, request: Sign) -> None:
        if len(request.items) != 1:
            raise KeycairnError(Code.MALFORMED, "this version signs one item a request")
        (item,) = request.items
        if item.path is not None:
            raise KeycairnError(Code.MALFORMED, "this version has no key derivation paths yet")
        if request.presignature is not None:
            raise KeycairnError(
                Code.PRESIG_UNKNOWN,
                "no such presignature: this version keeps none between sessions",
                not_lost="Nothing was signed.",
                next="repeat the request without a presignature",
            )
        if request.taproot and record.protocol != FROST_BIP340:
            raise KeycairnError(
                Code.MALFORMED, "only a BIP-340 key (schnorr on secp256k1) has a taproot address"
            )
        if record.scheme == "ecdsa":
            if item.digest is None or item.message is not None:
                raise KeycairnError(Code.MALFORMED, "an ECDSA key signs a digest, not a message")
            if len(item.digest) != 32:
                raise KeycairnError(
                    Code.MALFORMED, f"a digest has 32 bytes, got {len(item.digest)}"
                )
        else:
            if item.message is None or item.digest is not None:
                raise KeycairnError(Code.MALFORMED, "a Schnorr key signs a message, not a digest")
            if len(item.message) > frost.MAX_MESSAGE:
                raise KeycairnError(
                    Code.TOO_LARGE, f"a message has at most {frost.MAX_MESSAGE} bytes"
                )

    async def _run(self, request: Sign) -> Signature:
        key = await self._store.key_share(request.key_id)
        if key.record.scheme == "ecdsa":
            return await self._ecdsa(request, key)
        return await self._frost(request, key)

    async def _frost(self, request: Sign, key: KeyShare) -> Signature:
        message = request.items[0].message or b""
        record = key.record
        item = frost.Item(frost.message_hash(message), "m", request.taproot)
        params = frost.SignParams(request.names.request_id, record.key_id, record.hash, (item,))
        merkle_root = b"" if request.taproot else None  # BIP-86: an output without a script tree
        spec = SessionSpec(
            request.names.session_id,
            frost.NAME,
            frost.VERSION,
            self._params.vault_id,
            request.names.players,
            params,
            largest=SMALL_ROUNDS,
        )
        asked = [frost.Request(message, 0, merkle_root)]
        (made,) = await self._sessions.run(
            spec, lambda party: frost.sign_full(party, key, asked), self._journal
        )
        return Signature(
            signature=made.signature,
            der=None,
            recovery_id=None,
            public_key=made.public_key,
            nodes=request.names.players,
            base_r=made.base_r,
            presignature_id=made.presignature_id,
        )

    async def _ecdsa(self, request: Sign, key: KeyShare) -> Signature:
        digest = request.items[0].digest or b""
        record = key.record
        players = request.names.players
        self._sessions.refuse_banned(players)
        peers = [p for p in players if p != self._params.index]
        setups = await self._setups.ensure(peers, self._params.session_seconds)
        spec = SessionSpec(
            request.names.session_id,
            dkls23.NAME,
            dkls23.VERSION,
            self._params.vault_id,
            players,
            dkls23.SignParams(
                request.names.request_id,
                record.key_id,
                record.hash,
                (dkls23.Item(digest, "m"),),
            ),
            {p: s.setup_id for p, s in setups.items()},
            largest=SMALL_ROUNDS,
        )
        asked = [dkls23.Request(digest)]
        (made,) = await self._sessions.run(
            spec, lambda party: dkls23.sign_full(party, key, setups, asked), self._journal
        )
        return Signature(
            signature=made.compact(),
            der=made.der(),
            recovery_id=made.recovery_id,
            public_key=made.public_key,
            nodes=players,
            base_r=made.base_r,
            presignature_id=made.presignature_id,
        )


def _to_json(s: Signature) -> dict[str, Any]:
    return {
        "signature": s.signature.hex(),
        "der": None if s.der is None else s.der.hex(),
        "recovery_id": s.recovery_id,
        "public_key": s.public_key.hex(),
        "nodes": list(s.nodes),
        "base_r": s.base_r.hex(),
        "presignature_id": s.presignature_id.hex(),
    }


def _from_row(row: RequestRow, hashed: bytes) -> Signature:
    if row.request_hash != hashed:
        raise KeycairnError(
            Code.CONFLICT,
            "this request_id was used for another signature",
            not_lost="Nothing was signed by this request.",
            next="use a fresh request_id",
        )
    r = row.result
    return Signature(
        signature=bytes.fromhex(r["signature"]),
        der=None if r["der"] is None else bytes.fromhex(r["der"]),
        recovery_id=r["recovery_id"],
        public_key=bytes.fromhex(r["public_key"]),
        nodes=tuple(r["nodes"]),
        base_r=bytes.fromhex(r["base_r"]),
        presignature_id=bytes.fromhex(r["presignature_id"]),
    )
