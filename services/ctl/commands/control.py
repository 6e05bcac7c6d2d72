"""pause, resume, stop, start, skip, status: durable, acknowledged, observed, with a receipt."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated

import typer
from rich.text import Text

from services.ctl import cli
from services.ctl.errors import NotObserved
from services.ctl.views.columns import count_of
from services.ctl.views.naming import ANSWERS, job_at, name_of
from services.ctl.views.silence import QUIET_SECONDS
from shared.bus.client import Bus
from shared.errors import UsageError
from shared.ledger.control import Control, events, observed, observed_all
from shared.ledger.jobs import Table
from shared.ledger.lease import lease_age
from shared.ledger.lineage import Segment
from shared.protocol.control import Once
from shared.protocol.events import Answered, parse_event
from shared.protocol.names import DesiredState
from shared.protocol.observed import Observed

Reason = Annotated[
    str, typer.Option("--reason", help="Why you do this. It is recorded with the command.")
]
SEEN_AS = {
    "running": {"running", "idle", "waiting"},
    "paused": {"paused"},
    "stopped": {"stopped"},
}
UNDO = {"paused": "duramen resume", "stopped": "duramen start", "running": "duramen pause"}


async def wait_for(bus: Bus, seconds: float, look: Callable[[], Awaitable[cli.T | None]]) -> cli.T:
    """Call `look` at each observation and event, and each half second, until it finds something.

    Raises NotObserved after `seconds`.
    """
    wake = asyncio.Event()
    await bus.subscribe("ctl.observed.>", wake.set)
    await bus.subscribe("evt.>", wake.set)
    deadline = asyncio.get_running_loop().time() + seconds
    while (found := await look()) is None:
        if asyncio.get_running_loop().time() > deadline:
            raise NotObserved(
                "The command was accepted and stored, but nothing obeyed it within "
                f"{seconds:.0f} s."
            )
        wake.clear()
        try:
            await asyncio.wait_for(wake.wait(), 0.5)
        except TimeoutError:
            continue
    return found


async def is_current(bus: Bus, table: Table, seen: Observed) -> bool:
    """Return whether a receipt counts: a fence that it names must be the ledger's current one."""
    if seen.fence is None or seen.lineage is None:
        return True
    await table.update(bus)
    line = table.lines.get(seen.lineage)
    return bool(line and line.open_segment and line.open_segment.fence == seen.fence)


async def living(bus: Bus, seen: dict[str, Observed]) -> dict[str, Observed]:
    """Return the trainers whose lease was renewed lately; all of them if none was."""
    found = {}
    for instance, said in seen.items():
        age = await lease_age(bus, f"trainer.{instance}")
        if age is not None and age < QUIET_SECONDS:
            found[instance] = said
    return found or seen


async def receipts(
    bus: Bus, table: Table, state: DesiredState, generation: int
) -> dict[str, Observed] | None:
    """Return what every living trainer says once all of them have obeyed; None before."""
    seen = await living(bus, await observed_all(bus, "trainer"))
    for said in seen.values():
        if said.generation < generation or said.state not in SEEN_AS[state]:
            return None
        if not await is_current(bus, table, said):
            return None
    return seen or None


async def ask_state(state: DesiredState, reason: str, json: bool, discard: bool = False) -> None:
    config = cli.settings()
    async with cli.bus(config) as bus:
        control, table = Control("trainer"), Table()
        await control.update(bus)
        if state == "running" and control.state == "running":
            raise UsageError(
                "The trainer is running: it is neither paused nor stopped.",
                next_step="duramen status",
            )
        segment = None
        if discard:
            seen = await observed(bus, "trainer")
            segment = seen.segment if seen else None
            if segment is None:
                raise UsageError(
                    "No job is being trained, so there is nothing to discard.",
                    next_step="duramen queue list",
                )
        if control.state != state or segment is not None:
            await control.set_desired(bus, state, cli.who(), reason, segment)
            await control.update(bus)
        generation = control.generation

        if not json:
            cli.console.print("The command is accepted. Waiting for the trainer …")
        found = await wait_for(
            bus, config.wait_seconds, lambda: receipts(bus, table, state, generation)
        )
        newest = max(found.values(), key=lambda said: said.at)
        instances = {name: said.model_dump(mode="json") for name, said in found.items()}
        value = {**newest.model_dump(mode="json"), "instances": instances}
        cli.emit(value, json, lambda: print_receipts(table, found, state))


def print_receipts(table: Table, found: dict[str, Observed], state: str) -> None:
    for name, said in found.items():
        if len(found) > 1:
            cli.console.print(f"trainer {name}:")
        print_receipt(table, said)
    cli.console.print(f"Next: {UNDO[state]}", style="dim")


