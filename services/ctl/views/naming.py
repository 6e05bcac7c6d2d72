"""The names of jobs, versions and records on the screen."""

import re

from shared.errors import UsageError
from shared.foreign_text import one_line
from shared.ledger.jobs import Table
from shared.protocol.names import JobId

LATEST = "latest"  # the published version that training continues from
LONGEST_NAME = 40  # characters of a file's name inside a sentence

# What the records call `void` is three things to a reader.
OUTCOMES = {"void": "cancelled"}  # of a job's run
ANSWERS = {"void": "rejected"}  # of a command


def name_of(table: Table, job: JobId) -> str:
    """Return the name of a job's file with the id of the job: `rows.jsonl (fa29d8cd912d.1)`."""
    known = table.jobs.get(job)
    if known is None:
        return str(job)
    name = one_line(known.record.name)
    shown = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
    return f"{shown} ({job})"


def job_at(table: Table, path: str | None) -> str | None:
    """Return the name of the job at `path`, as an observation gives it, or None without one."""
    return name_of(table, JobId.parse(path)) if path else None


def parse_version(text: str) -> int:
    """Return the number in `v003` or `3`. Raises UsageError."""
    match = re.fullmatch(r"v?0*([1-9][0-9]*)", text)
    if match is None:
        named = (
            "Name a version here, such as v003" if text == LATEST else f"{text!r} is not a version"
        )
        raise UsageError(f"{named}.", next_step="duramen versions list")
    return int(match[1])
