"""Publishes the state of a trainer as `ctl.observed.trainer.<lease id>`."""

from services.trainer.supervisor.trainer import BEAT_SECONDS, Trainer
from shared import log
from shared.errors import BusUnavailable
from shared.protocol.observed import UNSEEN, Observed, ObservedState
from shared.service import loop


def view_of(trainer: Trainer) -> Observed:
    """Return the current state of this trainer, as it is published."""
    segment, run = trainer.held.segment, trainer.held.run
    line = trainer.table.lines.get(segment.job.lineage) if segment else None
    checkpoint = segment.record.checkpoint if segment else None
    if run is not None and run.state.checkpoint is not None:
        checkpoint = run.state.checkpoint
    state, generation = shown_state(trainer)
    return Observed(
        service="trainer",
        instance=trainer.instance,
        state=state,
        generation=generation,
        once_through=max(trainer.orders.through, 0),
        waiting=waits_for(trainer),
        lineage=segment.job.lineage if segment else None,
        job=segment.job.path if segment else None,
        segment=segment.id if segment else None,
        fence=segment.fence if segment else None,
        ledger=line.sequence if line else 0,
        progress=run.state.progress if run else None,
        checkpoint=checkpoint,
        read_back=checkpoint is not None and not is_local(trainer),
        disks=trainer.disks.seen,
    )


def shown_state(trainer: Trainer) -> tuple[ObservedState, int]:
    """Return the state to show, and the generation of the command that the trainer obeys."""
    held, orders = trainer.held, trainer.orders
    desired = orders.control.state
    is_held_up = held.segment is not None and (
        held.segment.job.lineage in trainer.waiting.reasons or bool(trainer.disk.full)
    )
    is_sending = held.not_uploaded is not None and not trainer.outage.is_on
    is_busy = held.run is not None or held.is_ending or is_sending
    shown: ObservedState
    if is_busy or (held.segment is not None and desired == "running" and not is_held_up):
        shown = "running"
    elif desired != "running" and not (held.segment and desired == "stopped"):
        shown = desired
    else:
        shown = "waiting" if waits_for(trainer) else "idle"
    # While a worker still runs, a newer generation has been seen but is not obeyed yet.
    is_obeyed = shown == desired or not is_busy
    return shown, orders.control.generation if is_obeyed else obeyed(trainer)


def waits_for(trainer: Trainer) -> dict[str, str]:
    """Return why each lineage waits, and first, under `*`, what all of them wait for."""
    outage, disk = trainer.outage, trainer.disk
    said = outage.is_long if trainer.held.run is not None else outage.is_on
    of_all = [outage.sentence] if said else []
    of_all += [disk.sentence] if disk.full else []
    shown = {UNSEEN: "; ".join(of_all)} if of_all else {}
    return {**shown, **trainer.waiting.reasons}


def is_local(trainer: Trainer) -> bool:
    """Return whether the checkpoint that is shown exists on this disk alone."""
    run = trainer.held.run
    is_uploaded = run is not None and run.state.checkpoint is not None
    return trainer.held.not_uploaded is not None and not is_uploaded


def obeyed(trainer: Trainer) -> int:
    """Return the generation that was shown last; 0 before the first."""
    shown = trainer.observer.shown
    return shown.generation if shown else 0


async def publish_observed(trainer: Trainer) -> None:
    """Publish the view if it changed, at most twice a second for mere progress."""
    try:
        await trainer.observer.show(view_of(trainer))
    except BusUnavailable as error:
        log.get().warning("not_observed", error=str(error))


async def keep_observed(trainer: Trainer) -> None:
    """Show again and again that the supervisor is alive, even while it waits for the store."""

    async def show_again() -> None:
        if trainer.observer.shown is not None:
            await publish_observed(trainer)

    await loop.heartbeat(show_again, BEAT_SECONDS)
