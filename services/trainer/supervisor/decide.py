"""The trainer's supervisor: it looks for work, owns at most one segment, and obeys commands.

    look ── open segment of a dead owner? ── take it over
      │                                          │
      └─ desired `running`: claim the next job ──┤
                                                 ▼
    train until: done · failed · died · paused · stopped · skipped · preempted ── close the segment

A paused segment stays open with its checkpoint stored and no worker: it resumes exactly as it would
after a restart, so exact resume is the only way to continue. A store that is away blocks neither
training nor a pause: what has to be done after a worker's end is kept (HeldSegment) and done when
the store is back.
"""

import asyncio
import time

from prometheus_client import Counter, Histogram

from services.trainer.micro_batch import smaller
from services.trainer.protocol import StopReason
from services.trainer.supervisor import claim
from services.trainer.supervisor.close import close_segment, close_stopped
from services.trainer.supervisor.commands import answer_idle, answer_live, close_skipped
from services.trainer.supervisor.next_job import (
    ask_again,
    next_job,
    open_job,
    reopen,
    short_of_memory,
    short_of_space,
    store_held,
    take_over_lost,
)
from services.trainer.supervisor.observe import publish_observed
from services.trainer.supervisor.run.failures import not_started
from services.trainer.supervisor.run.prepare import CheckpointUnusable
from services.trainer.supervisor.run.worker_run import Ended, StopRequest, WorkerRun
from services.trainer.supervisor.trainer import Trainer
from shared import log
from shared.errors import (
    MALFORMED,
    BusUnavailable,
    ObjectDamaged,
    ObjectMissing,
    StoreUnavailable,
)
from shared.files import is_disk_full
from shared.ledger.jobs import Job
from shared.ledger.lineage import Segment
from shared.progress import beat
from shared.protocol.events import Alarm, MemoryRanOut
from shared.protocol.names import LEVEL_RANK
from shared.protocol.records import Failure

DEATHS = Counter("duramen_train_worker_deaths_total", "Workers that died without a word.")
OUT_OF_MEMORY = Counter(
    "duramen_train_out_of_memory_total", "Micro-batches halved because memory ran out."
)
REACTION = Histogram("duramen_control_reaction_seconds", "From a command seen to its effect.")
DESIRED_STOPS = {"paused": StopReason.PAUSE, "stopped": StopReason.STOP}
OWNER_DEATHS_ALLOWED = 3  # of one segment, before its job counts as what kills them
# Less than the 27 s after which shared.service.loop.run cancels again, which would cut this wait
# short, and less than a container's stop_grace_period.
GOODBYE_SECONDS = 25.0


async def look_for_work(trainer: Trainer) -> None:
    """Look for work, obey commands and train; return when there is nothing more to do now."""
    while await step(trainer):
        pass
    await publish_observed(trainer)


async def step(trainer: Trainer) -> bool:
    """Make one decision; return True if another may follow at once.

    If the store is away or this disk is full, nothing else changes and the decision is tried again
    at the next look.
    """
    try:
        return await decide_next(trainer)
    except StoreUnavailable as error:
        trainer.outage.failed(error)
        if trainer.held.ended is not None:
            trainer.held.blocks()
        await trainer.outage.tell()
        return False
    except OSError as error:
        if not is_disk_full(error):
            raise
        trainer.disk.failed(str(error))
        if trainer.held.ended is not None:
            trainer.held.blocks()
        return False


async def decide_next(trainer: Trainer) -> bool:
    """Do what comes next; return True if another decision may follow at once.

    Raises StoreUnavailable.
    """
    await trainer.refresh()
    # The ledger changes first and a job's record follows, so a process that ended in between left
    # a record behind; whoever sees one completes it.
    await claim.mend(trainer.bus, trainer.table, trainer.by)
    held = trainer.held
    if held.segment is not None and not trainer.is_mine(held.segment):
        held.release()
    if held.segment is None:
        await take_over_lost(trainer)
    await answer_idle(trainer)
    state = trainer.orders.state
    if held.segment is not None:
        if held.ended is not None:
            await after(trainer, held.ended)
        elif state == "stopped":
            await close_stopped(trainer)
        elif state == "running":
            await train_held(trainer)
        else:  # paused: checked again every second
            await store_held(trainer)
            return False
        return True
    if state != "running":
        return False
    job = await next_job(trainer)
    trainer.outage.over()  # no question to the store failed in this look
    if job is None:
        return False
    await open_job(trainer, job)
    return True


async def may_train(trainer: Trainer, segment: Segment) -> bool:
    """Return whether there are memory and space for a held segment; if not, note why."""
    line = trainer.table.lines[segment.job.lineage]
    trainer.waiting.note(line.lineage, None)
    if len(segment.opens) == 1:
        return True  # memory was checked when its job was claimed
    short = await short_of_space(trainer, line) or await short_of_memory(
        trainer, line, segment.record
    )
    trainer.waiting.note(line.lineage, short)
    return short is None