def print_receipt(table: Table, seen: Observed) -> None:
    job = job_at(table, seen.job)
    cli.console.print(Text.assemble("The trainer is ", (seen.state, "bold"), "."))
    if job and seen.checkpoint:
        at = seen.checkpoint
        steps = f"step {at.position} (step {at.global_step} of {seen.lineage or 'its lineage'})"
        cli.console.print(f"{job}, after {steps}", soft_wrap=True)
        where = f"{at.bucket}/{at.prefix}"
        if seen.read_back:
            kept = f"Its checkpoint {at.id[:12]} is stored at {where} and was read back in full."
            cli.console.print(kept, soft_wrap=True)
        else:
            why = f": {seen.waits_for}" if seen.waits_for else ""
            text = f"Its checkpoint {at.id[:12]} is not stored at {where} yet{why}"
            cli.console.print(text, style="red", soft_wrap=True)
    elif job:
        text = f"{job} has not made a step yet, so nothing needs to be kept."
        cli.console.print(text, soft_wrap=True)


def pause(reason: Reason = "", json: cli.Json = False) -> None:
    """Pause after the current step and store a checkpoint. `duramen resume` ends the pause."""
    cli.run_command(ask_state("paused", reason, json))


def resume(reason: Reason = "", json: cli.Json = False) -> None:
    """Continue after `duramen pause`, from the step at which training paused."""
    cli.run_command(_go_on("paused", "stopped", "duramen start", reason, json))


def stop(
    reason: Reason = "",
    discard: Annotated[
        bool, typer.Option("--discard", help="Drop the steps of the current run.")
    ] = False,
    json: cli.Json = False,
) -> None:
    """End the run of the current job, keep its steps and free the GPU, until `duramen start`."""
    cli.run_command(ask_state("stopped", reason, json, discard))


def start(reason: Reason = "", json: cli.Json = False) -> None:
    """Let the trainer take jobs again after `duramen stop`."""
    cli.run_command(_go_on("stopped", "paused", "duramen resume", reason, json))


async def _go_on(ends: str, other: str, instead: str, reason: str, json: bool) -> None:
    async with cli.bus(cli.settings()) as bus:
        control = Control("trainer")
        await control.update(bus)
    if control.state == other:
        raise UsageError(f"The trainer is {other}, not {ends}.", next_step=instead)
    await ask_state("running", reason, json)


def skip(
    keep: Annotated[bool, typer.Option("--keep", help="Keep the steps, as a version.")] = False,
    yes: cli.Yes = False,
    json: cli.Json = False,
) -> None:
    """End the current job and train the next one; `duramen queue retry` queues it again.

    Without --keep the steps of the current run are dropped, and the next job starts without them;
    on a terminal it asks first.
    """
    cli.run_command(_skip(keep, yes, json))


def steps_of(segment: Segment, seen: Observed | None) -> int:
    """Return how many steps a run has made, as its trainer or its newest checkpoint shows."""
    reached = segment.record.global_step
    if seen is not None and seen.segment == segment.id and seen.progress is not None:
        reached = max(reached, seen.progress.global_step)
    return reached - segment.first.global_step


async def _skip(keep: bool, yes: bool, json: bool) -> None:
    config = cli.settings()
    async with cli.bus(config) as bus:
        table, control = await Table.of(bus), Control("trainer")
        await control.update(bus)
        lines = [line for line in table.lines.values() if line.open_segment]
        if not lines or lines[0].open_segment is None:
            raise UsageError("No job is being trained.", next_step="duramen queue list")
        segment = lines[0].open_segment
        shown = name_of(table, segment.job)
        steps = count_of(steps_of(segment, await observed(bus, "trainer")), "step")
        if not keep:
            cli.confirm(f"Drop the {steps} that this run of {shown} has made?", yes)
        command = Once(
            by=cli.who(), service="trainer", command="skip", segment=segment.id, keep=keep
        )
        answer = await once(bus, control, command, config.wait_seconds)

        def tell() -> None:
            print_answer("skip", shown, answer)
            if answer.outcome == "done" and not keep:
                cli.console.print(f"Dropped: {steps}")
            if answer.outcome == "done":
                again = f"Next: duramen queue retry {segment.job} queues it again"
                cli.console.print(again, style="dim")

        cli.emit(answer.told(), json, tell)


async def once(bus: Bus, control: Control, command: Once, seconds: float) -> Answered:
    """Give a one-time command and wait for its answer. Raises NotObserved, Bus errors."""
    _, after = await bus.bounds("EVT")
    await control.ask_once(bus, command)
    subject = f"evt.{command.service}.answered"

    async def look() -> Answered | None:
        async for _, event in events(bus, after, subject):
            answer = parse_event(event)
            if isinstance(answer, Answered) and answer.command == command.nonce:
                return answer
        return None

    return await wait_for(bus, seconds, look)


def print_answer(command: str, what: str, answer: Answered) -> None:
    outcome = ANSWERS.get(answer.outcome, answer.outcome)
    said = Text.assemble(f"{command} {what}: ", (outcome, "bold"), f" ({answer.why})")
    cli.console.print(said, soft_wrap=True)
