"""Acceptance: a vault whose five nodes have five kinds of encryptor, in real processes with real
services. Create, sign, rotate, back up, lose, restore, sign; and kill -9 in the middle of it."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from cli.conftest import in_process
from encryptors.components import Kms, OpenBao, SoftHsm, private
from keycairn.encryptors import describe_keyring
from keycairn.store.sqlite import read_keyring
from system.conftest import make_vault  # noqa: F401 - a fixture
from system.local import LocalVault

KINDS = {1: "password", 2: "keyfile", 3: "transit", 4: "aws-kms", 5: "pkcs11"}


@pytest.fixture
def sections(
    openbao: OpenBao, kms: Kms, softhsm: SoftHsm, tmp_path: Path
) -> dict[int, dict[str, Any]]:
    """``[encryptor]`` of each node; the secrets are where no node's directory is."""
    safe = tmp_path / "safe"
    safe.mkdir()
    openbao.make_key("node3")
    softhsm.make_key(f"node5-{tmp_path.name}")
    return {
        1: {"kind": "password", "secret_file": str(private(safe / "1", "five words of a person"))},
        2: {"kind": "keyfile", "secret_file": str(private(safe / "2", "5a" * 32))},
        3: openbao.section("node3", private(safe / "3", openbao.make_token("node3"))),
        4: kms.section(kms.make_key(), private(safe / "4", "secret-access-key")),
        5: softhsm.section(f"node5-{tmp_path.name}", private(safe / "5", softhsm.pin)),
    }


async def keycairn(*words: str, code: int = 0) -> dict[str, Any]:
    """A command, in this process: each in its own would take most of the time."""
    ran = await asyncio.to_thread(in_process, *words, "--json")
    assert ran.code == code, ran.out + ran.err
    return ran.json


async def sign(vault: LocalVault, key: dict[str, Any], nodes: str, payload: bytes) -> None:
    """Sign with these nodes; an independent library verifies."""
    made = await keycairn(
        "sign", key["key_id"], "--digest", payload.hex(), "--nodes", nodes,
        "--vault", str(vault.profile),
    )  # fmt: skip
    public = ec.EllipticCurvePublicKey.from_encoded_point(
        ec.SECP256K1(), bytes.fromhex(key["public_key"])
    )
    raw = bytes.fromhex(made["signature"])
    der = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    public.verify(der, payload, ec.ECDSA(Prehashed(SHA256())))


def keyring_of(vault: LocalVault, i: int) -> bytes:
    found = read_keyring(vault.node_directory(i) / "data" / "node.db")
    assert found is not None
    return found


