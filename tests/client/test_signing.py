"""What the client makes of the nodes' answers to a signing request: paths, batches, memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.test_vault import PUBLIC, SIGNER, Node, key
from keycairn.client import Item, NodeProfile, Vault, VaultProfile
from keycairn.errors import Code, KeycairnError

CHILD = Ed25519PrivateKey.from_private_bytes(bytes(31) + b"\x02")
CHILD_PUBLIC = CHILD.public_key().public_bytes_raw().hex()
PATH = "m/0/5"


class Now:
    """A clock that is put forward by hand."""

    seconds = 100.0

    def now_us(self) -> int:
        return int(self.seconds * 1e6)

    def monotonic(self) -> float:
        return self.seconds


class Counting(Node):
    """Counts requests by path; knows the child at PATH."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.sign = self.signatures
        self.child = CHILD_PUBLIC

    @staticmethod
    def one(item: dict[str, Any]) -> dict[str, Any]:
        signer, public = (CHILD, CHILD_PUBLIC) if "path" in item else (SIGNER, PUBLIC)
        made = signer.sign(bytes.fromhex(item["message"])).hex()
        return {"signature": made, "public_key": public, "recovery_id": None}

    def signatures(self, body: dict[str, Any]) -> dict[str, Any]:
        if "items" in body:
            return {"signatures": [self.one(item) for item in body["items"]]}
        return self.one(body)

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.path)
        if not self.down and request.url.params.get("path") == PATH:
            return httpx.Response(200, json=self.view | {"public_key": self.child})
        return super().answer(request)


@pytest.fixture
def nodes() -> dict[int, Counting]:
    return {i: Counting() for i in (1, 2, 3)}


@pytest.fixture
def clock() -> Now:
    return Now()


@pytest.fixture
def vault(nodes: dict[int, Counting], clock: Now) -> Vault:
    profile = VaultProfile(
        Path("vault.toml"),
        "v1",
        1,
        tuple(NodeProfile(i, f"http://n{i}", "k" * 32, bytes(32)) for i in nodes),
    )
    transports = {i: httpx.MockTransport(n.answer) for i, n in nodes.items()}
    return Vault(profile, clock=clock, transports=transports)


async def test_many_are_one_request_in_order(vault: Vault, nodes: dict[int, Counting]) -> None:
    items = [Item(message=bytes([n]), path=PATH if n % 2 else None) for n in range(100)]
    made = await vault.sign_many("K1", items)
    assert [m["public_key"] for m in made] == [PUBLIC, CHILD_PUBLIC] * 50
    for n, m in enumerate(made):
        (CHILD if n % 2 else SIGNER).public_key().verify(bytes.fromhex(m["signature"]), bytes([n]))
    (body,) = nodes[1].bodies
    assert body["items"][1] == {"message": "01", "path": PATH}
    assert not {"digest", "message", "path", "presignature", "taproot"} & set(body)
    assert nodes[2].bodies == [body]


@pytest.mark.parametrize(
    ("items", "number"),
    [
        ([], None),
        ([Item(message=b"m")] * 101, None),
        ([Item(message=b"m"), Item()], 1),
        ([Item(digest=bytes(32), message=b"m")], 0),
        ([Item(digest=bytes(31))], 0),
        ([Item(message=b"m"), Item(message=b"m", path="m/0h")], 1),
    ],
)
async def test_T040_T042_bad_items_are_not_sent(
    vault: Vault, nodes: dict[int, Counting], items: list[Item], number: int | None
) -> None:
    with pytest.raises(KeycairnError) as caught:
        await vault.sign_many("K1", items)
    assert caught.value.code is Code.MALFORMED
    assert caught.value.detail.get("item") == number
    assert not any(n.asked for n in nodes.values())


async def test_childs_key_is_what_t_plus_1_nodes_gave(
    vault: Vault, nodes: dict[int, Counting]
) -> None:
    made = await vault.sign("K1", message=b"m", path=PATH)
    assert made["public_key"] == CHILD_PUBLIC
    assert nodes[1].bodies[0]["path"] == PATH
    # Both signers said so: nobody had to be asked again.
    assert [n.asked.count("/v1/keys/K1") for n in nodes.values()] == [1, 1, 1]

    def lying(body: dict[str, Any]) -> dict[str, Any]:
        return Counting.one({"message": body["message"]})

    nodes[2].sign = lying
    with pytest.raises(KeycairnError) as caught:
        await vault.sign("K1", message=b"m", path=PATH)
    assert caught.value.code is Code.EQUIVOCATION


@pytest.mark.parametrize("lie", [False, True])
async def test_childs_key_from_one_answer_is_checked_with_the_others(
    vault: Vault, nodes: dict[int, Counting], lie: bool
) -> None:
    """One answer is enough for a signature, not for whose it is."""
    nodes[2].error = KeycairnError(Code.PEER_TIMEOUT, "my answer got lost")
    if lie:
        nodes[1].sign = lambda body: Counting.one({"message": body["message"]})
        with pytest.raises(KeycairnError) as caught:
            await vault.sign("K1", message=b"m", path=PATH, nodes=[1, 2])
        assert caught.value.code is Code.SIG_INVALID
    else:
        made = await vault.sign("K1", message=b"m", path=PATH, nodes=[1, 2])
        assert made["public_key"] == CHILD_PUBLIC
    assert [n.asked.count("/v1/keys/K1") for n in nodes.values()] == [2, 2, 1]


