"""A vault of real processes on each database: keys are made, used, and there after a restart."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import pytest

from databases import SERVERS
from system.local import LocalVault, keycairn

DIGEST = hashlib.sha256(b"a message").digest()


async def create_sign_restart(vault: LocalVault) -> None:
    vault.start()
    async with vault.client() as client:
        await vault.linked()
        ecdsa = (await client.create_keys("ecdsa", "secp256k1", count=3))[0]["key_id"]
        frost = (await client.create_keys("schnorr", "ed25519", count=1))[0]["key_id"]
        for _ in range(3):
            await client.sign(ecdsa, digest=DIGEST)
        await client.sign(frost, message=b"hello")
    vault.kill(1)
    vault.stop()
    vault.start()
    async with vault.client() as client:
        await vault.linked()
        assert len(await client.list_keys()) == 4
        await client.sign(ecdsa, digest=DIGEST, path="m/1")
        await client.sign(frost, message=b"hello again")
        more = (await client.create_keys("ecdsa", "secp256k1", count=1))[0]["key_id"]
        await client.sign(more, digest=DIGEST)


@pytest.mark.parametrize("kind", ["sqlite", *SERVERS])
async def test_keys_are_there_after_a_restart(make_vault: Any, kind: str) -> None:
    vault: LocalVault = make_vault(on=kind, policy="redundancy >= 1")
    await create_sign_restart(vault)
    text = vault.config(1).read_text()
    assert kind in text
    assert "password =" not in text
    if kind == "sqlite":
        return
    assert not list((vault.node_directory(1) / "data").glob("*.db"))
    # A second vault can't be made in the databases of the first.
    vault.stop()
    url = vault.toml(1)["database"]["url"]
    other = vault.directory.with_name("second")
    answer = keycairn(
        "init",
        str(other),
        "--database",
        url.replace("_1", "_{node}"),
        "--database-password-env",
        vault.toml(1)["database"]["password_env"].removesuffix("1") + "{node}",
        check=False,
    )
    assert answer["error"]["code"] == "E_CONFLICT"


@pytest.mark.parametrize("kind", SERVERS)
def test_a_node_says_what_is_wrong_with_its_database(make_vault: Any, kind: str) -> None:
    vault: LocalVault = make_vault(on=kind, nodes=2)

    def start_fails(**changes: Any) -> dict[str, Any]:
        with vault.editing(1) as config:
            before = dict(config["database"])
            config["database"] |= changes
            config["database"] = {k: v for k, v in config["database"].items() if v is not None}
        answer = keycairn("node", "run", "--config", str(vault.config(1)), check=False)
        with vault.editing(1) as config:
            config["database"] = before
        assert answer["exit"] != 0
        error: dict[str, Any] = answer["error"]
        assert error["next"]
        return error

    url = vault.toml(1)["database"]["url"]
    gone = start_fails(url=re.sub(r":[0-9]+/", ":1/", url))
    assert gone["code"] == "E_UNAVAILABLE"
    assert "does not answer" in gone["message"]
    assert start_fails(url=url.replace("@", ":secret@"))["code"] == "E_POLICY"
    assert start_fails(url=url.replace("127.0.0.1", "192.0.2.1"))["code"] == "E_POLICY"
    assert start_fails(password_env="NOT_SET")["code"] == "E_NOT_FOUND"
    assert start_fails(password_file="data/pw")["code"] == "E_MALFORMED"  # two sources
