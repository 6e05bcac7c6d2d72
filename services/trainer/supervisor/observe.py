"""What a trainer shows of itself: `ctl.observed.trainer.<lease id>`."""

from services.trainer.supervisor.trainer import BEAT_SECONDS, Trainer
from shared import log
from shared.errors import BusUnavailable
from shared.protocol.observed import Observed
from shared.service import loop


def view_of(trainer: Trainer) -> Observed:
    """What this trainer is, now."""
    segment, training = trainer.held, trainer.training
    state = trainer.control.state
    waiting = waits_for(trainer)
    held_up = segment is not None and segment.job.lineage in trainer.waiting
    # What a pause or the end of a worker asks for is under way, and nothing hinders it.
    is_ending = trainer.ended is not None and not trainer.ended.hindered
    is_sending = trainer.unstored is not None and not trainer.outage.is_on
    busy = training is not None or is_ending or is_sending
    if busy or (segment is not None and state == "running" and not held_up):
        shown = "running"
    elif state != "running" and not (segment and state == "stopped"):
        shown = state
    else:
        shown = "waiting" if waiting else "idle"
    checkpoint = segment.record.checkpoint if segment else None
    if training is not None and training.state.checkpoint is not None:
        checkpoint = training.state.checkpoint
    line = trainer.table.lines.get(segment.job.lineage) if segment else None
    progress = training.state.progress if training else None
    return Observed(
        service="trainer",
        instance=trainer.instance,
        state=shown,
        # while a worker still runs, a newer generation is seen but not obeyed yet
        generation=trainer.control.generation if shown == state or not busy else obeyed(trainer),
        once_through=max(trainer.once_through, 0),
        waiting=waiting,
        lineage=segment.job.lineage if segment else None,
        job=segment.job.path if segment else None,
        segment=segment.id if segment else None,
        fence=segment.fence if segment else None,
        ledger=line.sequence if line else 0,
        progress=progress,
        checkpoint=checkpoint,
        read_back=checkpoint is not None and not is_local(trainer),
    )


def waits_for(trainer: Trainer) -> dict[str, str]:
    """One entry a lineage that waits, and first, as `*`, what all of them wait for."""
    outage = trainer.outage
    said = outage.is_long if trainer.training is not None else outage.is_on
    return {"*": outage.sentence, **trainer.waiting} if said else dict(trainer.waiting)


def is_local(trainer: Trainer) -> bool:
    """Whether the checkpoint that is shown lies on this disk alone."""
    uploaded = trainer.training is not None and trainer.training.state.checkpoint is not None
    return trainer.unstored is not None and not uploaded


def obeyed(trainer: Trainer) -> int:
    shown = trainer.observer.shown
    return shown.generation if shown else 0


async def show(trainer: Trainer) -> None:
    """Publish the view if it changed, at most twice a second for mere progress."""
    try:
        await trainer.observer.show(view_of(trainer))
    except BusUnavailable as error:
        log.get().warning("not_observed", error=str(error))


async def heartbeat(trainer: Trainer) -> None:
    """Show that the supervisor lives, also while a store makes it wait."""

    async def show_again() -> None:
        if trainer.observer.shown is not None:
            await show(trainer)

    await loop.heartbeat(show_again, BEAT_SECONDS)
