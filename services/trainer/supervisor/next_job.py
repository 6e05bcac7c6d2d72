"""Finds work: the next job, and open segments whose owner is dead."""

import asyncio
import functools
from contextlib import suppress
from typing import Any

from services.trainer import memory
from services.trainer.checkpoint import KEPT
from services.trainer.supervisor import claim, work_bucket
from services.trainer.supervisor.close import close_segment
from services.trainer.supervisor.local_files import SegmentFolder
from services.trainer.supervisor.trainer import Trainer
from shared import log
from shared.errors import (
    BusUnavailable,
    Conflict,
    ObjectMissing,
    StoreUnavailable,
    UsageError,
)
from shared.ledger.control import observed, observed_all
from shared.ledger.jobs import Job, Table
from shared.ledger.lineage import Line, Segment
from shared.memory_estimate import Shape, gib
from shared.protocol.events import SegmentOpened
from shared.protocol.names import DEFAULT_LINEAGE
from shared.protocol.observed import EXPORT_PLACE, UNSEEN
from shared.protocol.records import LineOpen
from shared.store import layout
from shared.store.place import PRECIOUS

ASK_SECONDS = 30.0


async def next_job(trainer: Trainer) -> Job | None:
    """Return the first queued job whose lineage can train now, or None.

    Notes of each lineage before it why it cannot.
    """
    trainer.waiting.forget()
    for job in trainer.table.queue():
        lineage = job.id.lineage
        if lineage in trainer.waiting.reasons:
            continue
        why = await why_not(trainer, lineage)
        if why is None:
            return job
        trainer.waiting.note(lineage, why)
    return None


async def ask_again(trainer: Trainer) -> None:
    """Check again and again, while a worker trains, what the other lineages wait for.

    This keeps the reasons that are shown true, and lets a job of a higher level preempt as soon as
    it can train. Never returns; outages are logged, other errors are raised.
    """
    while True:
        await asyncio.sleep(ASK_SECONDS)
        try:
            await ask_those_that_wait(trainer)
        except (BusUnavailable, StoreUnavailable) as error:
            log.get().warning("not_asked_again", error=str(error))


async def ask_those_that_wait(trainer: Trainer) -> None:
    """Check again each lineage that waits and has queued jobs. Raises StoreUnavailable."""
    queued = {job.id.lineage for job in trainer.table.queue()}
    for lineage in list(trainer.waiting.reasons):
        why = await why_not(trainer, lineage) if lineage in queued else None
        trainer.waiting.note(lineage, why)


async def why_not(trainer: Trainer, lineage: str) -> str | None:
    """Return why a lineage cannot train now, with the next command where one helps, or None."""
    line = trainer.table.lines.get(lineage)
    if line is None or line.settings is None:
        if lineage == DEFAULT_LINEAGE:
            return "it has no base yet: duramen base add DIR"
        return f"there is no lineage of this name: duramen lineage new {lineage} --base BASE"
    if line.open_segment is not None:
        record = line.open_segment.record
        silent = await trainer.watch.silent_seconds(record.lease, line.open_segment.fence)
        return f"another trainer ({record.owner}) trains it, last heard of {silent:.0f} s ago"
    return (
        await unusable_head(trainer, line)
        or await unusable_base(trainer, line)
        or await short_of_space(trainer, line)
        or await short_of_memory(trainer, line, None)
        or await lost_bus(trainer, line)
    )


async def unusable_head(trainer: Trainer, line: Line) -> str | None:
    """Return why the checkpoint of the lineage's head cannot be used, or None if it can."""
    if not await asyncio.to_thread(trainer.local.has_head, line):
        return "the checkpoint of its head is in no store: duramen check"
    head = line.head.checkpoint if line.head else None
    why = trainer.waiting.unusable.get(head.id) if head is not None else None
    if why is None:
        trainer.alarms.clear("head_unusable", line.lineage)
    return why


async def unusable_base(trainer: Trainer, line: Line) -> str | None:
    """Return why no job of the lineage can be trained on its base, or None."""
    assert line.settings is not None
    root = line.settings.base_root
    sums = layout.base_commit(root)
    if await asyncio.to_thread(trainer.local.store.oldest, PRECIOUS, sums) is None:
        return f"its base {root[:12]} is not in the store: duramen base add DIR"
    return refused_base(trainer.table, line)


