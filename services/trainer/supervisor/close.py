"""Closes segments, which is the commit point of training."""

import asyncio
from typing import get_args

from prometheus_client import Counter

from services.trainer.protocol import TrainingPlace
from services.trainer.supervisor import claim, retention, work_bucket
from services.trainer.supervisor.observe import publish_observed
from services.trainer.supervisor.run.prepare import earlier_files
from services.trainer.supervisor.trainer import Trainer
from shared import log
from shared.errors import Conflict, ObjectMissing, StoreUnavailable
from shared.ledger.jobs import Job, Table
from shared.ledger.lineage import Line, Segment
from shared.protocol.events import SegmentClosed
from shared.protocol.message import ObjectRef
from shared.protocol.names import Outcome
from shared.protocol.records import CheckpointRef, Failure, Head, LineClose

ENDS = Counter("duramen_train_segments_total", "Segments closed, by outcome.", ["outcome"])
for each in get_args(Outcome):
    ENDS.labels(each)  # from the start: a series that begins at 1 never increased
UNFINISHED = ("queued", "running")
KEPT_OUTCOMES = {"done", "preempted", "stopped"}


async def close_segment(
    trainer: Trainer,
    outcome: Outcome,
    *,
    failure: Failure | None = None,
    suspect: bool = False,
    cause: str | None = None,
    keep: bool = False,
) -> None:
    """Close the held segment, once its checkpoint is in the store and read back.

    Raises StoreUnavailable, with nothing closed; the caller tries again when the store is back.
    """
    segment = trainer.held.open
    line, job = trainer.table.lines[segment.job.lineage], trainer.table.jobs[segment.job]
    keeps = outcome in KEPT_OUTCOMES or keep or (outcome == "failed" and not suspect)
    head, place = await store_head(trainer, line, segment, keeps=keeps)
    result = await store_result(trainer, line, segment, job)
    trainer.outage.over()
    numbered = outcome == "done" or (outcome == "skipped" and head != line.head)
    record = LineClose(
        by=trainer.by,
        prev=line.sequence,
        lineage=line.lineage,
        segment=segment.id,
        fence=segment.fence,
        job=segment.job.path,
        outcome=outcome,
        from_step=segment.first.global_step,
        to_step=place.global_step,
        from_position=segment.first.position,
        to_position=place.position,
        head=head,
        version=line.next_version if numbered and head.checkpoint else None,
        plan=job.record.plan,
        result=result,
        cause=cause,
        failure=failure,
    )
    await commit_close(trainer, line, segment, record)


async def store_head(
    trainer: Trainer, line: Line, segment: Segment, *, keeps: bool
) -> tuple[Head, TrainingPlace]:
    """Return the lineage's head after the segment, and its place; unchanged without `keeps`.

    The checkpoint of a new head is then in the store. Raises StoreUnavailable.
    """
    assert line.head is not None
    store, folder = trainer.local.store, trainer.local.segment(line.lineage, segment.id).make()
    found = await asyncio.to_thread(work_bucket.newest_checkpoint, store, segment, folder)
    if found is None or not keeps or not moves_head(line, found.ref):
        return line.head, TrainingPlace(segment.first.position, segment.first.global_step)
    if found.local is not None:
        await asyncio.to_thread(work_bucket.put_checkpoint, store, line.lineage, found.local)
    place, root = TrainingPlace(found.ref.position, found.ref.global_step), line.head.base_root
    return Head(base_root=root, global_step=place.global_step, checkpoint=found.ref), place


async def store_result(trainer: Trainer, line: Line, segment: Segment, job: Job) -> ObjectRef:
    """Store log, metrics and snapshots of the job so far; return the object that lists them.

    Raises StoreUnavailable.
    """
    store, folder = trainer.local.store, trainer.local.segment(line.lineage, segment.id)
    earlier = await asyncio.to_thread(earlier_files, trainer.local, line, job)
    return await asyncio.to_thread(work_bucket.put_result, store, segment, folder, earlier)


async def commit_close(trainer: Trainer, line: Line, segment: Segment, record: LineClose) -> None:
    """Append the close to the ledger, release the segment, and report it."""
    is_ours = True
    try:
        await line.append(trainer.bus, "close", record)
    except Conflict:  # taken over, or cancelled by a forced rollback
        is_ours = False
        log.get().error("close_refused", segment=segment.id, fence=segment.fence)
    trainer.held.release()
    await trainer.table.update(trainer.bus)
    await publish_observed(trainer)  # before its job's record tells others that it is over
    if not is_ours:
        return
    await claim.mend(trainer.bus, trainer.table, trainer.by)
    ENDS.labels(record.outcome).inc()
    closed = SegmentClosed(
        segment=segment.id,
        fence=segment.fence,
        outcome=record.outcome,
        version=record.version,
    )
    await trainer.tell(closed, line.lineage, segment)
    said = {"outcome": record.outcome, "version": record.version, "step": record.to_step}
    log.get().info("segment_closed", **said)
    await asyncio.to_thread(clean, trainer, trainer.table.lines[line.lineage], segment)


async def close_stopped(trainer: Trainer) -> None:
    """Close the held segment as stopped, or as void if the stop asked to discard it.

    Raises StoreUnavailable.
    """
    desired = trainer.orders.control.desired
    is_discarded = desired is not None and desired.discard == trainer.held.open.id
    await close_segment(trainer, "void" if is_discarded else "stopped")


def clean(trainer: Trainer, line: Line, segment: Segment) -> None:
    """Remove from `work` and from this disk what nobody needs after the close."""
    try:
        retention.sweep_ended(trainer.local.store, line)
    except (StoreUnavailable, ObjectMissing) as error:
        log.get().warning("not_cleaned", error=str(error))
    trainer.local.prune({segment.id})


async def prune_bases(trainer: Trainer) -> None:
    """Remove from this disk the bases that no job needs."""
    await asyncio.to_thread(trainer.local.prune_bases, needed_bases(trainer.table))


def needed_bases(table: Table) -> set[str]:
    """Return the bases of the lineages that have a job which waits or runs."""
    lineages = {j.id.lineage for j in table.jobs.values() if j.record.state in UNFINISHED}
    lines = [table.lines[name] for name in lineages if name in table.lines]
    return {line.settings.base_root for line in lines if line.settings is not None}


def moves_head(line: Line, checkpoint: CheckpointRef | None) -> bool:
    """Return whether a close at this checkpoint would change the lineage's head."""
    return checkpoint is not None and (line.head is None or line.head.checkpoint != checkpoint)
