"""The reports of ingest: report.json of a dataset, and `<name>.report.json` beside a file."""

from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from shared.foreign_text import plain_json
from shared.protocol.names import Level, now

# What ingest writes beside a file that it moved, as `<file>.<name>`: its report for programs and
# for people, its sidecar, bad rows, rows that were too long, and what its job's plan made of it.
BESIDE = ("report.json", "report.txt", "yaml", "bad.jsonl", "long.jsonl", "plan.json")

Kind = Literal["train", "eval", "settings"]
Outcome = Literal["queued", "duplicate", "measured", "applied", "refused"]


class Problem(BaseModel):
    """One reason for a refusal. `line` and `column` count from 1; None means the whole file."""

    model_config = ConfigDict(frozen=True)

    line: int | None = None
    column: int | None = None
    field: str
    rule: str
    message: str
    sample: str = ""


class Contents(BaseModel):
    """The contents of a file; report.json of its dataset leaves out default values.

    `rows` are those kept. Sizes are in bytes. At most 100 things are listed.
    """

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
    left_out_rows: int = 0  # by only_positive
    allow_bad: str | None = None
    rules: dict[str, int] = Field(default_factory=dict)
    problems: list[Problem] = Field(default_factory=list)


class Report(BaseModel):
    """The file <name>.report.json beside a file in done/ or rejected/.

    `taken` is the id under which the file was taken. `new_rows`: the rows that its lineage had not
    trained when it was queued, and `changed_answers` those of them that answer a known prompt
    otherwise; the job's plan decides. None where that was not compared.
    """

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
    settings: dict[str, str | int | float | bool] = Field(default_factory=dict)
    version: int | None = None
    new_rows: int | None = None
    changed_answers: int | None = None
    contents: Contents | None = None
    problems: list[Problem] = Field(default_factory=list)
    at: AwareDatetime = Field(default_factory=now)

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True)

    def encode(self) -> bytes:
        return plain_json(self.model_dump_json(indent=1, exclude_none=True)).encode() + b"\n"


class Taking(BaseModel):
    """The one field of a report that identifies its file, wherever the file was moved."""

    taken: str | None = None


def taking_of(report: bytes) -> str | None:
    """Return the id under which the file of a report was taken. Raises ValueError."""
    return Taking.model_validate_json(report).taken
