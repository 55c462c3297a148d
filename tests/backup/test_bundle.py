"""Bundles: made, read back, verified; and every way in which one can be bad."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import subprocess
import sys
import tarfile
import textwrap
from io import BytesIO
from pathlib import Path
from typing import Any

import pyrage
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from keycairn.backup import BundleInputs, create_bundle, read_manifest, verify_bundle
from keycairn.backup.bundle import MAGIC, read_bundle, unpack
from keycairn.backup.disk import exclusive
from keycairn.backup.targets import MARKER
from keycairn.encoding import SecretBytes
from keycairn.errors import Code, KeycairnError
from keycairn.vault.policy import Answer
from keycairn.vault.ports import BundleRow


async def refused(code: Code, path: Path, **kw: Any) -> KeycairnError:
    """Verification fails with ``code``."""
    with pytest.raises(KeycairnError) as caught:
        await verify_bundle(path, **kw)
    assert caught.value.code is code
    return caught.value


def plaintext(node: Any, path: Path) -> bytes:
    """The payload as age and tar see it, without this program's reader."""
    offset = read_bundle(path).payload_offset
    return pyrage.decrypt(path.read_bytes()[offset:], [node.age_identity])


async def test_round_trip(node: Any) -> None:
    row = await node.backup()
    path = Path(row.location)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.name.startswith("keycairn-acme-node2-20231114T221320Z-")
    assert sorted(p.name for p in node.targets.iterdir()) == [MARKER, path.name]
    assert row.level == "hashes"
    assert (row.size, row.sha256) == (
        path.stat().st_size,
        hashlib.sha256(path.read_bytes()).hexdigest(),
    )
    manifest = read_manifest(path)
    assert row.keys == manifest.receipt_keys()
    assert {h.state for h in manifest.keys.values()} == {"active", "pending"}
    assert manifest.pending[0].missing == (1, 3)
    assert manifest.policy == "ers or node_backup"
    assert "master secret" in manifest.not_inside[0]
    for level in ("manifest", "hashes"):
        report = await verify_bundle(path, node_public_key=node.identity.public, level=level)
        assert report.to_json()["verified"] is True
        assert report.to_json()["proofs_ok"] is None
    report = await verify_bundle(
        path,
        node_public_key=node.identity.public,
        identity=node.secret,
        opener=node.opener,
        level="trial",
    )
    assert report.proofs is Answer.YES
    assert report.not_checked == ()
    assert report.sha256 == row.sha256
    assert not (node.home / "data" / ".backup-scratch").exists()


async def test_what_is_not_checked_is_said(node: Any) -> None:
    path = Path((await node.backup()).location)
    blind = await verify_bundle(path)
    assert blind.to_json()["verified"] is False
    assert "who signed it" in blind.not_checked[0]
    trial = await verify_bundle(
        path, node_public_key=node.identity.public, identity=node.secret, level="trial"
    )
    assert trial.proofs is Answer.CANT_TELL
    assert any("master secret" in point for point in trial.not_checked)
    await refused(Code.MALFORMED, path, level="trial")
    await refused(Code.MALFORMED, path, level="everything")


async def test_plain_age_and_tar_open_it(node: Any) -> None:
    """Nobody needs this program to get at the files."""
    path = Path((await node.backup()).location)
    with tarfile.open(fileobj=BytesIO(plaintext(node, path))) as archive:
        assert all(m.isreg() and m.mode == 0o600 and m.mtime == 0 for m in archive.getmembers())
        names = archive.getnames()
        config = archive.extractfile("config/node.toml")
        assert config is not None
        assert config.read() == node.config.read_bytes()
    assert names == [part.name for part in read_manifest(path).parts]
    assert names[:2] == ["index.json", "database/node.db"]
    assert {
        "files/player.identity_key_file",
        "files/api.tls_cert",
        "files/api.tls_key",
        "include/001-start.sh",
        "include/002-notes.txt",
    } <= set(names)
    assert sum(name.startswith("ers/") for name in names) == 1


async def test_the_shell_lines_of_the_format_page(node: Any) -> None:
    path = Path((await node.backup()).location)
    bundle = read_bundle(path)
    length = "$(od -An -tu1 -j18 -N4 \"$B\" | awk '{ print (($1*256+$2)*256+$3)*256+$4 }')"
    script = f'm={length}; tail -c +23 "$B" | head -c "$m"; tail -c +$((86 + m + 1)) "$B"'
    done = subprocess.run(
        ["sh", "-c", script], env={**os.environ, "B": str(path)}, capture_output=True, check=True
    )
    assert done.stdout == bundle.manifest_bytes + path.read_bytes()[bundle.payload_offset :]