async def train_held(trainer: Trainer) -> None:
    """Train the held segment until there is a reason to end, then act on that reason."""
    segment = trainer.held.open
    if trainer.table.jobs[segment.job].record.state == "removed":
        await close_segment(trainer, "void")
        return
    deaths = segment.record.deaths
    if deaths >= OWNER_DEATHS_ALLOWED:
        why = f"Its owner died {deaths} times without a new checkpoint."
        step = f"read its log, then duramen queue retry {segment.job}"
        failure = Failure(kind="deaths", message=why, next_step=step)
        await close_segment(trainer, "failed", failure=failure)
        return
    if not await may_train(trainer, segment):  # its job goes back to the queue; others can run
        await close_segment(trainer, "preempted")
        return
    trainer.memory.worker_comes()
    trainer.disk.tries()
    ended = None
    try:
        ended = await train_watched(trainer, new_run(trainer, segment))
    except CheckpointUnusable as error:
        await give_back(trainer, error)
        return
    except (ObjectMissing, ObjectDamaged, OSError, AssertionError, *MALFORMED) as error:
        ended = Ended("failed", not_started(error, segment.job))
    finally:
        trainer.held.leaves(ended)
    if ended.how == "died":
        DEATHS.inc()
    await after(trainer, ended)


def new_run(trainer: Trainer, segment: Segment) -> WorkerRun:
    """Return a new run on the held segment, not started yet."""
    run = WorkerRun(
        settings=trainer.settings,
        bus=trainer.bus,
        table=trainer.table,
        by=trainer.by,
        local=trainer.local,
        outage=trainer.outage,
        line=trainer.table.lines[segment.job.lineage],
        job=trainer.table.jobs[segment.job],
        segment=segment,
        not_uploaded=trainer.held.not_uploaded,
    )
    trainer.held.starts(run)
    return run


async def give_back(trainer: Trainer, error: CheckpointUnusable) -> None:
    """Resume from an earlier checkpoint when the one to start from cannot be used.

    If that is the head's own, the segment is closed and its lineage waits, since none of its jobs
    is to blame; other lineages continue.
    """
    segment = trainer.held.open
    line, start = trainer.table.lines[segment.job.lineage], segment.record.checkpoint
    if start is None or line.head is None or start != line.head.checkpoint:
        await reopen(trainer, segment, died=True)
        return
    trainer.waiting.give_up(start.id, str(error))
    await trainer.alarms.sound("head_unusable", line.lineage, str(error), line.lineage)
    await close_segment(trainer, "void")


async def train_watched(trainer: Trainer, run: WorkerRun) -> Ended:
    """Run the worker and watch it for reasons to stop; return how it ended."""
    running = asyncio.create_task(run.run())
    asking = asyncio.create_task(ask_again(trainer))
    try:
        while not running.done():
            if asking.done():
                asking.result()  # it never returns, so it failed: raise its error here
            beat()
            await trainer.outage.tell()
            await publish_observed(trainer)
            await something(running, run.changed, trainer.wake)
            if run.request is None and not running.done():
                await ask_to_stop(trainer, run)
        return running.result()
    finally:
        if not running.done():  # this process is ending: have what was trained saved on this disk
            await run.stop(StopRequest(StopReason.SHUTDOWN))
            await asyncio.wait([running], timeout=GOODBYE_SECONDS)
        for task in (running, asking):
            task.cancel()
        await asyncio.gather(running, asking, return_exceptions=True)


