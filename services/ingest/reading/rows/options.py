"""What a sidecar says about how rows are read: columns, layout, and what is taken of them."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from services.ingest.reading.row_error import RowError
from services.ingest.reading.rows.fields import fold, is_neutral
from services.ingest.reading.rows.layouts import named_layout
from services.ingest.reading.rows.meaning import (
    ANSWER_KEYS,
    ASKED_KEYS,
    CONVERSATIONS,
    INPUT_KEY,
    TEXT_KEY,
)

# What `columns` may name -> the field that it is read as.
COLUMN_FIELDS = {
    "prompt": "prompt",
    "question": "prompt",
    "instruction": "instruction",
    "input": "input",
    "answer": "completion",
    "completion": "completion",
    "output": "completion",
    "messages": "messages",
    "text": "text",
    "system": "system",
    "context": "context",
    "choices": "choices",
    "history": "history",
    "tools": "tools",
    "thought": "reasoning_content",
    "weight": "weight",
}
IGNORE = "ignore"
SYSTEM_WAYS = ("keep", "merge_into_user")
LAID_OUT = frozenset((*ASKED_KEYS, INPUT_KEY, *ANSWER_KEYS, *CONVERSATIONS, TEXT_KEY))


@dataclass(frozen=True)
class RowOptions:
    """The way to read rows. `columns` maps names of COLUMN_FIELDS to those of the file.

    `layout` is one of several that fit, `only_positive` takes the good rows of preference data, and
    `system` may be `merge_into_user`. `ignore` are columns that are left out.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    layout: str | None = None
    only_positive: bool = False
    system: str | None = None
    ignore: tuple[str, ...] = ()

    @property
    def is_default(self) -> bool:
        return self == RowOptions()

    @property
    def names(self) -> frozenset[str]:
        """The columns of the file that are named here, folded."""
        return frozenset(fold(name) for name in (*self.columns.values(), *self.ignore))


def columns_of(value: Any) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the columns that a sidecar names, and those that it ignores. Raises ValueError."""
    if isinstance(value, str):
        value = written_columns(value)
    if not isinstance(value, dict) or not value:
        raise ValueError('it must name columns, such as {prompt: "Question", answer: "Reply"}')
    found: dict[str, str] = {}
    ignored: tuple[str, ...] = ()
    for name, column in value.items():
        key = str(name).lower()
        if key == IGNORE:
            listed = column if isinstance(column, list) else str(column).split(",")
            ignored = tuple(str(each).strip() for each in listed)
        elif key not in COLUMN_FIELDS:
            known = ", ".join([*COLUMN_FIELDS, IGNORE])
            raise ValueError(f"{key[:40]!r} cannot be a column; known are {known}")
        elif not isinstance(column, str):
            raise ValueError(f"the column of {key!r} must be one name")
        else:
            found[COLUMN_FIELDS[key]] = column
    return found, ignored


def written_columns(text: str) -> dict[str, str]:
    """Return columns that are written as text, such as `prompt=Question, answer=Reply`."""
    found: dict[str, str] = {}
    for part in text.strip().strip("{}").split(","):
        name, sign, column = part.partition("=" if "=" in part else ":")
        if sign:
            found[name.strip(" \"'")] = column.strip(" \"'")
        elif found and IGNORE in found:
            found[IGNORE] += f",{part.strip()}"
        else:
            raise ValueError("it must be written as prompt=Question,answer=Reply")
    return found


def layout_named(value: Any) -> str:
    """Return the name of a layout. Raises ValueError if it is not known."""
    named_layout(str(value))
    return str(value)


def system_way(value: Any) -> str | None:
    """Return what is done with a system turn, None if it is kept. Raises ValueError."""
    if value not in SYSTEM_WAYS:
        raise ValueError(f"it must be {' or '.join(SYSTEM_WAYS)}")
    return None if value == SYSTEM_WAYS[0] else str(value)


def renamed(row: dict[str, Any], options: RowOptions) -> dict[str, Any]:
    """Return a row whose columns have the names that they are read by. Raises RowError.

    Where columns are named, no other one asks or answers; what changes the meaning still counts.
    """
    ignored = {fold(name) for name in options.ignore}
    kept = {name: value for name, value in row.items() if fold(name) not in ignored}
    if not options.columns:
        return kept
    by_name = {fold(name): name for name in kept}
    found = {}
    for name, column in options.columns.items():
        written = column if column in kept else by_name.get(fold(column))
        if written is not None:
            found[name] = kept[written]
        elif name not in ("system", "input", "context", "tools", "history", "weight", "choices"):
            raise no_column(column, list(row))
    named = {fold(column) for column in options.columns.values()}
    for name, value in kept.items():
        if fold(name) not in named and fold(name) not in LAID_OUT and name not in found:
            found[name] = value
    return found


def no_column(column: str, there: list[str]) -> RowError:
    """Return the error for a column that a row lacks, with those that are nearest to it."""
    close = difflib.get_close_matches(column, there, n=3, cutoff=0.4) or there[:8]
    names = ", ".join(f"`{name[:40]}`" for name in close)
    message = f"The row has no column `{column[:40]}`, which the sidecar names. Nearest: {names}."
    return RowError(column[:40], "no_column", message)


def merged_system(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return turns without system turns: each stands in front of the user's turn after it.

    An empty line is between them.
    """
    found: list[dict[str, Any]] = []
    waiting: list[str] = []
    for turn in turns:
        if turn["role"] == "system":
            waiting.append(turn["content"])
            continue
        if waiting and turn["role"] == "user":
            words = [text for text in (*waiting, turn["content"]) if not is_neutral(text)]
            found.append({**turn, "content": "\n\n".join(words)})
        elif waiting:
            found += [{"role": "user", "content": "\n\n".join(waiting)}, turn]
        else:
            found.append(turn)
        waiting = []
    return found
