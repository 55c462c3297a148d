"""Scenario 21, the half of ERS: a node lies with a bad part of an ERS document (T-100).

Node 2 of three makes parts whose ciphertexts don't hold its shares. A part that was not ground is
refused by the honest nodes, who name it, and the others' document brings the keys back. A part that
was ground until it verifies costs the one who recovers a few more decryptions, and no key.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from disasters import liar
from disasters.ers import recovered, register_recovery_key, sign_with, spki
from keycairn.errors import Code, KeycairnError
from keycairn.ports.system import SystemClock
from system.local import LocalVault

LIAR, HONEST = 2, [1, 3]


def start_liar(vault: LocalVault, bad: int, *, grind: bool) -> None:
    if LIAR in vault.running:
        vault.kill(LIAR)
    words = [sys.executable, liar.__file__, str(bad), "1" if grind else "0"]
    vault.start(LIAR, program=words)


async def test_t100_a_node_lies_with_a_bad_part_of_an_ers_document(
    make_vault: Any, tmp_path: Path
) -> None:
    vault: LocalVault = make_vault(policy="none")
    for i in vault.players:
        with vault.editing(i) as config:
            config["ers"]["automatic"] = False
    vault.start()
    private, public = register_recovery_key(vault, tmp_path / "safe")
    archive = tmp_path / "archive"
    archive.mkdir()
    async with vault.client() as client:
        await vault.linked()
        keys = {
            k["key_id"]: k
            for k in [
                *await client.create_keys("schnorr", "ed25519"),
                *await client.create_keys("ecdsa", "secp256k1"),
            ]
        }
        # Ground: nobody can see it, and nothing is lost by it.
        start_liar(vault, 3, grind=True)
        await vault.linked()
        made = await client.ers_create(list(keys), spki(public), params="fast")
        assert len(json.loads(made["document"])["parts"]) == 3
        (archive / "ground.json").write_text(made["document"], encoding="utf-8")
        # Not ground: forty of 136, which all stay closed once in 10^20.
        start_liar(vault, 40, grind=False)
        await vault.linked()
        with pytest.raises(KeycairnError) as caught:
            await client.ers_create(list(keys), spki(public), params="fast")
        assert caught.value.code is Code.ERS_INVALID
        assert f"player {LIAR}" in caught.value.message
        # Without the liar: t+1 parts.
        made = await client.ers_create(list(keys), spki(public), params="fast", nodes=HONEST)
        (archive / "honest.json").write_text(made["document"], encoding="utf-8")
    vault.stop()
    for i in vault.players:
        vault.lose(i)
    seconds = {}
    for name in ("ground", "honest"):
        clock = SystemClock()
        began = clock.monotonic()
        words = [str(archive / f"{name}.json"), "--rsa-key", str(private)]
        words += ["--out", str(tmp_path / name), "--allow-network"]
        back = {r["key_id"]: r for r in recovered(*words)["recovered"]}
        assert set(back) == set(keys)
        for key_id, key in keys.items():
            assert back[key_id]["public_key"] == key["public_key"]
            sign_with(Path(back[key_id]["file"]), key)
        seconds[name] = round(clock.monotonic() - began, 2)
    figures = {"scenario": 21, "keys_lost": 0, "presignatures_reused": 0}
    print(json.dumps({**figures, "seconds_to_first_signature": seconds}))
