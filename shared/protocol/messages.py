"""The protocol: every subject and every message that travels between services.

A *record* (streams JOBS and CTL) is one link of a chain: it names the sequence of the valid record
before it under the same wildcard, and is published by compare-and-set over that wildcard. An
*event* (EVT), an *observation* (OBS) and a *lease* (LEASE) are plain messages. Every one carries
`schema: 1`. Large data never travel here: an `ObjectRef` names them.
"""

import re
import uuid
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, field_validator

SCHEMA = 1

Service = Literal["ingest", "trainer", "vault", "evolution", "herald", "ctl"]
Level = Literal["high", "normal", "low"]
LEVELS: tuple[Level, ...] = ("high", "normal", "low")
LEVEL_RANK = {level: rank for rank, level in enumerate(LEVELS)}

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
LineageName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
SegmentId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{12}$")]

JobVerb = Literal[
    "submit", "amend", "move", "remove", "retry", "run", "requeue", "done", "fail", "skip"
]
LineVerb = Literal["create", "open", "close", "rollback"]
JobState = Literal["queued", "running", "done", "failed", "skipped", "removed"]
Outcome = Literal["done", "preempted", "stopped", "skipped", "failed", "void"]
DesiredState = Literal["running", "paused", "stopped"]


def now() -> datetime:
    """UTC, for the reader's eyes: order is by sequence, never by this."""
    return datetime.now(UTC)


def new_nonce() -> str:
    return uuid.uuid4().hex


def new_segment() -> str:
    return uuid.uuid4().hex[:12]


# ---- names and subjects --------------------------------------------------------------------------


class JobId(NamedTuple):
    """A job is the wish to train once on a dataset: (lineage, dataset, run number)."""

    lineage: str
    sha256: str
    run: int

    def __str__(self) -> str:
        return f"{self.sha256[:12]}.{self.run}"

    @property
    def path(self) -> str:
        """The whole name, as it stands in messages."""
        return f"{self.lineage}/{self.sha256}/{self.run}"

    @classmethod
    def parse(cls, path: str) -> "JobId":
        match = re.fullmatch(r"([a-z0-9][a-z0-9_-]{0,31})/([0-9a-f]{64})/([1-9][0-9]*)", path)
        if match is None:
            raise ValueError(f"not a job: {path!r}")
        return cls(match[1], match[2], int(match[3]))

    @property
    def wildcard(self) -> str:
        return f"jobs.rec.{self.lineage}.{self.sha256}.{self.run}.*"

    def subject(self, verb: JobVerb) -> str:
        return f"jobs.rec.{self.lineage}.{self.sha256}.{self.run}.{verb}"


def line_wildcard(lineage: str) -> str:
    return f"jobs.line.{lineage}.*"


def line_subject(lineage: str, verb: LineVerb) -> str:
    return f"jobs.line.{lineage}.{verb}"


def desired_subject(service: str) -> str:
    return f"ctl.desired.{service}"


def once_subject(service: str) -> str:
    return f"ctl.once.{service}"


def observed_subject(service: str, instance: str = "*") -> str:
    """The subject of one instance of a service, or of all of them."""
    return f"ctl.observed.{service}.{instance}"


def event_subject(service: str, kind: str) -> str:
    return f"evt.{service}.{kind}"


def lease_subject(what: str) -> str:
    return f"lease.{what}"


# ---- building blocks -----------------------------------------------------------------------------


class Message(BaseModel):
    """Frozen, closed, serialised by alias; its validator is built when it is first used."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_by_name=True,
        serialize_by_alias=True,
        defer_build=True,
    )

    def encode(self) -> bytes:
        """Compact JSON without the fields that are None."""
        return self.model_dump_json(exclude_none=True).encode()


class ObjectRef(Message):
    """An object in the store by name and by content. `size` in bytes."""

    bucket: Literal["duramen", "work"]
    key: str
    sha256: Sha256
    size: int = Field(ge=0)


class Lora(Message):
    """The shape of an adapter. `targets` are module name suffixes, or all linear layers."""

    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: Literal["all-linear"] | list[str] = "all-linear"


class LineageSettings(Message):
    """Fixed when a lineage is made. `dtype: auto` is decided by its first open record.

    `quantize`: how the frozen base is held in training; the stored one stays what it is.
    `chat_template`: the text of one that takes the place of the base's own, or None.
    """

    base_root: Sha256
    lora: Lora = Lora()
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    quantize: Literal["none", "nf4"] = "none"
    seed: int = Field(default=0, ge=0, lt=2**32)
    chat_template: str | None = Field(default=None, min_length=1, max_length=10_000)


Number = Annotated[float, Field(allow_inf_nan=False)]


class JobSettings(Message):
    """What one job may set for itself; None takes the trainer's default.

    `on_long`: what is done with rows longer than `max_length` tokens: they are left out of the plan
    and listed, cut, or the job fails. `description`: what the user says of it; no more than words.
    """

    learning_rate: Number | None = Field(default=None, gt=0)
    epochs: int | None = Field(default=None, ge=1)
    batch_tokens: int | None = Field(default=None, ge=16)
    max_length: int | None = Field(default=None, ge=16)
    on_long: Literal["set_aside", "truncate", "refuse"] | None = None
    weight_decay: Number | None = Field(default=None, ge=0)
    clip: Number | None = Field(default=None, gt=0)
    warmup_steps: int | None = Field(default=None, ge=0)
    schedule: Literal["constant", "cosine", "wsd"] | None = None
    cooldown_fraction: float | None = Field(default=None, gt=0, le=1)
    neftune_alpha: Number | None = Field(default=None, ge=0)
    description: str | None = Field(default=None, max_length=500)


class CheckpointRef(Message):
    """A checkpoint as uploaded: `prefix` + the files that its header names.

    `id` is the SHA-256 of header.json; `position` counts plan steps, `global_step` the lineage's.
    """

    id: Sha256
    bucket: Literal["work", "duramen"] = "work"
    prefix: str
    segment: SegmentId
    fence: int
    position: int = Field(ge=0)
    global_step: int = Field(ge=0)


class Head(Message):
    """What training of a lineage continues from. No checkpoint: a fresh adapter on the base."""

    base_root: Sha256
    global_step: int = Field(default=0, ge=0)
    checkpoint: CheckpointRef | None = None


class Failure(Message):
    """Why a job failed, and what the user would type next."""

    kind: str
    message: str = Field(max_length=4000)
    next_step: str = ""


# ---- records -------------------------------------------------------------------------------------


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
    """

    job: str
    state: JobState
    level: Level
    name: str = Field(max_length=300)
    dataset: ObjectRef
    rows: int = Field(ge=1)
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


