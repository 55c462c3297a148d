"""The payload's container: a tar file of one possible form, written and read as a stream.

Each part is a ustar header of 512 bytes, the content, and zeros up to a multiple of 512; two
blocks of zeros end the archive. A header is a function of name and size alone (mode 0600, owner
and times 0, type "regular file"), so the reader doesn't parse headers: it computes the header
that the signed manifest implies and compares bytes. There is no way to write a link, a device, an
absolute or climbing name, an extra or a missing file that the reader would accept; and
``age -d -i IDENTITY payload | tar x`` still works at 3 a.m. without this program.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, NoReturn, Protocol, TypeAlias

from keycairn.backup.disk import CHUNK
from keycairn.backup.manifest import Part, check_part_name
from keycairn.encoding import SecretBytes
from keycairn.errors import Code, KeycairnError

#: A reader's state: yields how many bytes it wants next, receives at most so many.
_Steps: TypeAlias = Generator[int, bytes, None]

BLOCK = 512
MAX_PART = (1 << 33) - 1  # eleven octal digits
END = bytes(2 * BLOCK)


class Sink(Protocol):
    """Receives a part's content."""

    def write(self, data: bytes, /) -> object: ...


@dataclass(frozen=True)
class Source:
    """A part to be written: its name, exact size, and how to open it."""

    name: str
    size: int
    open: Callable[[], BinaryIO]
    shown: str  # how messages call it: a path, for the operator


def header(name: str, size: int) -> bytes:
    """The one header of a part.

    Raises:
        KeycairnError: E_MALFORMED for a name, E_TOO_LARGE for a size that has no header.
    """
    check_part_name(name)
    if not 0 <= size <= MAX_PART:
        raise KeycairnError(Code.TOO_LARGE, f"a part of a bundle is at most {MAX_PART} bytes")
    fields = (
        name.encode("ascii").ljust(100, b"\0"),
        b"0000600\0",  # mode
        b"0000000\0",  # uid
        b"0000000\0",  # gid
        b"%011o\0" % size,
        b"00000000000\0",  # mtime
        b" " * 8,  # checksum, counted as spaces
        b"0",  # regular file
        bytes(100),  # link name
        b"ustar\00000",
        bytes(64),  # owner and group names
        b"0000000\0" * 2,  # device numbers
        bytes(155 + 12),  # prefix, padding
    )
    raw = b"".join(fields)
    checksum = b"%06o\0 " % sum(raw)
    return raw[:148] + checksum + raw[156:]


def padding(size: int) -> int:
    """Zero bytes that follow a content of ``size`` bytes."""
    return -size % BLOCK


class ArchiveSource:
    """The archive as something to read from; after the last byte, :attr:`parts` is complete.

    Args:
        sources: what goes in, in this order.
        forbidden: secrets that must not occur in any part.

    Reading raises E_CONFLICT when a file has another size than when it was listed, E_POLICY when
    it holds a forbidden secret, and OSError from the files.
    """

    def __init__(self, sources: Sequence[Source], forbidden: Sequence[SecretBytes] = ()) -> None:
        self.parts: list[Part] = []
        self._sources = sources
        self._forbidden = [s.reveal() for s in forbidden]
        self._chunks = self._generate()
        self._rest = b""

    def read(self, size: int) -> bytes:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return b""
            self._rest = chunk
        out, self._rest = self._rest[:size], self._rest[size:]
        return out

    def _generate(self) -> Iterator[bytes]:
        for source in self._sources:
            yield header(source.name, source.size)
            yield from self._content(source)
            yield bytes(padding(source.size))
        yield END

    def _content(self, source: Source) -> Iterator[bytes]:
        digest = hashlib.sha256()
        left = source.size
        seam = b""
        overlap = max((len(s) for s in self._forbidden), default=1) - 1
        with source.open() as stream:
            while chunk := stream.read(CHUNK):
                left -= len(chunk)
                if left < 0:
                    break
                window = seam + chunk
                if any(secret in window for secret in self._forbidden):
                    raise _holds_secret(source.shown)
                seam = window[-overlap:] if overlap else b""
                digest.update(chunk)
                yield chunk
        if left:
            raise KeycairnError(
                Code.CONFLICT,
                f"{source.shown} changed while it was being backed up",
                not_lost="No bundle was written; older bundles are untouched.",
                next="run the backup again",
                detail={"file": source.shown},
            )
        self.parts.append(Part(source.name, source.size, digest.digest()))


def _holds_secret(shown: str) -> KeycairnError:
    return KeycairnError(
        Code.POLICY,
        f"{shown} holds the master secret, or the password of the database; a bundle never does",
        not_lost="No bundle was written; older bundles are untouched.",
        next="keep both outside of every file that [backup] lists, and choose a password that is "
        "no other word of this vault",
        detail={"file": shown},
    )


class ArchiveReader:
    """Takes an archive as something to write to, and checks every byte of it.

    Args:
        parts: what the signed manifest says is inside, in order.
        sink: called at the start of each part; gives where its content goes, or None.

    :meth:`write` and :meth:`finish` raise E_STORE_INTEGRITY for any difference.
    """

    def __init__(self, parts: Sequence[Part], sink: Callable[[Part], Sink | None]) -> None:
        self._steps = self._run(parts, sink)
        self._want = next(self._steps)
        self._done = False

    def write(self, data: bytes) -> int:
        view = memoryview(data)
        while view:
            if self._done:
                _differs("there are bytes behind its end")
            taken = view[: self._want]
            view = view[len(taken) :]
            self._advance(bytes(taken))
        return len(data)

    def _advance(self, data: bytes) -> None:
        try:
            self._want = self._steps.send(data)
        except StopIteration:
            self._done = True

    def finish(self) -> None:
        """Raise E_STORE_INTEGRITY unless the archive's end was reached."""
        if not self._done:
            _differs("it ends too early")

    @staticmethod
    def _run(parts: Sequence[Part], sink: Callable[[Part], Sink | None]) -> _Steps:
        for part in parts:
            yield from _expect(header(part.name, part.size), f"the header of {part.name}")
            out = sink(part)
            digest = hashlib.sha256()
            left = part.size
            while left:
                chunk = yield min(left, CHUNK)
                left -= len(chunk)
                digest.update(chunk)
                if out is not None:
                    out.write(chunk)
            if digest.digest() != part.sha256:
                _differs(f"{part.name} has another hash")
            yield from _expect(bytes(padding(part.size)), f"the padding of {part.name}")
        yield from _expect(END, "the end")


def _expect(expected: bytes, what: str) -> _Steps:
    at = 0
    while at < len(expected):
        chunk = yield len(expected) - at
        if chunk != expected[at : at + len(chunk)]:
            _differs(f"{what} differs")
        at += len(chunk)


def _differs(what: str) -> NoReturn:
    raise KeycairnError(
        Code.STORE_INTEGRITY,
        f"the bundle's payload is not what its manifest says: {what}",
        not_lost="The bundle was not changed; nothing was written.",
        next="use another copy of this bundle, or an older bundle of this node",
    )
