"""The report on a file that was read: the job that it becomes, or why it is refused."""

from services.ingest.inbox.inbox import TakenFrom
from services.ingest.inbox.rename import show_name
from services.ingest.outcome.admit import Admission
from services.ingest.outcome.refusal import PUT_AGAIN, WholeFileRefused
from services.ingest.outcome.report import why_refused
from services.ingest.reading.dataset import Built, sayable
from shared.formats.known_rows import new_rows_text
from shared.formats.report import Contents, Outcome, Report

FIX_LINES = "fix or delete these lines, then put the file into the inbox again."
LISTED_BESIDE = ", listed in the .bad.jsonl file beside it"
IGNORED_TOLD = 10


def report_on(origin: TakenFrom, outcome: Outcome, why: str, built: Built | None) -> Report:
    """Return a report without problems, which each ending adds for itself."""
    contents = built.contents.model_copy(update={"problems": []}) if built else None
    return Report(
        taken=origin.id,
        name=show_name(origin.name),
        outcome=outcome,
        why=why,
        lineage=origin.lineage,
        level=origin.level,
        kind=origin.kind,
        contents=contents,
    )


def whole_refused(origin: TakenFrom, refused: WholeFileRefused, built: Built | None) -> Report:
    """Return the report on a file that is refused as a whole."""
    report = report_on(origin, "refused", str(refused), built)
    return report.model_copy(update={"problems": refused.problems, "next_step": refused.next_step})


def rows_refused(origin: TakenFrom, built: Built) -> Report:
    """Return the report on a file with bad rows, or of another format."""
    contents = built.contents
    whole = contents.bad_rows == 0 or contents.problems[0].field == "file"
    report = report_on(origin, "refused", why_refused(contents), built)
    changes = {"next_step": PUT_AGAIN if whole else FIX_LINES, "problems": contents.problems}
    return report.model_copy(update=changes)


def admitted(origin: TakenFrom, built: Built, decision: Admission) -> Report:
    """Return the report on a file that is queued, or known already."""
    if decision.known is None:
        why = queued_as(origin, built, decision, LISTED_BESIDE)
        report = report_on(origin, "queued", why, built)
        changes = {"job": decision.job.path, "next_step": decision.next_step}
        return report.model_copy(update={**changes, **new_rows(built, decision)})
    known = {"job": decision.job.path, "next_step": decision.next_step, "version": decision.version}
    return report_on(origin, "duplicate", decision.known, built).model_copy(update=known)


def queued_as(origin: TakenFrom, built: Built, decision: Admission, bad_where: str = "") -> str:
    """Return what a file is queued as, and what of it is left out."""
    contents = built.contents
    rows = counted_problems(contents.rows, "row")
    why = f"queued as job {decision.job}, {rows}, {origin.level} priority."
    if contents.bad_rows:
        why += f" Left out: {counted_problems(contents.bad_rows, 'bad row')}{bad_where}."
    if decision.rows is not None and (decision.rows.count or decision.rows.changed):
        new = new_rows_text(contents.rows, decision.rows)
        why += f" {new[:1].upper()}{new[1:]}."
    return why


def new_rows(built: Built, decision: Admission) -> dict[str, int]:
    """Return what the report counts as new to the lineage and as changed, if that is known."""
    known = decision.rows
    if known is None:
        return {}
    return {"new_rows": built.contents.rows - known.all, "changed_answers": known.changed}


def counted_problems(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def first_ignored(contents: Contents) -> dict[str, int]:
    """Return the first fields that were ignored, with names of a length that a message can hold."""
    first = list(contents.ignored_fields.items())[:IGNORED_TOLD]
    return {show_name(sayable(name)): rows for name, rows in first}
