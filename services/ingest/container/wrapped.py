"""One JSON object that holds many rows: which of its members they are, by looking."""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from services.ingest.reading.row_error import RowError, Unreadable
from services.ingest.reading.rows.meaning import is_read


def keys_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Names under which people put all their rows.
WRAPPERS = keys_of(
    "data rows train training instances examples samples items records entries results dataset "
    "datasets list conversations dialogues dialogs chats questions prompts test testing "
    "validation valid val dev eval evaluation"
)
# Names that a field of a row has in some layout.
ROW_NAMES = keys_of(
    "messages conversations conversation dialog dialogue chat prompt completion instruction input "
    "output response answer question query system text content target label chosen rejected "
    "mapping chat_messages user assistant human gpt problem solution context"
)
# Of the whole file: what would have to be part of each row.
FOR_ALL = ROW_NAMES | keys_of(
    "definition tools functions system_prompt instructions task_description"
)
TURNS = (
    frozenset({"role", "content"}),
    frozenset({"role", "tool_calls"}),
    frozenset({"role", "parts"}),
    frozenset({"from", "value"}),
)


class Wrapping(NamedTuple):
    """How an object holds rows.

    `list`: as the array or object under `key`. `index`: as the value of each member. `columns`: a
    list for each column; `cells`: an object for each column, by row; `split`: names and values
    apart, as pandas writes them.
    """

    kind: Literal["list", "index", "columns", "cells", "split"]
    key: str = ""


def plan_of(value: dict[str, Any]) -> Wrapping | None:
    """Return how an object holds rows, or None if it is a row itself.

    Lists may be cut to their first element. Raises Unreadable if it holds several lists of rows.
    """
    lists = {name: v for name, v in value.items() if type(v) is list and v}
    if any(is_turn(v[0]) for v in lists.values()) or is_flat_row(value):
        return None
    if is_names(value.get("columns")) and type(value.get("data")) is list:
        return Wrapping("split") if all(type(row) is list for row in value["data"]) else None
    if are_columns(value, lists):
        return Wrapping("columns")
    found = [name for name, v in lists.items() if are_rows(name, v)]
    if len(found) > 1:
        raise several(found)
    found = found or [name for name, v in value.items() if v == [] and name.lower() in WRAPPERS]
    return Wrapping("list", found[0]) if found else plan_of_objects(value)


def plan_of_objects(value: dict[str, Any]) -> Wrapping | None:
    """Return how an object of objects holds rows, or None."""
    objects = {name: v for name, v in value.items() if type(v) is dict and v}
    if not objects:
        return None
    if len(objects) == len(value):
        if any(is_field(name) for name in value):
            return Wrapping("cells") if all(map(is_cells, objects.values())) else None
        if is_row(next(iter(objects.values()))):
            return Wrapping("list", next(iter(objects))) if len(objects) == 1 else Wrapping("index")
    inside = [name for name, v in objects.items() if name.lower() in WRAPPERS and holds_rows(v)]
    if len(inside) > 1:
        raise several(inside)
    return Wrapping("list", inside[0]) if inside else None


def holds_rows(value: dict[str, Any]) -> bool:
    return plan_of(value) is not None or is_row(value)


def is_turn(value: Any) -> bool:
    """Return whether a value is a turn of a conversation; a node of a tree is not one."""
    return (
        type(value) is dict
        and "parent_id" not in value
        and any(value.keys() >= names for names in TURNS)
    )


def is_field(name: str) -> bool:
    """Return whether a row may have a field of this name that says something."""
    return name.lower() in ROW_NAMES or (name.lower() not in WRAPPERS and is_read(name))


def is_row(value: Any) -> bool:
    return type(value) is dict and any(is_field(name) for name in value)


def is_flat_row(value: dict[str, Any]) -> bool:
    """Return whether an object has words in a field of a row."""
    return any(type(v) is str and name.lower() in ROW_NAMES for name, v in value.items())


def is_names(value: Any) -> bool:
    return type(value) is list and bool(value) and all(type(name) is str for name in value)


def is_cells(value: dict[str, Any]) -> bool:
    """Return whether an object is a column: cells by the numbers of their rows."""
    return all(name.isdigit() and type(cell) is not dict for name, cell in value.items())


def are_columns(value: dict[str, Any], lists: dict[str, list[Any]]) -> bool:
    """Return whether each member is a list: of words for at least two fields, or conversations.

    One list of words alone may be the turns of a dialogue, unless it is called `text`.
    """
    if not lists or len(lists) < sum(v is not None for v in value.values()):
        return False
    named = {name: v[0] for name, v in lists.items() if is_field(name)}
    if any(type(first) is dict for first in named.values()):
        return False
    talks = any(type(first) is list and first and is_turn(first[0]) for first in named.values())
    return len(named) > 1 or talks or [*named] == ["text"]


def are_rows(name: str, rows: list[Any]) -> bool:
    """Return whether a list holds rows: objects under a usual name, or that look like rows.

    Under the name of a field, or an unknown one, they must look like it very much.
    """
    first = rows[0]
    if type(first) is list:
        return bool(first) and is_turn(first[0])
    if type(first) is not dict or is_turn(first):
        return False
    if name.lower() in WRAPPERS and not is_field(name):
        return True
    talks = any(type(v) is list and v and is_turn(v[0]) for v in first.values())
    return talks or sum(type(v) is str and is_field(n) for n, v in first.items()) > 1


def check_other(key: str, name: str, value: Any) -> None:
    """Raise Unreadable if another member than `key` holds rows, too, or a word for all of them."""
    if type(value) is list and value and are_rows(name, value):
        raise several([key, name])
    if value and name.lower() in FOR_ALL:
        message = (
            f"`{name[:40]}` stands beside the rows in `{key[:40]}`. If it belongs to each of them, "
            "put it into each row; else delete it."
        )
        raise Unreadable(RowError("file", "beside_rows", message))


def several(names: list[str]) -> Unreadable:
    shown = " and ".join(f"`{name[:40]}`" for name in names[:4])
    message = (
        f"The file holds several lists of rows: {shown}. Put the one that is to be trained into a "
        'file of its own, for example with: jq -c ".NAME[]" FILE > NAME.jsonl'
    )
    return Unreadable(RowError("file", "several_datasets", message))


def unwrapped_rows(value: dict[str, Any], plan: Wrapping) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table that is written in columns. Raises Unreadable."""
    if plan.kind == "split":
        for cells in value["data"]:
            if len(cells) != len(value["columns"]):
                raise Unreadable(RowError("file", "columns", "A row of `data` lacks a column."))
            yield dict(zip(value["columns"], cells, strict=True))
        return
    columns = {name: column for name, column in value.items() if column}
    if plan.kind == "cells":
        keys = list(dict.fromkeys(key for column in columns.values() for key in column))
        for key in keys:
            yield {name: column.get(key) for name, column in columns.items()}
        return
    sizes = {name: len(column) for name, column in columns.items()}
    if len(set(sizes.values())) > 1:
        shown = ", ".join(f"`{name[:40]}` has {size}" for name, size in list(sizes.items())[:4])
        message = f"The columns differ in length: {shown}. Each row needs a value in each column."
        raise Unreadable(RowError("file", "columns", message))
    for cells in zip(*columns.values(), strict=True):
        yield dict(zip(columns, cells, strict=True))
