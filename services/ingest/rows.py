"""One row: recognise its layout, check it, bring it to the canonical form.

The canonical row is `{"messages":[{"role":…,"content":…},…]}` on one line: compact, UTF-8 without
escapes that JSON does not ask for, nothing but role and content. Equal conversations have equal
bytes, whatever layout they came in.
"""

from typing import Any, NamedTuple

import orjson

ROLES = ("system", "user", "assistant")
# layout -> (fields that mark it, fields that it knows)
LAYOUTS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "messages": (frozenset({"messages"}), frozenset({"messages"})),
    "prompt/completion": (
        frozenset({"prompt", "completion"}),
        frozenset({"prompt", "completion"}),
    ),
    "instruction/input/output": (
        frozenset({"instruction", "output"}),
        frozenset({"instruction", "input", "output"}),
    ),
}
SUPPORTED = (
    '{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}',
    '{"prompt": "…", "completion": "…"}',
    '{"instruction": "…", "input": "…", "output": "…"}   ("input" may be left out)',
)
# Layouts that people have and this reader has not: named, so that nobody looks for a slip.
FOREIGN: tuple[tuple[frozenset[str], str], ...] = (
    (frozenset({"conversations"}), "ShareGPT (`conversations`)"),
    (frozenset({"conversation"}), "`conversation`"),
    (frozenset({"question", "answer"}), "`question`/`answer`"),
    (frozenset({"text"}), "plain `text`"),
)
TOOL_FIELDS = ("tool_calls", "function_call", "tool_call_id")


class RowError(Exception):
    """Why a row is refused. `field` is a path such as messages[1].content; `column` from 1."""

    def __init__(self, field: str, rule: str, message: str, column: int | None = None) -> None:
        self.field, self.rule, self.message, self.column = field, rule, message, column
        super().__init__(f"{field}: {message} ({rule})")


class Row(NamedTuple):
    """`line`: the canonical bytes without a newline; `ignored`: fields that were left out."""

    layout: str
    line: bytes
    ignored: tuple[str, ...]


def canonical(row: Any) -> Row:
    """The canonical form of a parsed row. Raises RowError."""
    if type(row) is not dict:
        message = f"A row must be one JSON object, {{…}}; this is {kind(row)}."
        raise RowError("row", "not_an_object", message)
    layout = layout_of(row)
    ignored: set[str] = set()
    if layout == "messages":
        messages = check_messages(row["messages"], ignored)
    elif layout == "prompt/completion":
        messages = pair(text(row, "prompt"), row, "completion")
    else:
        messages = pair(instruction(row), row, "output")
    known = LAYOUTS[layout][1]
    if not row.keys() <= known:
        check_other_fields(row, known)
        ignored.update(name for name in row if name not in known)
    return Row(layout, orjson.dumps({"messages": messages}), tuple(sorted(ignored)))


# ---- layouts -------------------------------------------------------------------------------------


def layout_of(row: dict[str, Any]) -> str:
    """The one layout whose fields are all there. Raises RowError naming what there is instead."""
    if row.keys() >= {"chosen", "rejected"}:
        message = "Preference data (`chosen`/`rejected`) is not what is trained here."
        raise RowError("chosen", "preference", message)
    found = [name for name, (marks, _) in LAYOUTS.items() if row.keys() >= marks]
    if len(found) == 1:
        return found[0]
    if found:
        message = f"The row has two layouts at once: {' and '.join(found)}. Keep one of them."
        raise RowError("row", "two_layouts", message)
    raise unknown_layout(row)


def unknown_layout(row: dict[str, Any]) -> RowError:
    if not row:
        return RowError("row", "empty_row", "The row is empty: {}.")
    for marks, name in FOREIGN:
        if row.keys() >= marks:
            message = f"The layout {name} is not supported; bring it to one of those listed below."
            return RowError(min(marks), "layout", message)
    for marks, _ in LAYOUTS.values():
        missing = sorted(marks - row.keys())
        if len(missing) < len(marks):
            here = ", ".join(f"`{name}`" for name in sorted(marks & row.keys()))
            message = f"The row has {here} but no `{missing[0]}`."
            return RowError(missing[0], "missing_field", message)
    names = ", ".join(f"`{name[:40]}`" for name in list(row)[:8])
    return RowError("row", "layout", f"No known layout: the row's fields are {names}.")


def check_other_fields(row: dict[str, Any], known: frozenset[str]) -> None:
    """Tools left out would change what is trained; a field such as `id` would not."""
    for name in ("tools", "functions"):
        if name not in known and row.get(name):
            raise RowError(name, "tools", "Rows with tools are not supported yet.")


