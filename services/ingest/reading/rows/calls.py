"""The calls of tools, and the tools that may be called, in canonical form."""

from typing import Any

from services.ingest.reading.row_error import RowError, kind
from services.ingest.reading.rows.words import json_of, json_value

ARGUMENTS = ("arguments", "parameters", "args", "input", "kwargs")


def check_calls(calls: Any, where: str) -> list[dict[str, Any]]:
    """Return calls of tools in canonical form, from a list, one call, or the JSON of these.

    Raises RowError.
    """
    if type(calls) is str:
        calls = json_value(calls, where, "tools", f"`{where.rpartition('.')[2]}`")
    if type(calls) is dict:
        calls = [calls]
    if type(calls) is not list:
        raise RowError(where, "tools", f"It must be a list; this is {kind(calls)}.")
    return [check_call(call, f"{where}[{number}]") for number, call in enumerate(calls)]


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
    if type(tools) is str:
        tools = json_value(tools, where, "tools", f"`{where}`")
    if type(tools) is dict:
        tools = [tools]
    if type(tools) is not list:
        raise RowError(where, "tools", f"`{where}` must be a list; this is {kind(tools)}.")
    return [check_tool(tool, f"{where}[{number}]") for number, tool in enumerate(tools)]


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