async def test_the_manifest_needs_no_key_to_read(node: Any) -> None:
    raw = Path((await node.backup()).location).read_bytes()
    length = int.from_bytes(raw[len(MAGIC) : len(MAGIC) + 4], "big")
    manifest = raw[len(MAGIC) + 4 :][:length]
    signature = raw[len(MAGIC) + 4 + length :][:64]
    # The signed bytes, put together as docs/bundle-format.md says.
    name = b"backup/manifest"
    signed = b"KCT1" + len(name).to_bytes(2, "big") + name + (1).to_bytes(2, "big")
    signed += (2).to_bytes(8, "big") + b"i" + (1).to_bytes(8, "big") + b"\x02"
    signed += b"b" + len(manifest).to_bytes(8, "big") + manifest
    Ed25519PublicKey.from_public_bytes(node.identity.public).verify(signature, signed)
    assert str(node.home).encode() not in raw
    assert str(node.operator).encode() not in raw


async def test_secrets_are_in_no_bundle(node: Any) -> None:
    """R-01: canaries of the master secret, of shares and of a presignature's bytes."""
    canary = b"presignature-canary-" + bytes(range(16))
    assert node.store is not None
    path = Path((await node.backup()).location)
    inside = plaintext(node, path)
    secrets = [(node.operator / "master.key").read_bytes(), canary]
    for share in node.shares.values():
        secrets += [share.to_bytes(32, "big"), share.to_bytes(32, "little")]
    for secret in secrets:
        for data in (path.read_bytes(), inside):
            assert secret not in data
            assert secret.hex().encode() not in data
    # The identity key is inside, and only inside.
    assert (node.home / "identity.key").read_bytes() in inside
    assert (node.home / "identity.key").read_bytes() not in path.read_bytes()


# -- refusals while making one -------------------------------------------------------------------


def files(node: Any) -> list[Path]:
    found = [*node.operator.rglob("*"), *(node.home / "data").glob("*")]
    return sorted(p for p in found if p.name not in (".backup.lock", MARKER))


async def failed(node: Any, code: Code, **kw: Any) -> KeycairnError:
    """Making a bundle fails with ``code``, and leaves nothing behind."""
    target = kw.pop("target", node.targets)
    inputs = kw.pop("inputs", BundleInputs(node.config))
    given = {"identity": node.identity, "recipients": [node.recipient], **kw}
    before = files(node)
    with pytest.raises(KeycairnError) as caught:
        await create_bundle(node.store, inputs, target, clock=node.clock, rng=node.rng, **given)
    assert caught.value.code is code
    assert files(node) == before
    return caught.value


@pytest.mark.parametrize("where", ["identity.key", "notes.txt"])
async def test_a_missing_file_that_the_configuration_names(node: Any, where: str) -> None:
    (node.home / where).unlink()
    error = await failed(node, Code.NOT_FOUND)
    assert where in error.detail["file"]


async def test_a_pipe_or_directory_is_no_file(node: Any) -> None:
    (node.home / "identity.key").unlink()
    os.mkfifo(node.home / "identity.key")
    await failed(node, Code.NOT_FOUND)


@pytest.mark.parametrize("how", ["name", "symlink", "hardlink", "copy", "hex", "inside", "folder"])
async def test_the_master_secret_is_refused(node: Any, how: str) -> None:
    secret = node.operator / "master.key"
    start = node.operator / "launch" / "start.sh"
    start.unlink()
    if how == "name":
        text = node.config.read_text().replace(str(start), str(secret))
        node.config.write_text(text)
    elif how == "symlink":
        start.symlink_to(secret)
    elif how == "hardlink":
        start.hardlink_to(secret)
    elif how == "copy":
        start.write_bytes(secret.read_bytes())
    elif how == "hex":
        start.write_text(f"export KEY={secret.read_bytes().hex()}\n")
    elif how == "inside":
        # Across the border of two chunks.
        start.write_bytes(bytes((1 << 20) - 5) + secret.read_bytes() + bytes(99))
    else:
        node.config.write_text(node.config.read_text().replace(str(start), str(node.operator)))
        start.write_text("")
    error = await failed(node, Code.POLICY)
    assert "master secret" in error.message


