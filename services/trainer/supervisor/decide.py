"""The trainer's supervisor: looks for work, owns at most one segment, and obeys.

    look ── open segment of a dead owner? ── take it over
      │                                          │
      └─ desired `running`: claim the next job ──┤
                                                 ▼
    train until: done · failed · died · paused · stopped · skipped · preempted ── close the segment

A paused segment stays open with its checkpoint stored and no worker: what resumes is what a
restart resumes, so exact resume is the only way on. A store that is away hinders no training and no
pause: what the end of a worker asks for is kept (`ended`, `unstored`) and done when it is back.
"""

import asyncio
import time

from prometheus_client import Counter, Histogram

from services.trainer import memory
from services.trainer.micro_batch import smaller
from services.trainer.protocol import DISK_FULL
from services.trainer.supervisor import claim
from services.trainer.supervisor.close import close_segment, close_stopped
from services.trainer.supervisor.commands import answer_idle, answer_live, close_skipped
from services.trainer.supervisor.next_job import (
    ask_again,
    next_job,
    open_job,
    reopen,
    short_of_memory,
    store_held,
    take_over_lost,
)
from services.trainer.supervisor.observe import show
from services.trainer.supervisor.trainer import Ended, Trainer, Wish
from services.trainer.supervisor.worker_run import End, Training, next_step
from shared import log
from shared.errors import (
    BusUnavailable,
    CheckpointUnusable,
    ObjectDamaged,
    ObjectMissing,
    StoreUnavailable,
)
from shared.ledger.jobs import Job
from shared.ledger.lineage import OWNER_DEATHS_ALLOWED, Segment
from shared.progress import beat
from shared.protocol.events import Alarm, MemoryRanOut
from shared.protocol.message import ObjectRef
from shared.protocol.names import LEVEL_RANK
from shared.protocol.records import Failure
from shared.store import layout

DEATHS = Counter("duramen_train_worker_deaths_total", "Workers that died without a word.")
OUT_OF_MEMORY = Counter(
    "duramen_train_out_of_memory_total", "Micro-batches halved because memory ran out."
)
REACTION = Histogram("duramen_control_reaction_seconds", "From a command seen to its effect.")
GOODBYE_SECONDS = 25.0  # less than a container's stop_grace_period


async def look(trainer: Trainer) -> None:
    """Look, obey, train. Returns when there is nothing more to do now."""
    while await step(trainer):
        pass
    await show(trainer)


async def step(trainer: Trainer) -> bool:
    """One decision; True if another may follow at once. A store that is away is waited for here,
    with everything else as it was."""
    try:
        return await decide(trainer)
    except StoreUnavailable as error:
        trainer.outage.failed(error)
        if trainer.ended is not None:
            trainer.ended.hindered = True
        await tell_outage(trainer)
        return False


async def tell_outage(trainer: Trainer) -> None:
    """Alarm once when the store has been away for longer than its limit."""
    if trainer.outage.is_long and not trainer.outage.told:
        trainer.outage.told = True
        await trainer.tell(Alarm(what="store_away", detail=trainer.outage.sentence))


async def decide(trainer: Trainer) -> bool:
    await trainer.refresh()
    await claim.mend(trainer.bus, trainer.table, trainer.by)
    if trainer.held is not None and not trainer.is_mine(trainer.held):
        trainer.release()
    if trainer.held is None:
        await take_over_lost(trainer)
    await answer_idle(trainer)
    state = trainer.control.state
    if trainer.held is not None:
        if trainer.ended is not None:
            await after(trainer, trainer.ended)
        elif state == "stopped":
            await close_stopped(trainer)
        elif state == "running":
            await train(trainer)
        else:  # paused: looked at again every second
            await store_held(trainer)
            return False
        return True
    if state != "running":
        return False
    job = await next_job(trainer)
    trainer.outage.over()  # each that waits asked the store, or none does
    if job is None:
        return False
    await open_job(trainer, job)
    return True


async def may_train(trainer: Trainer, segment: Segment) -> bool:
    """Whether there is memory for a held segment now; if not, why is shown."""
    line = trainer.table.lines[segment.job.lineage]
    trainer.waiting.pop(line.lineage, None)
    if len(segment.opens) == 1:
        return True  # it was asked when its job was claimed
    short = await short_of_memory(trainer, line, segment.record)
    if short is not None:
        trainer.waiting[line.lineage] = short
    return short is None


