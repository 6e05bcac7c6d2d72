"""The reasons, in our own words, why a model refused a value."""

from collections.abc import Iterable, Mapping
from typing import Any

# By the type of pydantic's error; the braces are filled from its context.
WORDS = {
    "missing": "it is missing",
    "extra_forbidden": "it is not a known name",
    "greater_than": "it must be greater than {gt:g}",
    "greater_than_equal": "it must be at least {ge:g}",
    "less_than": "it must be less than {lt:g}",
    "less_than_equal": "it must be at most {le:g}",
    "finite_number": "it must be a finite number",
    "string_too_short": "it must have at least {min_length} characters",
    "string_too_long": "it must have at most {max_length} characters",
    "literal_error": "it must be one of {expected}",
    "enum": "it must be one of {expected}",
}
KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "dict": "an object",
    "model": "an object",
    "url": "an address, such as http://127.0.0.1:4222",
    "path": "a path",
}
# What the patterns of our names stand for, since a regular expression helps nobody.
NAME = "it must begin with a small letter or a digit; small letters, digits, - and _ may follow, 32"
PATTERNS = {
    "^[a-z0-9][a-z0-9_-]{0,31}$": f"{NAME} characters in all",
    "^[0-9a-f]{64}$": "it must be a SHA-256, written as 64 hexadecimal digits",
    "^[0-9a-f]{12}$": "it must be 12 hexadecimal digits",
}


def why_wrong(problem: Mapping[str, Any]) -> str:
    """Return one problem of a pydantic.ValidationError as a clause: `it must be a number`."""
    kind, context = str(problem["type"]), problem.get("ctx") or {}
    if kind == "value_error":
        return str(context.get("error") or problem["msg"])
    if kind == "string_pattern_mismatch":
        pattern = context.get("pattern", "")
        return PATTERNS.get(pattern, f"it must have the form {pattern}")
    if kind in WORDS:
        return WORDS[kind].format(**context)
    name = kind.partition("_")[0]
    return f"it must be {KINDS[name]}" if name in KINDS else "it is not a valid value"


def where_wrong(problem: Mapping[str, Any]) -> str:
    """Return the name of the field that a problem is about, with those of the objects around it."""
    return ".".join(str(part) for part in problem["loc"]) or "value"


def all_wrong(problems: Iterable[Mapping[str, Any]]) -> str:
    """Return every problem of a pydantic.ValidationError: `rank: it must be at least 1; …`."""
    return "; ".join(f"{where_wrong(each)}: {why_wrong(each)}" for each in problems)
