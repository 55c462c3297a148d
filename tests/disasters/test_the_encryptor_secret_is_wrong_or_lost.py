"""Scenario 17: the master secret is wrong; it is lost, and other copies exist; it is lost for good,
and the other holders sign."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from disasters.conftest import everywhere, first_signature
from keycairn.errors import Code
from keycairn.ports.system import SystemClock
from system.local import LocalVault, keycairn

MESSAGE = b"after the disaster"


@everywhere()
async def test_the_encryptor_secret_is_wrong_or_lost(
    make_vault: Any, tmp_path: Path, on: str
) -> None:
    vault: LocalVault = make_vault(on=on)
    vault.start()
    safe = tmp_path / "safe"
    shutil.copy2(vault.operator(2) / "master.key", safe)
    async with vault.client() as client:
        await vault.linked()
        keys = [k["key_id"] for k in await client.create_keys("schnorr", "ed25519", count=2)]
        keycairn("backup", "create", "--vault", str(vault.profile))
        before = (await client.sign(keys[0], message=MESSAGE, nodes=[1, 2]))["base_r"]
        secret = vault.operator(2) / "master.key"

        # Wrong: of another node. Nothing is changed, neither by a start nor by a restore.
        vault.kill(2)
        shutil.copy2(vault.operator(3) / "master.key", secret)
        no_start = keycairn("node", "run", "--config", str(vault.config(2)), check=False)["error"]
        assert no_start["code"] == Code.STORE_INTEGRITY
        assert no_start["next"]
        vault.lose(2)
        bundle = vault.newest_bundle(2)
        words = ["node", "restore", str(bundle), "--into", str(vault.node_directory(2))]
        words += ["--identity", str(vault.operator(2) / "backup-identity.age")]
        words += ["--vault", str(vault.profile)]
        error = keycairn(*words, check=False)["error"]
        assert (error["code"], error["not_lost"]) == (
            Code.STORE_INTEGRITY,
            "The bundle was not changed; nothing was written.",
        )
        assert "--secret-file" in error["next"]
        assert not vault.node_directory(2).exists()
        trial = ["backup", "verify", *words[2:3], *words[5:], "--secret-file", str(secret)]
        assert keycairn(*trial, check=False)["error"]["code"] == Code.STORE_INTEGRITY

        # Lost: the restore says where it belongs, proves nothing, and the node does not start.
        secret.unlink()
        dry = keycairn(*words, "--dry-run")
        assert dry["proofs_ok"] is None
        assert dry["encryptor"]["where"] == str(secret)
        lost = [f for f in dry["findings"] if f["what"] == "master secret"]
        assert "put the master secret back" in lost[0]["next"]
        clock = SystemClock()
        lost_at = clock.monotonic()
        # Meanwhile t+1 others sign.
        other = await client.sign(keys[1], message=MESSAGE, nodes=[1, 3])

        # Another copy exists: under another name, then in its place.
        found = keycairn(*words, "--secret-file", str(safe))
        assert (found["proofs_ok"], found["presignatures"]) == (True, 0)
        missing = keycairn("node", "run", "--config", str(vault.config(2)), check=False)["error"]
        assert missing["code"] == Code.NOT_FOUND
        shutil.copy2(safe, secret)
        vault.start(2)
        await vault.linked()
        first = await first_signature(client, keys[0], message=MESSAGE, nodes=[2, 3])
        seconds = clock.monotonic() - lost_at
        nonces = [before, other["base_r"], first["base_r"]]
        assert len(set(nonces)) == len(nonces)
    print(
        json.dumps(
            {
                "scenario": 17,
                "database": on,
                "keys_lost": 0,
                "presignatures_reused": 0,
                "seconds_to_first_signature": round(seconds, 2),
            }
        )
    )