async def something(running: asyncio.Task[Ended], *events: asyncio.Event) -> None:
    """Return when the run is over, one of these events was set, or a second has passed."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait([running, *waits], timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
    for task, event in zip(waits, events, strict=True):
        task.cancel()
        event.clear()


async def ask_to_stop(trainer: Trainer, run: WorkerRun) -> None:
    """Ask the worker to end after its step if there is a reason to; else answer commands."""
    try:
        await trainer.refresh()
    except BusUnavailable as error:
        log.get().warning("bus_away", error=str(error))
        return
    request = stop_request(trainer, run.segment)
    if request is None:
        await answer_live(trainer, run)
    else:
        await run.stop(request)


def stop_request(trainer: Trainer, segment: Segment) -> StopRequest | None:
    """Return why the worker of this segment has to end, or None if it may continue."""
    if not trainer.is_mine(segment):
        return StopRequest(StopReason.LOST)
    for at, once in trainer.orders.pending():
        if once.command == "skip" and once.segment == segment.id:
            return StopRequest(StopReason.SKIP, (at, once))
    if (reason := DESIRED_STOPS.get(trainer.orders.state)) is not None:
        return StopRequest(reason)
    mine = LEVEL_RANK[trainer.table.jobs[segment.job].record.level]
    for job in trainer.table.queue():
        if LEVEL_RANK[job.record.level] < mine and may_preempt(trainer, job, segment):
            return StopRequest(StopReason.PREEMPT)
    return None


def may_preempt(trainer: Trainer, job: Job, segment: Segment) -> bool:
    """Return whether a queued job could train at once if this segment ended.

    Its lineage must have a base, wait for nothing, and have no open segment but this one.
    """
    line = trainer.table.lines.get(job.id.lineage)
    if line is None or line.settings is None or job.id.lineage in trainer.waiting.reasons:
        return False
    return line.open_segment is None or line.open_segment.id == segment.id


async def after(trainer: Trainer, ended: Ended) -> None:
    """Do with the segment what the end of its worker requires.

    Raises StoreUnavailable; it is then called again at the next look.
    """
    segment, request = trainer.held.open, ended.request
    reason = request.reason if request is not None else None
    log.get().info("worker_ended", how=ended.how, reason=reason)
    if not is_for_space(ended):
        trainer.disk.wrote()
    if reason is StopReason.LOST:
        trainer.held.release()
        return
    match ended.how:
        case "done":
            await close_segment(trainer, "done")
        case "nothing_new":  # the head stays where it is, and a retry asks again
            await close_segment(trainer, "skipped", failure=ended.failure)
        case "failed" if is_for_space(ended):
            await wait_for_space(trainer, ended)
        case "failed" if may_shrink(trainer, segment, ended):
            await shrink(trainer, segment, ended)
        case "failed":
            await close_segment(trainer, "failed", failure=ended.failure, suspect=ended.suspect)
        case "stopped" if request is not None:
            await obey(trainer, request)
            REACTION.observe(time.monotonic() - request.since)
        case "stopped" | "died":
            counts = claim.death_counts(segment, had_stepped=trainer.held.had_stepped)
            await reopen(trainer, segment, died=ended.how == "died" and counts)


async def obey(trainer: Trainer, request: StopRequest) -> None:
    """Do with the segment what its worker was stopped for.

    Raises StoreUnavailable; `after` is then called again at the next look.
    """
    match request.reason:
        case StopReason.STOP:
            await close_stopped(trainer)
        case StopReason.PREEMPT:
            await close_segment(trainer, "preempted")
        case StopReason.SKIP:
            assert request.command is not None
            await close_skipped(trainer, *request.command)
        case _:  # a pause: it stays open, and a new fence starts from the newest checkpoint
            await reopen(trainer, trainer.held.open, died=False)


def is_for_space(ended: Ended) -> bool:
    """Return whether a worker ended because its disk was full: its job is not to blame."""
    return ended.failure is not None and ended.failure.kind == "disk"


async def wait_for_space(trainer: Trainer, ended: Ended) -> None:
    """Close the segment at its last checkpoint; its job waits in the queue until there is space.

    Raises StoreUnavailable, OSError.
    """
    assert ended.failure is not None
    if not trainer.held.is_blocked:  # else it was noted before, when this could not be done
        trainer.disk.failed(ended.failure.message)
        await trainer.tell(Alarm(what="disk_full", detail=trainer.disk.sentence))
    await close_segment(trainer, "preempted")


def may_shrink(trainer: Trainer, segment: Segment, ended: Ended) -> bool:
    """Return whether memory ran out and there is still something to try.

    That is a smaller micro-batch or, once, gradient checkpointing, which comes with the first
    halving and is tried alone where nothing is left to halve.
    """
    if ended.failure is None or ended.failure.kind != "memory":
        return False
    first = segment.record.micro_tokens_asked is None
    if first and trainer.settings.gradient_checkpointing == "auto":
        return True
    return not ended.final and smaller(segment.record.micro_tokens) is not None


async def shrink(trainer: Trainer, segment: Segment, ended: Ended) -> None:
    """Close the segment where it is; its job continues at once in one with half the micro-batch.

    A segment keeps one micro-batch size, so that replaying it gives the same bits.
    """
    assert ended.failure is not None
    was = segment.record.micro_tokens
    halved = smaller(was) or was
    why = ended.failure.message[:500]
    told = MemoryRanOut(segment=segment.id, was=was, micro_tokens=halved, why=why)
    await close_segment(trainer, "preempted", cause=claim.RAN_OUT)
    OUT_OF_MEMORY.inc()
    log.get().warning("out_of_memory", was=was, micro_tokens=halved, why=why)
    await trainer.tell(told, segment.job.lineage, segment)