async def test_a_secret_that_the_caller_names_is_refused(node: Any) -> None:
    (node.home / "notes.txt").write_text("password: correct horse battery staple")
    inputs = BundleInputs(node.config, (SecretBytes(b"correct horse battery staple"),))
    await failed(node, Code.POLICY, inputs=inputs)


async def test_a_folder_that_cannot_be_listed_is_not_taken_for_empty(
    node: Any, monkeypatch: Any
) -> None:
    def refuse(top: Path, onerror: Any) -> Any:
        onerror(PermissionError(13, "Permission denied"))
        return iter(())

    monkeypatch.setattr("keycairn.backup.disk.os.walk", refuse)
    await failed(node, Code.UNAVAILABLE)


async def test_recipients_are_checked_first(node: Any) -> None:
    for recipients in ([], ["age1nonsense"], [node.recipient, ""], [str(node.age_identity)]):
        error = await failed(node, Code.MALFORMED, recipients=recipients)
        assert str(node.age_identity) not in error.message


async def test_the_signing_key_must_be_the_one_inside(node: Any, make_node: Any) -> None:
    other = await make_node(3)
    await failed(node, Code.CONFLICT, identity=other.identity)


async def test_a_target_that_is_not_there(node: Any) -> None:
    error = await failed(node, Code.UNAVAILABLE, target=node.operator / "usb-stick")
    assert error.not_lost
    await failed(node, Code.UNAVAILABLE, target=node.operator / "master.key")


async def test_a_target_that_is_not_writable(node: Any) -> None:
    # Not even root makes files there.
    await failed(node, Code.UNAVAILABLE, target=Path("/proc/self"))
    if os.geteuid() != 0:
        node.targets.chmod(0o500)
        await failed(node, Code.UNAVAILABLE)
        node.targets.chmod(0o700)


async def test_a_target_that_refuses_to_write(node: Any, monkeypatch: Any) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    for function in ("_append", "sync", "create_private"):
        with monkeypatch.context() as patch:
            patch.setattr(f"keycairn.backup.create.{function}", full)
            await failed(node, Code.UNAVAILABLE)


