"""A window on a long JSON text, in which one value is read after the other."""

import codecs
import json
from typing import Any, BinaryIO, NoReturn

from services.ingest.reading import digits
from services.ingest.reading.repair import TO_UTF8
from services.ingest.reading.row_error import RowError, Unreadable, too_long

CHUNK_BYTES = 1 << 20
SPACE = " \t\r\n\x1e"  # the last one is what RFC 7464 puts before each value
END_BYTES = 4096
DECODER = json.JSONDecoder(
    parse_int=digits.whole, parse_float=digits.Written, parse_constant=digits.Infinite
)


class Text:
    """A window on the decoded text. `line` is that of `position`, from 1."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decode = codecs.getincrementaldecoder("utf-8-sig")()
        self._bytes = self._columns_before = 0
        self.window, self.position, self._lines_before, self._counted = "", 0, 1, 0
        self.ended = False

    @property
    def line(self) -> int:
        self._lines_before += self.window.count("\n", self._counted, self.position)
        self._counted = self.position
        return self._lines_before

    @property
    def column(self) -> int:
        newline = self.window.rfind("\n", 0, self.position)
        return self.position - newline + (self._columns_before if newline < 0 else 0)

    def more(self, size: int = CHUNK_BYTES) -> bool:
        """Read more text, dropping what lies before `position`; return False at the end.

        Raises Unreadable.
        """
        if self.ended:
            return False
        _ = self.line
        data = self._file.read(size)
        try:
            found = self._decode.decode(data, final=not data)
        except UnicodeDecodeError as error:
            message = f"The text is not valid UTF-8 near byte {self._bytes + error.start + 1}."
            message += f" Perhaps it is in Windows-1252. {TO_UTF8}"
            raise Unreadable(RowError("file", "utf8", message), self.line) from error
        if not data:
            self.ended = True
            return False
        self._bytes += len(data)
        self._columns_before = self.column - 1
        self.window = self.window[self.position :] + found
        self.position = self._counted = 0
        return True

    def skip(self) -> None:
        """Move to the next character that is not white space."""
        while True:
            while self.position < len(self.window) and self.window[self.position] in SPACE:
                self.position += 1
            if self.position < len(self.window) or not self.more():
                return

    def next(self) -> str:
        return self.window[self.position : self.position + 1]

    def sign(self) -> str:
        """Return the next character that is not white space, and stay in front of it."""
        self.skip()
        return self.next()


def element(text: Text, limit: int) -> tuple[Any, bytes]:
    """Return the value at the position and its bytes, and move behind it.

    Raises Unreadable.
    """
    size = CHUNK_BYTES
    while True:
        try:
            value, end = DECODER.raw_decode(text.window, text.position)
        except RecursionError:
            fail(text, "it is nested too deeply")
        except ValueError as error:
            # Perhaps it only continues beyond the window: then look at twice as much.
            if len(text.window) - text.position <= limit and text.more(size):
                size *= 2
                continue
            if len(text.window) - text.position > limit and not is_early(text):
                raise Unreadable(too_long(limit), text.line) from error
            what = getattr(error, "msg", str(error))
            text.position = getattr(error, "pos", text.position)
            fail(text, what)
        if end == len(text.window) and text.more():
            continue  # a number may go on
        found = text.window[text.position : end].encode(errors="surrogatepass")
        text.position = end
        return value, found


def is_early(text: Text) -> bool:
    """Return whether the value's error lies too far before the window's end for more text to help.

    A string that the window cuts off is reported where it begins. So the value is read once more
    with such a string closed (two quotes, since the window may end in a backslash): then its error
    lies elsewhere, while one that is not at the end stays where it is.
    """
    at = break_in(text.window, text.position)
    if at is None or at >= len(text.window) - END_BYTES:
        return False
    return break_in(text.window + '""', text.position) == at


def break_in(window: str, position: int) -> int | None:
    """Return where the value at `position` breaks; None if it is whole.

    An error without a place of its own, such as a number too long for Python, counts as being
    at `position`.
    """
    try:
        DECODER.raw_decode(window, position)
    except json.JSONDecodeError as error:
        return error.pos
    except ValueError:
        return position
    return None


def fail(text: Text, why: str) -> NoReturn:
    line, column = text.line, text.column
    shown = text.window[max(0, text.position - 40) : text.position + 60]
    message = f"The file is not valid JSON: {why} at line {line}, column {column}."
    raise Unreadable(RowError("file", "json", message, column), line, shown)