async def test_one_node_cannot_say_what_a_key_is(vault: Vault, nodes: dict[int, Counting]) -> None:
    nodes[2].down = nodes[3].down = True
    with pytest.raises(KeycairnError) as caught:
        await vault.sign("K1", message=b"m")
    assert caught.value.code is Code.UNAVAILABLE
    assert nodes[1].bodies == []


async def test_keys_and_health_are_asked_for_once(
    vault: Vault, nodes: dict[int, Counting], clock: Now
) -> None:
    for _ in range(5):
        await vault.sign("K1", message=b"m")
        clock.seconds += 0.9  # Each signature says again that its signers are well.
    for node in nodes.values():
        assert node.asked.count("/v1/keys/K1") == node.asked.count("/health") == 1
    clock.seconds += 1.1
    await vault.sign("K1", message=b"m")
    assert [n.asked.count("/health") for n in nodes.values()] == [2, 2, 2]
    assert nodes[3].bodies == []


async def test_a_signer_that_has_gone_is_replaced_under_the_same_request_id(
    vault: Vault, nodes: dict[int, Counting], clock: Now
) -> None:
    await vault.sign("K1", message=b"m")
    nodes[2].down = True
    nodes[1].error = KeycairnError(Code.PEER_TIMEOUT, "player 2 went away")
    assert (await vault.sign("K1", message=b"m"))["public_key"] == PUBLIC
    _, second, third = nodes[1].bodies
    assert (second["players"], third["players"]) == ([1, 2], [1, 3])
    assert second["request_id"] == third["request_id"]
    # Node 1 used the first one's name up; node 3 would wait for it there until the time limit.
    assert second["session_id"] != third["session_id"]
    # A refusal for a reason is no news about who is well: nothing is tried again.
    nodes[1].error = KeycairnError(Code.POLICY, "no")
    before = len(nodes[1].bodies)
    with pytest.raises(KeycairnError) as caught:
        await vault.sign("K1", message=b"m", nodes=[1, 2])
    assert caught.value.code is Code.POLICY
    assert len(nodes[1].bodies) == before + 1


@pytest.mark.parametrize("wrong", ["zz", "00" * 31, "00" * 33, "AA" * 32, ""])
async def test_a_presignatures_id_is_looked_at_before_nodes_are_asked(
    vault: Vault, nodes: dict[int, Counting], wrong: str
) -> None:
    with pytest.raises(KeycairnError, match="the id of a presignature") as caught:
        await vault.sign("K1", message=b"m", presignature=wrong)
    assert caught.value.code is Code.MALFORMED
    assert not any(node.asked for node in nodes.values())


async def test_every_attempt_is_a_session_of_its_own(
    vault: Vault, nodes: dict[int, Counting]
) -> None:
    await vault.sign("K1", message=b"m")
    for node in (nodes[1], nodes[2]):
        node.bodies.clear()
        node.error = KeycairnError(Code.PEER_TIMEOUT, "a connection broke")
    with pytest.raises(KeycairnError):
        await vault.sign("K1", message=b"m")
    sessions = [body["session_id"] for body in nodes[1].bodies]
    assert len(set(sessions)) == len(sessions) >= 2
    assert len({body["request_id"] for body in nodes[1].bodies}) == 1


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"signatures": []},
        {"signatures": [{}]},
        {"signatures": {"0": {}}},
        {"signatures": [1, 2]},
        {"signatures": [{"signature": 1, "public_key": 2}] * 2},
        {"signatures": [{"signature": "zz", "public_key": PUBLIC}] * 2},
    ],
)
async def test_odd_answers_are_named(
    vault: Vault, nodes: dict[int, Counting], answer: dict[str, Any]
) -> None:
    for node in nodes.values():
        node.sign = lambda _: answer
    with pytest.raises(KeycairnError) as caught:
        await vault.sign_many("K1", [Item(message=b"a"), Item(message=b"b")])
    assert caught.value.code is Code.UNAVAILABLE
    assert "lacks" in caught.value.message


async def test_changed_facts_are_seen_after_a_failure(
    vault: Vault, nodes: dict[int, Counting]
) -> None:
    await vault.sign("K1", message=b"m")
    for node in nodes.values():
        node.error = KeycairnError(Code.EPOCH_MISMATCH, "the key was reshared")
    with pytest.raises(KeycairnError):
        await vault.sign("K1", message=b"m")
    for node in nodes.values():
        node.error, node.view = None, key(threshold=2)
    await vault.sign("K1", message=b"m")
    assert nodes[1].bodies[-1]["players"] == [1, 2, 3]
