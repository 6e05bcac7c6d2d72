"""This program itself. Uses only the standard library, since every image has it."""

import os
import tomllib
from pathlib import Path


def program_version() -> str:
    """Return the version of this program: that of its image, or else of its checkout."""
    told = os.environ.get("DURAMEN_VERSION")
    if told:
        return told
    project = Path(__file__).resolve().parents[1] / "pyproject.toml"
    return str(tomllib.loads(project.read_text())["project"]["version"])
