"""Bundles: made, read back, verified; and every way in which one can be bad."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from keycairn.backup import read_manifest, verify_bundle
from keycairn.vault.policy import Answer


async def test_round_trip(node: Any) -> None:
    row = await node.backup()
    path = Path(row.location)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.name.startswith("keycairn-acme-node2-20231114T221320Z-")
    assert [p.name for p in node.targets.iterdir()] == [path.name]
    assert row.level == "hashes"
    manifest = read_manifest(path)
    assert row.keys == manifest.receipt_keys()
    assert {h.state for h in manifest.keys.values()} == {"active", "pending"}
    assert len(manifest.pending) == 1
    for level in ("manifest", "hashes"):
        report = await verify_bundle(path, node_public_key=node.identity.public, level=level)
        assert report.to_json()["verified"] is True
    report = await verify_bundle(
        path,
        node_public_key=node.identity.public,
        identity=node.secret,
        opener=node.opener,
        level="trial",
    )
    assert report.proofs is Answer.YES
    assert report.sha256 == row.sha256
    assert not (node.home / "data" / ".backup-scratch").exists()
