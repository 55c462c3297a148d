"""Nodes made one by one by operators who share nothing but cards, and a backup point over links."""

from __future__ import annotations

import asyncio
import json
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from keycairn.client import Vault
from keycairn.node.config import load_config
from keycairn.ports.system import SystemClock
from system.local import LocalVault, keycairn


class Operators(LocalVault):
    """Three operators, each with a directory of his own: DIR/operatorI/node and what he keeps."""

    def node_directory(self, i: int) -> Path:
        return self.operator(i) / "node"

    def card(self, i: int) -> Path:
        return self.node_directory(i) / "node.card"

    def begin(self, i: int) -> dict[str, Any]:
        """What operator ``i`` does alone."""
        mine = self.operator(i)
        (mine / "backups").mkdir(parents=True)
        safe = keycairn("backup", "keygen", "--out", str(mine / "backup-identity.age"))
        port = self.base_port + 3 * (i - 1)
        return keycairn(
            "init", str(self.node_directory(i)), "--node", str(i),
            "--vault-id", "treasury", "--nodes", "3", "--threshold", "1",
            "--address", f"wss://127.0.0.1:{port + 1}", "--links", f"127.0.0.1:{port + 1}",
            "--api", f"127.0.0.1:{port}", "--management", f"127.0.0.1:{port + 2}",
            "--secret-file", str(mine / "master.key"),
            "--backup-target", str(mine / "backups"), "--backup-recipient", safe["recipient"],
        )  # fmt: skip

    def finish(self, i: int) -> dict[str, Any]:
        """What he does with the cards that the others gave him."""
        inbox = self.operator(i) / "cards"
        inbox.mkdir()
        words = []
        for j in set(self.players) - {i}:
            words += ["--peer", str(shutil.copy(self.card(j), inbox / f"node{j}.card"))]
        return keycairn("init", str(self.node_directory(i)), *words)

    def user(self, begun: dict[int, dict[str, Any]]) -> Path:
        """A user's profile: of each operator he got a URL, an API key and a public key."""
        nodes = [
            {
                "index": i,
                "url": f"http://127.0.0.1:{self.base_port + 3 * (i - 1)}",
                "api_key": Path(made["api_key_file"]).read_text().strip(),
                "public_key": made["public_key"],
            }
            for i, made in begun.items()
        ]
        file = self.directory / "user.toml"
        file.write_text(
            tomli_w.dumps({"vault": {"id": "treasury", "threshold": 1}, "nodes": nodes})
        )
        file.chmod(0o600)
        return file


@pytest.fixture
def operators(tmp_path: Path, free_ports: Any) -> Iterator[Operators]:
    found = Operators(tmp_path, nodes=3, threshold=1, base_port=free_ports(9))
    yield found
    found.stop()


@pytest.mark.slow
async def test_three_operators_who_share_only_cards_make_a_vault_that_signs(
    operators: Operators,
) -> None:
    begun = {i: operators.begin(i) for i in operators.players}
    finished = [operators.finish(i) for i in operators.players]
    # One value to compare by voice, and it is made of all cards.
    assert len({f["vault_fingerprint"] for f in finished}) == 1
    for i in operators.players:
        config = load_config(operators.config(i), {})
        assert (config.profile, config.vault_id, config.threshold) == ("production", "treasury", 1)
        # Neither what opens the database nor what opens the bundles is on the node.
        secrets = [operators.operator(i) / n for n in ("master.key", "backup-identity.age")]
        texts = [s.read_text().split()[-1] for s in secrets]
        for file in operators.node_directory(i).rglob("*"):
            if file.is_file():
                assert not any(t.encode() in file.read_bytes() for t in texts), file
                loose = stat.S_IMODE(file.stat().st_mode) & 0o077
                assert not loose or file.name == "node.card", file
    for i in operators.players:
        checked = keycairn("encryptor", "check", "--config", str(operators.config(i)))
        assert checked["opens"] is True
    operators.start()
    await operators.linked()
    async with Vault.open(operators.user(begun)) as vault:
        [key] = await vault.create_keys("ecdsa", "secp256k1")
        # The default policy asks for bundles: one operator's command makes all of them.
        made = await asyncio.to_thread(
            keycairn, "backup", "point", "--config", str(operators.config(2))
        )
        assert (made["point"], made["why"], made["failed"]) == (1, "", [])
        signed = await vault.sign(key["key_id"], digest=b"\1" * 32, nodes=[1, 3])
        assert signed["public_key"] == key["public_key"]
        bundles = [operators.newest_bundle(i) for i in operators.players]
        status = keycairn("backup", "status", *map(str, bundles))
        assert (status["answer"], status["point"], status["keys"]) == ("consistent", 1, 1)
        # a peer learns of a bundle what is public, and no path of another machine.
        theirs = [b for b in made["bundles"] if b["node"] != 2]
        assert all(set(b) == {"node", "sha256", "keys", "size"} for b in theirs)
        # A second point by the same operator at once: the others have written enough for him.
        again = keycairn("backup", "point", "--config", str(operators.config(2)), check=False)
        assert (again["exit"], again["error"]["code"]) == (3, "E_RATE_LIMIT")
        assert [operators.newest_bundle(i) for i in operators.players] == bundles
        # Another operator's comes through, and the number has grown.
        other = keycairn("backup", "point", "--config", str(operators.config(3)))
        assert other["point"] == 2


@pytest.mark.slow
async def test_a_leader_killed_half_way_holds_nobody_beyond_the_bound_and_makes_no_point(
    make_vault: Any,
) -> None:
    vault: LocalVault = make_vault(test_profile=True, policy="none")
    vault.start(1, crash_at="point:held")
    vault.start(2, 3)
    clock = SystemClock()
    await vault.linked()
    async with vault.client() as client:
        ended = await asyncio.to_thread(
            keycairn, "backup", "point", "--config", str(vault.config(1)), check=False
        )
        assert ended["exit"] != 0
        assert vault.reap(1) == -9
        began = clock.monotonic()
        vault.start(1)
        await vault.linked()
        # The leader said no word more: the other two hold back creations until their time is over.
        [key] = await client.create_keys("schnorr", "ed25519")
        waited = clock.monotonic() - began
        assert 10 < waited < 25
        await client.sign(key["key_id"], message=b"x", nodes=[2, 3])
        for i in (1, 2, 3):
            assert not list((vault.operator(i) / "backups").glob("*.bundle"))
        made = await asyncio.to_thread(
            keycairn, "backup", "point", "--config", str(vault.config(2))
        )
        assert made["point"] == 1
        status = keycairn("backup", "status", "--vault", str(vault.profile))
        assert (status["answer"], status["point"]) == ("consistent", 1)
    print(json.dumps({"creation_waited_seconds": round(waited, 1)}))
