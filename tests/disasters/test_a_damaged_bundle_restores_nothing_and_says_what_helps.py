"""Scenario 16: bundles truncated, flipped, swapped, edited, of another version.

The refusals are typed, nothing is written, and the next good bundle restores.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from disasters.conftest import everywhere
from keycairn.backup.bundle import MAGIC, read_bundle
from keycairn.errors import Code
from system.local import LocalVault, keycairn

#: age v1: a header line, stanzas, a MAC line; 16 bytes of nonce; then chunks of 64 KiB + 16.
_CHUNK = 65536 + 16


def lengths(path: Path) -> dict[str, list[int]]:
    """Every class of place at which a file can end, with lengths at its borders and inside."""
    bundle = read_bundle(path)
    size, start = path.stat().st_size, bundle.payload_offset
    manifest = len(MAGIC) + 4
    signature = manifest + len(bundle.manifest_bytes)
    raw = path.read_bytes()
    stream = raw.index(b"\n--- ", start)
    stream = raw.index(b"\n", stream + 1) + 1 + 16
    chunks = [n for n in range(stream, size, _CHUNK)]
    return {
        "nothing": [0],
        "first line": [1, len(MAGIC) - 1],
        "length": [len(MAGIC), len(MAGIC) + 3],
        "manifest": [manifest, manifest + 1, (manifest + signature) // 2, signature - 1],
        "signature": [signature, signature + 63],
        "age header": [start, start + 1, start + 30, stream - 17],
        "age nonce": [stream - 16, stream - 1],
        "chunk borders": [n + d for n in chunks for d in (-1, 0, 1)][1:],
        "last bytes": [size - 1024, size - 17, size - 16, size - 1],
    }


def edit(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        assert old in data
        return data.replace(old, new, 1)

    return change


HARM: dict[str, tuple[Callable[[bytes], bytes], set[str]]] = {
    "newer version": (edit(MAGIC, b"keycairn-bundle 3\n"), {Code.MALFORMED}),
    "older version's line": (edit(MAGIC, b"keycairn-bundle 1\n"), {Code.STORE_INTEGRITY}),
    "node in the header": (edit(b'"node":2,', b'"node":1,'), {Code.STORE_INTEGRITY}),
    "policy in the header": (edit(b'"policy":"', b'"policy":"n'), {Code.STORE_INTEGRITY}),
    "size in the header": (edit(b'"size":', b'"size":1'), {Code.STORE_INTEGRITY}),
    "one bit of the payload": (
        lambda d: d[:-5000] + bytes([d[-5000] ^ 1]) + d[-4999:],
        {Code.STORE_INTEGRITY},
    ),
    "bytes behind its end": (lambda d: d + b"\0", {Code.STORE_INTEGRITY}),
    "not a bundle": (lambda d: os.urandom(len(d)), {Code.MALFORMED}),
}


@everywhere()
async def test_a_damaged_bundle_restores_nothing_and_says_what_helps(
    make_vault: Any, tmp_path: Path, on: str
) -> None:
    vault: LocalVault = make_vault(on=on)
    vault.start()
    async with vault.client() as client:
        await vault.linked()
        [key] = await client.create_keys("schnorr", "ed25519")
        keycairn("backup", "create", "--vault", str(vault.profile))
        vault.lose(2)
        good = vault.newest_bundle(2)
        data = good.read_bytes()
        bad = tmp_path / "bad.bundle"

        def restore(bundle: Path, **more: Any) -> dict[str, Any]:
            words = ["--into", str(vault.node_directory(2)), "--vault", str(vault.profile)]
            words += ["--identity", str(vault.operator(2) / "backup-identity.age")]
            return keycairn("node", "restore", str(bundle), *words, **more)

        def refused(what: str, codes: set[str]) -> None:
            error = restore(bad, check=False)["error"]
            assert error["code"] in codes, (what, error)
            assert error["next"], what
            assert "othing was written" in error["not_lost"], (what, error)
            assert not vault.node_directory(2).exists(), what
            assert not list(vault.directory.glob(".node2*")), what

        # Each run is a process of its own: a few here, all kinds of harm and all lengths in
        # test_every_length_of_a_bundle_is_refused_but_the_right_one.
        bad.write_bytes(data[: len(data) // 2])
        refused("truncated", {Code.STORE_INTEGRITY})
        for what in ("newer version", "policy in the header", "one bit of the payload"):
            harm, codes = HARM[what]
            bad.write_bytes(harm(data))
            refused(what, codes)
        # Another node's bundle, under this node's name.
        bad.write_bytes(vault.newest_bundle(3).read_bytes())
        error = keycairn(
            "node",
            "restore",
            str(bad),
            "--into",
            str(vault.node_directory(2)),
            "--identity",
            str(vault.operator(2) / "backup-identity.age"),
            "--vault",
            str(vault.profile),
            "--node",
            "2",
            check=False,
        )["error"]
        assert error["code"] == Code.CONFLICT
        assert "node 3" in error["message"]
        # The good one restores, as if nothing had been.
        assert restore(good)["proofs_ok"] is True
        vault.start(2)
        await vault.linked()
        await client.sign(key["key_id"], message=b"x", nodes=[2, 3])
    print(json.dumps({"scenario": 16, "database": on, "keys_lost": 0}))


async def test_every_length_of_a_bundle_is_refused_but_the_right_one(
    make_vault: Any, tmp_path: Path
) -> None:
    from keycairn.backup import plan_restore
    from keycairn.client import load_profile
    from keycairn.encoding import SecretBytes
    from keycairn.errors import KeycairnError
    from keycairn.ports.system import SystemClock, SystemRng

    vault: LocalVault = make_vault(nodes=2)
    vault.start()
    keycairn("backup", "create", "--vault", str(vault.profile))
    vault.lose(2)
    good = vault.newest_bundle(2)
    pin = next(n.public_key for n in load_profile(vault.profile).nodes if n.index == 2)
    identity = SecretBytes((vault.operator(2) / "backup-identity.age").read_bytes())
    data, bad = good.read_bytes(), tmp_path / "bad.bundle"

    async def plan(bundle: Path) -> Any:
        return await plan_restore(
            bundle,
            into=vault.node_directory(2),
            identity=identity,
            clock=SystemClock(),
            rng=SystemRng(),
            node_public_key=pin,
        )

    tried = 0
    for what, cuts in lengths(good).items():
        for cut in cuts:
            bad.write_bytes(data[:cut])
            with pytest.raises(KeycairnError) as caught:
                await plan(bad)
            assert caught.value.code in (Code.STORE_INTEGRITY, Code.MALFORMED), (what, cut)
            tried += 1
    for what, (harm, codes) in HARM.items():
        bad.write_bytes(harm(data))
        with pytest.raises(KeycairnError) as caught:
            await plan(bad)
        assert caught.value.code in codes, what
    assert tried >= 25
    assert (await plan(good)).report.keys == 0
