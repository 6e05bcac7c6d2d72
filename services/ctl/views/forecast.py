"""Forecast of the start of queued jobs, from what is before them and the trainer's speed.

Nothing is stored for it: tokens and steps are those of the plans. A job that has no plan yet is
assumed to have as many tokens for each byte of its dataset as the jobs of its lineage that have
one.
"""

from dataclasses import dataclass, field

from services.ctl.views.silence import QUIET_SECONDS
from shared.bus.client import Bus
from shared.ledger.jobs import Job, Table
from shared.protocol.names import LEVEL_RANK, JobId, observed_subject
from shared.protocol.observed import Observed


@dataclass
class Tokens:
    """The tokens that each job has to train, over all epochs, known or estimated."""

    table: Table
    each_byte: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sums: dict[str, tuple[int, int]] = {}
        for job in self.table.jobs.values():
            if job.record.tokens is not None:
                tokens, size = sums.get(job.id.lineage, (0, 0))
                size += job.record.dataset.size
                sums[job.id.lineage] = tokens + job.record.tokens, size
        self.each_byte = {name: tokens / size for name, (tokens, size) in sums.items() if size}

    def of(self, job: Job) -> tuple[float | None, bool]:
        """Return (tokens, is it an estimate); None where nothing is known to estimate from."""
        if job.record.tokens is not None:
            return job.record.tokens, False
        ratio = self.each_byte.get(job.id.lineage)
        return (None if ratio is None else ratio * job.record.dataset.size), True

    def left(self, job: Job) -> float | None:
        """Return the tokens that the closed segments of a job have not trained; None if unknown."""
        tokens, _ = self.of(job)
        line, steps = self.table.lines.get(job.id.lineage), job.record.steps
        if tokens is None or line is None or not steps:
            return tokens
        return tokens * (1 - line.position(job.id) / steps)


async def rate_of(bus: Bus, seen: Observed | None) -> float | None:
    """Return tokens a second: now, or when the trainer was last seen training, else None."""
    if seen is not None and seen.progress is not None and seen.progress.tokens_per_second:
        return seen.progress.tokens_per_second
    found: float | None = None
    async for entry in bus.read("OBS", subject=observed_subject("trainer")):
        try:
            progress = Observed.model_validate_json(entry.data).progress
        except ValueError:
            continue
        if progress is not None and progress.tokens_per_second:
            found = progress.tokens_per_second
    return found


def reasons(seen: Observed | None) -> dict[str, str]:
    """Return why each lineage cannot train now, as the trainer says; `*`: it trains nothing."""
    return dict(seen.waiting) if seen else {}


def starts(
    table: Table, seen: Observed | None, age_seconds: float, rate: float | None
) -> dict[JobId, float | None]:
    """Return the seconds until each queued job is expected to start, None where unknown.

    Nothing is expected of a trainer that is silent, paused or stopped, or of a held lineage; what
    comes behind a job of unknown length is unknown, too.
    """
    queue = table.queue()
    held = reasons(seen)
    if seen is None or age_seconds > QUIET_SECONDS or "*" in held:
        return {job.id: None for job in queue}
    if seen.state in ("paused", "stopped", "starting"):
        return {job.id: None for job in queue}
    tokens, found = Tokens(table), dict[JobId, float | None]()
    running = running_job(table, seen)
    ahead: float | None = 0.0
    for job in in_line(queue, running):
        if job.id.lineage in held and job is not running:
            found[job.id] = None
            continue
        if job is not running:
            found[job.id] = ahead
        takes = seconds_of(job, job is running, seen, tokens, rate)
        ahead = None if ahead is None or takes is None else ahead + takes
    return found


def running_job(table: Table, seen: Observed) -> Job | None:
    return table.jobs.get(JobId.parse(seen.job)) if seen.job else None


def in_line(queue: list[Job], running: Job | None) -> list[Job]:
    """Return the queue with the running job behind those of a higher level, which preempt it."""
    if running is None:
        return queue
    rank = LEVEL_RANK[running.record.level]
    higher = [job for job in queue if LEVEL_RANK[job.record.level] < rank]
    return [*higher, running, *queue[len(higher) :]]


def seconds_of(
    job: Job, is_running: bool, seen: Observed, tokens: Tokens, rate: float | None
) -> float | None:
    if is_running and seen.progress is not None:
        return seen.progress.eta_seconds
    left = tokens.left(job)
    return None if left is None or not rate else left / rate
