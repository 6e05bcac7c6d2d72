"""Special tokens of a base within a row's text, where they would end or begin a turn.

A tokenizer recognises them anywhere, also in what a user said. They are looked for in the canonical
line; in rows of plain text they are allowed as they are.
"""

import functools
import re
from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from services.ingest.reading.row_error import RowError
from shared.errors import ObjectMissing
from shared.store import layout
from shared.store.place import PRECIOUS
from shared.store.s3 import Store

# Bytes that tokens have and text has seldom, the rarest first: one search finds that it has none.
RARE = b"|\xef\xe2^~\\{}[]<>/"
LONGEST_CHARACTERS = 100


class Specials:
    """Finds any of `tokens` in a line, fast where there is none."""

    def __init__(self, tokens: Iterable[str]) -> None:
        self.tokens = sorted({t for t in tokens if 1 < len(t) <= LONGEST_CHARACTERS}, key=len)
        encoded = [token.encode() for token in self.tokens]
        self._marks = sorted({rare_byte(token) for token in encoded})
        self._any = re.compile(b"|".join(re.escape(token) for token in reversed(encoded)))

    def check(self, line: bytes) -> None:
        """Check that a canonical line of messages holds no special token. Raises RowError."""
        for byte in self._marks:
            if byte in line:
                break
        else:
            return
        if self._any.search(line) is None:
            return
        for field, words in strings(orjson.loads(line)):
            found = self._any.search(words.encode())
            if found is not None:
                token = found[0].decode()
                message = (
                    f"The text holds `{token}`, a special token of this lineage's base: the model "
                    "would read it as the end or the beginning of a turn. Spell it differently, "
                    "or remove it."
                )
                raise RowError(field, "special_token", message)


def rare_byte(token: bytes) -> bytes:
    """Return a byte of the token that is rare in text, or the whole token."""
    return next((bytes([byte]) for byte in RARE if byte in token), token)


def strings(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Yield (path, text) of every string in a row."""
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from strings(part, f"{where}.{name}" if where else name)
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from strings(part, f"{where}[{number}]")


@functools.lru_cache(maxsize=16)
def of_base(store: Store, root: str) -> tuple[str, ...]:
    """Return the special tokens of a base, as its tokenizer.json names them.

    Empty if it names none. Blocking. Raises StoreUnavailable.
    """
    try:
        tokenizer = orjson.loads(store.read(PRECIOUS, layout.base_file(root, "tokenizer.json")))
        added = tokenizer["added_tokens"]
        return tuple(sorted({t["content"] for t in added if t["special"]}))
    except (ObjectMissing, orjson.JSONDecodeError, KeyError, TypeError):
        return ()
