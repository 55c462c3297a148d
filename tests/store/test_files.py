"""The ERS store as files, and the lock on a data directory."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from keycairn.errors import Code, KeycairnError
from keycairn.store.documents import DocumentDirectory
from keycairn.store.lock import DirectoryLock
from keycairn.vault.ports import DocumentStore

DATA = b"a document" * 1000
NAME = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def folder(tmp_path: Path) -> DocumentStore:
    return DocumentDirectory(tmp_path / "ers")


def refused(code: Code, call: Callable[[], object]) -> KeycairnError:
    with pytest.raises(KeycairnError) as caught:
        call()
    assert caught.value.code is code
    return caught.value


def test_documents_come_back(folder: DocumentStore) -> None:
    assert folder.list() == []
    path = folder.put(NAME, DATA)
    assert folder.put(NAME, DATA) == path
    assert folder.get(NAME) == DATA
    assert folder.list() == [NAME]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    folder.delete(NAME)
    folder.delete(NAME)
    assert folder.list() == []
    refused(Code.NOT_FOUND, lambda: folder.get(NAME))


def test_a_damaged_document_is_noticed_and_can_be_put_again(folder: DocumentStore) -> None:
    path = folder.put(NAME, DATA)
    path.write_bytes(DATA[:-1])
    refused(Code.STORE_INTEGRITY, lambda: folder.get(NAME))
    folder.put(NAME, DATA)
    assert folder.get(NAME) == DATA


@pytest.mark.parametrize(
    "name", ["", "../x", "/etc/passwd", NAME[:-1], NAME.upper(), NAME + "\n", "x" * 64, None]
)
def test_only_hashes_are_names(folder: DocumentStore, name: str) -> None:
    for call in (
        lambda: folder.put(name, DATA),
        lambda: folder.get(name),
        lambda: folder.delete(name),
    ):
        refused(Code.MALFORMED, call)


def test_the_hash_must_fit(folder: DocumentStore) -> None:
    refused(Code.MALFORMED, lambda: folder.put(NAME, DATA + b"x"))
    assert folder.list() == []


def test_left_over_and_foreign_files_are_not_documents(folder: DocumentStore) -> None:
    path = folder.put(NAME, DATA)
    (path.parent / "notes.txt").touch()
    (path.parent / "notes.kcers").touch()
    (path.parent / f".{path.name}.part").write_bytes(b"half")
    assert folder.list() == [NAME]
    path.unlink()
    folder.put(NAME, DATA)
    assert not (path.parent / f".{path.name}.part").exists()


def test_a_failed_write_leaves_nothing(
    folder: DocumentStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    error = refused(Code.UNAVAILABLE, lambda: folder.put(NAME, DATA))
    assert "No space left" in error.message
    assert "free space" in error.next
    assert error.not_lost
    monkeypatch.undo()
    assert list((tmp_path / "ers").iterdir()) == []


def test_a_directory_that_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "ers").write_text("a file")
    folder = DocumentDirectory(tmp_path / "ers")
    refused(Code.UNAVAILABLE, lambda: folder.put(NAME, DATA))
    assert folder.list() == []


# -- lock

_HOLDER = """
import sys
from pathlib import Path
from keycairn.store.lock import DirectoryLock
with DirectoryLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_second_process_is_told_who_holds_the_directory(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    try:
        error = refused(Code.CONFLICT, DirectoryLock(tmp_path).acquire)
        assert error.detail == {"pid": holder.pid}
        assert str(holder.pid) in error.message
    finally:
        holder.kill()
        holder.communicate()
    with DirectoryLock(tmp_path):
        pass


def test_lock_within_one_process(tmp_path: Path) -> None:
    first, second = DirectoryLock(tmp_path), DirectoryLock(tmp_path)
    with first:
        first.acquire()
        assert refused(Code.CONFLICT, second.acquire).detail == {"pid": os.getpid()}
    first.release()
    with second:
        assert stat.S_IMODE((tmp_path / "node.lock").stat().st_mode) == 0o600


def test_lock_needs_a_directory(tmp_path: Path) -> None:
    refused(Code.UNAVAILABLE, DirectoryLock(tmp_path / "nowhere").acquire)
