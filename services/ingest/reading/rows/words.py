"""Values as words: a string as it is, a number or a boolean as its JSON text, parts merged."""

import json
from typing import Any

import orjson

from services.ingest.reading import digits
from services.ingest.reading.row_error import RowError, kind

TEXT_PARTS = ("text", "input_text", "output_text")


def json_of(value: Any) -> str:
    """Return the JSON text of a value, with the spaces that Python writes."""
    if type(value) is dict:
        parts = (f"{json.dumps(k, ensure_ascii=False)}: {json_of(v)}" for k, v in value.items())
        return "{" + ", ".join(parts) + "}"
    if type(value) is list:
        return "[" + ", ".join(json_of(each) for each in value) + "]"
    if isinstance(value, float):
        return digits.number_text(value)
    return json.dumps(value, ensure_ascii=False)


def json_value(text: str, where: str, rule: str, what: str) -> Any:
    """Return the value of a JSON text. Raises RowError."""
    try:
        return digits.parse(text)
    except orjson.JSONDecodeError as error:
        message = f"{what} is a string that is not valid JSON: {error.msg}."
        raise RowError(where, rule, message) from error


def number_words(value: float, where: str) -> str:
    """Return a number or a boolean as its JSON text. Raises RowError where it is not finite."""
    if isinstance(value, digits.Infinite):
        raise digits.not_a_value(value, where)
    return json_of(value)


def list_in(value: Any) -> list[Any] | None:
    """Return a list, also one that is written as JSON text, or None."""
    if type(value) is str and value.lstrip()[:1] == "[":
        try:
            value = digits.parse(value)
        except orjson.JSONDecodeError:
            return None
    return value if type(value) is list else None


def words_of(value: Any, name: str) -> str:
    """Return the words of a field. Raises RowError where it has no words."""
    if type(value) is str:
        return without_nul(value, name)
    if isinstance(value, int | float):
        return number_words(value, name)
    if type(value) is dict:
        for key in ("text", "content", "value", "parts"):
            if key in value:
                return words_of(value[key], name)
    if type(value) is list and value and all(is_text_part(part) for part in value):
        return "".join(text_of_part(part) for part in value)
    message = f"`{name}` must be a string; this is {kind(value)}."
    raise RowError(name, "not_a_string", message)


def without_nul(value: str, where: str) -> str:
    if "\0" in value:
        message = f"`{where}` contains a NUL character (\\u0000): delete it."
        raise RowError(where, "nul", message)
    return value


def is_text_part(part: Any) -> bool:
    """Return whether a part of a content is text and nothing else."""
    return type(part) is dict and part.get("type", "text") in TEXT_PARTS and has_text(part)


def has_text(part: dict[str, Any]) -> bool:
    return type(part.get("text", part.get("content"))) is str


def text_of_part(part: dict[str, Any]) -> str:
    text = part.get("text")
    return str(part["content"] if text is None else text)
