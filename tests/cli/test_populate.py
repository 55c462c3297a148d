"""``bench populate``: many real keys, and none in a production vault."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from system.conftest import make_vault as make_vault
from system.local import LocalVault, keycairn


def test_a_production_vault_is_refused(make_vault: Any) -> None:
    vault: LocalVault = make_vault(nodes=2)
    answer = keycairn("bench", "populate", str(vault.directory), "--keys", "5", check=False)
    assert answer["error"]["code"] == "E_POLICY"
    assert "knows them all" in answer["error"]["message"]
    assert answer["error"]["next"]


def test_a_missing_node_is_refused(make_vault: Any) -> None:
    vault: LocalVault = make_vault(nodes=3, test_profile=True)
    vault.lose(2)
    answer = keycairn("bench", "populate", str(vault.directory), "--keys", "5", check=False)
    assert answer["error"]["code"] == "E_MALFORMED"


@pytest.mark.parametrize("kind", ["ecdsa", "schnorr"])
async def test_dealt_keys_sign_like_any_other(make_vault: Any, kind: str, tmp_path: Path) -> None:
    vault: LocalVault = make_vault(nodes=3, test_profile=True, policy="redundancy >= 1")
    answer = keycairn("bench", "populate", str(vault.directory), "--keys", "1200", "--scheme", kind)
    assert answer["results"][0]["keys"] == 1200
    vault.start()
    async with vault.client() as client:
        await vault.linked()
        keys = await client.list_keys()
        assert len(keys) == 1200
        for key in (keys[0], keys[-1]):
            if kind == "ecdsa":
                digest = hashlib.sha256(b"x").digest()
                await client.sign(key["key_id"], digest=digest, path="m/1")
            else:
                await client.sign(key["key_id"], message=b"x")
