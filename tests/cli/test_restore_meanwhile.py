"""``node restore`` asks the peers for their keys while it checks the bundle."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from keycairn.cli import bundles
from keycairn.cli.proof import Shown
from keycairn.errors import Code, KeycairnError


async def restore(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "identity").write_bytes(b"age")
    return await bundles.restore_node(
        "bundle",
        tmp_path / "new",
        tmp_path / "identity",
        mapping=None,
        secret_file=None,
        public_key="00" * 32,
        player=None,
        dry_run=False,
        vault=tmp_path / "vault.toml",
        peer_config=None,
        put_back=False,
        checks=True,
    )


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A vault whose peers answer when the plan is being made, and no sooner."""
    told = SimpleNamespace(planning=asyncio.Event(), asked=asyncio.Event(), ended=None)

    @contextmanager
    def stored(_: str) -> Any:
        yield Path("bundle"), SimpleNamespace(vault="v", node=2, keys={})

    async def shown_by_peers(_: Any, node: int) -> Shown:
        assert node == 2
        told.asked.set()
        try:
            await told.planning.wait()
        except asyncio.CancelledError:
            told.ended = "cancelled"
            raise
        told.ended = "answered"
        return Shown({1: []}, {})

    monkeypatch.setattr(bundles, "_stored", stored)
    monkeypatch.setattr(bundles, "load_profile", lambda _: SimpleNamespace(vault_id="v"))
    monkeypatch.setattr(bundles, "shown_by_peers", shown_by_peers)
    return told


async def test_peers_are_asked_while_the_bundle_is_checked(
    peers: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def plan_restore(*_: Any, **__: Any) -> None:
        async with asyncio.timeout(5):
            await peers.asked.wait()
        peers.planning.set()

    async def execute(_: Any) -> dict[str, Any]:
        return {"findings": [], "next": []}

    monkeypatch.setattr(bundles, "plan_restore", plan_restore)
    monkeypatch.setattr(bundles, "execute", execute)
    assert (await restore(tmp_path))["peers"]["asked"] == [1]


async def test_a_bundle_that_is_refused_waits_for_no_peer(
    peers: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def plan_restore(*_: Any, **__: Any) -> None:
        await peers.asked.wait()
        raise KeycairnError(Code.STORE_INTEGRITY, "damaged")

    monkeypatch.setattr(bundles, "plan_restore", plan_restore)
    with pytest.raises(KeycairnError) as caught:
        async with asyncio.timeout(5):
            await restore(tmp_path)
    assert caught.value.code is Code.STORE_INTEGRITY
    assert peers.ended == "cancelled"
