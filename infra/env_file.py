"""A reader of the user's .env, for use before there is an environment.

Uses only the standard library.
"""

from pathlib import Path


def read_env(path: Path) -> dict[str, str]:
    """Return the values of NAME=value lines, optionally quoted; `#` begins a comment line."""
    found = {}
    for line in path.read_text().splitlines() if path.is_file() else []:
        name, separator, value = line.strip().removeprefix("export ").partition("=")
        if separator and name and not name.startswith("#"):
            found[name.strip()] = value.strip().strip("'\"")
    return found
