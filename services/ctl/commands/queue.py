"""duramen queue: what waits, in the order of training, and what became of the rest."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from urllib.parse import urlencode

import typer

from services.ctl import cli
from services.ctl.commands.control import living
from services.ctl.errors import ServiceUnavailable
from services.ctl.settings import CtlSettings
from services.ctl.views import forecast, history, job_shown, left_out
from services.ctl.views.columns import Heads, count_of, number, span_of, text
from services.ctl.views.inbox_waits import inbox_json, inbox_lines, inbox_of, inbox_rows
from services.ctl.views.naming import job_at, name_of
from services.ctl.views.queue_cells import job_state_cell, start_cell
from services.ctl.views.silence import QUIET_SECONDS
from shared.answers.trainer import JobLog
from shared.bus.client import Bus
from shared.errors import NotFound, UsageError
from shared.foreign_text import plain
from shared.ledger.control import observed_all
from shared.ledger.jobs import Job, Table
from shared.protocol.names import LEVELS, JobVerb
from shared.protocol.observed import Observed

app = typer.Typer(no_args_is_help=False, help="The jobs, in the order in which they are trained.")
JobName = Annotated[
    str, typer.Argument(help="A job as the queue shows it, or the start of its id.")
]
ORDER = ("running", "queued", "failed", "skipped", "done", "removed")
OVER_SHOWN = 20


def queue_order(table: Table) -> list[Job]:
    """Return running jobs, then queued ones in order of training, then those over, newest first."""

    def key(job: Job) -> tuple[int, int, int]:
        state = ORDER.index(job.record.state)
        return (state, *job.order) if job.record.state == "queued" else (state, 0, -job.sequence)

    return sorted(table.jobs.values(), key=key)


# ---- looking -------------------------------------------------------------------------------------


async def trainers(bus: Bus) -> dict[str, Observed]:
    return await living(bus, await observed_all(bus, "trainer"))


class View:
    """The queue at one moment: the table, and what the trainers say of themselves."""

    def __init__(self, table: Table, views: dict[str, Observed], rate: float | None) -> None:
        self.table, self.now = table, datetime.now(UTC)
        self.shown = {said.job: said for said in views.values() if said.job}
        self.seen = seen = max(views.values(), key=lambda said: said.at, default=None)
        self.tokens = forecast.Tokens(table)
        self.silent = (self.now - seen.at).total_seconds() if seen else 0.0
        self.starts = forecast.starts(table, seen, self.silent, rate)
        self.held = {at: why for said in views.values() for at, why in said.waiting.items()}

    @classmethod
    async def of(cls, bus: Bus) -> "View":
        table, views = await Table.of(bus), await trainers(bus)
        view = cls(table, views, None)
        return cls(table, views, await forecast.rate_of(bus, view.seen))

    def row(self, job: Job) -> dict[str, Any]:
        """Return a job for programs; `reason` says why it is in its state, if there is a reason."""
        record, name = job.record, job.id
        tokens, estimated = self.tokens.of(job)
        start = self.starts.get(name)
        expected = None if start is None else self.now + timedelta(seconds=start)
        return {
            "job": str(name),
            "path": name.path,
            "lineage": name.lineage,
            "level": record.level,
            "state": record.state,
            "reason": self.reason(job),
            "next": record.failure.next_step if record.failure else None,
            "name": record.name,
            "rows": record.rows,
            "tokens": None if tokens is None else round(tokens),
            "tokens_estimated": estimated and tokens is not None,
            "attempt": record.attempt,
            "ticket": job.ticket,
            "version": record.version,
            "progress": self.progress(job) if record.state == "running" else None,
            "waited_seconds": round((self.now - record.queued_at).total_seconds()),
            "starts_in_seconds": None if start is None else round(start),
            "expected_start": None if expected is None else expected.isoformat(timespec="seconds"),
        }

    def progress(self, job: Job) -> dict[str, Any] | None:
        """Return how far a running job is, or paused; None if its trainer does not show it."""
        seen = self.shown.get(job.id.path)
        if seen is None:
            return None
        at = seen.progress.model_dump() if seen.progress else {}
        return {"paused": seen.state == "paused", **at}

    def reason(self, job: Job) -> str | None:
        record = job.record
        if record.failure is not None and record.state in ("failed", "skipped"):
            return record.failure.message.splitlines()[0]
        if record.state == "queued":
            return self.held.get(job.id.lineage)
        if record.state == "running" and job.id.path not in self.shown:
            return f"its trainer is silent: {history.owner_of(self.table, job)}"
        return None


@app.callback(invoke_without_command=True)
def queue_without_command(context: typer.Context, json: cli.Json = False) -> None:
    """Show what is trained, what waits and in which order, what failed and what is done."""
    if context.invoked_subcommand is None:
        list_jobs(json=json)


@app.command("list")
def list_jobs(
    everything: Annotated[
        bool, typer.Option("--all", help="Also jobs that ended long ago.")
    ] = False,
    json: cli.Json = False,
) -> None:
    """List all jobs in the order of training, then those that failed, were skipped or are done.

    `tokens` counts all epochs; ~ marks an estimate, made before the job has a plan. `start` is
    estimated from the jobs before it and the last speed of training. What lies in the inbox and is
    not queued yet follows, with the reason.
    """
    cli.run_command(_list(everything, json))


async def _list(everything: bool, json: bool) -> None:
    async with cli.bus(cli.settings()) as bus:
        view, ingest = await View.of(bus), inbox_of(await observed_all(bus, "ingest"))
    jobs = queue_order(view.table)
    over = [job for job in jobs if job.record.state in ("done", "removed")]
    hidden = 0 if everything or json else max(0, len(over) - OVER_SHOWN)
    if hidden:
        left_out = {job.id for job in over[OVER_SHOWN:]}
        jobs = [job for job in jobs if job.id not in left_out]
    rows = [view.row(job) for job in jobs]

    def human() -> None:
        print_jobs(view, rows, hidden)
        for line in inbox_lines(ingest):
            cli.note(line, "yellow")

    cli.emit([*rows, *inbox_rows(ingest, rows)], json, human)


def print_jobs(view: View, rows: list[dict[str, Any]], hidden: int) -> None:
    if not rows:
        cli.console.print(
            "The queue is empty.  Next: duramen submit FILE, or put a file into the inbox"
        )
        return
    many = len({row["lineage"] for row in rows}) > 1
    heads: Heads = ["job", *(["lineage"] if many else []), "priority", "state"]
    drawn = [
        [
            row["job"],
            *([row["lineage"]] if many else []),
            row["level"],
            job_state_cell(row),
            str(row["rows"]),
            ("~" if row["tokens_estimated"] else "") + count_of(row["tokens"]),
            span_of(row["waited_seconds"]) if row["state"] == "queued" else "",
            start_cell(row),
            row["name"],
        ]
        for row in rows
    ]
    heads += [number("rows"), number("tokens"), number("wait"), number("start"), text("file")]
    cli.print_table(heads, drawn)
    print_notes(view, rows)
    if hidden:
        cli.note(
            f"… and {count_of(hidden, 'more job')} that ended earlier.  Next: duramen queue "
            "list --all",
            "dim",
        )


def print_notes(view: View, rows: list[dict[str, Any]]) -> None:
    """Print what is to be noted below the table: whole sentences, each once."""
    queued = {row["lineage"] for row in rows if row["state"] == "queued"}
    for lineage, why in view.held.items():
        if lineage in queued or lineage == "*":
            cli.note(
                f"{'The trainer' if lineage == '*' else f'Lineage {lineage}'} waits: {why}",
                "yellow",
            )
    seen = view.seen
    if queued and seen is None:
        cli.note("No trainer has ever connected.  Next: duramen doctor", "yellow")
    elif queued and view.silent > QUIET_SECONDS:
        cli.note(
            f"The trainer has been silent for {span_of(view.silent)}.  Next: duramen doctor", "red"
        )
    elif seen is not None and seen.state in ("paused", "stopped"):
        again = "duramen resume" if seen.state == "paused" else "duramen start"
        cli.note(f"The trainer is {seen.state}.  Next: {again}", "yellow")
    for row in rows:
        if row["reason"] and row["state"] in ("failed", "running"):
            after = f"  Next: {row['next']}" if row["next"] else ""
            cli.note(f"{row['name']} ({row['job']}) {row['state']}: {row['reason']}{after}", "red")


@app.command("status")
def queue_counts(json: cli.Json = False) -> None:
    """Show how many jobs are in each state, by priority, and what is trained now."""
    cli.run_command(_status(json))


async def _status(json: bool) -> None:
    async with cli.bus(cli.settings()) as bus:
        table, views = await Table.of(bus), await trainers(bus)
        ingest = inbox_of(await observed_all(bus, "ingest"))
    seen = max(views.values(), key=lambda said: said.at, default=None)
    counts = {level: dict.fromkeys(ORDER, 0) for level in LEVELS}
    for job in table.jobs.values():
        counts[job.record.level][job.record.state] += 1
    value = {
        "levels": counts,
        "trainer": seen.model_dump(mode="json") if seen else None,
        "inbox": inbox_json(ingest),
    }

    def human() -> None:
        rows = [
            [level, *(str(by_state[state]) for state in ORDER)]
            for level, by_state in counts.items()
        ]
        cli.print_table(["priority", *(number(state) for state in ORDER)], rows)
        for said in views.values():
            job = f", {job_at(table, said.job)}" if said.job else ""
            waits = f": {said.waits_for}" if said.waits_for else ""
            cli.console.print(f"trainer {said.state}{job}{waits}", soft_wrap=True)
        for line in inbox_lines(ingest):
            cli.note(line, "yellow")

    cli.emit(value, json, human)


# ---- changing ------------------------------------------------------------------------------------


async def _change(shown: str, verb: JobVerb, json: bool, **changes: Any) -> None:
    async with cli.bus(cli.settings()) as bus:
        table = await Table.of(bus)
        job = table.find(shown)
        refuse(job, verb)
        if verb == "retry":
            changes |= {"attempt": job.record.attempt + 1, "failure": None}
        job = await table.write(bus, job, verb, cli.who(), **changes)
        view = View(table, await trainers(bus), None)
    value = view.row(job)
    cli.emit(value, json, lambda: print_change(view, job, verb))


def refuse(job: Job, verb: JobVerb) -> None:
    """Refuse what the job's state rules out. Raises UsageError, naming what can be done instead."""
    state, shown = job.record.state, f"{job.record.name} ({job.id})"
    if verb == "retry":
        if state not in ("failed", "skipped"):
            again = "duramen queue list" if state != "done" else "duramen submit FILE --again"
            message = f"{shown} is {state}; only a failed or skipped job can be retried."
            raise UsageError(message, next_step=again)
    elif state != "queued":
        instead = {"running": "duramen skip", "failed": f"duramen queue retry {job.id}"}
        message = f"{shown} is {state}; only a queued job can be changed."
        raise UsageError(message, next_step=instead.get(state, "duramen queue list"))


