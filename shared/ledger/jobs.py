"""The job table: the fold of stream JOBS, which holds the queue, the ledgers and their audit.

A message counts only if it parses, names the valid record before it, was published by
compare-and-set on the message before it, is not a copy, and follows the rules of its kind. Anything
else is void: it is skipped, kept in `voids`, and whoever reads it raises an alarm.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Any, Self

from pydantic import ValidationError

from shared.bus.client import Bus
from shared.bus.entry import Entry
from shared.errors import BusWentBack, Conflict, NotFound, UnknownSchema
from shared.ledger.lineage import Line, Segment
from shared.protocol.names import LEVEL_RANK, JobId, JobState, JobVerb
from shared.protocol.records import LINE_MODELS, JobRecord

# verb -> (states it may follow; None is "no record yet", state it makes)
TRANSITIONS: dict[str, tuple[set[JobState | None], JobState]] = {
    "submit": ({None}, "queued"),
    "amend": ({"queued"}, "queued"),
    "move": ({"queued"}, "queued"),
    "remove": ({"queued"}, "removed"),
    "retry": ({"failed", "skipped"}, "queued"),
    "run": ({"queued", "running"}, "running"),
    "requeue": ({"queued", "running"}, "queued"),
    "done": ({"queued", "running"}, "done"),
    "fail": ({"queued", "running"}, "failed"),
    "skip": ({"queued", "running"}, "skipped"),
}


MOST_SCHEMAS = 1000  # a higher number is not a schema


@dataclass(frozen=True)
class Void:
    """A message that does not count, and why."""

    sequence: int
    subject: str
    why: str


@dataclass
class Job:
    """One job as its records describe it.

    `sequence` is that of the last valid record, `last` that of the last message of any kind.
    """

    id: JobId
    record: JobRecord
    sequence: int
    last: int
    history: list[tuple[int, str, JobRecord]] = field(default_factory=list)

    @property
    def ticket(self) -> int:
        """The job's place in the queue, kept through retry and preemption."""
        return self.history[0][0]

    @property
    def order(self) -> tuple[int, int]:
        return LEVEL_RANK[self.record.level], self.ticket


