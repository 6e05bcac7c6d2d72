"""The fields of a row or of a turn, by names in which case and separators do not count.

`systemPrompt`, `System Prompt` and `system_prompt` are one name. A null is a field that is absent,
since a table has a cell for each field of any row.
"""

import functools
import re
from collections.abc import Iterable, Iterator
from typing import Any

from services.ingest.reading.row_error import RowError

SEPARATORS = re.compile(r"[\s_.\-]+")


@functools.lru_cache(maxsize=4096)
def fold(name: str) -> str:
    """Return a name without case and separators."""
    return SEPARATORS.sub("", name).lower()


def names(text: str) -> tuple[str, ...]:
    """Return the folded names of a text that lists them."""
    return tuple(fold(name) for name in text.split())


def is_neutral(value: Any) -> bool:
    """Return whether a value says nothing: null, or a string, list or object without anything."""
    if type(value) is str:
        return not value or value.isspace()
    return value is None or (type(value) in (list, dict) and not any_said(value))


def any_said(value: Any) -> bool:
    parts = value.values() if type(value) is dict else value
    return any(not is_neutral(part) for part in parts)


class Fields:
    """The fields that are not null. `read` are the folded names of those that were used."""

    __slots__ = ("read", "values", "written")

    def __init__(self, row: dict[str, Any]) -> None:
        self.values: dict[str, Any] = {}
        self.written: dict[str, str] = {}
        self.read: set[str] = set()
        for name, value in row.items():
            if value is None:
                continue
            key = fold(name)
            if key in self.values and not is_neutral(self.values[key]):
                self.check_twice(key, name, value)
                continue
            self.values[key], self.written[key] = value, name

    def check_twice(self, key: str, name: str, value: Any) -> None:
        """Raise RowError if two fields of the same name say different things."""
        if not is_neutral(value) and value != self.values[key]:
            message = (
                f"`{self.written[key][:40]}` and `{name[:40]}` are the same name in two spellings, "
                "with different values. Keep one of them."
            )
            raise RowError(name, "field_twice", message)

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def said(self, wanted: Iterable[str]) -> list[str]:
        """Return those of the names, in their order, whose fields say something."""
        return [n for n in wanted if n in self.values and not is_neutral(self.values[n])]

    def take(self, key: str) -> Any:
        """Return a field's value, and note that it was read."""
        self.read.add(key)
        return self.values.get(key)

    def take_said(self, wanted: Iterable[str]) -> Iterator[tuple[str, Any]]:
        """Yield (name as written, value) of the fields that say something; all count as read."""
        for key in wanted:
            if key in self.values:
                self.read.add(key)
                if not is_neutral(self.values[key]):
                    yield self.written[key], self.values[key]

    def put(self, key: str, value: Any, written: str) -> None:
        """Set a field, as if it had been written so."""
        self.values[key], self.written[key] = value, written

    def drop(self, wanted: Iterable[str]) -> None:
        """Let fields be read without a use."""
        self.read.update(key for key in wanted if key in self.values)

    def unread(self) -> Iterator[tuple[str, str, Any]]:
        """Yield (folded name, name as written, value) of the fields that were not read."""
        for key, value in self.values.items():
            if key not in self.read:
                yield key, self.written[key], value
