"""Checks of commands, their answers and the trainers' receipts."""

from services.ctl.check.world import Finding, World
from shared.protocol.control import Once
from shared.protocol.names import observed_subject
from shared.protocol.observed import Observed


def every_command_has_one_answer(world: World) -> list[Finding]:
    """Every accepted command has exactly one answer."""
    found = []
    for service, control in world.controls.items():
        said = {one.instance: one.once_through for _, one in world.observed.get(service, [])}
        through = max(said.values(), default=0)
        for at, once in sorted(control.once.items()):
            outcomes = answers_to(world, service, at, once)
            where = f"ctl.once.{service} {at} ({once.command})"
            if not outcomes and at > through:
                world.pending.append(
                    f"{service} has not answered the command {once.command} (record {at}) yet"
                )
            elif not outcomes and not (world.answers_since and once.at < world.answers_since):
                found.append(Finding(where, "it was passed over without an answer"))
            elif len(outcomes) > 1:
                what = f"it has {len(outcomes)} different answers: {', '.join(sorted(outcomes))}"
                found.append(Finding(where, what))
    return found


def answers_to(world: World, service: str, at: int, once: Once) -> set[str]:
    """Return the outcomes that a command was answered with.

    An answer repeated after a crash has the same outcome, so it adds none.
    """
    return {
        answer.outcome
        for answering, answer in world.answers
        if answering == service and (answer.sequence == at or answer.command == once.nonce)
    }


def no_step_follows_a_pause(world: World) -> list[Finding]:
    """No trainer made a step after it had reported a pause."""
    found = []
    before: dict[str, Observed] = {}
    for at, said in world.observed.get("trainer", []):
        where = f"{observed_subject('trainer', said.instance)} {at}"
        paused = before.pop(said.instance, None)
        if said.state == "paused" and said.fence is not None:
            current = fence_at(world, said)
            if current != said.fence:
                what = f"it reported a pause with fencing token {said.fence} instead of {current}"
                found.append(Finding(where, what))
        if paused is not None and same_pause(paused, said) and position(said) > position(paused):
            what = f"it reached step {position(said)} after it had paused at {position(paused)}"
            found.append(Finding(where, what))
        if said.state == "paused":
            before[said.instance] = said
    return found


def fence_at(world: World, said: Observed) -> int | None:
    """Return the open segment's fence as of the ledger sequence that an observation names.

    None if no segment was open.
    """
    for line in world.table.lines.values():
        segment = line.segments.get(said.segment or "")
        if segment is not None:
            if segment.closed is not None and segment.closed_at <= said.ledger:
                return None
            return max((fence for fence in segment.fences if fence <= said.ledger), default=None)
    return None


def same_pause(paused: Observed, said: Observed) -> bool:
    return (paused.fence, paused.generation) == (said.fence, said.generation)


def position(said: Observed) -> int:
    if said.progress is not None:
        return said.progress.position
    return said.checkpoint.position if said.checkpoint else 0
