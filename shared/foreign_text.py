"""Makes strangers' text safe to show: rows, answers, names, templates' errors, logs.

Text from a file, a model or another process may hold what a terminal, a mail or a page obeys:
escape sequences, control characters, and characters that turn the direction of writing around.
"""

import io
import re
from typing import TextIO, cast

# All control characters but \n and \t; marks of direction; what is invisible, but for the joiners
# that emoji and some scripts need; line separators; surrogates, which no stream can encode; tags.
UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]"
)
VISIBLE = "\ufffd"


def plain(text: str) -> str:
    """Return a text with a visible mark in place of each character that could do something."""
    return text if text.isprintable() else UNSAFE.sub(VISIBLE, text.replace("\r\n", "\n"))


def one_line(text: str) -> str:
    """Return a text on one line, with a mark for all that is not printable: its width is known."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else VISIBLE for c in " ".join(text.split()))


def plain_json(text: str) -> str:
    """Return JSON that means the same, with such characters written as escapes."""
    return text if text.isprintable() else UNSAFE.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def plain_stream(stream: TextIO) -> TextIO:
    """Return a stream, such as standard error, on which all that is written is made plain."""
    return cast("TextIO", stream if isinstance(stream, PlainStream) else PlainStream(stream))


class PlainStream(io.TextIOBase):
    """What `plain_stream` returns; `stream` is the one below."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write(plain(text))
        return len(text)

    def flush(self) -> None:
        self.stream.flush()

    def fileno(self) -> int:
        return self.stream.fileno()

    def writable(self) -> bool:
        return True