async def test_what_cannot_be_read_back_is_removed(node: Any, monkeypatch: Any) -> None:
    def rotten(source: Path, out: Any) -> None:
        data = bytearray(source.read_bytes())
        data[len(data) // 2] ^= 1
        out.write(data)

    monkeypatch.setattr("keycairn.backup.create._append", rotten)
    await failed(node, Code.STORE_INTEGRITY)


async def test_a_full_disk(node: Any) -> None:
    """A real limit of the system, in a process of its own: an error, and nothing left."""
    (node.home / "notes.txt").write_bytes(os.urandom(3 << 20))
    code = f"""
    import asyncio, resource
    from pathlib import Path
    from keycairn.backup import BundleInputs, create_bundle
    from keycairn.encoding import SecretBytes
    from keycairn.errors import KeycairnError
    from keycairn.ports.system import SystemClock, SystemRng
    from keycairn.vault.api import Identity
    from keycairn.vault.fence.history import Head

    class Store:
        async def keys(self, **_): return []
        async def pending_batches(self): return []
        async def history_head(self): return Head(1, 0, bytes(32))
        async def snapshot(self, target): target.write_bytes(b"database")

    identity = Identity(SecretBytes({node.identity.private.reveal()!r}), {node.identity.public!r})
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    try:
        asyncio.run(create_bundle(
            Store(), BundleInputs(Path({str(node.config)!r})), Path({str(node.targets)!r}),
            identity=identity, recipients=[{node.recipient!r}],
            clock=SystemClock(), rng=SystemRng()))
    except KeycairnError as exc:
        print(exc.code.value)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert done.stdout.strip() == "E_UNAVAILABLE", done.stderr
    assert list(node.targets.iterdir()) == []


async def test_leftovers_of_a_killed_backup_are_removed(node: Any) -> None:
    scratch = node.home / "data" / ".backup-scratch"
    scratch.mkdir()
    (scratch / "node.db").write_text("old")
    mine = node.targets / ".keycairn-acme-node2-00.payload.tmp"
    other = node.targets / ".keycairn-acme-node3-00.payload.tmp"
    mine.write_text("dead")
    other.write_text("another node's, perhaps alive")
    await node.backup()
    assert not scratch.exists()
    assert not mine.exists()
    assert other.exists()


async def test_one_backup_at_a_time(node: Any) -> None:
    with exclusive(node.home / "data" / ".backup.lock", "held"):
        await failed(node, Code.CONFLICT)
    await node.backup()


async def test_odd_files_of_the_document_store_are_skipped_and_said(node: Any) -> None:
    (node.home / "ers" / ".half.part").write_text("x")
    (node.home / "ers" / "link").symlink_to("/etc/passwd")
    row = await node.backup()
    assert [Path(p).name for p in row.detail["skipped"]] == [".half.part", "link"]


async def test_an_included_folder_goes_in_with_all_its_files(node: Any) -> None:
    folder = node.operator / "launch"
    (folder / "unit.service").write_text("[Service]")
    text = node.config.read_text().replace(f"{folder}/start.sh", str(folder))
    node.config.write_text(text)
    manifest = read_manifest(Path((await node.backup()).location))
    names = [p.name for p in manifest.parts if p.name.startswith("include/")]
    assert names == ["include/001-start.sh", "include/002-unit.service", "include/003-notes.txt"]


# -- bad bundles ---------------------------------------------------------------------------------


def regions(path: Path) -> dict[str, tuple[int, int]]:
    """Where each region of the file begins and ends."""
    bundle = read_bundle(path)
    start = len(MAGIC)
    manifest = start + 4
    signature = manifest + len(bundle.manifest_bytes)
    return {
        "magic": (0, start),
        "length": (start, manifest),
        "manifest": (manifest, signature),
        "signature": (signature, bundle.payload_offset),
        "payload": (bundle.payload_offset, path.stat().st_size),
    }


CAUGHT = {Code.STORE_INTEGRITY, Code.MALFORMED, Code.CONFLICT, Code.UNWRAP_FAILED, Code.TOO_LARGE}


async def verdict(node: Any, path: Path, **kw: Any) -> Code | None:
    try:
        await verify_bundle(path, node_public_key=node.identity.public, **kw)
    except KeycairnError as exc:
        return exc.code
    return None


async def test_truncated_at_every_kind_of_place(node: Any, tmp_path: Path) -> None:
    path = Path((await node.backup()).location)
    data = path.read_bytes()
    cuts = {0, 1, len(data) - 1}
    for low, high in regions(path).values():
        cuts |= {low, low + 1, (low + high) // 2, high - 1}
    cuts |= set(range(0, len(data), max(1, len(data) // 60)))
    short = tmp_path / "short.bundle"
    for cut in sorted(cuts):
        short.write_bytes(data[:cut])
        assert await verdict(node, short, level="manifest") in CAUGHT, cut
    short.write_bytes(data + b"\0")
    assert await verdict(node, short, level="manifest") in CAUGHT


@pytest.mark.parametrize("region", ["magic", "length", "manifest", "signature", "payload"])
async def test_flipped_bytes_in_every_region(node: Any, tmp_path: Path, region: str) -> None:
    path = Path((await node.backup()).location)
    data = path.read_bytes()
    low, high = regions(path)[region]
    bad = tmp_path / "bad.bundle"
    step = max(1, (high - low) // 40)
    for at in [*range(low, high, step), high - 1]:
        for bit in (0x01, 0x80):
            bad.write_bytes(data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :])
            assert await verdict(node, bad, level="hashes") in CAUGHT, at


async def test_swapped_payload(node: Any, tmp_path: Path) -> None:
    one = Path((await node.backup()).location)
    node.clock.advance(60)
    two = Path((await node.backup()).location)
    low, _ = regions(one)["payload"]
    swapped = tmp_path / "swapped.bundle"
    swapped.write_bytes(one.read_bytes()[:low] + two.read_bytes()[regions(two)["payload"][0] :])
    assert await verdict(node, swapped) is Code.STORE_INTEGRITY


async def test_edited_header(node: Any, tmp_path: Path) -> None:
    path = Path((await node.backup()).location)
    edited = tmp_path / "edited.bundle"
    raw = path.read_bytes()
    edited.write_bytes(raw.replace(b'"generation":1', b'"generation":2', 1))
    assert await verdict(node, edited) is Code.STORE_INTEGRITY
    # Canonical form is the only form, even when the meaning is the same.
    edited.write_bytes(raw.replace(b'"format":2,', b'"format" :2'))
    assert await verdict(node, edited) in (Code.MALFORMED, Code.STORE_INTEGRITY)


async def test_signed_by_somebody_else(node: Any, make_node: Any) -> None:
    other = await make_node(3)
    path = Path((await other.backup()).location)
    error = await refused(Code.CONFLICT, path, node_public_key=node.identity.public)
    assert "node 3" in error.message
    # Its own word is not enough: the manifest's key is edited, and the signature fails.
    raw = path.read_bytes()
    mine, theirs = node.identity.public.hex().encode(), other.identity.public.hex().encode()
    path.write_bytes(raw.replace(theirs, mine, 1))
    await refused(Code.STORE_INTEGRITY, path, node_public_key=node.identity.public)


async def test_newer_format_and_other_files(node: Any, tmp_path: Path) -> None:
    path = Path((await node.backup()).location)
    raw = path.read_bytes()
    path.write_bytes(raw.replace(MAGIC, b"keycairn-bundle 3\n", 1))
    assert "format 3" in (await refused(Code.MALFORMED, path)).message
    path.write_bytes(raw.replace(MAGIC, b"keycairn-bundle 12345\n", 1))
    assert "format 12345" in (await refused(Code.MALFORMED, path)).message
    path.write_bytes(b"PK\x03\x04 a zip file, surely")
    await refused(Code.MALFORMED, path)
    await refused(Code.UNAVAILABLE, tmp_path / "nothing")
    await refused(Code.UNAVAILABLE, tmp_path)


async def test_an_impossible_manifest_length_is_not_believed(node: Any) -> None:
    path = Path((await node.backup()).location)
    path.write_bytes(MAGIC + b"\xff\xff\xff\xff" + path.read_bytes())
    await refused(Code.STORE_INTEGRITY, path)


async def test_a_damaged_manifest_is_called_a_damaged_bundle(node: Any) -> None:
    path = Path((await node.backup()).location)
    data = bytearray(path.read_bytes())
    for place in (len(MAGIC) + 4, len(MAGIC) + 40):
        data[place] ^= 0x01
        path.write_bytes(data)
        error = await refused(Code.STORE_INTEGRITY, path)
        assert "the bundle is damaged" in error.message or "signature" in error.message
        assert "another copy of this bundle" in error.next


async def test_wrong_age_identity(node: Any) -> None:
    path = Path((await node.backup()).location)
    stranger = SecretBytes(str(pyrage.x25519.Identity.generate()).encode())
    await refused(Code.UNWRAP_FAILED, path, identity=stranger, level="trial")
    both = SecretBytes(stranger.reveal() + b"\n" + node.secret.reveal())
    report = await verify_bundle(path, identity=both, level="trial")
    assert report.level == "trial"


async def test_an_age_file_swapped_inside_a_signed_header(node: Any) -> None:
    """Even with fitting hashes in memory, what is inside must be what the manifest lists."""
    one = read_bundle(Path((await node.backup()).location))
    node.clock.advance(60)
    await node.add_keys(1)
    two = read_bundle(Path((await node.backup()).location))
    mixed = type(one)(two.path, one.manifest, one.manifest_bytes, one.signature, two.payload_offset)
    with pytest.raises(KeycairnError) as caught:
        unpack(mixed, node.secret, lambda _: None)
    assert caught.value.code is Code.STORE_INTEGRITY


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE keys SET share = zeroblob(60) WHERE rowid = 1",
        "INSERT INTO keys SELECT 'twin', {rest} FROM keys WHERE rowid = 1",
        "INSERT INTO keys SELECT x'ff00', {rest} FROM keys WHERE rowid = 1",
    ],
    ids=["edited", "added", "added under a name that is no text"],
)
async def test_a_damaged_row_is_found_by_a_trial(node: Any, change: str) -> None:
    """Of before the backup: the bundle is whole, the proof is not, whatever a row looks like."""
    with sqlite3.connect(node.database) as db:
        rest = ", ".join(c for _, c, *_ in db.execute("PRAGMA table_info(keys)") if c != "key_id")
        db.execute(change.format(rest=rest))
    db.close()
    row: BundleRow = await node.backup()
    report = await verify_bundle(
        Path(row.location),
        node_public_key=node.identity.public,
        identity=node.secret,
        opener=node.opener,
        level="trial",
    )
    assert report.proofs is Answer.NO
    assert report.to_json()["verified"] is False
    assert any("keys" in f.words for f in report.findings)
