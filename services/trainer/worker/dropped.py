"""The parts of a row that a chat template may drop without a word.

A row whose tokens stay the same without such a part is trained as if it had never had it.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from shared.formats.dataset import CanonicalRow, ChatTurn


class Droppable(NamedTuple):
    """A part of a row: what to say if it is dropped, and the row without it, or None."""

    message: str
    without: Callable[[CanonicalRow], CanonicalRow | None]


def has_thought(turn: ChatTurn) -> bool:
    return bool(turn.reasoning_content) or "</think>" in turn.content


def without_system(row: CanonicalRow) -> CanonicalRow | None:
    kept = tuple(m for m in row.messages if m.role != "system" or not m.content.strip())
    return replace(row, messages=kept) if kept != row.messages else None


def without_tools(row: CanonicalRow) -> CanonicalRow | None:
    return replace(row, tools=None) if row.tools else None


def without_thought(row: CanonicalRow) -> CanonicalRow | None:
    kept = tuple(m.model_copy(update={"reasoning_content": None}) for m in row.messages)
    return replace(row, messages=kept) if kept != row.messages else None


def without_results(row: CanonicalRow) -> CanonicalRow | None:
    kept = tuple(
        m.model_copy(update={"content": "?"}) if m.role == "tool" else m for m in row.messages
    )
    return replace(row, messages=kept) if kept != row.messages else None


DROPPABLE = {
    "system": Droppable("the chat template drops the system turn", without_system),
    "tools": Droppable("the chat template does not show the tools", without_tools),
    "thought": Droppable("the chat template drops the thought before an answer", without_thought),
    "tool_result": Droppable("the chat template drops what a tool returned", without_results),
}
