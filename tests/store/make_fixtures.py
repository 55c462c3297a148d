"""Make the fixtures of the current schema version: `python -m store.make_fixtures` in tests/.

Run once, when the version is raised; fixtures of earlier versions are never made again. It needs
the servers of the tests and their dump programs.
"""

from __future__ import annotations

import asyncio
import gzip
import os
import subprocess
import tempfile
from pathlib import Path

from databases import SERVERS, Scratch, scratch
from keycairn.store import schema
from keycairn.store.opening import write_keyring
from keycairn.vault.fence.history import Head
from keycairn.vault.ports import (
    BanRow,
    BehindRow,
    BundleRow,
    DocumentRow,
    ErsKeyRow,
    RequestRow,
    Store,
)
from store.worlds import Home, add_keys, spend

FIXTURES = Path(__file__).parent / "fixtures"


async def fill(store: Store) -> None:
    """What every fixture holds, and what only this version can."""
    await add_keys(store, ["key-a", "key-b", "key-c"])
    await add_keys(store, ["key-p"], request_id="r-2", active=False)
    await store.begin_incarnation(b"inc-1", 1)
    await store.spend_all([spend(1)], ["m/0", "m/1"])
    await store.spend_all([spend(2)], ["m/2"])
    await store.spend_all([spend(3)], ["m/3"])
    await store.put_ban(BanRow("b1", 2, "OT check failed", 5))
    await store.put_ers_key(ErsKeyRow("ab" * 32, b"spki", 3072, 1, None, None, "allowed"))
    keys = {"key-a": (1, b"h" * 32)}
    await store.put_document(DocumentRow("cd" * 32, "p", "ab" * 32, "l", True, keys, 1, 1))
    await store.put_bundle(BundleRow("ef" * 32, "file:x", 10, 1, 2, "hashes", keys))
    await store.put_request(RequestRow("shop", "r-9", b"h", {"n": 1}))
    await store.put_witness(2, b"word of 2", Head(1, 7, b"w" * 32))
    await store.put_behind([BehindRow(b"batch", ("key-x",), 2, 5)])


async def make(home: Home) -> None:
    await asyncio.to_thread(write_keyring, home.place, b"ring of the fixture")
    store = await home.open(create=True)
    await fill(store)
    await store.close()


def dump(base: Scratch) -> bytes:
    if base.kind == "postgresql":
        words = ["pg_dump", "--no-owner", "--no-privileges", "-h", base.host, "-p", str(base.port)]
        secret = {"PGPASSWORD": base.password}
    else:
        words = ["mariadb-dump", "--hex-blob", "--skip-dump-date", "--skip-comments"]
        words += ["-h", base.host, "-P", str(base.port)]
        secret = {"MYSQL_PWD": base.password}
    words += ["-U" if base.kind == "postgresql" else "-u", base.name, base.name]
    found = subprocess.run(words, env={**os.environ, **secret}, check=True, capture_output=True)
    return found.stdout.replace(base.name.encode(), b"keycairn")


def main() -> None:
    version = schema.SCHEMA_VERSION
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "node.db"
        asyncio.run(make(Home("sqlite", path)))
        packed = gzip.compress(path.read_bytes(), mtime=0)
        (FIXTURES / f"sqlite-v{version}.db.gz").write_bytes(packed)
    for kind in SERVERS:
        with scratch(kind) as base:
            asyncio.run(make(Home(kind, base.server)))
            packed = gzip.compress(dump(base), mtime=0)
            (FIXTURES / f"{kind}-v{version}.sql.gz").write_bytes(packed)


if __name__ == "__main__":
    main()
