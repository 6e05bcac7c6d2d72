"""Files of NAME=value lines: the user's .env, read before there is an environment, and our own.

Uses only the standard library.
"""

import re
from pathlib import Path

QUOTED = re.compile(r"""(['"])((?:\\.|(?!\1)[^\\])*)\1\s*(?:#.*)?$""")
COMMENT = re.compile(r"(?:^|\s)#")


def read_env(path: Path) -> dict[str, str]:
    """Return the values of NAME=value lines, optionally quoted; `#` begins a comment."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        name, separator, value = line.strip().removeprefix("export ").partition("=")
        if separator and name and not name.startswith("#"):
            found[name.strip()] = unquoted(value.strip())
    return found


def unquoted(value: str) -> str:
    """Return a value without the quotes around it; without quotes, ` #` begins a comment."""
    match = QUOTED.match(value)
    if match is None:
        return COMMENT.split(value)[0].rstrip()
    quote, inner = match.groups()
    return re.sub(r"\\([\\'])" if quote == "'" else r"\\([\\\"'])", r"\1", inner)


def env_lines(values: dict[str, str]) -> str:
    """Return NAME=value lines as python-dotenv reads them. Raises ValueError for a line break.

    A shell reads them alike, unless a value has an apostrophe and also one of the characters that
    it does not leave alone between double quotes.
    """
    for name, value in values.items():
        if len(value.splitlines()) > 1 or value.endswith(("\n", "\r")):
            raise ValueError(f"{name} contains a line break: {value!r}")
    return "".join(f"{name}={quoted(value)}\n" for name, value in values.items())


def quoted(value: str) -> str:
    """Return a value between quotes: single ones, unless an apostrophe asks for double ones."""
    if "'" not in value and "\\" not in value:
        return f"'{value}'"
    if not any(c in value for c in '"$`\\!'):
        return f'"{value}"'
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