async def train(trainer: Trainer) -> None:
    """Train the held segment until there is a reason to end, then do what the reason asks."""
    assert trainer.held is not None
    segment, line = trainer.held, trainer.table.lines[trainer.held.job.lineage]
    job = trainer.table.jobs[segment.job]
    if job.record.state == "removed":
        await close_segment(trainer, "void")
        return
    deaths = segment.record.deaths
    if deaths >= OWNER_DEATHS_ALLOWED:
        why = f"Its owner died {deaths} times without a new checkpoint."
        failure = Failure(kind="deaths", message=why, next_step=retry(segment))
        await close_segment(trainer, "failed", failure=failure)
        return
    if not await may_train(trainer, segment):  # its job waits in the queue, and others go on
        await close_segment(trainer, "preempted")
        return
    trainer.free_before = memory.measured(trainer.settings).free
    trainer.training = Training(
        trainer.settings,
        trainer.bus,
        trainer.local,
        line,
        job,
        segment,
        trainer.changed.set,
        lambda plan, tokens, steps: name_plan(trainer, plan, tokens, steps),
        outage=trainer.outage,
        unstored=trainer.unstored,
    )
    wish: Wish | None = None
    try:
        end, wish = await train_watched(trainer, trainer.training)
    except CheckpointUnusable as error:
        await give_back(trainer, error)
        return
    except (ObjectMissing, ObjectDamaged) as error:
        # Where its base is spoilt a whole lineage waits; a dataset or plan is this job's own.
        kind = "base" if layout.BASES in str(error) else "data"
        end = End("failed", Failure(kind=kind, message=str(error), next_step="duramen check"))
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        what = next_step("disk", segment.job)
        end = End("failed", Failure(kind="disk", message=str(error), next_step=what))
    finally:
        trainer.training = None
    if end.outcome == "died":
        DEATHS.inc()
    trainer.ended = Ended(end, wish)
    await after(trainer, trainer.ended)


async def give_back(trainer: Trainer, error: CheckpointUnusable) -> None:
    """Nobody can train from this checkpoint. One of the segment's own: from the one before. The
    head's: its lineage waits, for no job of it is to blame, and the others go on."""
    assert trainer.held is not None
    line, start = trainer.table.lines[trainer.held.job.lineage], trainer.held.record.checkpoint
    if start is None or line.head is None or start != line.head.checkpoint:
        await reopen(trainer, trainer.held, died=True)
        return
    trainer.spoilt[start.id] = str(error)
    await trainer.tell(Alarm(what="head_unusable", detail=str(error)))
    await close_segment(trainer, "void")


async def train_watched(trainer: Trainer, training: Training) -> tuple[End, Wish | None]:
    """Run the worker and the watch beside it."""
    run = asyncio.create_task(training.run())
    asking = asyncio.create_task(ask_again(trainer))
    wish: Wish | None = None
    try:
        while not run.done():
            if asking.done():
                asking.result()  # it failed: so does the watch
            beat()
            await tell_outage(trainer)
            await show(trainer)
            changed = asyncio.create_task(trainer.changed.wait())
            woken = asyncio.create_task(trainer.wake.wait())
            await asyncio.wait(
                [run, changed, woken], timeout=1.0, return_when=asyncio.FIRST_COMPLETED
            )
            changed.cancel()
            woken.cancel()
            trainer.changed.clear()
            trainer.wake.clear()
            if wish is None and not run.done():
                wish = await find_wish(trainer, training)
        return run.result(), wish
    finally:
        if not run.done():  # this process ends: what was trained is saved on this disk
            await training.finish()
            await asyncio.wait([run], timeout=GOODBYE_SECONDS)
        for task in (run, asking):
            task.cancel()
        await asyncio.gather(run, asking, return_exceptions=True)


async def find_wish(trainer: Trainer, training: Training) -> Wish | None:
    """A reason to end the worker at the end of its step, told to it; None to go on."""
    try:
        await trainer.refresh()
    except BusUnavailable as error:
        log.get().warning("bus_away", error=str(error))
        return None
    wish = wish_for(trainer, training.segment)
    if wish is None:
        await answer_live(trainer, training)
        return None
    if wish.why == "lost":
        await training.kill()
    else:
        await training.finish()
    return wish


