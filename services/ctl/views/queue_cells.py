"""The cells of `duramen queue list` that say where a job is."""

from typing import Any

from services.ctl.views.columns import Cell, span_of
from shared.formats.version import version_name

COLOURS = {"failed": "red", "running": "green", "paused": "yellow"}


def job_state_cell(row: dict[str, Any]) -> Cell:
    """Return the state and what belongs to it: how far it is, or what it became."""
    state, progress = row["state"], row["progress"]
    if progress is not None:
        state = "paused" if progress["paused"] else state
        shown = f"{state} {progress['position']}/{progress['steps']}" if "steps" in progress else ""
        return Cell(shown or state, COLOURS[state])
    shown = f"{state} {version_name(row['version'])}" if row["version"] else state
    return Cell(shown, COLOURS.get(state, ""))


def start_cell(row: dict[str, Any]) -> str:
    if row["state"] == "running":
        left = (row["progress"] or {}).get("eta_seconds")
        return f"{span_of(left)} left" if left is not None else ""
    if row["state"] != "queued":
        return ""
    seconds = row["starts_in_seconds"]
    if seconds is None:
        return "unknown"
    return "next" if seconds < 1 else f"in {span_of(seconds)}"
