"""A stored dataset, `datasets/<sha256>/`: its files, its rows, and where each row came from."""

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

DATA = "data.jsonl"  # the canonical rows; its SHA-256 names the dataset
SOURCE = "source.jsonl"  # for each row, where in the original it came from
REPORT = "report.json"  # what was counted, as `report.Contents`


class ChatTurn(BaseModel):
    """One turn of a canonical row. Fields that it lacks are left out when it is written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    reasoning_content: str | None = None  # an assistant's thought before the answer
    tool_calls: tuple[dict[str, Any], ...] | None = None  # of an assistant
    name: str | None = None  # of a tool
    tool_call_id: str | None = None
    # An assistant's: the factor of its loss. 1 if it is left out; 0 makes the answer mere context.
    weight: float | None = Field(default=None, ge=0, lt=1)
    # The parts of an answer that are trained: [start, end) in characters of `content`; None: all.
    spans: tuple[tuple[int, int], ...] | None = None

    @model_serializer(mode="wrap")
    def _without_nulls(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in plain(self).items() if value is not None}


@dataclass(frozen=True)
class CanonicalRow:
    """One canonical row: a conversation, with the tools that it may use, or plain `text`.

    `template_kwargs` are handed to the chat template. `weight` is the factor of a text's loss.
    """

    id: str
    messages: tuple[ChatTurn, ...] = ()
    tools: tuple[dict[str, Any], ...] | None = None
    template_kwargs: dict[str, Any] | None = None
    text: str | None = None
    weight: float | None = None
    line: str | None = None  # as it is stored, where the turns or the text do not say all of it

    @property
    def is_watchable(self) -> bool:
        """Return whether it is text, or ends in an answer of words.

        Only that can be asked for and compared.
        """
        if self.text is not None:
            return True
        answers = [m for m in self.messages if m.role == "assistant"]
        return bool(answers) and not answers[-1].tool_calls

    @classmethod
    def parse(cls, line: bytes) -> "CanonicalRow":
        """Read one line of DATA. Raises ValueError, KeyError or TypeError if it is not a row."""
        fields, whole = json.loads(line), line.decode()
        if "text" in fields:
            weight = fields.get("weight")
            kept = None if weight is None else whole
            return cls(row_id(line), text=str(fields["text"]), weight=weight, line=kept)
        messages = tuple(ChatTurn.model_validate(m) for m in fields["messages"])
        tools = tuple(fields["tools"]) if fields.get("tools") else None
        options = fields.get("template_kwargs") or None
        # Templates show tools and arguments in the order in which they are stored.
        ordered = tools is not None or options or any(m.tool_calls for m in messages)
        return cls(row_id(line), messages, tools, options, line=whole if ordered else None)


def row_id(line: bytes) -> str:
    """Return the SHA-256 (hex) of one canonical line; a trailing newline does not count."""
    return hashlib.sha256(line.rstrip(b"\n")).hexdigest()


class RowOrigin(BaseModel):
    """A line of SOURCE: the layout of a row, and its line in the original, from 1."""

    layout: str
    line: int


def original_lines(source: Iterable[bytes], rows: Collection[int]) -> dict[int, int]:
    """Return the line in the original, from 1, for each of these rows, from 0.

    `source` is SOURCE in blocks of any size. Raises ValueError.
    """
    chosen = chosen_lines(source, rows)
    return {row: RowOrigin.model_validate_json(line).line for row, line in chosen}


def chosen_lines(blocks: Iterable[bytes], numbers: Collection[int]) -> Iterator[tuple[int, bytes]]:
    """Yield (number from 0, line without its end) for these lines.

    Reads no further than it must.
    """
    wanted, number, rest = set(numbers), 0, b""
    if not wanted:
        return
    last = max(wanted)
    for block in blocks:
        *whole, rest = (rest + block).split(b"\n")
        for line in whole:
            if number in wanted:
                yield number, line
            number += 1
        if number > last:
            return
    if number in wanted and rest:
        yield number, rest
