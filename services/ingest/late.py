"""A sidecar that comes after its data file: it changes the job while that waits, or is refused."""

from contextlib import suppress
from typing import TYPE_CHECKING

from services.ingest import dataset, job_settings, sidecar
from services.ingest.job_settings import SettingsRefused
from services.ingest.report import Problem
from shared.errors import Conflict
from shared.jobs import Job, Table

if TYPE_CHECKING:
    from services.ingest.finishing import Finisher, Held
    from services.ingest.inbox import Taken

NEXT = "put it beside its data file, and both into the inbox again with `again: true` in it."


def job_of(table: Table, lineage: str, name: str) -> Job | None:
    """The newest job whose data file a sidecar of this name belongs to."""
    jobs = [j for j in table.jobs.values() if j.id.lineage == lineage]
    mine = [j for j in jobs if sidecar.belongs(name, j.record.name)]
    return max(mine, key=lambda job: job.ticket, default=None)


async def finish(finisher: "Finisher", taken: "Taken", held: "Held") -> None:
    """Apply a late sidecar by compare-and-set, or refuse it. Raises Refused, OSError."""
    from services.ingest.finishing import Refused

    origin = taken.origin
    values = await finisher.sidecar_values(taken.path, held)
    try:
        asked = job_settings.read(values)
    except SettingsRefused as error:
        problems = [dataset.problem(p, None, "") for p in error.problems]
        raise Refused(problems, "mend it, then put it into the inbox again.") from error
    refuse_options(values)
    while True:
        await finisher.table.update(finisher.bus)
        job = job_of(finisher.table, origin.lineage, origin.name)
        if job is None:
            raise Refused.of("no_job", "There is no job whose data file it belongs to.", NEXT)
        state = finisher.table.projection(job) or job.record.state
        if job.record.settings == asked.settings:
            break  # applied before a restart, or nothing new
        if state != "queued" or job.record.plan is not None:
            said = "has begun" if state == "queued" else f"is {state}"
            message = f"It came too late: job {job.id} {said}, with its settings."
            raise Refused([Problem(field="sidecar", rule="too_late", message=message)], NEXT)
        with suppress(Conflict):
            await finisher.table.write(
                finisher.bus, job, "amend", "ingest", settings=asked.settings
            )
            break
    report = finisher.report(taken, "applied", f"job {job.id} is trained with it.", None)
    report.job, report.settings = job.id.path, asked.settings.model_dump(exclude_none=True)
    report.next_step = f"duramen queue show {job.id}"
    await finisher.tell(taken, "amended", {"name": report.name}, job=report.job)
    await finisher.end(taken, held, report)


def refuse_options(values: dict[str, object]) -> None:
    """Raises Refused for what decides whether a file is taken: that is done."""
    from services.ingest.finishing import Refused

    for name in job_settings.OPTIONS:
        if name in values:
            message = f"`{name}` came too late: its data file was taken without it."
            raise Refused([Problem(field=name, rule="too_late", message=message)], NEXT)
