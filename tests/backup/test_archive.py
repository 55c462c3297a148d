"""The container: one possible form, and nothing else is accepted."""

from __future__ import annotations

import hashlib
import tarfile
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keycairn.backup.archive import MAX_PART, ArchiveReader, ArchiveSource, header
from keycairn.backup.collect import from_bytes
from keycairn.backup.manifest import Part, check_part_name
from keycairn.backup.nodefile import safe_relative
from keycairn.errors import Code, KeycairnError

CONTENTS = {"a.txt": b"", "b/c": b"x" * 512, "d": b"hello", "e": bytes(1500)}


def pack(contents: dict[str, bytes]) -> tuple[bytes, list[Part]]:
    source = ArchiveSource([from_bytes(name, data, name) for name, data in contents.items()])
    out = b""
    while chunk := source.read(1000):
        out += chunk
    return out, source.parts


def unpack(data: bytes, parts: list[Part], sizes: list[int] | None = None) -> dict[str, bytes]:
    found: dict[str, BytesIO] = {}
    reader = ArchiveReader(parts, lambda part: found.setdefault(part.name, BytesIO()))
    at = 0
    for size in sizes or []:
        reader.write(data[at : at + size])
        at += size
    reader.write(data[at:])
    reader.finish()
    return {name: out.getvalue() for name, out in found.items()}


ARCHIVE, PARTS = pack(CONTENTS)


def test_the_archive_is_a_tar_file_and_deterministic() -> None:
    assert pack(CONTENTS) == (ARCHIVE, PARTS)
    assert len(ARCHIVE) % 512 == 0
    with tarfile.open(fileobj=BytesIO(ARCHIVE)) as archive:
        assert archive.getnames() == list(CONTENTS)
        for member in archive:
            stream = archive.extractfile(member)
            assert stream is not None
            assert stream.read() == CONTENTS[member.name]
            assert (member.mode, member.uid, member.mtime) == (0o600, 0, 0)


@given(st.lists(st.integers(0, 700), max_size=12))
def test_any_chunks_give_the_same(sizes: list[int]) -> None:
    assert unpack(ARCHIVE, PARTS, sizes) == CONTENTS


@given(st.integers(0, len(ARCHIVE) - 1), st.integers(1, 255))
def test_any_changed_byte_is_refused(at: int, change: int) -> None:
    bad = ARCHIVE[:at] + bytes([ARCHIVE[at] ^ change]) + ARCHIVE[at + 1 :]
    with pytest.raises(KeycairnError) as caught:
        unpack(bad, PARTS)
    assert caught.value.code is Code.STORE_INTEGRITY


@given(st.integers(0, len(ARCHIVE) - 1))
def test_any_truncation_is_refused(size: int) -> None:
    with pytest.raises(KeycairnError) as caught:
        unpack(ARCHIVE[:size], PARTS)
    assert caught.value.code is Code.STORE_INTEGRITY


@pytest.mark.parametrize(
    "parts",
    [PARTS[:-1], PARTS[1:], PARTS[::-1], [*PARTS, PARTS[0]], []],
)
def test_missing_extra_and_reordered_parts_are_refused(parts: list[Part]) -> None:
    with pytest.raises(KeycairnError):
        unpack(ARCHIVE, parts)


def test_trailing_bytes_are_refused() -> None:
    for tail in (b"\0", bytes(512), ARCHIVE):
        with pytest.raises(KeycairnError):
            unpack(ARCHIVE + tail, PARTS)


def hostile(kind: bytes, link: str = "") -> bytes:
    info = tarfile.TarInfo("d")
    info.type, info.linkname, info.size = kind, link, 0
    return info.tobuf(tarfile.USTAR_FORMAT) + bytes(1024)


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE]
)
def test_links_devices_and_directories_are_refused(kind: bytes) -> None:
    empty = Part("d", 0, hashlib.sha256().digest())
    with pytest.raises(KeycairnError):
        unpack(hostile(kind, "/etc/passwd"), [empty])


BAD_NAMES = [
    "",
    ".",
    "..",
    "../x",
    "a/../b",
    "/etc/passwd",
    "a//b",
    "a/",
    "./a",
    ".hidden",
    "a/.b",
    "a\\b",
    "a\0b",
    "a\nb",
    "ä",
    "a b",
    "-rf",
    "x" * 101,
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_odd_names_have_no_header(name: str) -> None:
    for function in (check_part_name, lambda n: header(n, 0)):
        with pytest.raises(KeycairnError):
            function(name)


@pytest.mark.parametrize(
    "path", ["", ".", "..", "../x", "a/../b", "/a", "a//b", "a/", "./a", "a\\b", "a\0"]
)
def test_places_stay_inside(path: str) -> None:
    with pytest.raises(KeycairnError):
        safe_relative(path)


def test_sizes_have_limits() -> None:
    assert len(header("a", MAX_PART)) == 512
    for size in (-1, MAX_PART + 1):
        with pytest.raises(KeycairnError):
            header("a", size)


@pytest.mark.parametrize("size", [0, 4, 6])
def test_a_file_that_changes_meanwhile_is_noticed(size: int) -> None:
    honest = from_bytes("a", b"12345", "a")
    source = ArchiveSource([type(honest)("a", size, honest.open, "a")])
    with pytest.raises(KeycairnError) as caught:
        list(iter(lambda: source.read(100), b""))
    assert caught.value.code is Code.CONFLICT
