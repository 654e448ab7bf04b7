"""Files, compressed or not, and standard input, to requests in the order of their time."""

import gzip
import heapq
import io
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, cast

from events.polls.har import BEGINS, read_har
from events.polls.lines import ACCEPTED, parse_line
from events.polls.request import Request

_CHUNK = 1 << 20  # bytes
_LONGEST = 1 << 16  # bytes of a line; a longer one is none
_TRIED = 10_000  # lines, of which one at least has to be a request
_STEP = 5_000  # lines, from one report of the progress to the next


class Unreadable(Exception):
    """What was given cannot be read; the text says why, and what can be."""


class Progress:
    """How far the reading is: `lines` so far, and `done` of `size` bytes, compressed as they are on the disk."""

    def __init__(self, tell: Callable[["Progress"], None] = lambda _: None) -> None:
        self.lines = 0
        self.skipped = 0
        self.first_skipped = ""
        self.cut: list[str] = []  # files that end before their end
        self.is_har = False
        self.size = 0  # 0: of a pipe, whose end is not known
        self.files: list[BinaryIO] = []
        self.tell = tell

    @property
    def done(self) -> int:
        return sum(file.tell() for file in self.files if not file.closed)

    def count(self, line: str, request: Request | None) -> None:
        self.lines += 1
        if request is None:
            self.skipped += 1
            self.first_skipped = self.first_skipped or line
        if not self.lines % _STEP:
            self.tell(self)


def read(names: Sequence[str], progress: Progress) -> Iterator[Request]:
    """The requests of all files: in the order of time where there are several, as those of several servers may be.

    Raises Unreadable for a file that is not there, or has no request in it.
    """
    sources = [_Source(name, progress) for name in names]
    if len(sources) == 1:
        yield from sources[0]
    else:
        yield from heapq.merge(*sources, key=lambda request: request.time)
    progress.tell(progress)


class _Source:
    def __init__(self, name: str, progress: Progress) -> None:
        self.name = "standard input" if name == "-" else name
        self.progress = progress
        try:
            if name == "-":
                raw = sys.stdin.buffer
            else:
                raw = cast(io.BufferedReader, Path(name).open("rb"))
                progress.size += Path(name).stat().st_size
                progress.files.append(raw)
            self.file = _decompressed(raw)
            self.start = self.file.read(_CHUNK)
        except (OSError, EOFError, zlib.error) as error:
            raise Unreadable(f"{self.name} cannot be read: {getattr(error, 'strerror', None) or error}") from None
        self.is_har = bool(BEGINS.match(self.start))
        progress.is_har = progress.is_har or self.is_har

    def __iter__(self) -> Iterator[Request]:
        lines = read = 0
        sample = ""
        progress = self.progress
        for line, request in self._har() if self.is_har else self._lines():
            lines += 1
            progress.count(line, request)
            if request is not None:
                read += 1
                yield request
            else:
                sample = sample or line
            if not read and lines >= _TRIED:
                break
        if lines and not read and not self.is_har:
            raise Unreadable(unknown(self.name, sample))

    def _har(self) -> Iterator[tuple[str, Request | None]]:
        for request in read_har(cast(BinaryIO, _Rest(self.start, self._read))):
            if request:
                yield "", request

    def _lines(self) -> Iterator[tuple[str, Request | None]]:
        chunk, tail = self.start, b""
        while chunk:
            pieces = (tail + chunk).split(b"\n")
            tail = pieces.pop()
            for piece in pieces:
                if piece.strip():
                    line = piece.decode("utf-8", "replace").rstrip("\r")
                    yield line, parse_line(line) if len(line) <= _LONGEST else None
            if len(tail) > _LONGEST:
                tail = tail[: _LONGEST + 1]
            chunk = self._read(_CHUNK)
        if tail.strip():
            line = tail.decode("utf-8", "replace")
            yield line, parse_line(line)

    def _read(self, size: int) -> bytes:
        try:
            return self.file.read(size)
        except (OSError, EOFError, zlib.error):  # compressed while it was copied, or cut
            self.progress.cut.append(self.name)
            return b""


class _Rest:
    """A file whose first bytes have been read."""

    def __init__(self, start: bytes, read: Callable[[int], bytes]) -> None:
        self._start, self._read = start, read

    def read(self, size: int) -> bytes:
        start, self._start = self._start, b""
        return start or self._read(size)


def _decompressed(file: io.BufferedReader) -> BinaryIO:
    return cast(BinaryIO, gzip.GzipFile(fileobj=file)) if file.peek(2)[:2] == b"\x1f\x8b" else file


def unknown(name: str, line: str) -> str:
    """That a file is of no format that is known, and which are."""
    shown = "".join(character if character.isprintable() else "·" for character in line[:70])
    formats = "\n".join(f"    - {accepted}" for accepted in ACCEPTED)
    return f"{name} has no request in it that can be read. A line of it:\n\n    {shown}\n\nAccepted are:\n\n{formats}"