async def lost_bus(trainer: Trainer, line: Line) -> str | None:
    """Return why no new v001 may be made, or None: the ledger has no versions, but a place has.

    The vault reports what is in the backup and the archive, and whether the bus lacks records that
    were exported: then no sequence of it can be trusted.
    """
    vault = await observed(trainer.bus, "vault")
    said = (vault.orphaned or {}) if vault else {}
    if EXPORT_PLACE in said.get(line.lineage, ()):
        return "the bus lacks records that were exported: it was set back. Type: duramen recover"
    if line.versions:
        return None
    keys = trainer.local.store.keys(PRECIOUS, layout.catalog_records(line.lineage))
    places = ["store"]
    if await asyncio.to_thread(next, keys, None) is None:
        places = said.get(line.lineage, [])
        if not places and UNSEEN in said:
            return (
                f"its ledger is empty, and the vault has not been able to look for versions in the "
                f"{' and the '.join(said[UNSEEN])} yet"
            )
    if not places:
        return None
    return (
        f"its ledger is empty but versions are in the {' and the '.join(places)}: the bus was "
        "lost. Put it back from its backup, or train under another name: duramen lineage new NAME"
    )


def refused_base(table: Table, line: Line) -> str | None:
    """Return why the last job that was tried found the lineage's base unusable, or None.

    None as well once that job is queued again.
    """
    last = next((s for s in reversed(line.segments.values()) if s.closed is not None), None)
    failure = last.closed.failure if last and last.closed else None
    if last is None or failure is None or failure.kind != "base":
        return None
    job = table.jobs.get(last.job)
    if job is None or job.record.state != "failed":
        return None
    return (
        f"its base cannot be trained: {failure.message[:300]}  Then: duramen queue retry {job.id}"
    )


async def short_of_memory(trainer: Trainer, line: Line, record: LineOpen | None) -> str | None:
    """Return why a lineage must wait for memory, or None if it need not.

    `record`: of a held segment that is about to train; None before a job is claimed. Both are
    judged alike, or a segment would be closed for lack of memory and its job claimed again at once.
    """
    assert line.settings is not None
    root, settings = line.settings.base_root, trainer.settings
    try:
        shape = await trainer.memory.shape(root)
    except (UsageError, ValueError) as error:  # the worker reports in full what is wrong with it
        log.get().warning("memory_not_estimated", base=root, why=str(error))
        return None
    except ObjectMissing as error:
        return f"{error}  Then: duramen base add DIR"
    except StoreUnavailable:
        if record is None:
            raise
        return None  # unknown; but the segment is held already, so nothing is claimed
    recompute = settings.gradient_checkpointing != "off"
    dtype: Any = record.dtype if record else line.dtype or trainer.dtype
    tokens = record.micro_tokens if record else claim.micro_tokens(line, trainer.owner)[0]
    least = memory.need(shape, line.settings, settings, dtype, tokens, recompute=recompute)
    here = trainer.memory.here(is_training=trainer.held.run is not None)
    return await asyncio.to_thread(memory.shortage, least, here)


async def short_of_space(trainer: Trainer, line: Line) -> str | None:
    """Return why a lineage must wait for space on the trainer's disk, or None if it need not."""
    assert line.settings is not None
    root = line.settings.base_root
    parts = {"the base": await asyncio.to_thread(trainer.local.missing_of_base, root)}
    try:
        shape = await trainer.memory.shape(root)
        parts["checkpoints"] = checkpoint_bytes(trainer, line, shape) * (KEPT + 1)
    except (UsageError, ValueError, ObjectMissing, StoreUnavailable):
        pass  # the look at memory, or the worker, says what is wrong with it
    here = trainer.disk.shortage(parts, trainer.local.free_bytes())
    return here or await short_in_store(trainer, parts.get("checkpoints", 0))


async def short_in_store(trainer: Trainer, size: int) -> str | None:
    """Return why the store has no room for `size` bytes in `work`, or None; unknown is not short.

    The vault measures the store, and counts what lies in `work`.
    """
    vault, limit = await observed(trainer.bus, "vault"), trainer.settings.work_limit_bytes
    store = next((d for d in (vault.disks if vault else None) or () if d.place == "store"), None)
    if store is None:
        return None
    held = sum(bytes_ for what, bytes_ in store.uses.items() if what.startswith("work/"))
    if limit is not None and held + size > limit:
        return (
            f"the bucket `work` holds {gib(held)} and {gib(size)} are needed, but "
            f"DURAMEN_WORK_LIMIT_BYTES allows {gib(limit)}: duramen disk"
        )
    if store.free is None or store.free >= size + store.reserve:
        return None
    return (
        f"the store's disk: {gib(size + store.reserve)} needed (checkpoints {gib(size)}, "
        f"{gib(store.reserve)} stay free), {gib(store.free)} free: duramen disk"
    )


def checkpoint_bytes(trainer: Trainer, line: Line, shape: Shape) -> int:
    """Return how large a checkpoint is, by estimate: the adapter, and twice that of optimizer."""
    assert line.settings is not None
    dtype: Any = line.dtype or trainer.dtype
    settings = trainer.settings
    found = memory.need(shape, line.settings, settings, dtype, settings.micro_batch_tokens).parts
    return found["adapter"] + found["optimizer"]


