"""What the user is told about a file: as JSON for programs, as text for people."""

from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from services.ingest.reading.row import SUPPORTED
from shared.protocol.names import Level, now

LISTED = 100
TO_LEAVE_OUT = (
    "Or train the good rows alone: put a file with the line `allow_bad: 2%` (or a number of rows) "
    "beside it, named like it but ending in .yaml."
)
Kind = Literal["train", "eval", "settings"]
Outcome = Literal["queued", "duplicate", "measured", "applied", "refused"]


class Problem(BaseModel):
    """One reason for a refusal. `line` and `column` count from 1; None: the file as a whole."""

    model_config = ConfigDict(frozen=True)

    line: int | None = None
    column: int | None = None
    field: str
    rule: str
    message: str
    sample: str = ""


class Contents(BaseModel):
    """What a file holds. `rows` are those kept; sizes in bytes; at most 100 things are listed."""

    name: str
    container: str = "jsonl"
    original_sha256: str
    original_bytes: int
    dataset: str | None = None
    dataset_bytes: int = 0
    lines: int = 0
    rows: int = 0
    blank_lines: int = 0
    duplicate_rows: int = 0
    duplicate_lines: list[int] = Field(default_factory=list)
    layouts: dict[str, int] = Field(default_factory=dict)
    ignored_fields: dict[str, int] = Field(default_factory=dict)
    bad_rows: int = 0
    allow_bad: str | None = None
    rules: dict[str, int] = Field(default_factory=dict)
    problems: list[Problem] = Field(default_factory=list)


class Report(BaseModel):
    """<name>.report.json beside a file in done/ or rejected/. `taken`: its id of taking."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    taken: str
    name: str
    outcome: Outcome
    why: str
    next_step: str = ""
    lineage: str
    level: Level
    kind: Kind
    job: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    version: int | None = None
    contents: Contents | None = None
    problems: list[Problem] = Field(default_factory=list)
    at: AwareDatetime = Field(default_factory=now)

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True)

    def encode(self) -> bytes:
        return self.model_dump_json(indent=1, exclude_none=True).encode() + b"\n"


def text(report: Report) -> bytes:
    """The report of a refused file, for a person who wants to mend it."""
    lines = [f"{report.name} was refused: {report.why}"]
    lines += [f"Nothing of it is {'applied' if report.kind == 'settings' else 'trained'}.", ""]
    contents = report.contents
    place = "row" if contents is not None and contents.container == "parquet" else "line"
    for problem in report.problems:
        lines += describe(problem, place)
    if contents is not None and contents.bad_rows > len(report.problems):
        lines += [f"… and {contents.bad_rows - len(report.problems)} more bad rows.", ""]
    if contents is not None and len(contents.rules) > 1:
        counts = ", ".join(f"{rule}: {count}" for rule, count in contents.rules.items())
        lines += [f"Bad rows by rule: {counts}.", ""]
    lines += [f"What to do: {report.next_step}"]
    whole = bool(report.problems) and report.problems[0].field == "file"
    if contents is not None and contents.bad_rows and contents.rows and not whole:
        lines += [TO_LEAVE_OUT]
    if contents is not None:
        lines += ["", "Rows may look like this, one on each line:"]
        lines += [f"    {layout}" for layout in SUPPORTED]
    return "\n".join(lines).encode() + b"\n"


def describe(problem: Problem, place: str) -> list[str]:
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
    place = "row" if contents.container == "parquet" else "line"
    found = contents.rows + contents.duplicate_rows + contents.bad_rows
    count = "1 row is" if contents.bad_rows == 1 else f"{contents.bad_rows} rows are"
    most = f" (more than allow_bad: {contents.allow_bad})" if contents.allow_bad else ""
    return f"{count} bad of {found}{most}; the first is {place} {first.line}: {first.message}"
