"""An assistant's thought before its answer, by the names that it has."""

import re
from typing import Any

from services.ingest.reading.row_error import RowError, kind
from services.ingest.reading.rows.fields import Fields
from services.ingest.reading.rows.meaning import THOUGHT_KEYS
from services.ingest.reading.rows.parts import thought_in

TAGS = re.compile(r"\s*<(think|thinking|thought|reasoning)>(.*)</\1>\s*", re.DOTALL)
SWITCH_WORDS = frozenset({"on", "off", "true", "false", "yes", "no", "enabled", "disabled"})


def thought_of(fields: Fields, where: str, words: str) -> str | None:
    """Return the one thought of an answer, without its tags, or None.

    A thought that stands in the answer already is not repeated. Raises RowError.
    """
    found: str | None = None
    tagged = "<think>" in words or "</think>" in words
    for name, value in fields.take_said(THOUGHT_KEYS):
        place = f"{where}.{name}" if where else name
        thought = text_of(value, place)
        if thought is None or (tagged and thought.strip() in words):
            continue
        if found is not None and found.strip() != thought.strip():
            message = f"`{name}` says another thought than the field before it. Keep one of them."
            raise RowError(place, "two_thoughts", message)
        found = thought
    if found is not None and tagged:
        message = "The answer has a thought in <think> tags, and a field with another thought."
        raise RowError(where or "row", "two_thoughts", message)
    return found


def put_thought(turn: dict[str, Any], thought: str) -> None:
    """Write a thought into a canonical answer, behind its content."""
    rest = {key: turn.pop(key) for key in list(turn) if key not in ("role", "content")}
    turn |= {"reasoning_content": thought, **rest}


def text_of(value: Any, where: str) -> str | None:
    """Return a thought as words; None for a switch such as `on`. Raises RowError."""
    if isinstance(value, bool):
        return None
    if type(value) is list and all(type(part) is dict for part in value):
        value = "".join(thought_in(part) for part in value)
    if type(value) is dict:
        value = thought_in(value) or value
    if type(value) is list and all(type(part) is str for part in value):
        value = "\n".join(value)
    if type(value) is not str:
        raise RowError(where, "not_a_string", f"A thought must be a string; this is {kind(value)}.")
    if "\0" in value:
        message = "The thought contains a NUL character (\\u0000): delete it."
        raise RowError(where, "nul", message)
    if value.strip().lower() in SWITCH_WORDS:
        return None
    tagged = TAGS.fullmatch(value)
    return tagged[2].strip("\n") if tagged else value
