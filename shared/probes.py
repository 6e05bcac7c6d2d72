"""Rows and probes: which examples are held out, and which are watched through training.

Every choice here is a function of the row's content alone (its id), never of its place in a file,
so a row keeps its role when a file is sorted, cut or repeated. Needs no torch.
"""

import hashlib
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
)

OWN_PROBES = 100  # of a job's own file, trained and held out together
EVAL_PROBES = 50  # of all files in inbox/eval together
EARLIER_PROBES = 16
HELDOUT_ROWS = 64  # held-out rows of a file, at most
HELDOUT_FILE_ROWS = 200  # smaller files are trained whole
HELDOUT_SALT = "heldout"

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Split = Literal["trained", "heldout", "eval", "earlier"]


class Message(BaseModel):
    """One turn of a canonical row. What it has not is left out when it is written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    tool_calls: tuple[dict[str, Any], ...] | None = None  # of an assistant
    name: str | None = None  # of a tool
    tool_call_id: str | None = None

    @model_serializer(mode="wrap")
    def _without_nulls(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in plain(self).items() if value is not None}


class Probe(BaseModel):
    """An example that is measured at every snapshot. `id` is its row id, `row` its 0-based line.

    `line`: the canonical row itself where it has tools, for templates show them in its own order.
    `text`: instead of messages; it is measured as a whole, for there is nothing to ask.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Sha256
    split: Split
    dataset: Sha256
    row: int
    messages: tuple[Message, ...] = ()
    line: str | None = None
    text: str | None = None

    @model_serializer(mode="wrap")
    def _without_nulls(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in plain(self).items() if value is not None}

    @property
    def prompt(self) -> str:
        """What was asked, for people to read: the question, or all turns before the answer; nothing
        of plain text."""
        if self.text is not None:
            return ""
        before = self.messages[: self.answer_turn]
        if len(before) == 1:
            return before[0].content
        return "\n".join(f"{m.role}: {m.content}" for m in before)

    @property
    def expected(self) -> str:
        if self.text is not None:
            return self.text
        return self.messages[self.answer_turn].content

    @property
    def answer_turn(self) -> int:
        """Index of the last assistant message. Raises ValueError if there is none."""
        for turn in range(len(self.messages) - 1, -1, -1):
            if self.messages[turn].role == "assistant":
                return turn
        raise ValueError(f"probe {self.id[:12]} has no assistant message")


def row_id(line: bytes) -> str:
    """SHA-256 (hex) of one canonical line; a trailing newline does not count."""
    return hashlib.sha256(line.rstrip(b"\n")).hexdigest()


def draw(ids: Iterable[str], count: int, salt: str) -> list[str]:
    """Draw `count` different ids, evenly and always the same, whatever order they come in."""
    ranked = sorted(set(ids), key=lambda name: hashlib.sha256(f"{salt}:{name}".encode()).digest())
    return ranked[: max(count, 0)]


def draw_by_length(lengths: Mapping[str, int], count: int, salt: str) -> list[str]:
    """Draw `count` ids, stratified by length: one from each of `count` equal parts of the ids in
    the order of their lengths. Always the same, whatever order they come in."""
    places = {name: place for place, name in enumerate(draw(lengths, len(lengths), salt))}
    ordered = sorted(lengths, key=lambda name: (lengths[name], places[name]))
    count = max(0, min(count, len(ordered)))
    edges = [part * len(ordered) // count for part in range(count + 1)] if count else []
    return [min(ordered[a:b], key=places.__getitem__) for a, b in pairwise(edges)]


def heldout(ids: Iterable[str], fraction: float) -> set[str]:
    """The ids of a file that are never trained. `ids` has one entry a row, repeats included.

    Nothing for files under 200 rows; else `fraction` of the rows, at least one, at most 64.
    """
    rows = list(ids)
    if len(rows) < HELDOUT_FILE_ROWS or fraction <= 0:
        return set()
    count = min(HELDOUT_ROWS, max(1, round(fraction * len(rows))))
    return set(draw(rows, count, HELDOUT_SALT))
