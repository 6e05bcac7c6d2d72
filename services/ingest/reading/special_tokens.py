"""Special tokens within a row's text that begin or end a turn in the lineage's chat template.

A tokenizer recognises them anywhere, also in what a user said. They are looked for in the canonical
line; in rows of plain text they are allowed as they are. All other special tokens are trained as
text.
"""

import functools
import re
from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from services.ingest.reading.row_error import RowError
from shared.errors import ObjectMissing
from shared.formats.turn_tokens import STRIKE, strikes_out, turn_tokens
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
            tokens = {found.decode() for found in self._any.findall(words.encode())}
            if tokens and not (tokens <= {*STRIKE} and strikes_out(words)):
                token = next(t for t in tokens if t not in STRIKE or tokens <= {*STRIKE})
                message = (
                    f"The text holds `{token}`, which begins or ends a turn in the chat template "
                    "of this lineage: the model would obey it. Spell it differently, or remove it."
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
def of_lineage(store: Store, root: str, chat_template: str | None) -> tuple[str, ...]:
    """Return the special tokens that begin or end a turn in a lineage. `root`: of its base.

    `chat_template`: the lineage's own, or None for that of the base. All special tokens are
    returned where the base's files do not say more, none if they name none. Blocking. Raises
    StoreUnavailable.
    """
    tokenizer = base_object(store, root, "tokenizer.json")
    added = [t for t in objects_in(tokenizer.get("added_tokens")) if t.get("special") is True]
    specials = {str(t.get("content")): t.get("id") for t in added}
    config = base_object(store, root, "tokenizer_config.json")
    template = chat_template or base_template(store, root, config)
    if not template:
        return tuple(sorted(specials))
    numbers = base_object(store, root, "generation_config.json").get("eos_token_id")
    stops = numbers if isinstance(numbers, list) else [numbers]
    ends = {token for token, number in specials.items() if number in stops}
    named = (config.get(name) for name in ("bos_token", "eos_token"))
    ends |= {str(t.get("content") if isinstance(t, dict) else t) for t in named if t}
    return tuple(sorted(turn_tokens(specials, template, ends)))


def base_template(store: Store, root: str, config: dict[str, Any]) -> str:
    """Return the chat template of a base, or an empty text."""
    try:
        found = store.read(PRECIOUS, layout.base_file(root, "chat_template.jinja"))
        return found.decode(errors="replace")
    except ObjectMissing:
        pass
    written = config.get("chat_template")
    if isinstance(written, str):
        return written
    named = {t.get("name"): t.get("template") for t in objects_in(written)}
    return str(named.get("default") or "")


def objects_in(value: Any) -> list[dict[str, Any]]:
    """Return the objects in a list, if it is one."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def base_object(store: Store, root: str, name: str) -> dict[str, Any]:
    """Return the object in one of a base's files; empty if there is none."""
    try:
        found = orjson.loads(store.read(PRECIOUS, layout.base_file(root, name)))
    except (ObjectMissing, orjson.JSONDecodeError):
        return {}
    return found if isinstance(found, dict) else {}
