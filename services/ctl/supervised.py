"""What the supervisor of an embedded run finds wrong with its servers and services."""

import os
from pathlib import Path

from pydantic import BaseModel

from services.ctl.troubles import Trouble


class SupervisorStatus(BaseModel):
    """The part of the supervisor's status file that is read here."""

    pid: int
    ill: dict[str, str]


def ill_programs(path: Path | None) -> list[Trouble]:
    """Return what is wrong with which program, as the supervisor's status file says it.

    Empty where there is no such file, as in containers, or where its supervisor no longer lives:
    what does not answer then is found by asking it.
    """
    try:
        status = SupervisorStatus.model_validate_json(path.read_text() if path else "")
        os.kill(status.pid, 0)
    except (OSError, ValueError):
        return []
    found = sorted(status.ill.items())
    return [Trouble(name, f"{name}: {why}", next_of(why)) for name, why in found]


def next_of(why: str) -> str:
    """Return what is to be done about a program that is ill in this way."""
    if "is full" in why:
        return "free some space; it continues by itself then"
    return "wait: it is started again by itself if that stays so"