def print_change(view: View, job: Job, verb: JobVerb) -> None:
    place = [waiting.id for waiting in view.table.queue()].index(job.id) if verb != "remove" else 0
    shown, before = name_of(view.table, job.id), f"{count_of(place, 'job')} before it"
    match verb:
        case "remove":
            said = f"{shown} is removed from the queue; its file stays in inbox/done and the store"
        case "retry":
            line = view.table.lines.get(job.id.lineage)
            position = line.position(job.id) if line else 0
            onward = f"; it continues at step {position}" if position else ""
            said = f"{shown} is queued, with {before}{onward}"
        case _:
            said = f"{shown} now has {job.record.level} priority, with {before}"
    cli.console.print(said, soft_wrap=True)


@app.command("retry")
def retry(job: JobName, json: cli.Json = False) -> None:
    """Queue a failed or skipped job again, in its old place, from the step that it kept."""
    cli.run_command(_change(job, "retry", json))


@app.command("remove")
def remove(job: JobName, json: cli.Json = False) -> None:
    """Remove a job from the queue. Its dataset stays in the store."""
    cli.run_command(_change(job, "remove", json))


@app.command("move")
def move(
    job: JobName,
    priority: cli.Priority = None,
    level: cli.OldPriority = None,
    json: cli.Json = False,
) -> None:
    """Give a queued job another priority. Of the jobs with the same one, the oldest is first."""
    wanted = cli.priority_of(priority or level)
    if wanted is None:
        raise UsageError(
            "A priority is needed.", next_step=f"duramen queue move {job} --priority high"
        )
    cli.run_command(_change(job, "move", json, level=wanted))


