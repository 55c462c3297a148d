"""Directories and object stores: one contract. A real S3 server answers, on this machine."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keycairn.backup import BundleInputs, create_bundles, stored, verify_bundle
from keycairn.backup.create import create_bundle
from keycairn.backup.targets import MARKER, Gone, Target, target_at, target_of
from keycairn.errors import Code, KeycairnError

needs_s3 = pytest.mark.skipif(
    not (importlib.util.find_spec("boto3") and importlib.util.find_spec("moto")),
    reason="boto3 and moto are not installed (the extras cloud and test)",
)


@pytest.fixture(scope="module")
def s3(free_ports: Any) -> Iterator[str]:
    """Endpoint of an S3 server with the bucket ``keep``."""
    import boto3
    from moto.server import ThreadedMotoServer

    kept = dict(os.environ)
    os.environ.update(
        AWS_ACCESS_KEY_ID="test",
        AWS_SECRET_ACCESS_KEY="canary-credential-of-s3",
        AWS_EC2_METADATA_DISABLED="true",
        AWS_DEFAULT_REGION="eu-west-1",
        AWS_CONFIG_FILE="/dev/null",
    )
    port = free_ports(1)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    endpoint = f"http://127.0.0.1:{port}"
    boto3.client("s3", endpoint_url=endpoint).create_bucket(
        Bucket="keep", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
    )
    yield endpoint
    server.stop()
    os.environ.clear()
    os.environ.update(kept)


@pytest.fixture(params=["directory", pytest.param("s3", marks=needs_s3)])
def place(request: Any, tmp_path: Path) -> str:
    """A target, fresh and empty."""
    if request.param == "directory":
        path = tmp_path / "target"
        path.mkdir()
        return str(path)
    endpoint = request.getfixturevalue("s3")
    return f"s3://keep/{tmp_path.name}?endpoint={endpoint}&region=eu-west-1"


def put(target: Target, data: bytes, name: str, scratch: Path) -> str:
    work = target.workspace(scratch)
    whole = work / ".x.tmp"
    whole.write_bytes(data)
    return target.publish(whole, name)


def test_what_is_published_is_listed_looked_at_read_back_and_removed(
    place: str, tmp_path: Path
) -> None:
    target = target_of(place)
    target.check()
    assert target.names() == []
    data = os.urandom(9 << 20)  # More than one part of an upload.
    location = put(target, data, "keycairn-a.bundle", tmp_path)
    assert target.names() == ["keycairn-a.bundle"]
    assert target.location("keycairn-a.bundle") == location
    assert target.holds(location)
    assert not target.holds(location.replace("keycairn-a.bundle", "other/keycairn-a.bundle"))
    assert target_at(location).place == target.place
    with stored(location, tmp_path) as path:
        assert path.read_bytes() == data
    mark = target.look(location)
    assert target.look(location) == mark
    with pytest.raises(KeycairnError) as taken:
        put(target, b"other", "keycairn-a.bundle", tmp_path)
    assert taken.value.code is Code.CONFLICT
    with stored(location, tmp_path) as path:
        assert path.read_bytes() == data
    other = put(target, b"other", "keycairn-b.bundle", tmp_path)
    target.remove(location)
    target.remove(location)
    assert target.names() == ["keycairn-b.bundle"]
    with pytest.raises(Gone):
        target.look(location)
    assert target.look(other) != mark


async def test_a_bundle_goes_there_and_is_verified_from_the_stored_copy(
    node: Any, place: str, monkeypatch: Any
) -> None:
    row = await create_bundle(
        node.store,
        BundleInputs(node.config),
        place,
        identity=node.identity,
        recipients=[node.recipient],
        clock=node.clock,
        rng=node.rng,
    )
    assert row.level == "hashes"
    target = target_of(place)
    assert [target.location(n) for n in target.names()] == [row.location]
    with stored(row.location) as path:
        report = await verify_bundle(
            path,
            node_public_key=node.identity.public,
            identity=node.secret,
            opener=node.opener,
            level="trial",
            location=row.location,
        )
    found = report.to_json()
    assert (found["bundle"], found["sha256"]) == (row.location, row.sha256)
    assert found["proofs_ok"] is True


async def test_what_was_stored_with_a_flipped_bit_is_removed(
    node: Any, place: str, monkeypatch: Any
) -> None:
    target = target_of(place)
    honest = type(target).publish

    def rotten(self: Target, whole: Path, name: str) -> str:
        data = bytearray(whole.read_bytes())
        data[len(data) // 2] ^= 1
        whole.write_bytes(data)
        return honest(self, whole, name)

    monkeypatch.setattr(type(target), "publish", rotten)
    with pytest.raises(KeycairnError) as caught:
        await create_bundle(
            node.store,
            BundleInputs(node.config),
            place,
            identity=node.identity,
            recipients=[node.recipient],
            clock=node.clock,
            rng=node.rng,
        )
    assert caught.value.code is Code.STORE_INTEGRITY
    assert target.names() == []


async def test_one_target_away_keeps_nothing_from_the_other(
    node: Any, place: str, tmp_path: Path
) -> None:
    away = tmp_path / "not-mounted"
    made = await create_bundles(
        node.store,
        BundleInputs(node.config),
        [away, place],
        identity=node.identity,
        recipients=[node.recipient],
        clock=node.clock,
        rng=node.rng,
    )
    assert [m.row is None for m in made] == [True, False]
    assert made[0].error is not None
    assert made[0].error.code is Code.UNAVAILABLE
    assert "mount it" in made[0].error.next
    assert not away.exists()


def test_an_emptied_place_is_not_a_lost_bundle(tmp_path: Path) -> None:
    target = target_of(tmp_path / "t")
    (tmp_path / "t").mkdir()
    location = put(target, b"data", "keycairn-a.bundle", tmp_path)
    Path(location).unlink()
    with pytest.raises(Gone):
        target.look(location)
    # The empty mount point of a file system that isn't mounted, and no mount point at all.
    (tmp_path / "t" / MARKER).unlink()
    for _ in range(2):
        with pytest.raises(KeycairnError) as caught:
            target.look(location)
        assert caught.value.code is Code.UNAVAILABLE
        if (tmp_path / "t").exists():
            (tmp_path / "t").rmdir()


@needs_s3
async def test_a_node_comes_back_from_an_object_store(
    node: Any, s3: str, tmp_path: Path, monkeypatch: Any
) -> None:
    from keycairn.cli.bundles import restore_node

    place = f"s3://keep/{tmp_path.name}?endpoint={s3}&region=eu-west-1"
    row = await create_bundle(
        node.store,
        BundleInputs(node.config),
        place,
        identity=node.identity,
        recipients=[node.recipient],
        clock=node.clock,
        rng=node.rng,
    )
    await node.store.close()
    identity = tmp_path / "identity.age"
    identity.write_bytes(node.secret.reveal())
    into = tmp_path / "new"
    given = {
        "mapping": None,
        "secret_file": node.operator / "master.key",
        "public_key": node.identity.public.hex(),
        "player": 2,
        "vault": None,
        "peer_config": None,
        "put_back": False,
        "checks": True,
    }
    done = await restore_node(row.location, into, identity, dry_run=False, **given)
    assert (done["bundle"], done["sha256"], done["proofs_ok"]) == (row.location, row.sha256, True)
    assert (into / "node.toml").is_file()
    # Its receipt in the restored database names the stored bundle, and not the copy that was read.
    store = await node.opener(into / "data" / "node.db")
    assert [(r.location, r.level) for r in await store.bundles()] == [(row.location, "trial")]
    await store.close()
    missing = row.location.replace("keycairn-", "other-", 1)
    with pytest.raises(KeycairnError) as caught:
        await restore_node(missing, tmp_path / "x", identity, dry_run=True, **given)
    assert caught.value.code is Code.NOT_FOUND


@needs_s3
def test_an_object_store_that_is_away_or_refuses_says_nothing_of_its_bundles(
    s3: str, tmp_path: Path, free_ports: Any
) -> None:
    places = {
        f"s3://no-such-bucket?endpoint={s3}&region=eu-west-1": "NoSuchBucket",
        f"s3://keep?endpoint=http://127.0.0.1:{free_ports(1)}&region=eu-west-1": "Error",
    }
    for place, why in places.items():
        target = target_of(place)
        for call in (
            target.check,
            target.names,
            lambda t=target: t.look(t.location("keycairn-a.bundle")),
            lambda t=target: put(t, b"x", "keycairn-a.bundle", tmp_path),
        ):
            with pytest.raises(KeycairnError) as caught:
                call()
            error = caught.value
            assert error.code is Code.UNAVAILABLE
            assert why in error.message
            assert "canary-credential-of-s3" not in str(error.to_json())


@needs_s3
def test_a_cut_off_upload_is_no_bundle_and_is_removed_by_the_next_backup(
    s3: str, tmp_path: Path
) -> None:
    import boto3

    client = boto3.client("s3", endpoint_url=s3)
    key = f"{tmp_path.name}/keycairn-acme-node2-x.bundle"
    upload = client.create_multipart_upload(Bucket="keep", Key=key)["UploadId"]
    client.upload_part(Bucket="keep", Key=key, UploadId=upload, PartNumber=1, Body=bytes(5 << 20))
    target = target_of(f"s3://keep/{tmp_path.name}?endpoint={s3}&region=eu-west-1")
    assert target.names() == []
    with pytest.raises(Gone):
        target.look(target.location("keycairn-acme-node2-x.bundle"))
    target.clear("keycairn-acme-node3-")
    listed = {"Bucket": "keep", "Prefix": tmp_path.name}
    assert client.list_multipart_uploads(**listed)["Uploads"]
    target.clear("keycairn-acme-node2-")
    assert not client.list_multipart_uploads(**listed).get("Uploads")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("s3://", Code.MALFORMED),
        ("s3://B_ucket/x", Code.MALFORMED),
        ("s3://bucket/a/../b", Code.MALFORMED),
        ("s3://bucket/a?key=secret", Code.MALFORMED),
        ("s3://bucket/a#x", Code.MALFORMED),
        ("s3://bucket?region=a/b", Code.MALFORMED),
        ("s3://bucket?endpoint=ftp://host", Code.MALFORMED),
        ("s3://bucket?endpoint=https://user:password@host", Code.POLICY),
        ("s3://bucket?endpoint=http://10.0.0.7:9000", Code.POLICY),
    ],
)
def test_odd_addresses_are_refused(text: str, code: Code) -> None:
    with pytest.raises(KeycairnError) as caught:
        target_of(text)
    assert caught.value.code is code
    assert "password" not in caught.value.message


def test_without_boto3_it_says_what_to_install(monkeypatch: Any) -> None:
    import importlib

    honest = importlib.import_module

    def missing(name: str, *rest: Any) -> Any:
        if name.startswith(("boto", "botocore")):
            raise ImportError(name)
        return honest(name, *rest)

    monkeypatch.setattr("keycairn.backup.objects.importlib.import_module", missing)
    with pytest.raises(KeycairnError) as caught:
        target_of("s3://bucket/prefix").check()
    assert "keycairn[cloud]" in caught.value.next
