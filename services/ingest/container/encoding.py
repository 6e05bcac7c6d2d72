"""Text in UTF-16 or UTF-32, as PowerShell and Excel write it, brought to UTF-8 while it is read."""

import codecs
from collections.abc import Iterator
from typing import BinaryIO

from services.ingest.container.packing import READ_BYTES, streamed
from services.ingest.reading.row_error import RowError, Unreadable

MARK_BYTES = 64
MARKS = {  # the longer first
    b"\xff\xfe\0\0": "utf-32-le",
    b"\0\0\xfe\xff": "utf-32-be",
    b"\xff\xfe": "utf-16-le",
    b"\xfe\xff": "utf-16-be",
}
BYTE_ORDER_MARK = "\ufeff"


def as_utf8(file: BinaryIO) -> BinaryIO:
    """Return a file of UTF-8, whatever of Unicode it is written in.

    Reading it raises Unreadable where the text is not valid.
    """
    encoding = encoding_of(file.peek(MARK_BYTES)[:MARK_BYTES])  # type: ignore[attr-defined]
    return streamed(recoded(file, encoding)) if encoding else file


def encoding_of(head: bytes) -> str | None:
    """Return the encoding of a text by its first bytes, or None for UTF-8.

    Without a mark, every second byte of the first characters is zero: JSON and the names of columns
    begin with ASCII.
    """
    for mark, encoding in MARKS.items():
        if head.startswith(mark):
            return encoding
    first = head[: min(len(head), 8) & ~1]
    if len(first) >= 4:
        even, odd = first[::2], first[1::2]
        if not odd.strip(b"\0") and all(even):
            return "utf-16-le"
        if not even.strip(b"\0") and all(odd):
            return "utf-16-be"
    return None


def recoded(file: BinaryIO, encoding: str) -> Iterator[bytes]:
    """Yield the text of a file in UTF-8, without a mark. Raises Unreadable."""
    decoder = codecs.getincrementaldecoder(encoding)()
    place, first = 0, True
    while True:
        data = file.read(READ_BYTES)
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            name = encoding[:6].upper()
            message = f"The text is not valid {name} near byte {place + error.start + 1}."
            raise Unreadable(RowError("file", "encoding", message)) from error
        if first and text:
            text, first = text.removeprefix(BYTE_ORDER_MARK), False
        if text:
            yield text.encode()
        if not data:
            return
        place += len(data)
