"""The content of a turn: words, or a list of parts as OpenAI, Qwen and Anthropic write it."""

from typing import Any, NamedTuple

from services.ingest.reading.row_error import RowError, kind
from services.ingest.reading.rows.words import (
    TEXT_PARTS,
    has_text,
    json_of,
    number_words,
    text_of_part,
    without_nul,
)

MEDIA_PARTS = ("", "image", "video", "audio", "file", "document", "result")
THOUGHT_PARTS = ("thinking", "reasoning", "reasoning_text", "think")


class Content(NamedTuple):
    """What a turn says: its words, its thought, the tools it calls, and results of tools."""

    words: str
    thought: str = ""
    calls: tuple[dict[str, Any], ...] = ()
    results: tuple[dict[str, Any], ...] = ()


def content_of(value: Any, where: str, role: str) -> Content:
    """Return the content of a turn. Raises RowError naming a part that is not text."""
    if type(value) is str:
        return Content(without_nul(value, where))
    if isinstance(value, int | float):
        return Content(number_words(value, where))
    parts = [value] if type(value) is dict and "parts" not in value else value
    if type(parts) is dict:  # as ChatGPT exports it
        parts = parts["parts"]
    if type(parts) is list and (role != "tool" or any(is_part(part) for part in parts)):
        return of_parts(parts, where, role)
    if role == "tool" and type(value) in (dict, list):
        return Content(json_of(value))
    message = f"`{where.rpartition('.')[2]}` must be a string; this is {kind(value)}."
    raise RowError(where, "not_a_string", message)


def is_part(part: Any) -> bool:
    """Return whether this is a part of a tool's answer, not an object that the tool returned."""
    if type(part) is not dict or type(part.get("type")) is not str:
        return False
    return has_text(part) or part["type"].rpartition("_")[2].removesuffix("url") in MEDIA_PARTS


def of_parts(parts: list[Any], where: str, role: str) -> Content:
    """Return what the parts say together; the words of several follow each other as they are."""
    said: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for number, part in enumerate(parts):
        place = f"{where}[{number}]"
        if type(part) is str:
            said.append(without_nul(part, place))
            continue
        if type(part) is not dict:
            message = f"A part of a content must be text; this is {kind(part)}."
            raise RowError(place, "not_text", message)
        sort = part.get("type") or ("text" if has_text(part) else next(iter(part), "nothing"))
        if sort in TEXT_PARTS and has_text(part):
            said.append(without_nul(text_of_part(part), place))
        elif sort in THOUGHT_PARTS and role == "assistant" and thought_in(part):
            thoughts.append(without_nul(thought_in(part), place))
        elif sort == "tool_use" and role == "assistant":
            calls.append(call_of(part))
        elif sort == "tool_result" and role in ("user", "tool"):
            results.append(result_of(part, place))
        else:
            raise not_text(place, str(sort))
    return Content("".join(said), "".join(thoughts), tuple(calls), tuple(results))


def thought_in(part: dict[str, Any]) -> str:
    """Return the thought of a part, or an empty string."""
    for key in ("thinking", "reasoning", "text", "think"):
        if type(part.get(key)) is str:
            return str(part[key])
    return ""


def call_of(part: dict[str, Any]) -> dict[str, Any]:
    """Return Anthropic's part tool_use as a call."""
    function = {"name": part.get("name"), "arguments": part.get("input")}
    return {"type": "function", "id": part.get("id"), "function": function}


def result_of(part: dict[str, Any], where: str) -> dict[str, Any]:
    """Return Anthropic's part tool_result as a tool's turn. Raises RowError."""
    said = part.get("content")
    words = "" if said is None else content_of(said, f"{where}.content", "tool").words
    found = {"role": "tool", "content": words}
    if type(part.get("tool_use_id")) is str:
        found["tool_call_id"] = part["tool_use_id"]
    return found


def not_text(where: str, sort: str) -> RowError:
    message = (
        f"A part of the content is {sort[:40]!r}, not text. Duramen trains on text only: describe "
        "it in words, or leave the row out."
    )
    return RowError(where, "not_text", message)