@dataclass
class Table:
    """Jobs and lineages as of sequence `seen` of stream JOBS."""

    jobs: dict[JobId, Job] = field(default_factory=dict)
    lines: dict[str, Line] = field(default_factory=dict)
    voids: list[Void] = field(default_factory=list)
    seen: int = 0
    _tails: dict[str, int] = field(default_factory=dict)
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    # ---- reading ---------------------------------------------------------------------------------

    @classmethod
    async def of(cls, bus: Bus) -> Self:
        """Return the table of all that the stream holds now.

        Raises BusUnavailable, UnknownSchema.
        """
        table = cls()
        await table.update(bus)
        return table

    async def update(self, bus: Bus) -> bool:
        """Fold all new messages; return whether there were any.

        Raises BusWentBack, UnknownSchema.
        """
        async with self._lock:
            _, last = await bus.bounds("JOBS")
            if last < self.seen:
                raise BusWentBack("JOBS", self.seen)
            before = self.seen
            async for entry in bus.read_through("JOBS", self.seen, last):
                self.fold(entry)
            return self.seen > before

    def fold(self, entry: Entry) -> None:
        """Fold one message of the stream, in sequence."""
        wildcard = entry.subject.rpartition(".")[0] + ".*"
        # What cannot be read yet (UnknownSchema) was not taken: looked at again, it says so again.
        why = self._take(entry, self._tails.get(wildcard, 0))
        self._tails[wildcard] = entry.sequence
        if why is not None:
            self.voids.append(Void(entry.sequence, entry.subject, why))
        self.seen = entry.sequence

    def _take(self, entry: Entry, before: int) -> str | None:
        match entry.subject.split("."):
            case ["jobs", "rec", lineage, sha256, run, verb]:
                job_id = JobId.named(f"{lineage}/{sha256}/{run}")
                if job_id is not None:
                    return self._take_job(entry, job_id, verb, before)
            case ["jobs", "line", lineage, verb]:
                return self._take_line(entry, lineage, verb, before)
        return "no such subject"

    def _take_job(self, entry: Entry, job_id: JobId, verb: str, before: int) -> str | None:
        job = self.jobs.get(job_id)
        if job is not None:
            job.last = entry.sequence
        if verb not in TRANSITIONS:
            return f"unknown verb {verb}"
        record = parse_record(entry, JobRecord, before, job.sequence if job else 0)
        if isinstance(record, str):
            return record
        allowed, state = TRANSITIONS[verb]
        if (job.record.state if job else None) not in allowed:
            return f"{verb} cannot follow {job.record.state if job else 'nothing'}"
        if record.state != state or record.job != job_id.path:
            return "the body is not what the subject says"
        if job is None:
            job = self.jobs[job_id] = Job(job_id, record, entry.sequence, entry.sequence)
        job.record, job.sequence = record, entry.sequence
        job.history.append((entry.sequence, verb, record))
        return None

    def _take_line(self, entry: Entry, lineage: str, verb: str, before: int) -> str | None:
        line = self.lines.setdefault(lineage, Line(lineage))
        line.last = entry.sequence
        if verb not in LINE_MODELS:
            return f"unknown verb {verb}"
        record = parse_record(entry, LINE_MODELS[verb], before, line.sequence)
        if isinstance(record, str):
            return record
        if record.lineage != lineage:
            return "the body is not what the subject says"
        why = line.refusal(record)
        if why is None:
            line.fold(entry.sequence, record)
        return why

    # ---- questions -------------------------------------------------------------------------------

    def queue(self) -> list[Job]:
        """Return the queued jobs in the order of training: by level, then first in, first out."""
        waiting = [job for job in self.jobs.values() if job.record.state == "queued"]
        return sorted(waiting, key=lambda job: job.order)

    def find(self, shown: str, lineage: str | None = None) -> Job:
        """Return the job that a user means by `3f9a1c2b7d10.1`, a prefix of it, or its full path.

        Raises NotFound unless exactly one job matches.
        """
        matches = [
            job
            for job in self.jobs.values()
            if (str(job.id).startswith(shown) or job.id.path == shown)
            and (lineage is None or job.id.lineage == lineage)
        ]
        if len(matches) != 1:
            how = "no job" if not matches else f"{len(matches)} jobs"
            raise NotFound(f"{how} named {shown!r}.", next_step="duramen queue list")
        return matches[0]

    def runs(self, lineage: str, sha256: str) -> list[Job]:
        """Return all jobs on one dataset in a lineage, by run number."""
        found = [j for j in self.jobs.values() if j.id[:2] == (lineage, sha256)]
        return sorted(found, key=lambda job: job.id.run)

    def segments_of(self, job_id: JobId) -> list[Segment]:
        """Return the segments of a job in the order in which they were opened."""
        line = self.lines.get(job_id.lineage)
        return line.by_job.get(job_id, []) if line else []

    def last_segment(self, job_id: JobId) -> Segment | None:
        """Return the segment of a job that was opened last, or None."""
        mine = self.segments_of(job_id)
        return mine[-1] if mine else None

    def projection(self, job: Job) -> JobState | None:
        """Return the state of a job by its ledger, or None if its record decides."""
        segment = self.last_segment(job.id)
        if segment is None:
            return None
        line = self.lines[job.id.lineage]
        if line.open_segment is segment:
            return "running"
        if segment.closed is None:  # ended by a forced rollback
            return None if job.record.state != "running" else "queued"
        close = segment.closed
        if job.sequence > segment.closed_at and job.record.state != "running":
            return None  # written after the close: the record itself is the later word
        match close.outcome:
            case "done" | "failed" | "skipped":
                return close.outcome
            case "void" if job.record.state == "removed":
                return None
        return "queued"

    def behind(self) -> list[Job]:
        """Return the jobs whose record differs from what their ledger says."""
        found = []
        for job in self.jobs.values():
            expected = self.projection(job)
            if expected is None:  # a job that no open segment stands behind does not run
                expected = "queued" if job.record.state == "running" else job.record.state
            if expected != job.record.state:
                found.append(job)
        return found

    # ---- writing ---------------------------------------------------------------------------------

    async def submit(self, bus: Bus, job_id: JobId, record: JobRecord) -> Job:
        """Queue a job that has no record yet. Raises Conflict if it has one."""
        last = self._tails.get(job_id.wildcard, 0)
        await bus.append("JOBS", job_id.subject("submit"), job_id.wildcard, record, last)
        await self.update(bus)
        return self.jobs[job_id]

    async def write(self, bus: Bus, job: Job, verb: JobVerb, by: str, **changes: Any) -> Job:
        """Move a job by one verb, changing the named fields. Raises Conflict."""
        allowed, state = TRANSITIONS[verb]
        if job.record.state not in allowed:
            raise Conflict(job.id.subject(verb), job.sequence)
        kept = job.record.model_dump(exclude={"nonce", "at", "was", "schema_"})
        fields = {**kept, "state": state, "by": by, "prev": job.sequence, "ticket": job.ticket}
        record = JobRecord.model_validate({**fields, **changes})
        await bus.append("JOBS", job.id.subject(verb), job.id.wildcard, record, job.last)
        await self.update(bus)
        return self.jobs[job.id]


def parse_record(entry: Entry, model: type[Any], before: int, sequence: int) -> Any:
    """Return the record in a message, or the reason (a str) why it does not count.

    `before` is the sequence of the message before it under its wildcard, of any kind; `sequence` is
    that of the valid record before it. Raises UnknownSchema.
    """
    if entry.copied:
        return "a copy"
    expected = entry.expected
    if expected is None:
        return "published without compare-and-set"
    if expected != before:
        return f"expected sequence {expected}, found {before}"
    try:
        record = model.model_validate_json(entry.data)
    except ValidationError as error:
        if is_newer(error):
            raise UnknownSchema(f"{entry.subject} at {entry.sequence}", "another") from error
        return f"does not parse: {error.error_count()} problems"
    if record.prev != sequence:
        return f"builds on {record.prev}, not on {sequence}"
    return record


def is_newer(error: ValidationError) -> bool:
    """Return whether a record does not parse because a newer program wrote it: a higher schema."""
    said = [each.get("input") for each in error.errors() if each["loc"][:1] == ("schema",)]
    return any(type(schema) is int and 1 < schema < MOST_SCHEMAS for schema in said)