@app.command("show")
def show_job(
    job: JobName,
    log: Annotated[bool, typer.Option("--log", help="Print only the log of the job.")] = False,
    details: Annotated[
        bool, typer.Option("--details", help="Also the ids of its runs and what each record says.")
    ] = False,
    json: cli.Json = False,
) -> None:
    """Show one job and its history: what happened, why it failed, where its log and plan are.

    `left out` lists the rows of its file that are not trained, by their lines in that file.
    """
    cli.run_command(_show(job, log, details, json))


def log_while_trained(config: CtlSettings, job: Job) -> str:
    """Return the log of a job that is being trained, as its trainer has it; else ""."""
    if job.record.state != "running" or not config.trainer_url:
        return ""
    path = f"/api/log?{urlencode({'job': job.id.path})}"
    try:
        answer = cli.ask(
            JobLog, config.trainer_url, config.trainer_token, path, seconds=cli.KNOCK_SECONDS
        )
    except (NotFound, ServiceUnavailable):
        return ""  # the store has what was uploaded beside its last checkpoint
    return answer.text


async def _show(shown: str, log: bool, details: bool, json: bool) -> None:
    config = cli.settings()
    async with cli.bus(config) as bus:
        view = await View.of(bus)
    job = view.table.find(shown)
    if log:
        text = log_while_trained(config, job) or history.log_text(
            cli.first_store(config), view.table, job
        )
        cli.console.file.write(plain(text))
        return
    rows = await asyncio.to_thread(left_out.rows_if_known, cli.first_store(config), job)
    of_file = {
        "left_out": rows and rows.left_out,
        "new": rows and rows.new,
        "ignored": rows and rows.ignored,
    }
    value = {**view.row(job), **history.history_of(view.table, job), **of_file}
    cli.emit(value, json, lambda: job_shown.print_job(job, value, details))
