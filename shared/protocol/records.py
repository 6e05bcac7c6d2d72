"""Records: the messages of stream JOBS, and their parts.

A record is one link of a chain: it names the sequence of the valid record before it under the same
wildcard, and is published by compare-and-set over that wildcard.
"""

from typing import Literal, Self

from pydantic import AwareDatetime, Field, model_validator

from shared.protocol.message import Message, Number, ObjectRef
from shared.protocol.names import (
    JobState,
    Level,
    LineageName,
    OnLong,
    Outcome,
    Schedule,
    SegmentId,
    Sha256,
    new_nonce,
    now,
)


class Lora(Message):
    """The shape of an adapter. `targets` are module name suffixes, or all linear layers."""

    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: Literal["all-linear"] | list[str] = "all-linear"


class LineageSettings(Message):
    """The settings that are fixed when a lineage is made.

    `dtype: auto` is decided by its first open record. `quantize`: how the frozen base is held in
    training; the stored one stays as it is. `chat_template`: the text of one that replaces the
    base's own, or None.
    """

    base_root: Sha256
    lora: Lora = Lora()
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    quantize: Literal["none", "nf4"] = "none"
    seed: int = Field(default=0, ge=0, lt=2**32)
    chat_template: str | None = Field(default=None, min_length=1, max_length=10_000)


class JobSettings(Message):
    """The settings that one job may choose for itself; None takes the trainer's default.

    `on_long`: what is done with rows longer than `max_length` tokens: they are left out of the plan
    and listed, cut, or the job fails. `allow_bad`: how many rows may be bad, see `Allowance`.
    `delta`: whether rows that the lineage has already trained are left out; None is on.
    `description`: the user's own words about it, without any effect.
    """

    learning_rate: Number | None = Field(default=None, gt=0)
    epochs: int | None = Field(default=None, ge=1)
    batch_tokens: int | None = Field(default=None, ge=16)
    max_length: int | None = Field(default=None, ge=16)
    on_long: OnLong | None = None
    weight_decay: Number | None = Field(default=None, ge=0)
    clip: Number | None = Field(default=None, gt=0)
    warmup_steps: int | None = Field(default=None, ge=0)
    schedule: Schedule | None = None
    cooldown_fraction: float | None = Field(default=None, gt=0, le=1)
    neftune_alpha: Number | None = Field(default=None, ge=0)
    allow_bad: str | None = Field(default=None, max_length=20)
    delta: Literal["on", "off"] | None = None
    description: str | None = Field(default=None, max_length=500)

    @property
    def schema_needed(self) -> Literal[1, 2]:
        """The lowest schema of a record whose readers know all these settings."""
        return 2 if self.allow_bad is not None or self.delta is not None else 1


class CheckpointRef(Message):
    """A checkpoint that was uploaded: `prefix` + the files that its header names.

    `id` is the SHA-256 of header.json. `position` counts plan steps, `global_step` the lineage's.
    """

    id: Sha256
    bucket: Literal["work", "duramen"] = "work"
    prefix: str
    segment: SegmentId
    fence: int
    position: int = Field(ge=0)
    global_step: int = Field(ge=0)


class Head(Message):
    """The state that training of a lineage continues from.

    No checkpoint: a fresh adapter on the base.
    """

    base_root: Sha256
    global_step: int = Field(default=0, ge=0)
    checkpoint: CheckpointRef | None = None


class Failure(Message):
    """The reason why a job failed, and what the user would type next."""

    kind: str
    message: str = Field(max_length=4000)
    next_step: str = ""


class Record(Message):
    """One link of a chain. `prev`: sequence of the valid record before it, 0 for the first."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    nonce: str = Field(default_factory=new_nonce)
    by: str
    at: AwareDatetime = Field(default_factory=now)
    prev: int = Field(default=0, ge=0)
    was: int | None = None


class JobRecord(Record):
    """The state of a job. Its ticket is the sequence of its first record (None only there).

    `tokens` (over all epochs) and `steps` are those of its plan, None until there is one.
    `bad_rows`: how many rows of its file were bad when it was read, which `allow_bad` covered. Its
    settings choose its schema: a program that does not know them stops at schema 2.
    """

    schema_: Literal[1, 2] = Field(default=1, alias="schema")  # type: ignore[assignment]
    job: str
    state: JobState
    level: Level
    name: str = Field(max_length=300)
    dataset: ObjectRef
    rows: int = Field(ge=1)
    bad_rows: int | None = Field(default=None, ge=1)
    settings: JobSettings = JobSettings()
    queued_at: AwareDatetime
    ticket: int | None = None
    attempt: int = Field(default=1, ge=1)
    segment: SegmentId | None = None
    fence: int | None = None
    plan: ObjectRef | None = None
    tokens: int | None = Field(default=None, ge=0)
    steps: int | None = Field(default=None, ge=0)
    version: int | None = None
    failure: Failure | None = None

    @model_validator(mode="after")
    def _choose_schema(self) -> Self:
        if self.schema_ < self.settings.schema_needed:
            object.__setattr__(self, "schema_", self.settings.schema_needed)
        return self


class LineCreate(Record):
    """A lineage is made."""

    lineage: LineageName
    settings: LineageSettings


class LineOpen(Record):
    """A segment opens, or continues under a new owner. Its own sequence is the fence.

    `job_sequence`: the job's record that was claimed; nothing reads it, and it stays as stored.

    `deaths`: owners in a row that died in training without a new checkpoint. `micro_tokens_asked`:
    what the settings ask for, where memory ran out before and `micro_tokens` is less.
    """

    lineage: LineageName
    segment: SegmentId
    job: str
    job_sequence: int
    checkpoint: CheckpointRef | None = None
    position: int = Field(ge=0)
    global_step: int = Field(ge=0)
    plan: ObjectRef | None = None
    micro_tokens: int = Field(ge=1)
    micro_tokens_asked: int | None = Field(default=None, ge=1)
    dtype: Literal["float32", "bfloat16"]
    lease: str
    owner: str
    host: str
    deaths: int = Field(default=0, ge=0)


class LineClose(Record):
    """A segment closes: the commit point of training. `head` is what training continues from.

    `cause`: the nonce of the command that asked for it, or `memory`: the job continues in a segment
    with smaller micro-batches.
    """

    lineage: LineageName
    segment: SegmentId
    fence: int
    job: str
    outcome: Outcome
    from_step: int
    to_step: int
    from_position: int
    to_position: int
    head: Head
    version: int | None = Field(default=None, ge=1)
    plan: ObjectRef | None = None
    result: ObjectRef | None = None
    cause: str | None = None
    failure: Failure | None = None


class LineRollback(Record):
    """The head and latest go back to those of a version; `target`: the sequence of its close."""

    lineage: LineageName
    version: int
    target: int
    head: Head
    void_segment: SegmentId | None = None
    cause: str


LineRecord = LineCreate | LineOpen | LineClose | LineRollback
LINE_MODELS: dict[str, type[LineRecord]] = {
    "create": LineCreate,
    "open": LineOpen,
    "close": LineClose,
    "rollback": LineRollback,
}
