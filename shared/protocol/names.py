"""The names of jobs and subjects, and the closed lists of words that messages use."""

import re
import uuid
from datetime import UTC, datetime
from typing import Annotated, Literal, NamedTuple, get_args

from pydantic import StringConstraints

SCHEMA = 1

Level = Literal["high", "normal", "low"]
LEVELS: tuple[Level, ...] = ("high", "normal", "low")
LEVEL_RANK = {level: rank for rank, level in enumerate(LEVELS)}

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
DEFAULT_LINEAGE = "main"  # of all that is dropped into the inbox itself
LineageName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
SegmentId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{12}$")]

JobVerb = Literal[
    "submit", "amend", "move", "remove", "retry", "run", "requeue", "done", "fail", "skip"
]
LineVerb = Literal["create", "open", "close", "rollback"]
JobState = Literal["queued", "running", "done", "failed", "skipped", "removed"]
Outcome = Literal["done", "preempted", "stopped", "skipped", "failed", "void"]
DesiredState = Literal["running", "paused", "stopped"]
OnLong = Literal["set_aside", "truncate", "refuse"]
Schedule = Literal["constant", "cosine", "wsd"]
# What an example is to the job that measures it: trained on, held out of its file, from a file that
# is only ever measured, or watched since an earlier job.
Split = Literal["trained", "heldout", "eval", "earlier"]
SPLITS: tuple[Split, ...] = get_args(Split)
# The names that transformers gives to schedules -> those that plans and records store.
SCHEDULES: dict[str, Schedule] = {
    "constant_with_warmup": "constant",
    "warmup_stable_decay": "wsd",
}


def now() -> datetime:
    """Return the time in UTC, for readers only: order is by sequence, never by this."""
    return datetime.now(UTC)


def new_nonce() -> str:
    return uuid.uuid4().hex


def new_segment() -> str:
    return uuid.uuid4().hex[:12]


class JobId(NamedTuple):
    """The name of a job, the wish to train once on a dataset: (lineage, dataset, run number)."""

    lineage: str
    sha256: str
    run: int

    def __str__(self) -> str:
        return f"{self.sha256[:12]}.{self.run}"

    @property
    def path(self) -> str:
        """The full name, as it is written in messages."""
        return f"{self.lineage}/{self.sha256}/{self.run}"

    @classmethod
    def parse(cls, path: str) -> "JobId":
        """Return the job of this full name. Raises ValueError."""
        found = cls.named(path)
        if found is None:
            raise ValueError(f"not a job: {path[:200]!r}")
        return found

    @classmethod
    def named(cls, path: str) -> "JobId | None":
        """Return the job of this full name, or None if it is not one, as others may write it."""
        match = re.fullmatch(r"([a-z0-9][a-z0-9_-]{0,31})/([0-9a-f]{64})/([1-9][0-9]{0,17})", path)
        return cls(match[1], match[2], int(match[3])) if match else None

    @property
    def wildcard(self) -> str:
        return f"jobs.rec.{self.lineage}.{self.sha256}.{self.run}.*"

    def subject(self, verb: JobVerb) -> str:
        return f"jobs.rec.{self.lineage}.{self.sha256}.{self.run}.{verb}"


def line_wildcard(lineage: str) -> str:
    return f"jobs.line.{lineage}.*"


def line_subject(lineage: str, verb: LineVerb) -> str:
    return f"jobs.line.{lineage}.{verb}"


def desired_subject(service: str) -> str:
    return f"ctl.desired.{service}"


def once_subject(service: str) -> str:
    return f"ctl.once.{service}"


def observed_subject(service: str, instance: str = "*") -> str:
    """Return the subject of one instance of a service, or of all of them."""
    return f"ctl.observed.{service}.{instance}"


def event_subject(service: str, kind: str) -> str:
    return f"evt.{service}.{kind}"


def lease_subject(what: str) -> str:
    return f"lease.{what}"