def text(row: dict[str, Any], name: str) -> str:
    """A field that must be a string without NUL."""
    value = row.get(name)
    if type(value) is not str:
        raise RowError(name, "not_a_string", f"`{name}` must be a string; this is {kind(value)}.")
    if "\0" in value:
        raise RowError(name, "nul", f"`{name}` contains a NUL character (\\u0000).")
    return value


def instruction(row: dict[str, Any]) -> str:
    """Instruction and input, an empty line between them, as Alpaca's readers do."""
    asked = text(row, "instruction")
    given = text(row, "input") if row.get("input") is not None else ""
    return f"{asked}\n\n{given}" if given else asked


def pair(question: str, row: dict[str, Any], answers: str) -> list[dict[str, str]]:
    answer = text(row, answers)
    if not answer or answer.isspace():
        message = f"`{answers}` is empty: there is nothing to learn."
        raise RowError(answers, "empty_answer", message)
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


# ---- messages ------------------------------------------------------------------------------------


def check_messages(messages: Any, ignored: set[str]) -> list[dict[str, str]]:
    """Role and content of each turn, in order. Raises RowError."""
    if type(messages) is not list:
        message = f"`messages` must be a list; this is {kind(messages)}."
        raise RowError("messages", "not_a_list", message)
    if not messages:
        raise RowError("messages", "empty_messages", "`messages` is empty: there is no turn.")
    found: list[dict[str, str]] = []
    asked = answered = False
    for index, turn in enumerate(messages):
        role, content = check_turn(turn, index, ignored)
        if role == "user":
            asked = True
        elif role == "assistant":
            answered = answered or asked
        found.append({"role": role, "content": content})
    if not answered:
        message = "There is no assistant turn after a user turn, so there is nothing to learn."
        raise RowError("messages", "no_answer", message)
    return found


def check_turn(turn: Any, index: int, ignored: set[str]) -> tuple[str, str]:
    """(role, content) of one turn. Raises RowError."""
    if type(turn) is not dict:
        message = f"A turn must be an object with role and content; this is {kind(turn)}."
        raise RowError(f"messages[{index}]", "not_an_object", message)
    role, content = turn.get("role"), turn.get("content")
    if type(role) is not str or role not in ROLES:
        raise wrong_role(turn, index)
    if len(turn) != 2:
        check_other_turn_fields(turn, index, ignored)
    if type(content) is not str:
        raise wrong_content(turn, index)
    if "\0" in content:
        where = f"messages[{index}].content"
        raise RowError(where, "nul", "The content contains a NUL character (\\u0000).")
    if role == "assistant" and (not content or content.isspace()):
        message = "The assistant's answer is empty: there is nothing to learn."
        raise RowError(f"messages[{index}].content", "empty_answer", message)
    if role == "system" and index:
        message = "A system turn may only be the first one."
        raise RowError(f"messages[{index}].role", "system_not_first", message)
    return role, content


def wrong_role(turn: dict[str, Any], index: int) -> RowError:
    where, role = f"messages[{index}].role", turn.get("role")
    if "role" not in turn:
        hint = " (`from`/`value` is the ShareGPT layout)" if "from" in turn else ""
        return RowError(where, "missing_field", f"The turn has no `role`{hint}.")
    if type(role) is not str:
        return RowError(where, "not_a_string", f"`role` must be a string; this is {kind(role)}.")
    if role in ("tool", "function"):
        return RowError(where, "tools", f"Turns of role {role!r} are not supported yet.")
    message = f"The role {role[:40]!r} is unknown; it must be system, user or assistant."
    return RowError(where, "unknown_role", message)


def check_other_turn_fields(turn: dict[str, Any], index: int, ignored: set[str]) -> None:
    """As for rows: a tool call may not be lost, a name may."""
    for name in TOOL_FIELDS:
        if turn.get(name):
            message = f"Turns with `{name}` are not supported yet."
            raise RowError(f"messages[{index}].{name}", "tools", message)
    ignored.update(f"messages[].{name}" for name in turn if name not in ("role", "content"))


def wrong_content(turn: dict[str, Any], index: int) -> RowError:
    where = f"messages[{index}].content"
    if "content" not in turn:
        return RowError(where, "missing_field", "The turn has no `content`.")
    hint = ""
    if type(turn["content"]) is list:
        hint = " Lists of parts (text, images) are not supported yet: join their text."
    message = f"`content` must be a string; this is {kind(turn['content'])}.{hint}"
    return RowError(where, "not_a_string", message)


def kind(value: Any) -> str:
    """What a JSON value is, in a user's words."""
    match value:
        case None:
            return "null or missing"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "a list"
    return "an object"