def wish_for(trainer: Trainer, segment: Segment) -> Wish | None:
    if not trainer.is_mine(segment):
        return Wish("lost")
    for at, once in trainer.control.pending(trainer.once_through):
        if once.command == "skip" and once.segment == segment.id:
            return Wish("skip", (at, once))
    if trainer.control.state != "running":
        return Wish("pause" if trainer.control.state == "paused" else "stop")
    mine = LEVEL_RANK[trainer.table.jobs[segment.job].record.level]
    for job in trainer.table.queue():
        if LEVEL_RANK[job.record.level] < mine and may_preempt(trainer, job, segment):
            return Wish("preempt")
    return None


def may_preempt(trainer: Trainer, job: Job, segment: Segment) -> bool:
    line = trainer.table.lines.get(job.id.lineage)
    if line is None or line.settings is None or job.id.lineage in trainer.waiting:
        return False
    return line.open_segment is None or line.open_segment.id == segment.id


async def after(trainer: Trainer, ended: Ended) -> None:
    """What the end of a worker means for the segment. Raises StoreUnavailable: then again."""
    assert trainer.held is not None
    end, wish = ended.end, ended.wish
    log.get().info("worker_ended", outcome=end.outcome, wish=wish.why if wish else None)
    if wish is not None and wish.why == "lost":
        trainer.release()
        return
    match end.outcome:
        case "done":
            await close_segment(trainer, "done")
        case "failed" if may_shrink(trainer, trainer.held, end):
            await shrink(trainer, trainer.held, end)
        case "failed":
            await close_segment(trainer, "failed", failure=end.failure, suspect=end.suspect)
        case "died":
            await reopen(trainer, trainer.held, died=True)
        case "interrupted" if wish is not None:
            await after_wish(trainer, wish)
            REACTION.observe(time.monotonic() - wish.since)
        case _:
            await reopen(trainer, trainer.held, died=False)


def may_shrink(trainer: Trainer, segment: Segment, end: End) -> bool:
    """Whether memory ran out and something is left to be tried: a smaller micro-batch, or, where
    nothing is left to halve, checkpointing alone, once. It comes with the first halving, too."""
    if end.failure is None or end.failure.kind != "memory":
        return False
    first = segment.record.micro_tokens_asked is None
    if first and trainer.settings.gradient_checkpointing == "auto":
        return True
    return not end.final and smaller(segment.record.micro_tokens) is not None


async def shrink(trainer: Trainer, segment: Segment, end: End) -> None:
    """Close the segment where it is: the job goes on at once in one with half the micro-batch.

    A segment has one split, so that its replay gives the same bits.
    """
    assert end.failure is not None
    was = segment.record.micro_tokens
    halved = smaller(was) or was
    why = end.failure.message[:500]
    told = MemoryRanOut(segment=segment.id, was=was, micro_tokens=halved, why=why)
    await close_segment(trainer, "preempted", cause=claim.MEMORY)
    OUT_OF_MEMORY.inc()
    log.get().warning("out_of_memory", was=was, micro_tokens=halved, why=why)
    await trainer.tell(told, segment.job.lineage, segment)


async def after_wish(trainer: Trainer, wish: Wish) -> None:
    match wish.why:
        case "pause":  # stays open; a new fence starts from what was just stored
            assert trainer.held is not None
            await reopen(trainer, trainer.held, died=False)
        case "stop":
            await close_stopped(trainer)
        case "preempt":
            await close_segment(trainer, "preempted")
        case "skip":
            assert wish.once is not None
            await close_skipped(trainer, *wish.once)


async def name_plan(trainer: Trainer, plan: ObjectRef, tokens: int, steps: int) -> None:
    """The job's record names the plan, and its size, before the first step is made."""
    assert trainer.held is not None
    job = trainer.table.jobs[trainer.held.job]
    changes = {"plan": plan, "tokens": tokens, "steps": steps}
    job = await trainer.table.write(trainer.bus, job, "run", trainer.by, **changes)
    if trainer.training is not None:
        trainer.training.job = job


def retry(segment: Segment) -> str:
    return f"read its log, then duramen queue retry {segment.job}"
