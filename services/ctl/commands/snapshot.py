"""`duramen snapshot`: measure what the model answers now, and wait for the result."""

from typing import Annotated

import typer
from rich.text import Text

from services.ctl import cli
from services.ctl.commands.control import once, print_answer, wait_for
from services.ctl.views.columns import Heads, count_of, loss_of, number, span_of
from services.ctl.views.comparison import SPLIT_NAMES, share
from services.ctl.views.naming import name_of
from shared.bus.client import Bus
from shared.errors import UsageError
from shared.ledger.control import Control, events
from shared.ledger.jobs import Table
from shared.protocol.control import Once
from shared.protocol.events import SnapshotStored, parse_event


def snapshot(
    wait: Annotated[
        float, typer.Option("--wait", min=0, help="Seconds to wait: a slow model needs longer.")
    ] = 600,
    json: cli.Json = False,
) -> None:
    """Measure all watched examples after the current step and show the result."""
    cli.run_command(_snapshot(wait, json))


async def _snapshot(wait: float, json: bool) -> None:
    async with cli.bus(cli.settings()) as bus:
        table, control = await Table.of(bus), Control("trainer")
        await control.update(bus)
        segment = next(
            (line.open_segment for line in table.lines.values() if line.open_segment), None
        )
        if segment is None:
            raise UsageError("No job is being trained.", next_step="duramen queue list")
        _, after = await bus.bounds("EVT")
        shown = name_of(table, segment.job)
        if not json:
            cli.console.print(f"Asking for a snapshot of {shown} …")
        command = Once(by=cli.who(), service="trainer", command="snapshot", segment=segment.id)
        answer = await once(bus, control, command, wait)
        if answer.outcome != "done":
            cli.emit(answer.told(), json, lambda: print_answer("snapshot", shown, answer))
            raise typer.Exit(1)
        taken = await newest_snapshot(bus, after, segment.id, wait)
        cli.emit(taken.told(), json, lambda: print_summary(str(segment.job), shown, taken))


async def newest_snapshot(bus: Bus, after: int, segment: str, seconds: float) -> SnapshotStored:
    """Return what the segment's last snapshot since `after` says. Raises NotObserved."""

    async def look() -> SnapshotStored | None:
        found = None
        async for _, event in events(bus, after, "evt.trainer.snapshot"):
            taken = parse_event(event)
            if isinstance(taken, SnapshotStored) and taken.segment == segment:
                found = taken
        return found

    return await wait_for(bus, seconds, look)


def print_summary(job: str, shown: str, taken: SnapshotStored) -> None:
    decision = taken.decision
    cli.console.print(
        Text.assemble(
            ("Snapshot", "bold"),
            f" of {shown} after step {taken.position} (step {taken.global_step} of its lineage): "
            f"{count_of(decision.measured, 'example')} measured, {decision.answered} asked, in "
            f"{span_of(decision.seconds)}",
        ),
        soft_wrap=True,
    )
    titles = ("n", "loss", "tokens right", "answers right", "loose match")
    heads: Heads = ["examples", *(number(title) for title in titles)]
    drawn = [
        [
            SPLIT_NAMES[split],
            str(numbers.count),
            loss_of(numbers.loss, 3),
            share(numbers.token_accuracy),
            f"{share(numbers.exact_match)} of {numbers.answered}",
            share(numbers.normalized_match),
        ]
        for split, numbers in ((s, taken.summary.get(s)) for s in SPLIT_NAMES)
        if numbers is not None
    ]
    cli.print_table(heads, drawn)
    cli.console.print(f"Next: duramen evolution show {job}", style="dim")
