"""duramen queue: what waits, in the order of training, and what became of the rest."""

from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.table import Table as Grid

from services.ctl import cli
from shared.bus import Bus
from shared.control import observed
from shared.errors import UsageError
from shared.jobs import Job, Table
from shared.manifest import version_name
from shared.messages import LEVELS, JobVerb, Level, Observed

app = typer.Typer(no_args_is_help=False, help="The queue, in the order of training.")
JobName = Annotated[str, typer.Argument(help="A job as shown, or the start of its name.")]
ORDER = ("running", "queued", "failed", "skipped", "done", "removed")


async def load(bus: Bus) -> Table:
    table = Table()
    await table.update(bus)
    return table


def in_order(table: Table) -> list[Job]:
    """Running first, then the queue as it will be trained, then what is over, newest first."""

    def key(job: Job) -> tuple[int, int, int]:
        state = ORDER.index(job.record.state)
        return (state, *job.order) if job.record.state == "queued" else (state, 0, -job.sequence)

    return sorted(table.jobs.values(), key=key)


def row(job: Job, seen: Observed | None) -> dict[str, Any]:
    """One job for programs; `note` is for people."""
    record = job.record
    note = ""
    if record.state == "running" and seen and seen.job == job.id.path and seen.progress:
        at = seen.progress
        note = f"step {at.position}/{at.steps}"
        note += f", about {at.eta_seconds:.0f} s left" if at.eta_seconds is not None else ""
        note += " (paused)" if seen.state == "paused" else ""
    elif record.failure is not None:
        note = record.failure.message.splitlines()[0]
        note += f"  Next: {record.failure.next_step}" if record.failure.next_step else ""
    elif record.version is not None:
        note = version_name(record.version)
    elif record.state == "queued" and seen and seen.waiting:
        reasons = dict(part.split(": ", 1) for part in seen.waiting.split("; ") if ": " in part)
        note = reasons.get(job.id.lineage, "")
    return {
        "job": str(job.id),
        "path": job.id.path,
        "lineage": job.id.lineage,
        "level": record.level,
        "state": record.state,
        "name": record.name,
        "rows": record.rows,
        "attempt": record.attempt,
        "ticket": job.ticket,
        "version": record.version,
        "waited_seconds": round((datetime.now(UTC) - record.queued_at).total_seconds()),
        "note": note,
    }


@app.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_jobs()


@app.command("list")
def list_jobs(
    everything: Annotated[bool, typer.Option("--all", help="Also what is long over.")] = False,
    json: cli.Json = False,
) -> None:
    """Jobs: what trains, what waits and in which order, what failed, what is done."""
    cli.run(_list(everything, json))


async def _list(everything: bool, json: bool) -> None:
    async with cli.bus(cli.settings()) as bus:
        table, seen = await load(bus), await observed(bus, "trainer")
    rows = [row(job, seen) for job in in_order(table)]
    over = [r for r in rows if r["state"] in ("done", "removed")]
    hidden = 0 if everything else max(0, len(over) - 20)
    shown = rows if not hidden else [r for r in rows if r not in over[20:]]
    cli.emit(rows, json, lambda: print_rows(shown, hidden))


def print_rows(rows: list[dict[str, Any]], hidden: int) -> None:
    if not rows:
        cli.console.print("The queue is empty.  Next: put a JSONL file into the inbox.")
        return
    grid = Grid("job", "level", "state", "file", "rows", "note", box=None, pad_edge=False)
    for r in rows:
        colour = {"failed": "red", "running": "green"}.get(r["state"], "")
        state = f"[{colour}]{r['state']}[/{colour}]" if colour else r["state"]
        grid.add_row(r["job"], r["level"], state, r["name"], str(r["rows"]), r["note"])
    cli.console.print(grid)
    if hidden:
        cli.console.print(f"… and {hidden} more that are over (--all)", style="dim")


@app.command("status")
def status(json: cli.Json = False) -> None:
    """How many jobs are in each state, by level, and what trains now."""
    cli.run(_status(json))


async def _status(json: bool) -> None:
    async with cli.bus(cli.settings()) as bus:
        table, seen = await load(bus), await observed(bus, "trainer")
    counts = {level: dict.fromkeys(ORDER, 0) for level in LEVELS}
    for job in table.jobs.values():
        counts[job.record.level][job.record.state] += 1
    value = {"levels": counts, "trainer": seen.model_dump(mode="json") if seen else None}

    def human() -> None:
        grid = Grid("level", *ORDER, box=None, pad_edge=False)
        for level, by_state in counts.items():
            grid.add_row(level, *(str(by_state[state]) for state in ORDER))
        cli.console.print(grid)
        if seen:
            cli.console.print(
                f"trainer: {seen.state}" + (f", {seen.waiting}" if seen.waiting else "")
            )

    cli.emit(value, json, human)


async def _change(shown: str, verb: JobVerb, json: bool, **changes: Any) -> None:
    async with cli.bus(cli.settings()) as bus:
        table = await load(bus)
        job = table.find(shown)
        state = job.record.state
        if verb == "retry":
            if state not in ("failed", "skipped"):
                raise UsageError(f"{job.id} is {state}; only a failed or skipped job is retried.")
            changes |= {"attempt": job.record.attempt + 1, "failure": None}
        elif state != "queued":
            raise UsageError(f"{job.id} is {state}; only a queued job can be changed.")
        job = await table.write(bus, job, verb, cli.who(), **changes)
        value = row(job, None)
        cli.emit(value, json, lambda: cli.console.print(f"{job.id} is {job.record.state}"))


@app.command("retry")
def retry(job: JobName, json: cli.Json = False) -> None:
    """Queue a failed or skipped job again, in its old place of the line."""
    cli.run(_change(job, "retry", json))


@app.command("remove")
def remove(job: JobName, json: cli.Json = False) -> None:
    """Take a queued job out of the queue; its dataset stays stored."""
    cli.run(_change(job, "remove", json))


@app.command("move")
def move(
    job: JobName,
    level: Annotated[Level, typer.Option("--level", help="high, normal or low.")],
    json: cli.Json = False,
) -> None:
    """Give a queued job another level."""
    cli.run(_change(job, "move", json, level=level))


@app.command("show")
def show(job: JobName, json: cli.Json = False) -> None:
    """One job with its whole history."""
    cli.run(_show(job, json))


async def _show(shown: str, json: bool) -> None:
    async with cli.bus(cli.settings()) as bus:
        table, seen = await load(bus), await observed(bus, "trainer")
    job = table.find(shown)
    line = table.lines.get(job.id.lineage)
    segments = [s for s in line.segments.values() if s.job == job.id] if line else []
    history = [
        {"sequence": at, "verb": verb, "by": record.by, "at": record.at.isoformat()}
        for at, verb, record in job.history
    ]
    ends = [
        {
            "segment": s.id,
            "fences": sorted(s.fences),
            "outcome": s.close[1].outcome if s.close else "open",
            "steps": [s.close[1].from_step, s.close[1].to_step] if s.close else None,
        }
        for s in segments
    ]
    value = {**row(job, seen), "history": history, "segments": ends}

    def human() -> None:
        cli.console.print(f"[bold]{job.id}[/bold] {job.record.state}: {job.record.name}")
        if job.record.failure:
            cli.console.print(job.record.failure.message, style="red")
            cli.console.print(f"Next: {job.record.failure.next_step}", style="dim")
        for entry in history:
            cli.console.print("{at}  {verb:8} {by}  #{sequence}".format(**entry))
        for end in ends:
            cli.console.print("segment {segment}: {outcome}, steps {steps}".format(**end))

    cli.emit(value, json, human)
