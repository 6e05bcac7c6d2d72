"""A sidecar that comes after its data file: it changes the job while that waits, or is refused."""

from contextlib import suppress
from typing import Any

from services.ingest.inbox import sidecar
from services.ingest.inbox.inbox import TakenFrom
from services.ingest.ingest import Ingest
from services.ingest.outcome import job_settings
from services.ingest.outcome.job_settings import SettingsRefused
from services.ingest.outcome.refusal import WholeFileRefused
from services.ingest.reading import dataset
from shared.errors import Conflict
from shared.formats.report import Problem
from shared.ledger.jobs import Job, Table
from shared.protocol.records import JobSettings

NEXT = "add `again: true` to it, then put it into the inbox again together with its data file."


def job_of(table: Table, lineage: str, name: str) -> Job | None:
    """The newest job whose data file a sidecar of this name belongs to."""
    jobs = [j for j in table.jobs.values() if j.id.lineage == lineage]
    mine = [j for j in jobs if sidecar.belongs(name, j.record.name)]
    return max(mine, key=lambda job: job.ticket, default=None)


async def apply(
    ingest: Ingest, origin: TakenFrom, values: dict[str, Any]
) -> tuple[Job, JobSettings]:
    """Give the settings of a late sidecar to its waiting job, by compare-and-set.

    Returns the job and its new settings. Raises Refused where no job waits for them.
    """
    try:
        asked = job_settings.read_settings(values)
    except SettingsRefused as error:
        problems = [dataset.problem(p, None, "") for p in error.problems]
        raise WholeFileRefused(problems, "fix it, then put it into the inbox again.") from error
    refuse_options(values)
    bus, table = ingest.bus, ingest.table
    while True:
        await table.update(bus)
        job = job_of(table, origin.lineage, origin.name)
        if job is None:
            raise WholeFileRefused.of(
                "no_job", "It does not belong to the data file of any job.", NEXT
            )
        state = table.projection(job) or job.record.state
        settings = over_earlier(asked.settings, job.record.settings)
        if job.record.settings == settings:
            return job, settings  # applied before a restart, or nothing new
        if state != "queued" or job.record.plan is not None:
            said = "has begun" if state == "queued" else f"is {state}"
            message = f"It came too late: job {job.id} {said}, with its settings."
            raise WholeFileRefused(
                [Problem(field="sidecar", rule="too_late", message=message)], NEXT
            )
        with suppress(Conflict):
            await table.write(bus, job, "amend", "ingest", settings=settings)
            return job, settings


def over_earlier(late: JobSettings, earlier: JobSettings) -> JobSettings:
    """Return the late settings with what was decided when the data file was taken."""
    kept = {"allow_bad": earlier.allow_bad, "delta": late.delta or earlier.delta}
    return late.model_copy(update=kept)


def refuse_options(values: dict[str, object]) -> None:
    """Raise Refused for what decides whether a file is taken: that is done."""
    for name in job_settings.AT_INGEST:
        if name in values:
            message = f"`{name}` came too late: its data file was taken without it."
            raise WholeFileRefused([Problem(field=name, rule="too_late", message=message)], NEXT)
