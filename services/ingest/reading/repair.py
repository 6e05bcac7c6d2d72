"""The reasons why bytes are not a row, in words that help a person to repair them.

This is off the fast path.
"""

import json
import re
from typing import Any, NoReturn

from services.ingest.reading.row_error import RowError

SAMPLE_CHARACTERS = 120
TO_UTF8 = "Convert it (iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW)."
# Python's way to write a list or an object: keys in single quotes, None and True.
REPR = re.compile(r"\s*(?:[\[({]\s*)*(?:array\()?[\[({]*\s*'[^'\n]*'\s*:|\s*\w+\(\{|\s*array\(\[")
REPR_TOLD = "This is Python's repr, not JSON: write the rows with json.dumps, or as Parquet."
SURROGATE = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")


class NotFinite(ValueError):
    """The row contains NaN or an infinity."""


def diagnose(line: bytes, why: str) -> RowError:  # noqa: C901 - one line a reason
    """Return what is wrong with a line that the parser refused with the words `why`."""
    line = line.rstrip(b"\r\n")
    if line and not line.strip(b"\0"):
        message = "The line is nothing but zero bytes: the file's copy was cut off. Copy it again."
        return RowError("row", "nul", message, 1)
    if b"\0" in line:
        column = line.index(b"\0") + 1
        message = (
            "The line contains a NUL byte, probably because a copy was cut off. Delete it, "
            "or copy the file again."
        )
        return RowError("row", "nul", message, column)
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        bad = line[error.start]
        message = (
            f"The line is not valid UTF-8: byte 0x{bad:02x} at byte {error.start + 1}. Perhaps the "
            f"file is in Windows-1252 (Latin-1). {TO_UTF8}"
        )
        return RowError("row", "utf8", message, error.start + 1)
    try:
        json.loads(text, parse_constant=refuse_constant)
    except json.JSONDecodeError as error:
        return broken_json(text, error)
    except NotFinite as error:
        column = text.find(str(error)) + 1
        message = f"{error} is not JSON: a number must be finite."
        return RowError("row", "not_finite", message, column)
    except RecursionError:
        return RowError("row", "too_deep", "The row is nested too deeply.")
    except ValueError as error:
        return RowError("row", "json", f"The row is not valid JSON: {error}.")
    surrogate = SURROGATE.search(text)
    if surrogate is not None:
        message = (
            f"{surrogate[0]} is half of a surrogate pair, which is not a character. Write "
            "both halves or the character itself, or leave it out."
        )
        return RowError("row", "surrogate", message, surrogate.start() + 1)
    if "depth" in why:
        return RowError("row", "too_deep", "The row is nested too deeply.")
    if "infinity" in why:
        return RowError("row", "not_finite", "A number in the row is too large.")
    return RowError("row", "json", f"The row is not valid JSON: {why}.")


def refuse_constant(name: str) -> NoReturn:
    raise NotFinite(name)


def broken_json(text: str, error: json.JSONDecodeError) -> RowError:
    if text[error.pos :].strip() == "" or error.msg.startswith("Unterminated"):
        hint = " The line ends before the row does: a row must be complete on one line."
    elif error.msg == "Extra data":
        hint = " Something follows the row: there must be one row on each line."
    elif text[error.pos : error.pos + 1] == "'":
        hint = " JSON requires double quotes, not single ones."
    else:
        hint = ""
    if is_repr(text):
        return RowError("row", "python_repr", REPR_TOLD, error.pos + 1)
    message = f"The row is not valid JSON: {error.msg} at column {error.pos + 1}.{hint}"
    return RowError("row", "json", message, error.pos + 1)


def is_repr(text: str) -> bool:
    """Return whether a text begins as Python shows a list or an object, or NumPy an array."""
    return REPR.match(text) is not None


def sample(line: bytes, column: int | None) -> str:
    """Return a short piece of a line around a column (from 1), safe to print."""
    start = max(0, (column or 1) - 1 - SAMPLE_CHARACTERS // 2)
    end = start + SAMPLE_CHARACTERS
    # Bytes beyond the piece are never decoded: the line may be long.
    piece = line[start : end + 4].decode(errors="replace").strip("\r\n")[:SAMPLE_CHARACTERS]
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in piece)
    return ("…" if start else "") + shown + ("…" if end < len(line.rstrip()) else "")


class Twice(Exception):
    """A key occurs twice in one object."""


def key_twice(raw: bytes) -> RowError | None:
    """Return the error for a key that occurs twice in one object of a row, or None."""

    def look(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                raise Twice(name)
            found[name] = value
        return found

    try:
        json.loads(raw, object_pairs_hook=look)
    except Twice as error:
        name = str(error)[:40]
        column = second(raw.decode(), str(error))
        message = f"The key `{name}` occurs twice in one object. Keep the one that you mean."
        return RowError(name, "duplicate_key", message, column)
    except (ValueError, RecursionError):
        return RowError("row", "json", "The row is not valid JSON.")
    return None


def second(text: str, name: str) -> int | None:
    """Return the column where a key occurs for the second time, if it is written plainly."""
    places = [m.start() + 1 for m in re.finditer(re.escape(json.dumps(name)) + r"\s*:", text)]
    return places[1] if len(places) == 2 else None
