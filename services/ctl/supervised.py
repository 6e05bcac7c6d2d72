"""What the supervisor of an embedded run finds wrong with its servers and services."""

import json
import os
from pathlib import Path

from services.ctl.troubles import Trouble


def ill_programs(path: Path | None) -> list[Trouble]:
    """Return what is wrong with which program, as the supervisor's status file says it.

    Empty where there is no such file, as in containers, or where its supervisor no longer lives:
    what does not answer then is found by asking it.
    """
    try:
        status = json.loads(path.read_text()) if path else {}
        os.kill(status["pid"], 0)
        found = sorted(status["ill"].items())
        return [Trouble(name, f"{name}: {why}", next_of(why)) for name, why in found]
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return []


def next_of(why: str) -> str:
    """Return what is to be done about a program that is ill in this way."""
    if "is full" in why:
        return "free some space; it continues by itself then"
    return "wait: it is started again by itself if that stays so"
