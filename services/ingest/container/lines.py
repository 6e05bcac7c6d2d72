"""Rows of JSON on lines, and such as take several lines or share one among them."""

import json
from collections import deque
from collections.abc import Callable, Iterator
from typing import BinaryIO

import orjson

from services.ingest.container.json_text import DECODER, SPACE
from services.ingest.container.packing import READ_BYTES
from services.ingest.reading.row_error import BOM, Item

SPACE_BYTES = SPACE.encode()
FIRST_LINES = 8
MOST_IN_VAIN = 64 << 20  # then lines are no longer joined: a hostile file would take forever

Piece = Callable[[bytes], object]
Line = tuple[int, bytes]


def json_lines(file: BinaryIO, limit: int, over: Piece) -> Iterator[Item]:
    """Yield (line where it begins, bytes) of each row; of a broken row, its line as it is.

    `limit` is the most bytes of one row; `over` gets the rest of longer lines.
    """
    lines = Lines(file, limit, over)
    for item in lines.source:
        line = item[1]
        # As `is_whole_line`, which most lines are: a call for each would be felt.
        if line[:1] == b"{" and line[-1:] == b"}" and b'}{"' not in line:
            yield item
        else:
            lines.ahead.append(item)
            yield from odd_lines(lines, limit)


def is_whole_line(line: bytes) -> bool:
    """Return whether a line looks like one row and no more."""
    return line[:1] == b"{" and line[-1:] == b"}" and b'}{"' not in line


def odd_lines(lines: "Lines", limit: int) -> Iterator[Item]:
    """Yield the rows of the lines that were taken ahead, and of those that go on with them."""
    while lines.ahead:
        number, line = lines.ahead.popleft()
        if is_whole_line(line):
            yield number, line
            continue
        bare = line.removeprefix(BOM).strip(SPACE_BYTES)
        bare = bare.removesuffix(b",").rstrip() if bare[-2:-1] == b"}" else bare
        if bare[:1] in (b"{", b"[") and len(line) <= limit:
            for row in lines.rows_at(bare) or [line]:
                yield number, row
        else:
            yield number, line


class Lines:
    """The lines of a file, of which some may be taken `ahead` of the others in `source`."""

    def __init__(self, file: BinaryIO, limit: int, over: Piece) -> None:
        self.source = read_lines(file, limit, over)
        self.ahead: deque[Line] = deque()
        self._limit = limit
        self._in_vain = 0  # bytes of lines that were taken ahead and completed no row

    def rows_at(self, line: bytes) -> list[bytes]:
        """Return the rows that begin on a line: one or several, or none if it is broken."""
        try:
            orjson.loads(line)
            return [line]
        except orjson.JSONDecodeError:
            joined = self._joined(line)
            return [joined] if joined else several_on(line)

    def _joined(self, line: bytes) -> bytes | None:
        """Return a row that goes on over the next lines, which are taken then; else None."""
        text, taken, wanted = line, list[Line](), FIRST_LINES
        while len(text) <= self._limit and self._in_vain < MOST_IN_VAIN and goes_on(text):
            more = self._take(wanted)
            if not more:
                break
            taken += more
            text = b"\n".join([text, *(each for _, each in more)])
            wanted *= 2
        row, used = first_row(text)
        self._in_vain += 0 if row else len(text)
        self.ahead.extendleft(reversed(taken[used:]))
        return row

    def _take(self, count: int) -> list[Line]:
        """Return the next lines, up to one that was cut: its rest follows when it is used."""
        found: list[Line] = []
        while len(found) < count and not (found and len(found[-1][1]) > self._limit):
            line = self.ahead.popleft() if self.ahead else next(self.source, None)
            if line is None:
                break
            found.append(line)
        return found


def first_row(data: bytes) -> tuple[bytes | None, int]:
    """Return the object that some lines begin with, and how many line breaks it takes.

    None if there is none, or if something follows it on its last line.
    """
    try:
        text = data.decode()
        value, end = DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        return None, 0
    follows = text[end:].partition("\n")[0].strip(SPACE + ",")
    if type(value) is not dict or follows:
        return None, 0
    return text[:end].encode(), text.count("\n", 0, end)


def goes_on(data: bytes) -> bool:
    """Return whether more lines may complete a value: it is not broken before the end."""
    try:
        text = data.decode()
        DECODER.raw_decode(text)
    except json.JSONDecodeError as error:
        return not text[error.pos :].strip(SPACE)
    except (ValueError, RecursionError):
        return False
    return False


def several_on(line: bytes) -> list[bytes]:
    """Return the objects that stand side by side on a line, if there are several and all whole."""
    found: list[bytes] = []
    try:
        text, at = line.decode(), 0
        while at < len(text):
            value, end = DECODER.raw_decode(text, at)
            if type(value) is not dict:
                return []
            found.append(text[at:end].encode())
            at = end
            while text[at : at + 1] in (*SPACE, ","):
                at += 1
    except (ValueError, RecursionError):
        return []
    return found if len(found) > 1 else []


def read_lines(file: BinaryIO, limit: int, over: Piece) -> Iterator[Line]:
    """Yield lines without their ends and without a byte order mark.

    Of a long line only the beginning is yielded. The rest is read in pieces, so that memory does
    not grow with it. A line that was cut is still longer than `limit`, without the carriage return
    that may end it.
    """
    most = limit + len("\r") + len(BOM) + 1
    number, begun, size = 0, [file.read(READ_BYTES).removeprefix(BOM)], 0
    while block := begun.pop():
        first, newline, rest = block.partition(b"\n")
        begun.append(first)
        size += len(first)
        if newline:
            *whole, last = rest.split(b"\n")
            number += 1
            yield number, b"".join(begun)
            yield from enumerate(whole, number + 1)
            number += len(whole)
            begun, size = [last], len(last)
        if size > most:
            number += 1
            yield number, b"".join(begun)
            begun, size = [skipped(file, over)], 0
            if not begun[0]:
                return
            continue
        begun.append(file.read(READ_BYTES))
    if size:
        yield number + 1, b"".join(begun)


def skipped(file: BinaryIO, over: Piece) -> bytes:
    """Read past the end of a line, handing over its rest; return what follows."""
    while block := file.read(READ_BYTES):
        piece, newline, rest = block.partition(b"\n")
        over(piece)
        if newline:
            return rest or file.read(READ_BYTES)
    return b""
