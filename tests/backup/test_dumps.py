"""Dumps with the database's own programs, put back into a fresh database."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from databases import SERVERS, Scratch, scratch
from keycairn.backup import dumps
from keycairn.errors import Code, KeycairnError
from store.worlds import Home, add_keys, spend


@pytest.fixture(params=SERVERS)
def base(request: pytest.FixtureRequest) -> Iterator[Scratch]:
    with scratch(request.param) as made:
        yield made


@pytest.fixture
async def digest(base: Scratch) -> bytes:
    """State digest of a store with some of everything, presignatures among it."""
    store = await Home(base.kind, base.server).open(create=True)
    await add_keys(store, [f"key-{n}" for n in range(30)])
    await store.begin_incarnation(b"inc-1", 1)
    await store.spend_all([spend(1)], ["m/1"])
    await store.put_presignatures(b"inc-1", {b"\0p'1": b"SEALED-PRESIGNATURE\0"})
    found = await store.state_digest()
    await store.close()
    return found


def refused(code: Code, call: object, *args: object) -> KeycairnError:
    with pytest.raises(KeycairnError) as caught:
        call(*args)  # type: ignore[operator]
    assert caught.value.code is code, caught.value
    return caught.value


async def test_t054_a_dump_comes_back_whole_and_without_presignatures(
    base: Scratch, digest: bytes, tmp_path: Path
) -> None:
    target = tmp_path / "store.dump"
    made_by = dumps.dump(base.server, target)
    assert made_by.startswith(("pg_dump ", "mariadb-dump "))
    assert target.stat().st_mode & 0o777 == 0o600
    data = target.read_bytes()
    for secret in (b"SEALED-PRESIGNATURE", b"SEALED-PRESIGNATURE".hex().upper().encode()):
        assert secret not in data
    assert base.password.encode() not in data
    refused(Code.CONFLICT, dumps.dump, base.server, target)
    with scratch(base.kind) as fresh:
        dumps.restore(target, fresh.server)
        store = await Home(base.kind, fresh.server).open()
        assert await store.damaged() == []
        assert await store.state_digest() == digest
        await store.check_audit()
        assert await store.presignatures([b"\0p'1"]) == {}
        assert (await store.key_share("key-7")).index == 1
        await store.close()
        refused(Code.CONFLICT, dumps.restore, target, fresh.server)


async def test_a_dump_among_writers_is_consistent(
    base: Scratch, digest: bytes, tmp_path: Path
) -> None:
    store = await Home(base.kind, base.server).open()
    await store.begin_incarnation(b"inc-2", 2)
    stop = asyncio.Event()

    async def write() -> None:
        n = 1
        while not stop.is_set():
            n += 1
            await store.spend_all([spend(n, incarnation=b"inc-2")], [f"m/{n}"])

    writing = asyncio.create_task(write())
    await asyncio.to_thread(dumps.dump, base.server, tmp_path / "store.dump")
    stop.set()
    await writing
    await store.close()
    with scratch(base.kind) as fresh:
        dumps.restore(tmp_path / "store.dump", fresh.server)
        copy = await Home(base.kind, fresh.server).open()
        assert await copy.damaged() == []
        await copy.check_audit()
        await copy.close()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_dump_that_was_cut_off_is_refused(
    base: Scratch, digest: bytes, tmp_path: Path, share: float
) -> None:
    target = tmp_path / "store.dump"
    dumps.dump(base.server, target)
    data = target.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])
    with scratch(base.kind) as fresh:
        error = refused(Code.STORE_INTEGRITY, dumps.restore, target, fresh.server)
        assert fresh.password not in error.message
        assert error.next


@pytest.mark.parametrize("answer", [None, "older", "nonsense"])
def test_a_program_that_is_missing_or_older_writes_nothing(
    base: Scratch,
    digest: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: str | None,
) -> None:
    good = tmp_path / "good.dump"
    dumps.dump(base.server, good)
    programs = tmp_path / "bin"
    programs.mkdir()
    says = {
        ("postgresql", "older"): "pg_dump (PostgreSQL) 14.9 (Debian 14.9-1)",
        ("mariadb", "older"): "x  Ver 10.19 Distrib 10.6.12-MariaDB, for linux (x86_64)",
    }
    for name in ("pg_dump", "pg_restore", "mariadb-dump", "mariadb") if answer else ():
        program = programs / name
        text = says.get((base.kind, answer or ""), "who knows")
        program.write_text(f"#!/bin/sh\necho '{text}'\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}")
    target = tmp_path / "store.dump"
    error = refused(Code.POLICY, dumps.dump, base.server, target)
    server = "15." if base.kind == "postgresql" else "10."
    assert server in error.message or os.environ.get("KEYCAIRN_TEST_POSTGRES")
    assert "nothing was written" in error.message
    if answer == "older":
        assert ("14.9" if base.kind == "postgresql" else "10.6") in error.message
    assert not target.exists()
    with scratch(base.kind) as fresh:
        refused(Code.POLICY, dumps.restore, good, fresh.server)
        dumps.require_unused(fresh.server)


def test_a_newer_program_is_fine() -> None:
    tools = dumps._MARIADB.version
    for text, found in (
        ("mariadb-dump from 11.4.2-MariaDB, client 10.19 for Linux (x86_64)", ("11", "4")),
        ("mariadb-dump  Ver 10.19 Distrib 10.11.19-MariaDB, for debian-linux-gnu", ("10", "11")),
    ):
        match = tools.search(text)
        assert match is not None
        assert match.groups() == found
    match = dumps._POSTGRESQL.version.search("pg_dump (PostgreSQL) 17.2 (Debian 17.2-1.pgdg12+1)")
    assert match is not None
    assert match.groups() == ("17", "2")


def test_t078_a_disk_that_fills_up_leaves_no_dump(
    base: Scratch, digest: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program's own write fails, as on a full disk."""
    refused(Code.UNAVAILABLE, dumps.dump, base.server, Path("/proc/nowhere/x"))
    target = tmp_path / "store.dump"

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))

    run = subprocess.run

    def small(words: list[str], **options: object) -> object:
        if "--version" not in words:
            options["preexec_fn"] = limited
        return run(words, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "run", small)
    error = refused(Code.UNAVAILABLE, dumps.dump, base.server, target)
    assert error.next
    assert not target.exists()


def test_a_server_that_is_away(base: Scratch, tmp_path: Path) -> None:
    away = replace(base.server, hosts=(("127.0.0.1", 1),))
    refused(Code.UNAVAILABLE, dumps.dump, away, tmp_path / "x.dump")
    assert not (tmp_path / "x.dump").exists()
