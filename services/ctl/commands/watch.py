"""duramen watch: queue, step, loss, tokens/s, ETA, and snapshots as they come."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Annotated

import typer
from rich.status import Status
from rich.text import Text

from services.ctl import cli
from services.ctl.commands.control import living
from services.ctl.settings import CtlSettings
from services.ctl.views.columns import count_of, fitted, loss_of, span_of
from services.ctl.views.left_out import ignored_text
from services.ctl.views.naming import job_at
from shared.bus.client import Bus
from shared.formats.known_rows import new_rows_text
from shared.formats.plan import KnownRows
from shared.formats.version import version_name
from shared.ledger.control import events, observed_all
from shared.ledger.jobs import Table
from shared.protocol.events import (
    Alarm,
    Event,
    FileKnown,
    FileRefused,
    JobPlanned,
    JobQueued,
    SegmentClosed,
    SegmentOpened,
    SnapshotStored,
    SplitSummary,
    VersionPublished,
    parse_event,
)
from shared.protocol.names import SPLITS, Split
from shared.protocol.observed import Observed
from shared.store import layout
from shared.store.place import PRECIOUS
from shared.store.s3 import Store

SPINNER_WIDTH = 2
LINE_SECONDS = 10.0  # between progress lines where there is no terminal to redraw


@dataclass
class Follower:
    """A display of the training: what was seen so far, and how it is shown."""

    config: CtlSettings
    bus: Bus
    store: Store
    table: Table = field(default_factory=Table)
    after: int = 0
    printed: float = 0.0
    live: Status | None = None

    async def look(self) -> bool:
        """Show what is new; return whether nothing is left to do."""
        await self.table.update(self.bus)
        async for sequence, event in events(self.bus, self.after):
            self.after = sequence
            self.show_event(event)
        await self.show_progress()
        return await self.is_over()

    async def show_progress(self) -> None:
        seen = await living(self.bus, await observed_all(self.bus, "trainer"))
        if not seen:
            return
        queued = len(self.table.queue())
        text = "  |  ".join(progress_line(self.table, said, queued) for said in seen.values())
        if self.live is not None:
            self.live.update(Text(fitted(text, cli.console.width - SPINNER_WIDTH)))
        elif (
            any(said.progress for said in seen.values())
            and time.monotonic() - self.printed > LINE_SECONDS
        ):
            self.printed = time.monotonic()
            cli.console.print(text, soft_wrap=True)

    async def is_over(self) -> bool:
        """Return whether nothing is queued or open, and every numbered version is committed."""
        if not self.table.jobs or self.table.queue():
            return False
        for line in self.table.lines.values():
            if line.open_segment is not None:
                return False
            for version in line.versions:
                key = layout.commit(line.lineage, version)
                if await asyncio.to_thread(self.store.oldest, PRECIOUS, key) is None:
                    return False
        return all(
            job.record.state not in ("queued", "running") for job in self.table.jobs.values()
        )

    def show_event(self, event: Event) -> None:
        text = describe_event(self.table, event)
        if text:
            at = event.at.astimezone().strftime("%H:%M:%S")
            head, space, rest = text.partition(" ")
            words = ((at, "dim"), "  ", (head, colour_of(event)), space, rest)
            cli.console.print(Text.assemble(*words), soft_wrap=True)


def progress_line(table: Table, seen: Observed, queued: int) -> str:
    """Return what the trainer does on one line, which is drawn again and again.

    Why it waits comes last: that may be long.
    """
    parts: list[str] = [seen.state] if seen.state != "running" or not seen.progress else []
    if job := job_at(table, seen.job):
        parts.append(job)
    if seen.progress:
        at = seen.progress
        parts.append(f"step {at.position} of {at.steps}")
        parts += [f"loss {at.loss:.3f}"] if at.loss is not None else []
        parts += [f"{count_of(at.tokens_per_second)} tokens/s"] if at.tokens_per_second else []
        parts += [f"{span_of(at.eta_seconds)} left"] if at.eta_seconds is not None else []
    elif not seen.job and not seen.waiting:
        parts.append("nothing to train")
    parts += [f"{queued} queued"] if queued else []
    return "  ".join([*parts, *([seen.waits_for] if seen.waits_for else [])])


def colour_of(event: Event) -> str:
    """Return the colour of the first word of an event's line."""
    match parse_event(event):
        case FileRefused() | Alarm() | SegmentClosed(outcome="failed"):
            return "red"
        case VersionPublished():
            return "bold green"
        case SegmentClosed():
            return "green"
    return ""


