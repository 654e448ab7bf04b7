"""Files, compressed or not, and standard input, to requests in the order of their time."""

import codecs
import gzip
import heapq
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from .har import BEGINS, Cut, read_har
from .lines import ACCEPTED, parse_line
from .request import Request

_CHUNK = 1 << 20  # bytes
_START = 1 << 10  # bytes, to know a format by
_LONGEST = 1 << 16  # bytes of a line; a longer one is none
_TRIED = 10_000  # lines, of which one at least has to be a request
_STEP = 5_000  # lines, from one report of the progress to the next
_FAILURES = (OSError, EOFError, zlib.error)  # of a disk, of a compressed file that is cut, of one that is damaged


class Unreadable(Exception):
    """What was given cannot be read; the text says why, and what can be."""


class Progress:
    """How far the reading is: `lines` so far, and `done` of `size` bytes, compressed as they are on the disk."""

    def __init__(self, tell: Callable[["Progress"], None] = lambda _: None) -> None:
        self.lines = 0
        self.skipped = 0
        self.first_skipped = ""
        self.cut: list[str] = []  # names of files that end before their end
        self.is_har = False
        self.size = 0  # 0: of a pipe, whose end is not known
        self.files: list[Any] = []
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


def read(names: Sequence[str], progress: Progress, files: ExitStack) -> Iterator[Request]:
    """The requests of all files: in the order of time where there are several, as those of several servers may be.

    Opens them all at once, and leaves closing them to `files`. Raises Unreadable for one that cannot be opened, and,
    while it is read, for one that has no request in it.
    """
    sources = [_Source(name, progress, files) for name in names]
    return iter(sources[0]) if len(sources) == 1 else heapq.merge(*sources, key=lambda request: request.time)


class _Source:
    def __init__(self, name: str, progress: Progress, files: ExitStack) -> None:
        self.name = "standard input" if name == "-" else name
        self.progress = progress
        self.start = b""
        try:
            raw: Any
            if name == "-":
                raw = sys.stdin.buffer
            else:
                raw = files.enter_context(Path(name).open("rb"))  # noqa: SIM115
                progress.size += Path(name).stat().st_size
                progress.files.append(raw)
            self.file: Any = gzip.GzipFile(fileobj=raw) if raw.peek(2)[:2] == b"\x1f\x8b" else raw
            while len(self.start) < _START and (more := self.file.read1(_CHUNK)):
                self.start += more
        except _FAILURES as error:
            if not self.start:
                reason = getattr(error, "strerror", None) or error
                raise Unreadable(f"{self.name} cannot be read: {reason}") from None
        utf16 = self.start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # what PowerShell makes of a pipe
        self.encoding = "utf-16" if utf16 else "utf-8-sig"
        self.is_har = bool(BEGINS.match(self.start[:_START].decode(self.encoding, "replace")))
        progress.is_har = progress.is_har or self.is_har

    def __iter__(self) -> Iterator[Request]:
        read = tried = 0
        sample = ""
        for line, request in self._har() if self.is_har else self._lines():
            tried += 1
            self.progress.count(line, request)
            if request is not None:
                read += 1
                yield request
            else:
                sample = sample or line
            if not read and tried >= _TRIED:
                break
        if tried and not read:
            raise Unreadable(_unknown(self.name, sample))

    def _har(self) -> Iterator[tuple[str, Request | None]]:
        decoder = codecs.getincrementaldecoder(self.encoding)("replace")
        pieces = (decoder.decode(piece) for piece in self._pieces())
        try:
            for request in read_har(lambda: next((piece for piece in pieces if piece), "")):
                yield "an entry of the HAR without a request, an answer or a time", request
        except Cut:
            if self.name not in self.progress.cut:
                self.progress.cut.append(self.name)

    def _lines(self) -> Iterator[tuple[str, Request | None]]:
        pieces = self._pieces()
        if self.encoding != "utf-8-sig":
            decoder = codecs.getincrementaldecoder(self.encoding)("replace")
            pieces = (decoder.decode(piece).encode() for piece in pieces)
        tail = b""
        for piece in pieces:
            lines = (tail + piece).split(b"\n")
            tail = lines.pop()[: _LONGEST + 1]
            for line in lines:
                if line and not line.isspace():
                    yield _parse(line)
        if tail.strip():
            yield _parse(tail)

    def _pieces(self) -> Iterator[bytes]:
        piece = self.start
        self.start = b""
        while piece:
            yield piece
            try:
                piece = self.file.read1(_CHUNK)
            except _FAILURES:  # what comes before is worth telling
                self.progress.cut.append(self.name)
                return


def _parse(line: bytes) -> tuple[str, Request | None]:
    text = line[: _LONGEST + 1].decode("utf-8", "replace").strip("\r\ufeff")
    return text, parse_line(text) if len(line) <= _LONGEST else None


def _unknown(name: str, line: str) -> str:
    """That a file is of no format that is known, and which are."""
    shown = "".join(character if character.isprintable() else "·" for character in line[:70])
    formats = "\n".join(f"    - {accepted}" for accepted in ACCEPTED)
    return f"{name} has no request in it that can be read. A line of it:\n\n    {shown}\n\nAccepted are:\n\n{formats}"
