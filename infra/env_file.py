"""The user's .env, read with the standard library alone: before there is an environment."""

from pathlib import Path


def read_env(path: Path) -> dict[str, str]:
    """NAME=value lines, values optionally quoted; `#` begins a comment line."""
    found = {}
    for line in path.read_text().splitlines() if path.is_file() else []:
        name, separator, value = line.strip().removeprefix("export ").partition("=")
        if separator and name and not name.startswith("#"):
            found[name.strip()] = value.strip().strip("'\"")
    return found
