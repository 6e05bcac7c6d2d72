"""JSON and numbers that somebody else wrote: read, or refused with a ValueError and nothing else.

Every reader of such bytes begins here, so that no reader needs a list of what a parser may raise.
"""

import json
from typing import Any

MOST_DIGITS = 18  # what a 64-bit number takes, in a record, a header or a name


def any_json(data: bytes | str) -> Any:
    """Return what these bytes hold as JSON. Raises ValueError, also where it is nested too deep."""
    try:
        return json.loads(data)
    except (RecursionError, MemoryError) as error:
        raise ValueError("it is nested too deep, or too large") from error


def json_object(data: bytes | str) -> dict[str, Any]:
    """Return the object that these bytes hold as JSON. Raises ValueError for anything else."""
    found = any_json(data)
    if not isinstance(found, dict):
        raise ValueError("it is not a JSON object")
    return found


def whole_number(text: str) -> int | None:
    """Return the number that ASCII digits give, or None: `²` and `٣` are digits to Python, too."""
    is_number = text.isascii() and text.isdecimal() and len(text) <= MOST_DIGITS
    return int(text) if is_number else None
