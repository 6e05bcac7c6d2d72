"""Closing a segment: the commit point of training."""

import asyncio
from typing import get_args

from prometheus_client import Counter

from services.trainer.supervisor import claim, retention, work_bucket
from services.trainer.supervisor.observe import show
from services.trainer.supervisor.prepare import earlier_files
from services.trainer.supervisor.trainer import Trainer
from shared import log
from shared.errors import Conflict, ObjectMissing, StoreUnavailable
from shared.ledger.lineage import Line, Segment, moves_head
from shared.protocol.events import SegmentClosed
from shared.protocol.names import Outcome
from shared.protocol.records import Failure, Head, LineClose

ENDS = Counter("duramen_train_segments_total", "Segments closed, by outcome.", ["outcome"])
for each in get_args(Outcome):
    ENDS.labels(each)  # from the start: a series that begins at 1 never increased
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
    """Close the held segment: the commit point. The checkpoint is in the store, read back.

    Raises StoreUnavailable, with nothing closed: it is asked for again when the store is back.
    """
    assert trainer.held is not None
    segment, line = trainer.held, trainer.table.lines[trainer.held.job.lineage]
    assert line.head is not None
    first = segment.first
    keeps = outcome in KEPT_OUTCOMES or keep or (outcome == "failed" and not suspect)
    folder = trainer.local.segment(line.lineage, segment.id).make()
    store = trainer.local.store
    found = await asyncio.to_thread(work_bucket.newest, store, segment, folder)
    head, to_step, to_position = line.head, first.global_step, first.position
    if found is not None and keeps and moves_head(line, found.ref):
        if found.local is not None:
            await asyncio.to_thread(work_bucket.put_checkpoint, store, line.lineage, found.local)
        to_step, to_position = found.ref.global_step, found.ref.position
        head = Head(base_root=line.head.base_root, global_step=to_step, checkpoint=found.ref)
    job = trainer.table.jobs[segment.job]
    earlier = await asyncio.to_thread(earlier_files, trainer.local, line, job)
    result = await asyncio.to_thread(work_bucket.put_result, store, segment, folder, earlier)
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
        from_step=first.global_step,
        to_step=to_step,
        from_position=first.position,
        to_position=to_position,
        head=head,
        version=line.next_version if numbered and head.checkpoint else None,
        plan=job.record.plan,
        result=result,
        cause=cause,
        failure=failure,
    )
    try:
        await line.append(trainer.bus, "close", record)
    except Conflict:  # taken over, or voided by a forced rollback: not ours any more
        log.get().error("close_refused", segment=segment.id, fence=segment.fence)
    trainer.release()
    await trainer.table.update(trainer.bus)
    await show(trainer)  # before its job's record tells others that it is over
    await claim.mend(trainer.bus, trainer.table, trainer.by)
    ENDS.labels(outcome).inc()
    closed = SegmentClosed(
        segment=segment.id, fence=segment.fence, outcome=outcome, version=record.version
    )
    await trainer.tell(closed, line.lineage, segment)
    log.get().info("segment_closed", outcome=outcome, version=record.version, step=to_step)
    await asyncio.to_thread(clean, trainer, trainer.table.lines[line.lineage], segment)


async def close_stopped(trainer: Trainer) -> None:
    assert trainer.held is not None
    desired = trainer.control.desired
    discard = desired is not None and desired.discard == trainer.held.id
    await close_segment(trainer, "void" if discard else "stopped")


def clean(trainer: Trainer, line: Line, segment: Segment) -> None:
    """`work` and this disk are cleaned by their owner, after the commit."""
    try:
        retention.sweep(trainer.local.store, line)
    except (StoreUnavailable, ObjectMissing) as error:
        log.get().warning("not_cleaned", error=str(error))
    trainer.local.prune({segment.id})
