"""The turns of a conversation: roles in order, words, tool calls, in canonical form.

A canonical turn is `{"role":…,"content":…}`; an assistant's may also have `tool_calls`, a tool's
`name` and `tool_call_id`. The arguments of a call are an object, even if they came as a string.
"""

from typing import Any

import orjson

from services.ingest.reading import digits
from services.ingest.reading.row_error import RowError, kind

ROLES = ("system", "user", "assistant", "tool")
# Which role may follow which; "" is the beginning.
FOLLOWS = frozenset(
    [
        ("", "system"),
        ("", "user"),
        ("system", "user"),
        ("user", "assistant"),
        ("assistant", "user"),
        ("tool", "assistant"),
        ("tool", "user"),
    ]
)
SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "function_call": "assistant",
}
FIELDS = ["role", "content"]


def are_plain(messages: Any) -> bool:
    """Return whether these turns are already canonical; a NUL is not looked for.

    Most rows are, and this finds it out fast.
    """
    if type(messages) is not list:
        return False
    before: Any = ""
    answered = False
    for turn in messages:
        if type(turn) is not dict or [*turn] != FIELDS:
            return False
        role, content = turn.values()
        if type(content) is not str or not content or content.isspace():
            return False
        if type(role) is not str or (before, role) not in FOLLOWS:
            return False
        if role == "assistant":
            answered = True
        before = role
    return answered


def check_messages(messages: Any, where: str, ignored: set[str]) -> list[dict[str, Any]]:
    """Return the canonical turns of a list that must hold an answer. Raises RowError."""
    found = check_turns(messages, where, ignored)
    if not any(turn["role"] == "assistant" for turn in found):
        message = "There is no assistant turn after a user turn, so there is nothing to learn."
        raise RowError(where, "no_answer", message)
    return found


def check_turns(messages: Any, where: str, ignored: set[str]) -> list[dict[str, Any]]:
    """Return the canonical turns of a list: each is checked, then their order.

    Raises RowError.
    """
    if type(messages) is not list:
        message = f"`{where}` must be a list; this is {kind(messages)}."
        raise RowError(where, "not_a_list", message)
    if not messages:
        raise RowError(where, "empty_messages", f"`{where}` is empty: it has no turns.")
    found = [check_turn(turn, f"{where}[{n}]", ignored) for n, turn in enumerate(messages)]
    check_order(found, where)
    return found


def check_order(turns: list[dict[str, Any]], where: str) -> None:
    """Check that each turn may follow the one before it.

    Raises RowError at the first that may not.
    """
    before = ""
    for index, turn in enumerate(turns):
        role, field = turn["role"], f"{where}[{index}].role"
        if role == "tool" and before in ("assistant", "tool"):
            check_called(turns, index, field)
        elif role == "system" and index:
            message = "A system turn may only be the first one."
            raise RowError(field, "system_not_first", message)
        elif (before, role) not in FOLLOWS:
            raise RowError(field, "role_order", out_of_order(before, role))
        before = role


def check_called(turns: list[dict[str, Any]], index: int, field: str) -> None:
    """Check that a tool's turn answers a call.

    Raises RowError if the assistant's turn before it has none.
    """
    caller = next(t for t in reversed(turns[:index]) if t["role"] != "tool")
    if not caller.get("tool_calls"):
        message = "A tool turn must follow an assistant turn that has `tool_calls`."
        raise RowError(field, "role_order", message)


def out_of_order(before: str, role: str) -> str:
    if role == before:
        return (
            f"Two {role} turns follow each other. Join them, or add the missing turn between them."
        )
    if not before or before == "system":
        return f"The conversation begins with {role}: the first turn after system must be user."
    why = ": it answers an assistant turn that has `tool_calls`" if role == "tool" else ""
    return f"A {role} turn cannot follow a {before} turn{why}."


def check_turn(turn: Any, where: str, ignored: set[str]) -> dict[str, Any]:
    """Return one canonical turn. Raises RowError."""
    if type(turn) is not dict:
        message = f"A turn must be an object with role and content; this is {kind(turn)}."
        raise RowError(where, "not_an_object", message)
    role = turn.get("role")
    if role == "function":
        role = "tool"
    if type(role) is not str or role not in ROLES:
        raise wrong_role(turn, where)
    found: dict[str, Any] = {"role": role, "content": ""}
    calls = check_calls(turn, where) if role == "assistant" else None
    found["content"] = check_content(turn, where, role, may_be_empty=bool(calls))
    if calls:
        found["tool_calls"] = calls
    used = {"role", "content"}
    if role == "assistant":
        used |= {"tool_calls", "function_call"} if calls else set()
    elif role == "tool":
        for name in ("name", "tool_call_id"):
            if turn.get(name) is not None:
                found[name] = check_string(turn[name], f"{where}.{name}")
                used.add(name)
    list_name = where.partition("[")[0]
    ignored.update(f"{list_name}[].{name}" for name in turn if name not in used)
    return found


def check_content(turn: dict[str, Any], where: str, role: str, *, may_be_empty: bool) -> str:
    """Return the words of a turn. Raises RowError."""
    content = turn.get("content")
    if content is None and may_be_empty:
        return ""
    if type(content) is not str:
        raise wrong_content(turn, where)
    check_string(content, f"{where}.content")
    if role == "assistant" and not may_be_empty and (not content or content.isspace()):
        message = "The assistant's answer is empty: there is nothing to learn."
        raise RowError(f"{where}.content", "empty_answer", message)
    return content


