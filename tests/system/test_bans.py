"""A ban between real processes: what a cheat leads to, how its operator ends it, what never bans.

Nodes 1 and 2 are processes; node 3 runs in this one, so that it can cheat.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from keycairn.client import OperatorClient, Vault
from keycairn.errors import Code, KeycairnError
from keycairn.links.tls import TlsLink
from keycairn.node import daemon
from keycairn.node.config import load_config
from keycairn.ports.system import SystemClock, SystemRng
from keycairn.protocols import wire
from keycairn.protocols.dkls23.messages import OtRequest
from keycairn.protocols.driver import SESSION_FRAME
from keycairn.protocols.session import Frame
from protocols.network import DIRECT
from system.local import LocalVault, keycairn
from vault.test_service_ban import REQUEST, bad_column

DIGEST = bytes(range(32))


class Cheat(TlsLink):
    """A link whose node can change, or lose, what it sends."""

    change: Callable[[Frame], Frame | None] | None = None

    async def send(self, peer: int, data: bytes) -> None:
        if Cheat.change is not None and data[:1] == SESSION_FRAME:
            changed = Cheat.change(wire.decode(Frame, data[1:]))
            if changed is None:
                return
            data = SESSION_FRAME + wire.encode(changed)
        await super().send(peer, data)


def bad_ot(frame: Frame) -> Frame:
    """Player 3 alters a column of its OT extension towards everybody."""
    if (frame.step, frame.kind) != (REQUEST, DIRECT):
        return frame
    message = bad_column(wire.decode(OtRequest, frame.body))
    return _but(frame, body=wire.encode(message))


def junk(frame: Frame) -> Frame:
    return _but(frame, body=b"\x00junk") if frame.kind == DIRECT else frame


def silence(frame: Frame) -> Frame | None:
    return None if frame.kind == DIRECT else frame


def _but(frame: Frame, **fields: Any) -> Frame:
    return wire.decode(Frame, wire.encode(frame)).__class__(
        **{n: fields.get(n, getattr(frame, n)) for n in frame.__struct_fields__}
    )


@asynccontextmanager
async def with_cheater(
    make_vault: Any, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> AsyncIterator[LocalVault]:
    """Three nodes of which the third is ours."""
    vault: LocalVault = make_vault(policy="none", **options)
    for i in vault.players:
        with vault.editing(i) as config:
            config["presignatures"] = {"target": 0}  # the cheat shall meet the request it is for
    monkeypatch.setattr(daemon, "TlsLink", Cheat)
    monkeypatch.setattr(Cheat, "change", None)
    vault.start(1, 2)
    config3 = load_config(vault.config(3), {})
    async with daemon.serve_node(config3, SystemClock(), SystemRng(), lambda: None):
        await vault.linked()
        yield vault


async def run(*words: str, check: bool = True) -> dict[str, Any]:
    """A command; our node must go on meanwhile."""
    return await asyncio.to_thread(keycairn, *words, check=check)


async def sign(client: Vault, key_id: str, nodes: tuple[int, ...] = (1, 3)) -> dict[str, Any]:
    return await client.sign(key_id, digest=DIGEST, nodes=nodes)


async def refused(client: Vault, key_id: str, code: Code) -> KeycairnError:
    with pytest.raises(KeycairnError) as caught:
        await sign(client, key_id)
    assert caught.value.code is code, caught.value
    return caught.value


async def test_r10_ban_unban_and_ban_again(
    make_vault: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with with_cheater(make_vault, monkeypatch, session_seconds=8) as vault:
        at, of_all = ("--config", str(vault.config(1))), ("--vault", str(vault.profile))
        async with vault.client() as client:
            [key] = await client.create_keys("ecdsa", "secp256k1")
            key_id = key["key_id"]
            assert (await sign(client, key_id))["nodes"] == [1, 3]

            monkeypatch.setattr(Cheat, "change", staticmethod(bad_ot))
            error = await refused(client, key_id, Code.OT_CHECK)
            assert (error.node, error.detail["culprits"]) == (1, [3])
            monkeypatch.setattr(Cheat, "change", None)
            assert (await refused(client, key_id, Code.PEER_BANNED)).exit_code == 3
            assert (await sign(client, key_id, (1, 2)))["nodes"] == [1, 2]
            assert (await sign(client, key_id, (2, 3)))["nodes"] == [2, 3]

            found = (await run("doctor", *of_all, check=False))["findings"]
            (ban,) = [f for f in found if "banned" in f["what"]]
            assert ban["node"] == 1
            assert "node unban 3" in ban["next"]

            # A restart at either side, and the peer's own operator, lift nothing.
            vault.kill(1)
            vault.start(1)
            await vault.linked()
            await run("node", "unban", "1", "--config", str(vault.config(3)))
            await refused(client, key_id, Code.PEER_BANNED)

            said = await run("node", "unban", "3", *at)
            assert (said["peer"], said["banned"], said["refresh"]) == (3, False, [key_id])
            assert len(said["lifted"]) == 1
            assert (await run("node", "unban", "3", *at))["lifted"] == []
            peers = {p["index"]: p for p in (await run("node", "peers", *at))["peers"]}
            assert (peers[3]["banned"], peers[3]["ban"]) == (False, None)
            assert [b["id"] for b in peers[3]["lifted_bans"]] == said["lifted"]
            assert peers[3]["lifted_bans"][0]["reason"]
            assert (await sign(client, key_id))["nodes"] == [1, 3]
            answer = await run("doctor", *of_all, check=False)
            (finding,) = [f for f in answer["findings"] if "refresh these keys" in f["what"]]
            assert (answer["exit"], finding["node"], finding["keys"]) == (7, 1, [key_id])
            status = await run("node", "status", *at)
            assert [f["finding"] for f in status["findings"] if f["finding"] == "refresh"]

            monkeypatch.setattr(Cheat, "change", staticmethod(bad_ot))
            await refused(client, key_id, Code.OT_CHECK)
            monkeypatch.setattr(Cheat, "change", None)
            await refused(client, key_id, Code.PEER_BANNED)
            peers = {p["index"]: p for p in (await run("node", "peers", *at))["peers"]}
            assert peers[3]["banned"]
            assert len(peers[3]["lifted_bans"]) == 1


async def test_t017_mismatch_silence_and_junk_ban_nobody(
    make_vault: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with with_cheater(make_vault, monkeypatch, session_seconds=2) as vault:
        async with vault.client() as client:
            [key] = await client.create_keys("ecdsa", "secp256k1")
            key_id = key["key_id"]
            assert await sign(client, key_id)

            body = {"session_id": "torn", "request_id": "torn", "players": [1, 3]}
            torn = await asyncio.gather(
                *(
                    client.nodes[i].sign(key_id, body | {"digest": bytes([i] * 32).hex()})
                    for i in (1, 3)
                ),
                return_exceptions=True,
            )
            codes = {e.code for e in torn if isinstance(e, KeycairnError)}
            assert codes == {Code.SESSION_MISMATCH}, torn

            for change, code in ((silence, Code.PEER_TIMEOUT), (junk, Code.MALFORMED)):
                monkeypatch.setattr(Cheat, "change", staticmethod(change))
                await refused(client, key_id, code)
                monkeypatch.setattr(Cheat, "change", None)
            assert await sign(client, key_id)
        for i in vault.players:
            async with OperatorClient.of(load_config(vault.config(i), {})) as node:
                assert not [p for p in await node.peers() if p["banned"] or p["lifted_bans"]]
