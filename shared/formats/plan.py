"""A job's plan, `plans/<sha256>.json`: every batch of the job, decided once and never changed."""

from collections.abc import Collection
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, Field, SerializerFunctionWrapHandler, model_serializer

from shared.formats.canonical import CanonicalFile, Part
from shared.formats.probe import Probe
from shared.protocol.names import OnLong, Schedule, Sha256, Split


class TrainingSettings(Part):
    """The settings that decide the updates of a job; they are part of its plan."""

    learning_rate: float = Field(default=2e-4, gt=0)
    epochs: int = Field(default=2, ge=1)
    batch_tokens: int = Field(default=2048, ge=1)
    max_length: int = Field(default=2048, ge=2)  # tokens
    on_long: OnLong = "set_aside"  # what is done with longer rows
    seed: int = Field(default=0, ge=0, lt=2**32)
    weight_decay: float = Field(default=0.0, ge=0)
    clip: float = Field(default=1.0, gt=0)  # largest norm of the gradient
    warmup_steps: int = Field(default=10, ge=0)  # of global_step: once for a lineage
    schedule: Schedule = "constant"  # what comes behind the warm-up
    cooldown_fraction: float = Field(default=0.1, gt=0, le=1)  # last part of a job, for `wsd`
    neftune_alpha: float = Field(default=0.0, ge=0)  # noise on the embeddings; 0: none


class LeftOut(Part):
    """A row that is not trained. `tokens` is its length, if that is the reason.

    `bad`: the template refuses it, or nothing of it could be learned as it is written.
    """

    dataset: Sha256
    row: int
    reason: str
    tokens: int | None = None
    bad: bool = False

    @model_serializer(mode="wrap")
    def _without_default(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = plain(self)
        return fields if self.bad else {n: v for n, v in fields.items() if n != "bad"}


class KnownFrom(Part):
    """An earlier job, and how many of a file's rows it trained. `version`: the first with them."""

    job: str
    version: int | None
    rows: int


class ChangedRow(Part):
    """A row that answers a prompt otherwise than a row that an earlier job trained."""

    row: int
    job: str
    version: int | None


class KnownRows(Part):
    """What the lineage's ancestry knew of a file when its plan was made.

    `trained`: the rows that are left out because earlier jobs trained them, as [start, end).
    `held_out` counts the rows that earlier jobs held out, `left_out` those that they left out for
    another reason, as this one does. `changed` counts the rows of
    `changed_rows`, of which the first 20 are listed.
    """

    trained: tuple[tuple[int, int], ...] = ()
    count: int = 0
    held_out: int = 0
    left_out: int = 0
    jobs: tuple[KnownFrom, ...] = ()
    changed: int = 0
    changed_rows: tuple[ChangedRow, ...] = ()

    @property
    def all(self) -> int:
        """The number of rows that are not new."""
        return self.count + self.held_out + self.left_out


class Plan(CanonicalFile):
    """The plan of a job. Rows are line numbers of the dataset, from 0.

    `batches` holds epochs, each of steps, each of rows. `known` is None where nothing of the file
    was known, or everything was to be trained again.
    """

    LATER = frozenset({"known"})

    kind: Literal["plan"] = "plan"
    job: str
    dataset: Sha256
    base_root: Sha256
    tokenizer_sha256: Sha256
    template_sha256: Sha256
    clock: str
    settings: TrainingSettings
    eval_fraction: float
    rows: int
    train_rows: tuple[int, ...]
    heldout_rows: tuple[int, ...]
    heldout_ids: tuple[Sha256, ...] = ()  # of the same rows, for the plans of later files
    eval_rows: dict[Sha256, tuple[int, ...]]  # by dataset, those that are measured
    left_out: tuple[LeftOut, ...]
    probes: tuple[Probe, ...]
    batches: tuple[tuple[tuple[int, ...], ...], ...]
    tokens: int  # over all epochs
    trained_tokens: int
    tokens_sha256: Sha256
    known: KnownRows | None = None

    @property
    def new_rows(self) -> int:
        """The number of rows that no job of the lineage had used or left out before."""
        return self.rows - (self.known.all if self.known else 0)

    @property
    def steps(self) -> list[tuple[int, ...]]:
        """The rows of each step, over all epochs."""
        return [rows for epoch in self.batches for rows in epoch]

    def left_out_of(self, dataset: str) -> dict[int, LeftOut]:
        """Return the rows of one dataset that are not trained, by row number."""
        return {left.row: left for left in self.left_out if left.dataset == dataset}


class UsedRows(NamedTuple):
    """The rows of a dataset, from 0, that a job trained, held out, or left out for a reason."""

    trained: Collection[int] = ()
    held_out: Collection[int] = ()
    left_out: Collection[int] = ()


class LeftRow(BaseModel):
    """The few fields of a row that is not trained by which it is found."""

    dataset: str
    row: int


class Batches(BaseModel):
    """The few fields of a plan that say which rows were trained by which step."""

    dataset: str
    left_out: tuple[LeftRow, ...]
    train_rows: tuple[int, ...]
    heldout_rows: tuple[int, ...]
    batches: tuple[tuple[tuple[int, ...], ...], ...]


def used_rows(data: bytes, position: int) -> UsedRows:
    """Return the rows that the first steps of a stored plan, up to a position, trained.

    Raises ValueError.
    """
    plan = Batches.model_validate_json(data)
    steps = [rows for epoch in plan.batches for rows in epoch]
    whole = position >= len(steps)
    trained = plan.train_rows if whole else (row for rows in steps[:position] for row in rows)
    left = (each.row for each in plan.left_out if each.dataset == plan.dataset)
    return UsedRows(frozenset(trained), frozenset(plan.heldout_rows), frozenset(left))


class MeasuredRow(BaseModel):
    """The few fields of a probe that show whether it was held out."""

    id: str
    split: Split


class Heldout(BaseModel):
    """The few fields of a plan that later jobs need: a lineage may have a thousand plans."""

    probes: tuple[MeasuredRow, ...]
    heldout_ids: tuple[str, ...] = ()


def heldout_of(data: bytes) -> set[str]:
    """Return the ids of the rows that a stored plan held out. Raises ValueError."""
    plan = Heldout.model_validate_json(data)
    return {*plan.heldout_ids, *(p.id for p in plan.probes if p.split == "heldout")}
