"""One-time commands: each is answered once, `done` or `void` with the reason."""

from typing import Literal

from services.trainer.supervisor.close import close_segment
from services.trainer.supervisor.observe import show
from services.trainer.supervisor.trainer import Trainer
from services.trainer.supervisor.worker_run import Training
from shared import log
from shared.protocol.control import Once
from shared.protocol.events import Answered, Event


async def answer_live(trainer: Trainer, training: Training) -> None:
    """Snapshot and checkpoint are asked of the worker; what means another segment is void."""
    for at, once in trainer.control.pending(trainer.once_through):
        if once.segment != training.segment.id:
            await answer_missed(trainer, at, once)
            continue
        if once.command not in training.answered:
            await answer(trainer, at, once, "void", f"{once.command} is not for the trainer")
            continue
        await training.ask(once.command, at)
        if training.asked != at or not training.answered[once.command].is_set():
            return  # looked at again when the worker has answered; a pause need not wait for it
        why = training.refused.pop(once.command, None)
        await answer(trainer, at, once, "void" if why else "done", why or once.command)


async def answer_idle(trainer: Trainer) -> None:
    """With no worker: skip closes the held segment, whatever was asked before it; a paused one has
    its checkpoint."""
    for at, once in trainer.control.pending(trainer.once_through):
        if trainer.held is not None and (once.command, once.segment) == ("skip", trainer.held.id):
            await close_skipped(trainer, at, once)
    for at, once in trainer.control.pending(trainer.once_through):
        if trainer.held is None or once.segment != trainer.held.id:
            await answer_missed(trainer, at, once)
        elif trainer.control.state == "running":
            return  # its worker is about to start and is asked then
        elif once.command == "checkpoint" and trainer.unstored is not None:
            return  # the store is away
        elif once.command == "checkpoint":
            await answer(trainer, at, once, "done", "paused: its checkpoint is stored")
        else:
            await answer(trainer, at, once, "void", "paused: duramen resume")


async def answer_missed(trainer: Trainer, at: int, once: Once) -> None:
    """A command for a segment that is not held: done before a crash, or too late."""
    for line in trainer.table.lines.values():
        segment = line.segments.get(once.segment or "")
        if segment is None:
            continue
        if segment.closed is None:
            return  # open, but not taken over yet: it waits for its owner
        if segment.closed.cause == once.nonce:
            await answer(trainer, at, once, "done", "before a restart")
        else:
            outcome = segment.closed.outcome
            await answer(trainer, at, once, "void", f"that segment is closed ({outcome})")
        return
    await answer(trainer, at, once, "void", "no such segment is open here")


async def answer(
    trainer: Trainer, at: int, once: Once, outcome: Literal["done", "void"], why: str
) -> None:
    answered = Answered(
        command=once.nonce,
        sequence=at,
        name=once.command,
        outcome=outcome,
        why=why,
        segment=once.segment,
    )
    await trainer.bus.event(Event.of("trainer", answered))
    trainer.once_through = at
    log.get().info("command_answered", **answered.told())
    await show(trainer)


async def close_skipped(trainer: Trainer, at: int, once: Once) -> None:
    await close_segment(trainer, "skipped", cause=once.nonce, keep=once.keep)
    for earlier, other in trainer.control.pending(trainer.once_through):
        if earlier < at:
            await answer_missed(trainer, earlier, other)
    await answer(trainer, at, once, "done", "kept" if once.keep else "dropped")