async def test_five_encryptors_create_sign_rotate_back_up_restore_sign(
    make_vault: Any,  # noqa: F811
    sections: dict[int, dict[str, Any]],
    tmp_path: Path,
) -> None:
    vault: LocalVault = make_vault(nodes=5, threshold=1)
    # The certificate is one of the node's own files: lost with it, and back with its bundle.
    certificate = vault.node_directory(3) / "bao-ca.pem"
    shutil.copy(sections[3]["ca_file"], certificate)
    sections[3]["ca_file"] = str(certificate)
    for i, section in sections.items():
        # Each node is made with a key file, and moves before its first start.
        target = private(tmp_path / f"to{i}.toml", tomli_w.dumps({"encryptor": section}))
        config = str(vault.config(i))
        moved = await keycairn(
            "encryptor", "rotate", "--config", config, "--to-config", str(target)
        )
        assert (moved["from"]["kind"], moved["to"]["kind"]) == ("keyfile", KINDS[i])
        found = await keycairn("encryptor", "check", "--config", config)
        assert (found["opens"], found["notes"]) == (True, [])
        assert found["encryptor"]["kind"] == KINDS[i]

    assert 'ca_file = "bao-ca.pem"' in vault.config(3).read_text(), "relative, as it should be"
    vault.start()
    await vault.linked()
    profile = str(vault.profile)
    [key] = (
        await keycairn(
            "key", "create", "--scheme", "ecdsa", "--curve", "secp256k1", "--vault", profile
        )
    )["keys"]
    await keycairn("backup", "create", "--vault", profile)
    for nodes in ("1,2", "3,4", "4,5"):
        await sign(vault, key, nodes, b"the first signatures of a vault ")

    # Online: the nodes serve on, and what was there before is not what is there now.
    for i in vault.players:
        before = keyring_of(vault, i)
        done = await keycairn("encryptor", "rotate", "--config", str(vault.config(i)))
        assert done["moved"] is False
        assert keyring_of(vault, i) != before
        found = await keycairn("encryptor", "check", "--config", str(vault.config(i)))
        assert found["opens"] is True
    await sign(vault, key, "1,5", b"after the rotation, with no rest")
    bundles = (await keycairn("backup", "create", "--vault", profile))["bundles"]
    assert len(bundles) == 5
    # A trial proves the shares with each kind: [encryptor] out of the bundle of a known signer,
    # or out of a file.
    for i in vault.players:
        trial = [
            "backup", "verify", str(vault.newest_bundle(i)),
            "--identity", str(vault.operator(i) / "backup-identity.age"),
        ]  # fmt: skip
        secret = ["--secret-file", sections[i]["secret_file"]]
        found = await keycairn(*trial, *secret, "--vault", profile)
        assert (found["verified"], found["proofs_ok"]) == (True, True), KINDS[i]
        file = private(tmp_path / f"of{i}.toml", tomli_w.dumps({"encryptor": sections[i]}))
        found = await keycairn(*trial, "--encryptor", str(file))
        assert (found["verified"], found["proofs_ok"]) == (False, True), KINDS[i]
        if i > 2:
            # Who signed it isn't known: the secret goes to no service that the bundle names.
            error = (await keycairn(*trial, *secret, code=3))["error"]
            assert (error["code"], "--encryptor" in error["next"]) == ("E_POLICY", True)

    for i in vault.players:
        vault.lose(i)
    for i in vault.players:
        restored = await keycairn(
            "node", "restore", str(vault.newest_bundle(i)),
            "--into", str(vault.node_directory(i)),
            "--identity", str(vault.operator(i) / "backup-identity.age"),
            "--vault", profile,
        )  # fmt: skip
        assert restored["proofs_ok"] is True
        told = restored["encryptor"]
        assert told["kind"] == KINDS[i]
        for name in ("key", "address", "endpoint", "token", "region"):
            assert told.get(name) == sections[i].get(name)
        assert describe_keyring(keyring_of(vault, i))["kind"] == KINDS[i]
        found = await keycairn("encryptor", "check", "--config", str(vault.config(i)))
        assert found["opens"] is True
        shown = json.dumps([restored, found])
        assert Path(sections[i]["secret_file"]).read_text() not in shown
    vault.start()
    await vault.linked()
    for nodes in ("1,2", "3,4", "4,5"):
        await sign(vault, key, nodes, b"signatures of nodes that are bac")


@pytest.mark.parametrize("point", ["pending", "replaced"])
async def test_t080_a_running_node_is_killed_in_the_middle_of_a_move(
    make_vault: Any,  # noqa: F811
    openbao: OpenBao,
    tmp_path: Path,
    point: str,
) -> None:
    """From a key file to a service, online; the node comes back by itself, and signs."""
    vault: LocalVault = make_vault(nodes=2, threshold=1, test_profile=True)
    name = f"killed-{point}"
    openbao.make_key(name)
    section = openbao.section(name, private(tmp_path / "token", openbao.make_token(name)))
    target = private(tmp_path / "to.toml", tomli_w.dumps({"encryptor": section}))
    vault.start(2)
    vault.start(1, crash_at=f"encryptor/{point}")
    await vault.linked()
    config, profile = str(vault.config(1)), str(vault.profile)
    [key] = (
        await keycairn(
            "key", "create", "--scheme", "ecdsa", "--curve", "secp256k1", "--vault", profile
        )
    )["keys"]
    await keycairn("backup", "create", "--vault", profile)
    await keycairn("encryptor", "rotate", "--config", config, "--to-config", str(target), code=1)
    assert await asyncio.to_thread(vault.reap, 1) == -9
    vault.start(1)
    await vault.linked()
    found = await keycairn("encryptor", "check", "--config", config)
    assert found["encryptor"]["kind"] == ("transit" if point == "replaced" else "keyfile")
    await sign(vault, key, "1,2", b"the node that was killed is back")
    # And again, to the end.
    done = await keycairn("encryptor", "rotate", "--config", config, "--to-config", str(target))
    assert done["config_written"] is True
    found = await keycairn("encryptor", "check", "--config", config)
    assert found["encryptor"]["key"] == name
    await keycairn("backup", "create", "--vault", profile)
