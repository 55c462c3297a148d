"""The vault client: agreement, aggregation, and that doubt never becomes an address."""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keycairn.client import NodeProfile, Vault, VaultProfile, load_profile
from keycairn.client.agree import combine
from keycairn.client.merge import merge_coverage
from keycairn.errors import Abort, Code, KeycairnError, PeerAborted

SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(31) + b"\x01")
PUBLIC = SIGNER.public_key().public_bytes_raw().hex()


def key(**change: Any) -> dict[str, Any]:
    return {
        "key_id": "K1",
        "scheme": "schnorr",
        "curve": "ed25519",
        "public_key": PUBLIC,
        "generation": 1,
        "threshold": 1,
        "players": [1, 2, 3],
        "state": "active",
        "record_hash": "00" * 32,
        "backed_up": "yes",
        "addresses": {"ethereum": None, "solana": "So1"},
        "missing": [],
        "next": [],
    } | change


class Node:
    """A node made of canned answers; keeps the bodies that it was sent."""

    def __init__(self) -> None:
        self.view = key()
        self.error: KeycairnError | None = None
        self.down = False
        self.healthy = True
        self.bodies: list[dict[str, Any]] = []
        self.sign: Callable[[dict[str, Any]], dict[str, Any]] = self.good_signature

    @staticmethod
    def good_signature(body: dict[str, Any]) -> dict[str, Any]:
        signature = SIGNER.sign(bytes.fromhex(body["message"])).hex()
        return {"signature": signature, "public_key": PUBLIC, "recovery_id": None}

    def answer(self, request: httpx.Request) -> httpx.Response:
        if self.down:
            raise httpx.ConnectError("refused", request=request)
        if request.url.path == "/health":
            return httpx.Response(200 if self.healthy else 503, json={"ok": self.healthy})
        if request.method == "POST":
            self.bodies.append(json.loads(request.content))
            if self.error:
                return httpx.Response(self.error.http_status, json=self.error.to_json())
        if request.url.path.endswith("/sign"):
            return httpx.Response(200, json=self.sign(self.bodies[-1]))
        if request.url.path == "/v1/keys":
            return httpx.Response(200, json={"keys": [self.view], "after": None})
        return httpx.Response(200, json=self.view)


@pytest.fixture
def nodes() -> dict[int, Node]:
    return {i: Node() for i in (1, 2, 3)}


@pytest.fixture
def vault(nodes: dict[int, Node]) -> Vault:
    profile = VaultProfile(
        Path("vault.toml"),
        "v1",
        1,
        tuple(NodeProfile(i, f"http://n{i}", "k" * 32, bytes(32)) for i in nodes),
    )
    return Vault(profile, transports={i: httpx.MockTransport(n.answer) for i, n in nodes.items()})


async def test_the_same_body_goes_to_every_node(vault: Vault, nodes: dict[int, Node]) -> None:
    [made] = await vault.create_keys("schnorr", "ed25519")
    assert made["public_key"] == PUBLIC
    bodies = [n.bodies[0] for n in nodes.values()]
    assert bodies[0] == bodies[1] == bodies[2]
    assert bodies[0]["players"] == [1, 2, 3]
    assert "variant" not in bodies[0]


async def test_request_id_stays_session_id_changes(vault: Vault, nodes: dict[int, Node]) -> None:
    nodes[2].error = KeycairnError(Code.PEER_TIMEOUT, "player 3 is silent")
    with pytest.raises(KeycairnError) as caught:
        await vault.create_keys("schnorr", "ed25519", attempts=3)
    first, second, third = nodes[1].bodies
    assert len({b["session_id"] for b in (first, second, third)}) == 3
    assert first["request_id"] == third["request_id"]
    assert first["request_id"] in caught.value.next
    assert caught.value.code is Code.PEER_TIMEOUT


