"""Rotating the RSA key, at a vault that only remembers: batches, faults, what is left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from keycairn.client.merge import worst_status
from keycairn.client.rotation import rotate
from keycairn.errors import Code, KeycairnError
from keycairn.ers.rsa import load_rsa_public_key
from vault.nodes import spki_of

OLD = "0" * 64


@pytest.fixture(scope="module")
def spki() -> bytes:
    return spki_of(rsa.generate_private_key(65537, 3072))


class Fake:
    """What a rotation asks of a vault: states, documents per node, and faults on demand."""

    def __init__(self, keys: int, players: Sequence[int] = (1, 2, 3)) -> None:
        self.nodes = dict.fromkeys(players)
        self.under = {i: {f"K{n:03d}": [OLD] for n in range(keys)} for i in players}
        self.states = {f"K{n:03d}": "active" for n in range(keys)}
        self.batches: list[int] = []
        self.bad: set[str] = set()
        self.fail: KeycairnError | None = None
        self.silent: set[int] = set()

    async def list_keys(self) -> list[dict[str, Any]]:
        return [{"key_id": k, "state": s} for k, s in self.states.items()]

    async def ers_status(self) -> dict[int, list[dict[str, Any]]]:
        return {
            i: [{"key_id": k, "rsa_keys": under} for k, under in keys.items()]
            for i, keys in self.under.items()
            if i not in self.silent
        }

    async def ers_create(self, keys: Sequence[str], rsa_spki: bytes, **_: Any) -> None:
        if self.fail is not None:
            raise self.fail
        self.batches.append(len(keys))
        if self.bad & set(keys):
            raise KeycairnError(Code.STORE_INTEGRITY, "a share is damaged")
        name = load_rsa_public_key(rsa_spki).spki_sha256
        for held in self.under.values():
            for key in keys:
                held[key] = [*held[key], name]


async def run(fake: Fake, spki: bytes, **more: Any) -> Any:
    vault: Any = fake
    return await rotate(vault, spki, **more)


async def test_all_keys_are_rotated_in_batches_and_then_there_is_nothing_to_do(
    spki: bytes,
) -> None:
    fake = Fake(25)
    seen: list[tuple[int, int]] = []
    made = await run(fake, spki, old=OLD, batch=10, progress=lambda d, t: seen.append((d, t)))
    assert fake.batches == [10, 10, 5]
    assert seen == [(0, 25), (10, 25), (20, 25), (25, 25)]
    assert (made.total, made.rotated, made.documents, made.left) == (25, 25, 3, {})
    assert made.to_json()["removable"]
    again = await run(fake, spki, old=OLD)
    assert (again.already, again.documents, again.rotated) == (25, 0, 0)


async def test_one_bad_key_keeps_nothing_from_the_others_and_is_named(spki: bytes) -> None:
    fake = Fake(16)
    fake.bad = {"K005"}
    made = await run(fake, spki, old=OLD, batch=16)
    assert made.rotated == 15
    assert list(made.left) == ["K005"]
    assert "damaged" in made.left["K005"]
    assert made.only_old == ["K005"]
    assert not made.to_json()["removable"]


async def test_what_stops_all_is_said_and_a_later_run_goes_on(spki: bytes) -> None:
    fake = Fake(4)
    await run(fake, spki, old=OLD, batch=4)
    fake.under[2]["K000"] = [OLD]  # one node lost one
    fake.under[1]["K001"] = [OLD]
    fake.fail = KeycairnError(Code.KEY_NOT_ALLOWED, "not on the list")
    made = await run(fake, spki, old=OLD, batch=1)
    assert made.error is fake.fail
    assert (made.already, made.documents) == (2, 0)
    assert set(made.left) == {"K000", "K001"}
    fake.fail = None
    made = await run(fake, spki, old=OLD, batch=1)
    assert (made.rotated, made.documents, made.left) == (2, 2, {})


async def test_doubt_is_not_done(spki: bytes) -> None:
    """A node that says nothing, or a key that isn't whole, is left over, never skipped."""
    fake = Fake(2)
    await run(fake, spki, old=OLD)
    fake.silent = {3}
    made = await run(fake, spki, old=OLD)
    assert set(made.left) == {"K000", "K001"}
    assert not made.to_json()["removable"]
    fake = Fake(2)
    fake.states["K001"] = "degraded"
    made = await run(fake, spki, old=OLD)
    assert made.left == {"K001": "the key is degraded"}
    assert made.rotated == 1


async def test_only_keys_under_the_old_one_are_asked_for(spki: bytes) -> None:
    fake = Fake(3)
    for held in fake.under.values():
        held["K002"] = ["f" * 64]
    made = await run(fake, spki, old=OLD)
    assert made.total == 2
    made = await run(fake, spki)
    assert (made.total, made.already, made.rotated) == (3, 2, 1)


def test_the_merged_status_names_rsa_keys_of_all_nodes_only() -> None:
    def row(*names: str) -> dict[str, Any]:
        return {"key_id": "K", "status": "COMPLETE", "rsa_keys": list(names)}

    (merged,) = worst_status({1: [row("a", "b")], 2: [row("b")]})
    assert merged["rsa_keys"] == ["b"]
    (merged,) = worst_status({1: [row("a")], 2: []})
    assert merged["rsa_keys"] == []
