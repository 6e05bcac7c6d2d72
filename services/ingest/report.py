"""What the user is told about a file: as JSON for programs, as text for people."""

from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from services.ingest.rows import SUPPORTED
from shared.messages import Level, now

LISTED = 100
Kind = Literal["train", "eval"]
Outcome = Literal["queued", "duplicate", "measured", "refused"]


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
    version: int | None = None
    contents: Contents | None = None
    problems: list[Problem] = Field(default_factory=list)
    at: AwareDatetime = Field(default_factory=now)

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True)

    def encode(self) -> bytes:
        return self.model_dump_json(indent=1, exclude_none=True).encode() + b"\n"


def text(report: Report) -> bytes:
    """The report of a refused file, for a person who wants to mend it."""
    lines = [f"{report.name} was refused: {report.why}", "Nothing of it is trained.", ""]
    for problem in report.problems:
        lines += describe(problem)
    contents = report.contents
    if contents is not None and contents.bad_rows > len(report.problems):
        lines += [f"… and {contents.bad_rows - len(report.problems)} more bad rows.", ""]
    if contents is not None and len(contents.rules) > 1:
        counts = ", ".join(f"{rule}: {count}" for rule, count in contents.rules.items())
        lines += [f"Bad rows by rule: {counts}.", ""]
    lines += [f"What to do: {report.next_step}", "", "Rows may look like this, one on each line:"]
    lines += [f"    {layout}" for layout in SUPPORTED]
    return "\n".join(lines).encode() + b"\n"


def describe(problem: Problem) -> list[str]:
    if problem.line is None:
        return [f"rule {problem.rule}", f"    {problem.message}", ""]
    column = f", column {problem.column}" if problem.column else ""
    head = f"line {problem.line}{column}, field {problem.field}, rule {problem.rule}"
    return [head, f"    {problem.message}", f"    the line: {problem.sample}", ""]


def why_refused(contents: Contents) -> str:
    """One sentence on a file that holds bad rows, or none at all."""
    if contents.bad_rows == 0:
        return "it holds no rows."
    first = contents.problems[0]
    found = contents.rows + contents.duplicate_rows + contents.bad_rows
    count = "1 row is" if contents.bad_rows == 1 else f"{contents.bad_rows} rows are"
    return f"{count} bad of {found}; the first is line {first.line}: {first.message}"