async def test_a_pair_setup_that_ended_under_a_request_costs_no_attempt(
    vault: Vault, nodes: dict[int, Node]
) -> None:
    """A node has just begun a new incarnation; a node that says so for ever is not believed."""
    ended = Abort(Code.UNAVAILABLE, "the setup has ended", detail={"setup_ended": True})
    nodes[1].error, nodes[2].error = Abort(Code.PEER_TIMEOUT, "player 2 gave up"), ended
    with pytest.raises(KeycairnError):
        await vault.sign("K1", message=b"m", nodes=[1, 2])
    assert len({b["session_id"] for b in nodes[2].bodies}) == 3
    assert len({b["request_id"] for b in nodes[2].bodies}) == 1

    nodes[2].bodies = []
    with pytest.raises(KeycairnError):
        await vault.sign("K1", message=b"m", nodes=[1, 2], presignature="00" * 32)
    assert len(nodes[2].bodies) == 1, "a named presignature is not asked for twice"


@pytest.mark.parametrize("field", ["public_key", "record_hash", "key_id", "generation"])
async def test_nodes_that_disagree_are_named(
    vault: Vault, nodes: dict[int, Node], field: str
) -> None:
    other: dict[str, Any] = {"generation": 2, "key_id": "K2"}
    nodes[3].view = key(**{field: other.get(field, "11" * 32)})
    with pytest.raises(Abort) as caught:
        await vault.create_keys("schnorr", "ed25519")
    assert caught.value.code is Code.EQUIVOCATION
    assert caught.value.detail["sides"] == [[1, 2], [3]]


async def test_T081_reason_survives_hearsay(vault: Vault, nodes: dict[int, Node]) -> None:
    nodes[1].error = PeerAborted(Code.KEY_NOT_BACKED_UP, 2)
    nodes[2].error = KeycairnError(
        Code.KEY_NOT_BACKED_UP, "key K1 is not backed up: ers or node_backup", next="do this"
    )
    nodes[3].error = KeycairnError(Code.PEER_TIMEOUT, "player 2 went away")
    with pytest.raises(KeycairnError) as caught:
        await vault.sign("K1", message=b"m", nodes=[1, 2, 3])
    error = caught.value
    assert (error.code, error.node, error.exit_code) == (Code.KEY_NOT_BACKED_UP, 2, 3)
    assert error.next == "do this"
    assert set(error.detail["nodes"]) == {"1", "2", "3"}


