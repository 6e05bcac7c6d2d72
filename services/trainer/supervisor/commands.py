"""Answers one-time commands: each once, as `done` or as `void` with the reason."""

from typing import Literal

from services.trainer.supervisor.close import close_segment
from services.trainer.supervisor.observe import publish_observed
from services.trainer.supervisor.run.worker_run import ASKABLE, WorkerRun
from services.trainer.supervisor.trainer import Trainer
from shared import log
from shared.protocol.control import Once
from shared.protocol.events import Answered, Event


async def answer_live(trainer: Trainer, run: WorkerRun) -> None:
    """Pass snapshot and checkpoint commands to the worker; answer those for other segments."""
    for at, once in trainer.orders.pending():
        if once.segment != run.segment.id:
            await answer_missed(trainer, at, once)
            continue
        if once.command not in ASKABLE:
            await answer_once(trainer, at, once, "void", f"{once.command} is not for the trainer")
            continue
        asked = await run.ask(once.command, at)
        if asked is None:
            return  # checked again when the worker has answered; a pause need not wait for it
        why = asked.refused
        await answer_once(trainer, at, once, "void" if why else "done", why or once.command)


async def answer_idle(trainer: Trainer) -> None:
    """Answer commands while no worker runs.

    A skip closes the held segment, whatever was asked before it. A paused segment has its
    checkpoint already.
    """
    held = trainer.held
    for at, once in trainer.orders.pending():
        if held.segment is not None and (once.command, once.segment) == ("skip", held.segment.id):
            await close_skipped(trainer, at, once)
    for at, once in trainer.orders.pending():
        if held.segment is None or once.segment != held.segment.id:
            await answer_missed(trainer, at, once)
        elif trainer.orders.state == "running":
            return  # its worker is about to start and is asked then
        elif once.command == "checkpoint" and held.not_uploaded is not None:
            return  # the store is away
        elif once.command == "checkpoint":
            await answer_once(trainer, at, once, "done", "paused: its checkpoint is stored")
        else:
            await answer_once(trainer, at, once, "void", "paused: duramen resume")


async def answer_missed(trainer: Trainer, at: int, once: Once) -> None:
    """Answer a command for a segment that is not held: done before a crash, or too late.

    Does nothing while that segment is open, for then its owner answers.
    """
    for line in trainer.table.lines.values():
        segment = line.segments.get(once.segment or "")
        if segment is None:
            continue
        if segment.closed is None:
            return  # open, but not taken over yet: it waits for its owner
        if segment.closed.cause == once.nonce:
            await answer_once(trainer, at, once, "done", "before a restart")
        else:
            outcome = "cancelled" if segment.closed.outcome == "void" else segment.closed.outcome
            await answer_once(
                trainer, at, once, "void", f"the run that it was meant for is over ({outcome})"
            )
        return
    await answer_once(trainer, at, once, "void", "the run that it was meant for is not open here")


async def answer_once(
    trainer: Trainer, at: int, once: Once, outcome: Literal["done", "void"], why: str
) -> None:
    """Publish the answer to a command, and count it as answered."""
    answered = Answered(
        command=once.nonce,
        sequence=at,
        name=once.command,
        outcome=outcome,
        why=why,
        segment=once.segment,
    )
    await trainer.bus.event(Event.of("trainer", answered))
    trainer.orders.answered(at)
    log.get().info("command_answered", **answered.told())
    await publish_observed(trainer)


async def close_skipped(trainer: Trainer, at: int, once: Once) -> None:
    """Close the held segment as skipped, then answer the skip and the commands before it.

    Raises StoreUnavailable.
    """
    await close_segment(trainer, "skipped", cause=once.nonce, keep=once.keep)
    for earlier, other in trainer.orders.pending():
        if earlier < at:
            await answer_missed(trainer, earlier, other)
    await answer_once(trainer, at, once, "done", "kept" if once.keep else "dropped")
