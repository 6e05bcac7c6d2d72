"""What the user is told about a file: as JSON for programs, as text for people."""

from services.ingest.reading.row import SUPPORTED
from shared.foreign_text import plain
from shared.formats.report import Contents, Problem, Report

LISTED = 100
TABLE_NAMES = ("parquet", "arrow", "feather")
TO_LEAVE_OUT = (
    "To train only the good rows, put a file with the line `allow_bad: 2%` (or a number of rows) "
    "beside it, with the same name but ending in .yaml."
)


def report_text(report: Report) -> bytes:
    """The report of a refused file, for a person who wants to mend it."""
    lines = [f"{report.name} was refused: {report.why}"]
    lines += [f"None of it is {'applied' if report.kind == 'settings' else 'trained'}.", ""]
    contents = report.contents
    place = place_of(contents) if contents is not None else "line"
    for problem in report.problems:
        lines += describe_problem(problem, place)
    if contents is not None and contents.bad_rows > len(report.problems):
        lines += [f"… and {contents.bad_rows - len(report.problems)} more bad rows.", ""]
    if contents is not None and len(contents.rules) > 1:
        counts = ", ".join(f"{rule}: {count}" for rule, count in contents.rules.items())
        lines += [f"Bad rows by rule: {counts}.", ""]
    lines += [f"Next: {report.next_step}"]
    whole = bool(report.problems) and report.problems[0].field == "file"
    if contents is not None and contents.bad_rows and contents.rows and not whole:
        lines += [TO_LEAVE_OUT]
    if contents is not None:
        lines += ["", "Rows can have any of these forms, one row per line:"]
        lines += [f"    {layout}" for layout in SUPPORTED]
    return plain("\n".join(lines)).encode() + b"\n"


def place_of(contents: Contents) -> str:
    """Return what the number of a problem counts: the rows of a table, the lines of a text."""
    return "row" if contents.container in TABLE_NAMES else "line"


def describe_problem(problem: Problem, place: str) -> list[str]:
    if problem.line is None:
        field = "" if problem.field == "file" else f"{problem.field}, "
        return [f"{field}rule {problem.rule}", f"    {problem.message}", ""]
    column = f", column {problem.column}" if problem.column else ""
    head = f"{place} {problem.line}{column}, field {problem.field}, rule {problem.rule}"
    sample = [f"    the {place}: {problem.sample}"] if problem.sample else []
    return [head, f"    {problem.message}", *sample, ""]


def why_refused(contents: Contents) -> str:
    """One sentence on a file that was refused for what it holds."""
    first = contents.problems[0]
    if not contents.bad_rows or first.field == "file":
        return first.message
    place = place_of(contents)
    found = contents.rows + contents.duplicate_rows + contents.bad_rows
    most = f" (more than allow_bad: {contents.allow_bad})" if contents.allow_bad else ""
    verb = "is" if contents.bad_rows == 1 else "are"
    count = f"{contents.bad_rows} of {found} {'row' if found == 1 else 'rows'} {verb} bad{most}"
    return f"{count}; the first is {place} {first.line}: {first.message}"