async def open_job(trainer: Trainer, job: Job) -> None:
    """Claim a job and hold its segment; if another trainer was first, hold nothing."""
    with suppress(Conflict):
        segment = await claim.open_segment(trainer.bus, trainer.table, job, trainer.owner)
        trainer.held.take(segment)
        await trainer.tell(SegmentOpened(segment=segment.id, fence=segment.fence))
        await own_segment(trainer, job)


async def own_segment(trainer: Trainer, job: Job) -> None:
    """Make the lease and the job's record follow the held segment's open record in the ledger."""
    segment = trainer.held.open
    await trainer.held.lease.renew()
    while job.record.state in ("queued", "running"):
        try:
            changes: dict[str, Any] = {"segment": segment.id, "fence": segment.fence}
            await trainer.table.write(trainer.bus, job, "run", trainer.by, **changes, failure=None)
            return
        except Conflict:  # moved or removed meanwhile
            await trainer.table.update(trainer.bus)
            job = trainer.table.jobs[job.id]
    await close_segment(trainer, "void")


async def take_over_lost(trainer: Trainer) -> None:
    """Reclaim one open segment whose owner is dead: this trainer's own, or a silent trainer's."""
    for line in trainer.table.lines.values():
        segment = line.open_segment
        if segment is None:
            continue
        record = segment.record
        if record.lease == trainer.held.lease.name or await trainer.watch.is_dead(
            record.lease, segment.fence
        ):
            stepped = await had_stepped(trainer, segment)
            counts = claim.death_counts(segment, had_stepped=stepped)
            await reopen(trainer, segment, died=counts and trainer.orders.state == "running")
            return


async def had_stepped(trainer: Trainer, segment: Segment) -> bool:
    """Return whether the owner of an open segment was seen to make a step before it died."""
    start = segment.record.global_step
    return any(
        said.fence == segment.fence and said.progress and said.progress.global_step > start
        for said in (await observed_all(trainer.bus, "trainer")).values()
    )


async def newest_of_open(
    trainer: Trainer, segment: Segment, folder: SegmentFolder
) -> work_bucket.Found | None:
    """Return the newest valid checkpoint of an open segment, or None.

    With the store away, this disk's is enough if nobody else can have trained the segment; else
    raises StoreUnavailable.
    """
    if trainer.outage.is_on:  # a request may hang for a minute before it fails again
        found = await newest_here(trainer, segment, folder)
        if found is not None:
            return found
    try:
        found = await asyncio.to_thread(
            work_bucket.newest_checkpoint, trainer.local.store, segment, folder
        )
        trainer.outage.over()
        return found
    except StoreUnavailable as error:
        found = await newest_here(trainer, segment, folder)
        if found is None:
            raise
        trainer.outage.failed(error)
        return found


async def newest_here(
    trainer: Trainer, segment: Segment, folder: SegmentFolder
) -> work_bucket.Found | None:
    """Return the newest valid checkpoint on this disk, or None if another could be newer."""
    if segment.record.lease != trainer.held.lease.name:
        return None
    mine = functools.partial(work_bucket.newest_checkpoint, only_local=True)
    found = await asyncio.to_thread(mine, trainer.local.store, segment, folder)
    return found if found and found.ref.global_step >= segment.record.global_step else None


async def store_held(trainer: Trainer) -> None:
    """Upload the held segment's checkpoint, read back, unless the store has it already.

    Raises StoreUnavailable.
    """
    path, store = trainer.held.not_uploaded, trainer.local.store
    if path is not None:
        lineage = trainer.held.open.job.lineage
        await asyncio.to_thread(work_bucket.put_checkpoint, store, lineage, path)
        trainer.held.uploaded()
    trainer.outage.over()


async def reopen(trainer: Trainer, segment: Segment, *, died: bool) -> None:
    """Claim an open segment under a new fence, from its newest valid checkpoint, and hold it.

    If another trainer was first, hold nothing. `died`: its owner was training. Raises
    StoreUnavailable.
    """
    line = trainer.table.lines[segment.job.lineage]
    folder = trainer.local.segment(line.lineage, segment.id).make()
    found = await newest_of_open(trainer, segment, folder)
    first = segment.first
    start = first
    if found is not None:
        start = first.model_copy(
            update={
                "checkpoint": found.ref,
                "position": found.ref.position,
                "global_step": found.ref.global_step,
            }
        )
    try:
        again = await claim.reopen_segment(
            trainer.bus, trainer.table, segment, trainer.owner, start, died=died
        )
    except Conflict:
        trainer.held.release()
        return
    trainer.held.take(again, found.local if found and not found.stored else None)
    log.get().info(
        "segment_reclaimed",
        segment=segment.id,
        fence=again.fence,
        global_step=start.global_step,
        deaths=again.record.deaths,
    )
    await own_segment(trainer, trainer.table.jobs[segment.job])
