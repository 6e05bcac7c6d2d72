"""The file metrics.jsonl of a job: a line for each step, and for each snapshot decision."""

from typing import Any

from pydantic import BaseModel, model_validator


class TrainedRow(BaseModel):
    """One example of a step. `row` from 0; `loss` is None where it was not a finite number."""

    row: int
    loss: float | None = None

    @model_validator(mode="before")
    @classmethod
    def _number_alone(cls, found: Any) -> Any:
        """Accept a row's number without its loss, as earlier files have it."""
        return {"row": found} if isinstance(found, int) else found


class MetricsLine(BaseModel):
    """The fields of a line that are read again; FORMAT.md describes the others.

    A line without `rows` is a decision about a snapshot, after step `position` of the plan.
    """

    position: int
    rows: tuple[TrainedRow, ...] | None = None
    skipped: bool = False  # its loss or gradient was not a finite number
    seconds: float = 0.0
    snapshot_seconds: float = 0.0  # of the job so far
