"""Claims work: opens segments, takes over those of dead owners, and completes job records.

Ownership lives in the ledger alone: the ledger changes first, then the job's record follows.
"""

import socket
from dataclasses import dataclass

from prometheus_client import Histogram

from services.trainer.micro_batch import smaller
from shared import log
from shared.bus.client import Bus
from shared.errors import Conflict
from shared.ledger.jobs import Job, Table
from shared.ledger.lineage import Line, Segment
from shared.protocol.names import JobVerb, new_segment, now
from shared.protocol.records import LineOpen

WAITED = Histogram(
    "duramen_queue_wait_seconds",
    "From a file's being queued to its first segment.",
    buckets=(1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600, 7 * 86400),
)
RAN_OUT = "memory"  # the cause of a close whose job continues with smaller micro-batches
MEND: dict[str, JobVerb] = {
    "running": "run",
    "queued": "requeue",
    "done": "done",
    "failed": "fail",
    "skipped": "skip",
}
START_TRIES = 5  # starts from one checkpoint without a step; from here on their deaths count


@dataclass(frozen=True)
class Owner:
    """The trainer that claims: its name, its lease, and what it decides when a segment opens."""

    by: str
    lease: str
    dtype: str
    micro_tokens: int


async def open_segment(bus: Bus, table: Table, job: Job, owner: Owner) -> Segment:
    """Claim a job and return its new segment, whose fence is the record's sequence in the ledger.

    Raises Conflict if another trainer was first.
    """
    line = table.lines[job.id.lineage]
    assert line.head is not None
    micro, asked = micro_tokens(line, owner)
    record = LineOpen(
        by=owner.by,
        prev=line.sequence,
        lineage=line.lineage,
        segment=new_segment(),
        job=job.id.path,
        job_sequence=job.sequence,
        checkpoint=line.head.checkpoint,
        position=line.position(job.id),
        global_step=line.head.global_step,
        plan=job.record.plan,
        micro_tokens=micro,
        micro_tokens_asked=asked,
        dtype=line.dtype or owner.dtype,
        lease=owner.lease,
        owner=owner.by,
        host=socket.gethostname(),
    )
    segment = await _append_open(bus, table, line, record)
    if record.position == 0:
        WAITED.observe(max(0.0, (now() - job.record.queued_at).total_seconds()))
    return segment


def micro_tokens(line: Line, owner: Owner) -> tuple[int, int | None]:
    """Return the micro-batch tokens of a new segment and, if memory ran out, the tokens asked for.

    The size is what the settings ask for, or as small as the segment before had to be under this
    same lease, until the settings change. It never goes below the floor. The second number is given
    even at the floor: from then on gradients are checkpointed.
    """
    asked = owner.micro_tokens
    before = next((s for s in reversed(line.segments.values()) if s.closed is not None), None)
    if before is None or before.record.lease != owner.lease:
        return asked, None
    record, close = before.record, before.closed
    if close is not None and close.cause == RAN_OUT:
        half = smaller(record.micro_tokens)
        return half or record.micro_tokens, asked
    # After a failure the size starts over: it was not the reason for that failure.
    if record.micro_tokens_asked == asked and close is not None and close.outcome != "failed":
        return record.micro_tokens, asked
    return asked, None


def death_counts(segment: Segment, *, had_stepped: bool) -> bool:
    """Return whether the death of a segment's owner speaks against its job.

    It does if the owner had made a step. Before that, a slow load or a restart of the host is as
    likely, so it counts only from the START_TRIES-th start in a row from one checkpoint on.
    """
    starts = [record.checkpoint and record.checkpoint.id for _, record in segment.opens]
    tries = next((n for n, each in enumerate(reversed(starts)) if each != starts[-1]), len(starts))
    return had_stepped or tries >= START_TRIES


async def reopen_segment(
    bus: Bus, table: Table, segment: Segment, owner: Owner, start: LineOpen, *, died: bool
) -> Segment:
    """Take over an open segment under a new fence, from the checkpoint that `start` names.

    `died`: its owner died in a way that counts (`death_counts`). Such deaths are added up until a
    newer checkpoint exists, so that a job which kills its owners is not tried endlessly. Raises
    Conflict if another was first.
    """
    line = table.lines[segment.job.lineage]
    job = table.jobs[segment.job]
    before = segment.record
    is_new = (start.checkpoint and start.checkpoint.id) != (
        before.checkpoint and before.checkpoint.id
    )
    fresh = start.model_copy(
        update={
            "deaths": 0 if is_new else before.deaths + died,
            "by": owner.by,
            "prev": line.sequence,
            "job_sequence": job.sequence,
            "plan": job.record.plan or start.plan,
            "lease": owner.lease,
            "owner": owner.by,
            "host": socket.gethostname(),
        }
    )
    kept = fresh.model_dump(exclude={"nonce", "at", "was", "schema_"})
    return await _append_open(bus, table, line, LineOpen.model_validate(kept))


async def _append_open(bus: Bus, table: Table, line: Line, record: LineOpen) -> Segment:
    await line.append(bus, "open", record)
    await table.update(bus)
    segment = line.open_segment
    if segment is None or segment.record.nonce != record.nonce:
        raise Conflict(f"jobs.line.{line.lineage}", record.prev)  # taken over already
    return segment


async def mend(bus: Bus, table: Table, by: str) -> None:
    """Complete job records that are behind their ledger; any process that finds one may do so."""
    for job in table.behind():
        state = table.projection(job) or "queued"
        segment = table.last_segment(job.id)
        if job.record.state == "removed":
            continue  # an open segment on it is closed as void by its owner
        changes: dict[str, object] = {}
        if segment is not None and state == "running":
            changes = {"segment": segment.id, "fence": segment.fence}
        elif segment is not None and segment.closed is not None:
            close = segment.closed
            changes = {"version": close.version, "failure": close.failure}
        try:
            await table.write(bus, job, MEND[state], by, **changes)
            log.get().info("job_mended", job=str(job.id), state=state)
        except Conflict:
            await table.update(bus)
