"""Events, which say what happened: an envelope, and the data of each kind.

Writers build the data of a kind and `Event.of` wraps them. Readers call `parse_event`. An event of
an unknown kind or shape is shown as it is, and nobody acts on it.
"""

from typing import ClassVar, Literal, Self

from pydantic import AwareDatetime, Field, JsonValue, ValidationError

from shared.protocol.message import Message, ObjectRef
from shared.protocol.names import Level, Outcome, SegmentId, Sha256, Split, new_nonce, now
from shared.service_names import Service


class EventData(Message):
    """The data of an event of one kind. Only the fields that its writer set are written."""

    kind: ClassVar[str]

    def told(self) -> dict[str, JsonValue]:
        """Return the fields that were set, as JSON, with null ones; a loss that is NaN is null."""
        return self.model_dump(mode="json", exclude_unset=True)


# ---- ingest --------------------------------------------------------------------------------------


class FileStored(EventData):
    """A file's rows are in the store. `bytes` is the size of the stored dataset."""

    kind = "stored"
    name: str
    rows: int
    level: Level
    bytes: int


class JobQueued(EventData):
    """A file became a job. `next` is what the user may type.

    `ignored`: in how many rows a field was ignored, for the first few fields.
    """

    kind = "queued"
    name: str
    rows: int
    level: Level
    why: str
    next: str
    ignored: dict[str, int] = Field(default_factory=dict)


class FileKnown(JobQueued):
    """A file became no job: its rows are already known, and `why` says as what."""

    kind = "duplicate"


class FileRefused(EventData):
    """A file was refused. `why` names a rule and a place, `rules` counts the rows by rule."""

    kind = "refused"
    name: str
    why: str
    rules: dict[str, int]


class JobAmended(EventData):
    """A sidecar that came after its data file was applied to the job that was queued."""

    kind = "amended"
    name: str


# ---- trainer -------------------------------------------------------------------------------------


class SegmentOpened(EventData):
    """A job is being trained from now on."""

    kind = "opened"
    segment: SegmentId
    fence: int


class JobPlanned(EventData):
    """The batches of a job were decided: `train_rows` of its file's `rows` will be trained.

    `new_rows`: those that the lineage had not trained or held out before, and `changed_answers`
    those of them that answer a known prompt otherwise.
    """

    kind = "planned"
    rows: int
    train_rows: int
    new_rows: int
    changed_answers: int
    steps: int


class SegmentClosed(EventData):
    """A job is no longer being trained.

    `version` is the number of the version that this made, or None.
    """

    kind = "closed"
    segment: SegmentId
    fence: int
    outcome: Outcome
    version: int | None = None


class SplitSummary(Message):
    """The means over the `count` probes of one split.

    Shares are of those `answered`, None without any.
    """

    count: int
    loss: float | None
    token_accuracy: float | None
    answered: int
    exact_match: float | None = None
    normalized_match: float | None = None


class SnapshotDecision(Message):
    """The reason for a snapshot, and its cost in seconds.

    The seconds are: spent on all snapshots before it, allowed for them, expected and allowed at
    most (None: no limit) for this one, and what it took.
    """

    size: str
    why: str
    spent_seconds: float
    allowed_seconds: float
    expected_seconds: float | None = None
    limit_seconds: float | None = None
    seconds: float
    is_reused: bool
    probes: int
    measured: int
    answered: int


class SnapshotStored(EventData):
    """A snapshot is in the store, at the event's `ref`. `position` counts the steps of the plan."""

    kind = "snapshot"
    global_step: int
    position: int
    summary: dict[Split, SplitSummary]
    decision: SnapshotDecision
    segment: SegmentId
    fence: int


class MemoryRanOut(EventData):
    """Memory ran out with micro-batches of `was` tokens; `micro_tokens` is tried from now on."""

    kind = "out_of_memory"
    segment: SegmentId
    was: int
    micro_tokens: int
    why: str


# ---- vault ---------------------------------------------------------------------------------------


class BaseStored(EventData):
    """A base is in all places and was read back. `bytes` is the size of one copy."""

    kind = "base_stored"
    base_root: Sha256
    files: int
    bytes: int
    copies: int


class VersionPublished(EventData):
    """A version is in all places and was read back; its commit is at the event's `ref`."""

    kind = "version_published"
    version: int
    ledger_sequence: int
    copies: int
    bytes: int


class RolledBack(EventData):
    """The head and latest of a lineage are those of a version. `checkpoint`: its id, if any."""

    kind = "rolled_back"
    lineage: str
    version: int
    ledger_sequence: int
    global_step: int
    checkpoint: Sha256 | None = None


# ---- everyone ------------------------------------------------------------------------------------


class NoReceipt(Message):
    """The empty receipt of a command that did nothing."""


class Answered(EventData):
    """A one-time command was answered. `command`: its nonce; `sequence`: its place on CTL.

    The trainer gives the command's `name` and the `segment` that it meant, the vault a `receipt` of
    what it did.
    """

    kind = "answered"
    command: str
    sequence: int
    name: str | None = None
    outcome: Literal["done", "void"]
    why: str
    segment: str | None = None
    receipt: BaseStored | RolledBack | NoReceipt | None = None


class Alarm(EventData):
    """Something is wrong. `what` is one word for it, `about` the thing that is affected.

    For a record that does not count, it has the record's `sequence` and its `subject` on the bus.
    """

    kind = "alarm"
    what: str
    about: str | None = None
    sequence: int | None = None
    subject: str | None = None
    detail: str = ""


KINDS: dict[str, type[EventData]] = {
    data.kind: data
    for data in (
        FileStored,
        JobQueued,
        FileKnown,
        FileRefused,
        JobAmended,
        SegmentOpened,
        JobPlanned,
        SegmentClosed,
        SnapshotStored,
        MemoryRanOut,
        BaseStored,
        VersionPublished,
        RolledBack,
        Answered,
        Alarm,
    )
}


class Event(Message):
    """Something that happened. `kind` is the last token of the subject; `data` is small JSON."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    service: Service
    kind: str
    lineage: str | None = None
    job: str | None = None
    ref: ObjectRef | None = None
    data: dict[str, JsonValue] = Field(default_factory=dict)
    nonce: str = Field(default_factory=new_nonce)
    at: AwareDatetime = Field(default_factory=now)

    @classmethod
    def of(
        cls,
        service: Service,
        data: EventData,
        *,
        lineage: str | None = None,
        job: str | None = None,
        ref: ObjectRef | None = None,
    ) -> Self:
        """Return the event with which a service reports these data."""
        return cls(
            service=service,
            kind=data.kind,
            lineage=lineage,
            job=job,
            ref=ref,
            data=data.told(),
        )


def parse_event(event: Event) -> EventData | None:
    """Return what an event says, or None if its kind or its shape is not known here."""
    model = KINDS.get(event.kind)
    try:
        return model.model_validate(event.data) if model else None
    except ValidationError:
        return None
