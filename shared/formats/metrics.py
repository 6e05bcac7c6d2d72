"""metrics.jsonl of a job: a line for each step, and one for each decision about a snapshot."""

from typing import Any

from pydantic import BaseModel, model_validator


class TrainedRow(BaseModel):
    """One example of a step. `row` from 0; `loss` is None where it was not a finite number."""

    row: int
    loss: float | None = None

    @model_validator(mode="before")
    @classmethod
    def _number_alone(cls, found: Any) -> Any:
        """Take a row's number without its loss, as earlier files have it."""
        return {"row": found} if isinstance(found, int) else found


class MetricsLine(BaseModel):
    """What is read again of a line; FORMAT.md tells what else it says to people.

    A line without `rows` is a decision about a snapshot, behind step `position` of the plan.
    """

    position: int
    rows: tuple[TrainedRow, ...] | None = None
    skipped: bool = False  # its loss or gradient was not a finite number
    seconds: float = 0.0
    snapshot_seconds: float = 0.0  # of the job so far