def describe_event(table: Table, event: Event) -> str:
    """Return an event as one line for people, or an empty text.

    An event that this program does not know is shown as it is.
    """
    job = job_at(table, event.job) or ""
    match parse_event(event):
        case FileKnown(name=name, why=why):
            return f"already known: {name}: {why}"
        case JobQueued(rows=rows, level=level, ignored=ignored):
            fields = f"; ignored fields: {ignored_text(ignored)}" if ignored else ""
            return f"queued {job}: {count_of(rows, 'row')}, {level} priority{fields}"
        case FileRefused(name=name, why=why):
            return f"refused {name}: {why}"
        case SegmentOpened() | JobPlanned() | SegmentClosed() | SnapshotStored() as said:
            return describe_training(said, job, reason_at(table, event.job))
        case VersionPublished(version=version, copies=copies):
            text = f"{version_name(version)} published: "
            return text + f"{count_of(copies, 'copy', 'copies')}, read back"
        case Alarm(what=what):
            return f"alarm from {event.service}: {what}"
        case None:
            text = event.model_dump_json(include={"data"}, exclude_none=True)
            return f"{event.service} {event.kind}: {text}"
    return ""


def describe_training(
    said: SegmentOpened | JobPlanned | SegmentClosed | SnapshotStored, job: str, why: str
) -> str:
    """Return what the trainer says of a job as one line; `why` it ended, if its record says so."""
    match said:
        case SegmentOpened():
            return f"training {job}"
        case JobPlanned():
            return f"planned {job}: {planned_text(said)}"
        case SnapshotStored(position=position, summary=splits):
            return f"snapshot at step {position}: " + summary(splits)
        case SegmentClosed(outcome=outcome, version=version):
            text = f"{outcome} {job}"
            text += f" as {version_name(version)}" if version else ""
            return text + (f": {why}" if why else "")


def planned_text(plan: JobPlanned) -> str:
    """Return what a job will train, and how much of its file is new if not all of it is."""
    text = f"{count_of(plan.train_rows, 'row')} in {count_of(plan.steps, 'step')}"
    if plan.new_rows == plan.rows and not plan.changed_answers:
        return text
    known = KnownRows(count=plan.rows - plan.new_rows, changed=plan.changed_answers)
    return f"{text}; {new_rows_text(plan.rows, known)}"


def reason_at(table: Table, path: str | None) -> str:
    """Return why a job ended as it did, where its record says so."""
    jobs = [job for job_id, job in table.jobs.items() if job_id.path == path]
    failure = jobs[0].record.failure if jobs else None
    return failure.message.splitlines()[0] if failure and failure.message else ""


def summary(splits: dict[Split, SplitSummary]) -> str:
    parts = []
    for split in sorted(splits, key=SPLITS.index):
        numbers = splits[split]
        text = f"{split} loss {loss_of(numbers.loss, 3)}"
        if numbers.exact_match is not None and numbers.answered:
            right = round(numbers.exact_match * numbers.answered)
            text += f", {right} of {numbers.answered} answered right"
        parts.append(text)
    return " · ".join(parts)


def watch(
    until_done: Annotated[
        bool, typer.Option("--until-done", help="End when no job is left to train.")
    ] = False,
    json: cli.Json = False,
) -> None:
    """Follow the training: progress, snapshots and versions. Ctrl-C ends only this display."""
    cli.run_command(_watch(until_done, json))


async def _watch(until_done: bool, as_json: bool) -> None:
    config = cli.settings()
    async with cli.bus(config) as bus:
        _, last = await bus.bounds("EVT")
        view = Follower(config, bus, cli.first_store(config), after=last)
        if as_json:
            await follow_json(view, until_done)
        elif cli.console.is_terminal:
            with cli.console.status("waiting for news …") as view.live:
                await follow(view, until_done)
        else:
            await follow(view, until_done)


async def wakes(bus: Bus) -> asyncio.Event:
    wake = asyncio.Event()
    for subject in ("ctl.observed.trainer.>", "evt.>", "jobs.>"):
        await bus.subscribe(subject, wake.set)
    return wake


async def follow(view: Follower, until_done: bool) -> None:
    wake = await wakes(view.bus)
    while not (await view.look() and until_done):
        wake.clear()
        try:
            await asyncio.wait_for(wake.wait(), 1.0)
        except TimeoutError:
            continue


async def follow_json(view: Follower, until_done: bool) -> None:
    """Print events as they are, a line each."""
    wake = await wakes(view.bus)
    while True:
        await view.table.update(view.bus)
        async for sequence, event in events(view.bus, view.after):
            view.after = sequence
            cli.write_json(event.encode().decode())
        if until_done and await view.is_over():
            return
        wake.clear()
        try:
            await asyncio.wait_for(wake.wait(), 1.0)
        except TimeoutError:
            continue
