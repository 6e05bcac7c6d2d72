"""The rows of a JSON text, in constant memory: lines, arrays, objects side by side, or wrapped."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, BinaryIO

import orjson

from services.ingest.container import wrapped
from services.ingest.container.json_text import (
    DECODER,
    END_BYTES,
    SPACE,
    Text,
    break_in,
    element,
    fail,
)
from services.ingest.container.lines import Piece, json_lines
from services.ingest.container.packing import READ_BYTES
from services.ingest.container.wrapped import Wrapping, is_turn
from services.ingest.reading import digits
from services.ingest.reading.row_error import Item, RowError

MOST_COLUMN_BYTES = 128 << 20  # a table in columns is held in memory


def json_rows(file: BinaryIO, limit: int, over: Piece) -> Iterator[Item]:
    """Yield (line where it begins, bytes) of each row.

    Raises Unreadable where what is not in lines is not valid.
    """
    if is_in_lines(file):
        yield from json_lines(file, limit, over)
        return
    text = Text(file)
    while text.sign():
        yield from values(text, limit)
        if text.sign() == ",":
            text.position += 1


def is_in_lines(file: BinaryIO) -> bool:
    """Return whether each line is a row, by the first value of the text.

    So is one that is broken: then each line that is broken is named.
    """
    data = file.peek(READ_BYTES)[:READ_BYTES]  # type: ignore[attr-defined]
    head = data.decode("utf-8-sig", "replace").lstrip(SPACE)
    if not head.startswith("{"):
        return not head.startswith("[")
    try:
        value, end = DECODER.raw_decode(head)
    except RecursionError:
        return True
    except ValueError:
        return not is_unfinished(head)
    rest = head[end:].partition("\n")[0].strip(SPACE + ",")
    if "\n" in head[:end] or rest[:1] in ("{", "["):
        return False
    return wrapped.plan_of(value) is None


def begins_as_rows(head: str) -> bool:
    """Return whether a text that is named otherwise begins as rows of JSON do."""
    head = head.lstrip(SPACE)
    first: Any = None
    if head.startswith("{"):
        try:
            first = DECODER.raw_decode(head)[0]
        except (ValueError, RecursionError):
            first = beginning(head, 0)
        return wrapped.is_row(first) or wrapped.plan_of(first) is not None
    if head.startswith("["):
        with suppress(ValueError, RecursionError):
            first = DECODER.raw_decode(head, behind_space(head, 1))[0]
    return wrapped.is_row(first) or (type(first) is list and bool(first) and is_turn(first[0]))


def is_unfinished(head: str) -> bool:
    """Return whether an object that the head does not end is more than a line with one row."""
    at = break_in(head, 0)
    if at is None or (at < len(head) - END_BYTES and break_in(head + '""', 0) == at):
        return False
    first, newline, _ = head.partition("\n")
    if newline:
        if goes_on_in_rows(head):
            return False
        broken = break_in(first, 0)
        return broken is not None and not first[broken:].strip() and head[at:].strip() != head[at:]
    return wrapped.plan_of(beginning(head, 0)) is not None


def goes_on_in_rows(head: str) -> bool:
    """Return whether whole rows follow a broken first line, each on its own.

    In an array or a wrapper that is merely cut off, commas stand between them.
    """
    lines = [line.strip(SPACE) for line in head.split("\n")[1:-1]]
    second, *rest = [line for line in lines if line][:2] or [""]
    try:
        value, end = DECODER.raw_decode(second)
    except (ValueError, RecursionError):
        return False
    is_alone = end == len(second) and rest[:1] != ["]"] and rest[:1] != ["}"]
    return is_alone and wrapped.is_row(value)


def values(text: Text, limit: int) -> Iterator[Item]:
    """Yield the rows of the array or object at the position, and move behind it."""
    if text.sign() == "[":
        yield from array_rows(text, limit)
    elif text.next() == "{":
        yield from object_rows(text, limit)
    else:
        fail(text, "something follows that is neither an array nor an object")


def array_rows(text: Text, limit: int) -> Iterator[Item]:
    if is_turn(first_element(text)):
        line = text.line
        yield line, row_in_array(*element(text, limit))
        return
    text.position += 1
    while text.sign() != "]":  # also behind a comma too many
        line = text.line
        yield line, row_in_array(*element(text, limit))
        sign = text.sign()
        if sign not in (",", "]"):
            fail(text, "a comma or the end of the array, `]`, is missing")
        text.position += sign == ","
    text.position += 1


def row_in_array(value: Any, raw: bytes) -> bytes | RowError:
    """Return the bytes of a row in an array: a row as it is, or what holds it.

    A list of turns is a conversation; the dataset viewer wraps each row in {"row_idx", "row"}.
    """
    if type(value) is list and value and is_turn(value[0]):
        return b'{"%b":%b}' % (b"messages" if "role" in value[0] else b"conversations", raw)
    if type(value) is dict and "row_idx" in value and type(value.get("row")) is dict:
        return given_row(value["row"])
    return raw


def given_row(row: dict[str, Any]) -> bytes | RowError:
    try:
        return digits.as_given(row)
    except orjson.JSONEncodeError:
        return RowError("row", "json", "The row is nested too deeply, or holds half a character.")


def object_rows(text: Text, limit: int) -> Iterator[Item]:
    """Yield the row that an object is, or the rows that it wraps."""
    line = text.line
    value, end = sketch(text)
    plan = wrapped.plan_of(value)
    if plan is None and end is not None:
        raw = text.window[text.position : end].encode(errors="surrogatepass")
        text.position = end
        yield line, raw
    elif plan is None:
        yield line, element(text, limit)[1]
    elif plan.kind in ("list", "index"):
        yield from members(text, plan, limit)
    else:
        table, _ = element(text, MOST_COLUMN_BYTES)
        for number, row in enumerate(wrapped.unwrapped_rows(table, plan), 1):
            yield number, given_row(row)


def members(text: Text, plan: Wrapping, limit: int) -> Iterator[Item]:
    """Yield the rows of the member that the plan names, or of each member if it is an index."""
    text.position += 1
    while text.sign() != "}":
        name = element(text, limit)[0] if text.next() == '"' else fail(text, "a name is missing")
        if text.sign() != ":":
            fail(text, "a colon is missing")
        text.position += 1
        text.skip()
        if plan.kind == "index":
            line = text.line
            yield line, row_in_array(*element(text, limit))
        elif name == plan.key:
            yield from values(text, limit)
        else:
            wrapped.check_other(plan.key, name, element(text, MOST_COLUMN_BYTES)[0])
        sign = text.sign()
        if sign not in (",", "}"):
            fail(text, "a comma or the end of the object, `}`, is missing")
        text.position += sign == ","
    text.position += 1


# ---- looking ahead -------------------------------------------------------------------------------


def first_element(text: Text) -> Any:
    """Return the first element of the array at the position, or None; the position stays."""
    while True:
        at = behind_space(text.window, text.position + 1)
        try:
            return DECODER.raw_decode(text.window, at)[0]
        except RecursionError:
            return None
        except ValueError:
            if len(text.window) - text.position > READ_BYTES or not text.more():
                return None


def sketch(text: Text) -> tuple[dict[str, Any], int | None]:
    """Return the object at the position and its end, or as much of it as is needed, and None."""
    while True:
        try:
            return DECODER.raw_decode(text.window, text.position)
        except RecursionError:
            return {}, None
        except ValueError:
            if len(text.window) - text.position > READ_BYTES or not text.more():
                return beginning(text.window, text.position), None


def beginning(window: str, at: int) -> dict[str, Any]:
    """Return the members of an object that goes on beyond the window.

    The last one is cut: of a list it is the first element, of an object its beginning.
    """
    found: dict[str, Any] = {}
    try:
        at = behind_space(window, at + 1)
        while window[at] == '"':
            name, at = DECODER.raw_decode(window, at)
            at = behind_space(window, behind_space(window, at) + 1)  # the colon
            try:
                found[name], at = DECODER.raw_decode(window, at)
            except ValueError:
                if window[at] == "[":
                    found[name] = [DECODER.raw_decode(window, behind_space(window, at + 1))[0]]
                elif window[at] == "{":
                    found[name] = beginning(window, at)
                return found
            at = behind_space(window, behind_space(window, at) + 1)  # the comma
    except (ValueError, IndexError, RecursionError):
        pass
    return found


def behind_space(window: str, at: int) -> int:
    while at < len(window) and window[at] in SPACE:
        at += 1
    return at
