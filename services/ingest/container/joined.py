"""Rows of which several make one conversation, in whatever container they are."""

from collections.abc import Iterator
from itertools import chain

import orjson

from services.ingest.container import tavern, trees
from services.ingest.reading import digits, repair
from services.ingest.reading.row_error import Item, RowError, too_long

BLANK_LINES = 100  # before the first row


def with_joined(items: Iterator[Item], limit: int) -> Iterator[Item]:
    """Return the rows of a file, with those joined that make one conversation.

    The first row says whether there are any. `limit` is the most bytes of one row. Raises what
    reading the first row raises.
    """
    before: list[Item] = []
    for item in items:
        before.append(item)
        row = parsed_row(item[1], limit)
        if row is not None or len(before) > BLANK_LINES:
            whole = chain(before, items)
            if isinstance(row, dict) and tavern.begins_chat(row):
                return tavern.chats(parsed_rows(whole, limit), limit)
            if isinstance(row, dict) and trees.begins_tree(row):
                return trees.conversations(parsed_rows(whole, limit))
            return whole
    return iter(before)


def parsed_rows(
    items: Iterator[Item], limit: int
) -> Iterator[tuple[int, trees.TreeRow | RowError]]:
    for number, raw in items:
        row = parsed_row(raw, limit)
        if row is not None:
            yield number, row


def parsed_row(raw: bytes | RowError, limit: int) -> trees.TreeRow | RowError | None:
    """Return a row, what is wrong with it, or None for a blank line."""
    if isinstance(raw, RowError):
        return raw
    if not raw or raw.isspace():
        return None
    if len(raw) > limit:
        return too_long(limit)
    try:
        row = digits.parse(raw)
    except orjson.JSONDecodeError as error:
        return repair.diagnose(raw, error.msg)
    if type(row) is not dict:
        return RowError("row", "not_an_object", "A row must be one JSON object, {…}.")
    return row
