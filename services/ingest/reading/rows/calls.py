"""The calls of tools, and the tools that may be called, in canonical form."""

from typing import Any

from services.ingest.reading.row_error import RowError, kind
from services.ingest.reading.rows.words import json_of, json_value

ARGUMENTS = ("arguments", "parameters", "args", "input", "kwargs")


def check_calls(calls: Any, where: str) -> list[dict[str, Any]]:
    """Return calls of tools in canonical form, from a list, one call, or the JSON of these.

    Raises RowError.
    """
    found = in_list(calls, where)
    return [check_call(call, f"{where}[{number}]") for number, call in enumerate(found)]


def in_list(value: Any, where: str) -> list[Any]:
    """Return a list, or one object in a list, or what the JSON of these holds. Raises RowError."""
    named = f"`{where.rpartition('.')[2]}`"
    if type(value) is str:
        value = json_value(value, where, "tools", named)
    if type(value) is dict:
        return [value]
    if type(value) is not list:
        raise RowError(where, "tools", f"{named} must be a list; this is {kind(value)}.")
    return value


def check_call(call: Any, where: str) -> dict[str, Any]:
    """Return one call in canonical form: its arguments are an object. Raises RowError."""
    if type(call) is str:
        call = json_value(call, where, "tools", "A tool call")
    function = call.get("function", call) if type(call) is dict else None
    if type(function) is str and type(call) is dict:  # {"function": "NAME", "arguments": …}
        function = {**call, "name": function}
    if type(function) is not dict or type(function.get("name")) is not str:
        message = 'A tool call must be {"function": {"name": "…", "arguments": {…}}}.'
        raise RowError(where, "tools", message)
    found: dict[str, Any] = {"type": "function"}
    number = call.get("id")
    if type(number) is str and number:
        found["id"] = number
    elif isinstance(number, int):
        found["id"] = json_of(number)
    found["function"] = {"name": function["name"], "arguments": arguments_of(function, where)}
    return found


def arguments_of(function: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the arguments of a call as an object. Raises RowError."""
    arguments: Any = next((function[key] for key in ARGUMENTS if function.get(key) is not None), {})
    if type(arguments) is str:
        what = f"The value of the arguments of {function['name']!r}"
        arguments = json_value(arguments.strip() or "{}", f"{where}.arguments", "tools", what)
        if arguments is None:
            arguments = {}
    if type(arguments) is not dict:
        message = f"The arguments of a call must be an object; this is {kind(arguments)}."
        raise RowError(f"{where}.arguments", "tools", message)
    return arguments


def are_calls(value: Any) -> bool:
    """Return whether a value is a list of calls, each with a name and arguments."""
    return (
        type(value) is list
        and bool(value)
        and all(type(v) is dict and type(v.get("name")) is str for v in value)
        and all(any(key in v for key in ARGUMENTS) for v in value)
    )


def check_tools(tools: Any, where: str = "tools") -> list[dict[str, Any]]:
    """Return the tools that the model may call, from a list or the JSON of one.

    Raises RowError.
    """
    return [check_tool(tool, f"{where}[{n}]") for n, tool in enumerate(in_list(tools, where))]


def check_tool(tool: Any, where: str) -> dict[str, Any]:
    """Return one tool in canonical form. Raises RowError."""
    if type(tool) is str:
        tool = json_value(tool, where, "tools", "A tool")
    function = tool.get("function", tool) if type(tool) is dict else None
    if type(function) is not dict or type(function.get("name")) is not str:
        message = 'A tool must be {"type": "function", "function": {"name": "…", …}}.'
        raise RowError(where, "tools", message)
    if "input_schema" in function and "parameters" not in function:  # Anthropic's name for it
        renamed = {"input_schema": "parameters"}
        function = {renamed.get(name, name): value for name, value in function.items()}
    return {"type": "function", "function": function}