def check_string(value: Any, where: str) -> str:
    if type(value) is not str:
        raise RowError(where, "not_a_string", f"It must be a string; this is {kind(value)}.")
    if "\0" in value:
        raise RowError(where, "nul", "The content contains a NUL character (\\u0000): delete it.")
    return value


# ---- tools ---------------------------------------------------------------------------------------


def check_calls(turn: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """Return the tool calls of an assistant's turn in canonical form. Raises RowError."""
    calls, name = turn.get("tool_calls"), "tool_calls"
    if not calls and turn.get("function_call"):
        calls, name = [turn["function_call"]], "function_call"
    if not calls:
        return []
    if type(calls) is not list:
        raise RowError(f"{where}.{name}", "tools", f"It must be a list; this is {kind(calls)}.")
    return [check_call(call, f"{where}.{name}[{n}]") for n, call in enumerate(calls)]


def check_call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function", call) if type(call) is dict else None
    if type(function) is not dict or type(function.get("name")) is not str:
        message = 'A tool call must be {"function": {"name": "…", "arguments": {…}}}.'
        raise RowError(where, "tools", message)
    arguments = function.get("arguments", {})
    if type(arguments) is str:
        try:
            arguments = digits.parse(arguments or "{}")
        except orjson.JSONDecodeError as error:
            message = f"The arguments of {function['name']!r} are not valid JSON: {error.msg}."
            raise RowError(f"{where}.arguments", "tools", message) from error
    if type(arguments) is not dict:
        message = f"The arguments of a call must be an object; this is {kind(arguments)}."
        raise RowError(f"{where}.arguments", "tools", message)
    found: dict[str, Any] = {"type": "function"}
    if type(call.get("id")) is str:
        found["id"] = call["id"]
    found["function"] = {"name": function["name"], "arguments": arguments}
    return found


def check_tools(tools: Any) -> list[dict[str, Any]]:
    """Return the tools that the model may call, from a list or the JSON of one.

    Raises RowError.
    """
    if type(tools) is str:
        try:
            tools = digits.parse(tools)
        except orjson.JSONDecodeError as error:
            message = f"`tools` is a string that is not valid JSON: {error.msg}."
            raise RowError("tools", "tools", message) from error
    if type(tools) is not list:
        raise RowError("tools", "tools", f"`tools` must be a list; this is {kind(tools)}.")
    return [check_tool(tool, f"tools[{n}]") for n, tool in enumerate(tools)]


def check_tool(tool: Any, where: str) -> dict[str, Any]:
    function = tool.get("function", tool) if type(tool) is dict else None
    if type(function) is not dict or type(function.get("name")) is not str:
        message = 'A tool must be {"type": "function", "function": {"name": "…", …}}.'
        raise RowError(where, "tools", message)
    return {"type": "function", "function": function}


# ---- ShareGPT ------------------------------------------------------------------------------------


def from_sharegpt(turns: Any) -> Any:
    """Return turns of `from`/`value` as turns of `role`/`content`, others as they are.

    Raises RowError.
    """
    if type(turns) is not list:
        return turns
    return [renamed(turn, f"conversations[{n}]") for n, turn in enumerate(turns)]


def renamed(turn: Any, where: str) -> Any:
    if type(turn) is not dict or "from" not in turn:
        return turn
    speaker = turn["from"]
    role = SHAREGPT_ROLES.get(speaker) if type(speaker) is str else None
    if role is None:
        shown = repr(speaker[:40]) if type(speaker) is str else kind(speaker)
        message = f"The speaker {shown} is unknown; it must be system, human, gpt or tool."
        raise RowError(f"{where}.from", "unknown_role", message)
    if "value" not in turn:
        raise RowError(f"{where}.value", "missing_field", "The turn has no `value`.")
    rest = {name: value for name, value in turn.items() if name not in ("from", "value")}
    if speaker != "function_call":
        return {"role": role, "content": turn["value"], **rest}
    return {
        "role": role,
        "content": None,
        "tool_calls": function_calls(turn["value"], where),
        **rest,
    }


def function_calls(value: Any, where: str) -> list[Any]:
    """Return the calls in a turn of `function_call`: the JSON of one or of a list.

    Raises RowError.
    """
    try:
        calls = digits.parse(value) if type(value) is str else value
    except orjson.JSONDecodeError as error:
        message = f"A function_call must be JSON: {error.msg}."
        raise RowError(f"{where}.value", "tools", message) from error
    return calls if type(calls) is list else [calls]


# ---- what is wrong -------------------------------------------------------------------------------


def wrong_role(turn: dict[str, Any], where: str) -> RowError:
    field, role = f"{where}.role", turn.get("role")
    if "role" not in turn:
        return RowError(field, "missing_field", "The turn has no `role`.")
    if type(role) is not str:
        return RowError(field, "not_a_string", f"`role` must be a string; this is {kind(role)}.")
    message = f"The role {role[:40]!r} is unknown; it must be system, user, assistant or tool."
    return RowError(field, "unknown_role", message)


def wrong_content(turn: dict[str, Any], where: str) -> RowError:
    field = f"{where}.content"
    if "content" not in turn:
        return RowError(field, "missing_field", "The turn has no `content`.")
    hint = ""
    if type(turn["content"]) is list:
        hint = " Lists of parts (text, images) are not supported: join their text."
    message = f"`content` must be a string; this is {kind(turn['content'])}.{hint}"
    return RowError(field, "not_a_string", message)