class LineCreate(Record):
    """A lineage is made."""

    lineage: LineageName
    settings: LineageSettings


class LineOpen(Record):
    """A segment opens, or goes on under a new owner. Its own sequence is the fence.

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
    """A segment closes: the commit point of training. `head` is what training goes on from.

    `cause`: the nonce of the command that asked for it, or `memory`: the job goes on in a segment
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
    """Head and latest go back to those of a version; `target` is the sequence of its close."""

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


class Desired(Record):
    """What a service shall be; the record's sequence is the generation."""

    service: Service
    state: DesiredState
    discard: SegmentId | None = None
    reason: str = ""


class Once(Record):
    """A one-time command, named by its nonce; it means one segment, and no later one."""

    service: Service
    command: Literal["skip", "snapshot", "checkpoint", "rollback", "base"]
    lineage: LineageName | None = None
    segment: SegmentId | None = None
    keep: bool = False
    force: bool = False
    version: int | None = None
    base_root: Sha256 | None = None


# ---- plain messages ------------------------------------------------------------------------------


class Lease(Message):
    """Who is alive, and for which fence."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    owner: str
    host: str
    fence: int | None = None
    nonce: str = Field(default_factory=new_nonce)
    at: AwareDatetime = Field(default_factory=now)


class Progress(Message):
    """How far the running job is. `eta_seconds` is an estimate from the last steps."""

    position: int
    steps: int
    global_step: int
    loss: float | None = None
    tokens_per_second: float | None = None
    eta_seconds: float | None = None


class Observed(Message):
    """What an instance of a service is. A receipt counts only if its fence is the ledger's.

    `instance`: a trainer's lease id, else the service's name. `waiting`: lineage -> why it waits;
    `*` is all of them. Schema 1, on one subject for all instances, said the latter as one text.
    `orphaned`, of a vault: lineages whose ledger has no versions, with the places that have some.
    """

    schema_: Literal[1, 2] = Field(default=2, alias="schema")
    service: Service
    instance: str
    state: Literal["starting", "idle", "waiting", "running", "paused", "stopped"]
    generation: int = 0
    once_through: int = 0
    waiting: dict[str, str] = {}
    lineage: str | None = None
    job: str | None = None
    segment: SegmentId | None = None
    fence: int | None = None
    ledger: int = 0
    progress: Progress | None = None
    checkpoint: CheckpointRef | None = None
    read_back: bool = False
    orphaned: dict[str, list[str]] | None = None
    at: AwareDatetime = Field(default_factory=now)

    @field_validator("waiting", mode="before")
    @classmethod
    def _of_schema_1(cls, said: object) -> object:
        return {"*": said} if isinstance(said, str) else said

    @property
    def waits_for(self) -> str | None:
        """`waiting` as people read it."""
        parts = [why if at == "*" else f"{at}: {why}" for at, why in self.waiting.items()]
        return "; ".join(parts) or None


class Event(Message):
    """Something that happened. `kind` is the last token of the subject; `data` is small JSON.

    Kinds: ingest `stored`, `queued`, `refused`, `duplicate`; trainer `opened`, `closed`,
    `snapshot`, `out_of_memory`; vault `base_stored`, `version_published`, `rolled_back`; everyone
    `answered` (command, sequence, outcome `done` or `void`, why) and `alarm` (what, detail).
    """

    schema_: Literal[1] = Field(default=1, alias="schema")
    service: Service
    kind: str
    lineage: str | None = None
    job: str | None = None
    ref: ObjectRef | None = None
    data: dict[str, Any] = {}
    nonce: str = Field(default_factory=new_nonce)
    at: AwareDatetime = Field(default_factory=now)