async def test_one_refusal_ends_the_wait(vault: Vault, nodes: dict[int, Node]) -> None:
    class Silent(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if request.method == "POST":
                await asyncio.sleep(60)
            return nodes[2].answer(request)

    nodes[1].error = KeycairnError(Code.POLICY, "sign is not allowed here")
    transports: dict[int, httpx.AsyncBaseTransport] = {
        i: httpx.MockTransport(n.answer) for i, n in nodes.items()
    }
    transports[2] = Silent()
    began = time.monotonic()
    async with Vault(vault.profile, transports=transports) as slow:
        with pytest.raises(KeycairnError) as caught:
            await slow.sign("K1", message=b"m", nodes=[1, 2])
    assert time.monotonic() - began < 10
    assert caught.value.code is Code.POLICY
    assert "not waited for" in caught.value.detail["nodes"]["2"]["message"]


class Frozen(httpx.AsyncBaseTransport):
    """A process that was stopped: it takes connections and answers nothing."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(600)
        raise AssertionError(request)


@pytest.fixture
def frozen_2(vault: Vault, nodes: dict[int, Node], monkeypatch: pytest.MonkeyPatch) -> Vault:
    """The vault with a node 2 that hangs, and every patience made shorter."""
    for name in ("_PATIENCE", "_PATIENCE_READ", "_PATIENCE_FAILED", "_PATIENCE_DONE"):
        monkeypatch.setattr(f"keycairn.client.vault.{name}", 0.2)
    transports: dict[int, httpx.AsyncBaseTransport] = {
        i: httpx.MockTransport(n.answer) for i, n in nodes.items()
    }
    transports[2] = Frozen()
    return Vault(vault.profile, transports=transports)


async def test_node_that_hangs_holds_up_no_reader_and_no_signature(frozen_2: Vault) -> None:
    async with asyncio.timeout(30):
        assert (await frozen_2.sign("K1", message=b"m", nodes=[1, 3]))["public_key"] == PUBLIC
        assert (await frozen_2.sign("K1", message=b"m"))["public_key"] == PUBLIC
        assert (await frozen_2.show_key("K1"))["missing"] == ["node 2: no answer"]


async def test_node_that_hangs_in_a_session_is_named_when_its_peers_give_up(
    frozen_2: Vault, nodes: dict[int, Node]
) -> None:
    for i in (1, 3):
        nodes[i].error = KeycairnError(Code.PEER_TIMEOUT, "no message from player 2")
    async with asyncio.timeout(30):
        with pytest.raises(KeycairnError) as caught:
            await frozen_2.create_keys("schnorr", "ed25519")
    assert caught.value.code is Code.PEER_TIMEOUT
    assert "node 1: no message from player 2" in caught.value.message
    # The same if the one that hangs has the lowest number: who says why is heard first.
    silent = KeycairnError(Code.PEER_TIMEOUT, "…", detail={"not_waited_for": True})
    told = KeycairnError(Code.PEER_TIMEOUT, "no message from player 1")
    assert combine({1: silent, 2: told}).node == 2


def coverage_row(key_id: str, require: str = "ers or node_backup") -> dict[str, Any]:
    return {
        "key_id": key_id,
        "state": "active",
        "players": [1, 2, 3],
        "require": require,
        "holds": "yes",
        "missing": [],
        "methods": {"node_backup": {"answer": "yes", "at": 1, "generation": 1}},
    }


async def test_coverage_is_no_yes_while_a_holder_does_not_know_the_key() -> None:
    """A database that was put back lacks the newest keys, and its node is healthy."""
    rows = {1: ["K1", "K2"], 2: ["K1", "K2"], 3: ["K1"]}

    def answers(i: int) -> Callable[[httpx.Request], httpx.Response]:
        return lambda _: httpx.Response(200, json={"keys": [coverage_row(k) for k in rows[i]]})

    profile = VaultProfile(
        Path("vault.toml"),
        "v1",
        1,
        tuple(NodeProfile(i, f"http://n{i}", "k" * 32, bytes(32)) for i in rows),
    )
    transports = {i: httpx.MockTransport(answers(i)) for i in rows}
    async with Vault(profile, transports=transports) as behind:
        found = {row["key_id"]: row for row in await behind.coverage()}
    assert found["K1"]["holds"] == "yes"
    assert (found["K2"]["holds"], found["K2"]["state"]) == ("cant_tell", "degraded")
    assert found["K2"]["missing"] == ["node 3: does not know this key"]
    assert found["K2"]["methods"]["node_backup"]["answer"] == "cant_tell"


def test_coverage_names_policies_that_differ() -> None:
    rows = {1: coverage_row("K1"), 2: coverage_row("K1", "none")}
    merged = merge_coverage(rows, {3: "no answer", 4: "does not know this key"})
    assert merged["require"] == "node 1: ers or node_backup; node 2: none"
    assert merged["missing"] == ["node 3: no answer"]  # Node 4 is no holder.


def test_combine_keeps_aborts_as_aborts() -> None:
    blamed = Abort(Code.BAD_SHARE, "player 3 dealt a bad share", culprits=[3])
    error = combine({1: PeerAborted(Code.BAD_SHARE, 2), 2: blamed}, done=[3])
    assert isinstance(error, Abort)
    assert error.culprits == (3,)
    assert error.exit_code == 1
    assert error.detail["nodes"]["3"] == {"code": None, "message": "done"}


async def test_sign_chooses_healthy_nodes(
    vault: Vault, nodes: dict[int, Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keycairn.client.signing._FRESH_SECONDS", 0.0)
    nodes[2].down = True
    result = await vault.sign("K1", message=b"m")
    assert result["public_key"] == PUBLIC
    assert nodes[1].bodies[0]["players"] == [1, 3]
    nodes[1].healthy = False  # Two are needed: one that is not sure of itself is still asked.
    await vault.sign("K1", message=b"m")
    nodes[3].down = True
    with pytest.raises(KeycairnError) as caught:
        await vault.sign("K1", message=b"m")
    assert caught.value.code is Code.UNAVAILABLE


async def test_bad_signature_is_not_returned(vault: Vault, nodes: dict[int, Node]) -> None:
    for node in nodes.values():
        node.sign = lambda body: Node.good_signature(body) | {"signature": "00" * 64}
    with pytest.raises(KeycairnError) as caught:
        await vault.sign("K1", message=b"m")
    assert caught.value.code is Code.SIG_INVALID
    nodes[1].sign = Node.good_signature
    with pytest.raises(KeycairnError) as caught:
        await vault.sign("K1", message=b"m", nodes=[1, 2])
    assert caught.value.code is Code.EQUIVOCATION


async def test_address_only_when_all_holders_agree(vault: Vault, nodes: dict[int, Node]) -> None:
    assert (await vault.show_key("K1"))["addresses"]["solana"] == "So1"
    gated = {"ethereum": None, "solana": None}
    nodes[2].view = key(addresses=gated, missing=["ers"], backed_up="no")
    shown = await vault.show_key("K1")
    assert shown["addresses"]["solana"] is None
    assert shown["missing"] == ["node 2: ers"]
    assert shown["backed_up"] == "no"
    nodes[2].view = key(addresses={"ethereum": None, "solana": "So2"})
    assert (await vault.show_key("K1"))["addresses"]["solana"] is None
    nodes[2].down = True
    shown = await vault.show_key("K1")
    assert shown["addresses"]["solana"] is None
    assert shown["missing"] == ["node 2: no answer"]
    assert shown["state"] == "degraded"
    assert shown["backed_up"] == "cant_tell"


async def test_list_merges_per_key(vault: Vault, nodes: dict[int, Node]) -> None:
    nodes[3].view = key(key_id="K2", state="pending")
    listed = {k["key_id"]: k for k in await vault.list_keys()}
    assert listed["K1"]["state"] == "degraded"
    assert listed["K2"]["state"] == "pending"
    assert "node 3: does not know this key" in listed["K1"]["missing"]


@pytest.mark.parametrize("chosen", [[4], [1, 1], [], [0]])
async def test_T006_unknown_or_repeated_nodes(vault: Vault, chosen: list[int]) -> None:
    with pytest.raises(KeycairnError) as caught:
        await vault.sign("K1", message=b"m", nodes=chosen)
    assert caught.value.code is Code.BAD_INDEX


async def test_answer_that_is_not_json(vault: Vault, nodes: dict[int, Node]) -> None:
    for node in nodes.values():
        node.answer = lambda request: httpx.Response(200, text="<html>")  # type: ignore[method-assign]
    transports = {i: httpx.MockTransport(n.answer) for i, n in nodes.items()}
    async with Vault(vault.profile, transports=transports) as strange:
        with pytest.raises(KeycairnError) as caught:
            await strange.show_key("K1")
    assert caught.value.code is Code.UNAVAILABLE


PROFILE = """
[vault]
id = "v1"
threshold = 1
[[nodes]]
index = 1
url = "http://127.0.0.1:1"
api_key = "{key}"
public_key = "{pin}"
[[nodes]]
index = 2
url = "https://example.org"
api_key = "{key}"
public_key = "{pin}"
""".format(key="k" * 32, pin="11" * 32)


def test_profile(tmp_path: Path) -> None:
    path = tmp_path / "vault.toml"
    path.write_text(PROFILE)
    path.chmod(0o600)
    profile = load_profile(path)
    assert profile.players == (1, 2)
    assert "k" * 32 not in repr(profile)
    for old, new, code in (
        ("threshold = 1", "threshold = 2", Code.MALFORMED),
        ("https://example.org", "http://example.org", Code.POLICY),
        ('id = "v1"', 'id = "v1"\nx = 1', Code.MALFORMED),
    ):
        path.write_text(PROFILE.replace(old, new))
        with pytest.raises(KeycairnError) as caught:
            load_profile(path)
        assert caught.value.code is code
    path.write_text(PROFILE)
    path.chmod(0o644)
    with pytest.raises(KeycairnError) as caught:
        load_profile(path)
    assert caught.value.code is Code.POLICY
