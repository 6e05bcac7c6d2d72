"""The protocol between supervisor and worker.

The supervisor hands over a specification (a JSON file) and sends commands, one line of JSON each,
on the worker's standard input; the worker sends events, one line each, on its standard output.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter

from shared.errors import FailureKind
from shared.formats.adapter import AdapterShape as Lora
from shared.formats.canonical import Part
from shared.formats.plan import TrainingSettings
from shared.protocol.names import Sha256

Device = Literal["auto", "cuda", "cpu"]  # `cuda` is never answered with the CPU


class EvalDataset(Part):
    """A dataset that is measured and never trained."""

    path: Path
    sha256: Sha256


class TrainedDataset(Part):
    """What a job behind the head trained: its dataset's row ids, its plan, and how far it came.

    `version` is the first that holds it, or None while none does.
    """

    job: str
    version: int | None
    row_ids: Path
    plan: Path
    position: int = Field(ge=0)


class TrainingPlace(NamedTuple):
    """The place that training has reached: steps of the job's plan, and steps of the lineage.

    `global_step` counts steps without an update, too.
    """

    position: int
    global_step: int


class Start(Part):
    """The place where training starts or resumes.

    `job_steps_from`: the plan position at which this segment began; the snapshots are scheduled
    from there.
    """

    position: int = Field(ge=0)
    global_step: int = Field(ge=0)
    job_steps_from: int = Field(default=0, ge=0)


class SnapshotSettings(Part):
    """The time budget of snapshots, and where they are written.

    They may cost `fraction` of the training time plus an allowance for the job; its first and its
    last may each cost another allowance. `baselines`: where later jobs find what the bare base
    answered to the same probes.
    """

    fraction: float = Field(default=0.05, ge=0)
    allowance_seconds: float = Field(default=60.0, ge=0)
    directory: Path
    baselines: Path | None = None


class Spec(BaseModel):
    """The specification of one worker: all that it needs to train one segment."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

    lineage: str
    segment: str
    fence: int
    job: str
    base_dir: Path
    base_root: Sha256
    chat_template: str | None = None  # instead of the base's own
    dataset: Path
    dataset_sha256: Sha256
    source: Path | None = None  # where each of its rows came from
    allow_bad: str | None = None  # of its rows, as `Allowance` reads it
    bad_before: int = 0  # rows of its file that were bad when it was read: they count, too
    eval_datasets: tuple[EvalDataset, ...] = ()
    earlier_plans: tuple[Path, ...] = ()  # of the last jobs: their probes are measured on
    lineage_plans: tuple[Path, ...] = ()  # of all others: what they held out is not trained
    trained: tuple[TrainedDataset, ...] = ()  # newest first: what they trained is not new
    plan: Path | None = None
    plan_out: Path
    plan_sha256: Sha256 | None = None
    lora: Lora = Lora()
    device: Device = "auto"
    # Bytes of it that may be used at most.
    memory_limit: Annotated[int, Field(gt=0)] | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    quantize: Literal["none", "nf4"] = "none"  # of the frozen base
    gradient_checkpointing: bool = False  # recompute on the way back instead of keeping
    settings: TrainingSettings = TrainingSettings()
    clock: str  # the frozen ISO time that a chat template sees
    checkpoint: Path | None = None
    start: Start
    micro_tokens: Annotated[int, Field(ge=1)]
    checkpoint_dir: Path
    checkpoint_seconds: Annotated[float, Field(gt=0)] = 60.0
    eval_fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    snapshot: SnapshotSettings
    metrics: Path
    lock_file: Path
    proofs: Path | None = None  # what was found of attention on which device, for all jobs
    threads: Annotated[int, Field(ge=1)] | None = None


# ---- commands: supervisor to worker --------------------------------------------------------------


class StopReason(StrEnum):
    """The reason why a worker ends before its plan: given in `stop`, repeated in the end event."""

    PAUSE = "pause"
    STOP = "stop"
    SKIP = "skip"
    PREEMPT = "preempt"
    LOST = "lost"  # the segment is another trainer's by now: nothing trained since is kept
    SHUTDOWN = "shutdown"  # the supervisor ends, and resumes from here at its next start


class Go(Part):
    """Start training: the plan is stored."""

    command: Literal["go"] = "go"


class Stop(Part):
    """End after the step with a checkpoint; before the first step, at once and without an event."""

    command: Literal["stop"] = "stop"
    reason: StopReason


class TakeCheckpoint(Part):
    """Save after the step; a `checkpoint` event answers."""

    command: Literal["checkpoint"] = "checkpoint"


class TakeSnapshot(Part):
    """Measure after the step; a `snapshot` or `snapshot_skipped` event answers."""

    command: Literal["snapshot"] = "snapshot"


Command = Go | Stop | TakeCheckpoint | TakeSnapshot
COMMANDS: TypeAdapter[Command] = TypeAdapter(Annotated[Command, Field(discriminator="command")])

# ---- events: worker to supervisor ----------------------------------------------------------------


class PlanReady(Part):
    """All batches are decided; the worker waits for `go`. `seconds`: the time the plan took."""

    event: Literal["plan"] = "plan"
    path: Path
    sha256: Sha256
    steps: int
    rows: int
    train_rows: int
    heldout_rows: int
    left_out: int
    new_rows: int  # that no job of the lineage had trained or held out
    changed_answers: int
    epochs: int
    tokens: int  # of all epochs
    trained_tokens: int
    seconds: float


class NothingNew(Part):
    """There is nothing to train: the lineage knows all rows. This event is the last."""

    event: Literal["nothing_new"] = "nothing_new"
    message: str
    version: int | None


class WorkerReady(Part):
    """Base, adapter and checkpoint are loaded. `attention` and `notes`: how training works here."""

    event: Literal["ready"] = "ready"
    seconds: float
    parameters: int
    base_parameters: int
    rss_bytes: int
    device: str
    attention: str
    notes: tuple[str, ...]


class StepDone(Part):
    """A step is done. `skipped`: it made no update, because its numbers were not finite."""

    event: Literal["step"] = "step"
    position: int
    steps: int
    global_step: int
    loss: float | None  # None: not finite
    tokens: int
    trained_tokens: int
    seconds: float
    micro_tokens: int
    micro_batches: int
    learning_rate: float
    gradient_norm: float | None  # before clipping; None: not finite
    skipped: bool


class CheckpointSaved(Part):
    """A checkpoint is on this disk, its bytes synced."""

    event: Literal["checkpoint"] = "checkpoint"
    path: Path
    id: Sha256
    global_step: int
    position: int
    write_seconds: float


class SnapshotTaken(Part):
    """A snapshot's file is on this disk. `summary`: means over its probes, by split."""

    event: Literal["snapshot"] = "snapshot"
    path: Path
    sha256: Sha256
    size: int
    global_step: int
    position: int
    seconds: float
    measured: int
    summary: dict[str, dict[str, float | int | None]]
    decision: dict[str, JsonValue]


class SnapshotSkipped(Part):
    """A snapshot that was due, or `asked` for, is not taken."""

    event: Literal["snapshot_skipped"] = "snapshot_skipped"
    decision: dict[str, JsonValue]
    asked: bool


class TrainingEnded(Part):
    """The plan is done (`reason` None), or the worker was asked to stop. This event is the last."""

    event: Literal["end"] = "end"
    reason: StopReason | None
    checkpoint: CheckpointSaved


class TrainingFailed(Part):
    """The job cannot continue; the fields are those of CannotTrain. This event is the last."""

    event: Literal["failed"] = "failed"
    kind: FailureKind
    message: str
    suspect: bool
    final: bool
    example: str | None = None


WorkerEvent = (
    PlanReady
    | NothingNew
    | WorkerReady
    | StepDone
    | CheckpointSaved
    | SnapshotTaken
    | SnapshotSkipped
    | TrainingEnded
    | TrainingFailed
)
EVENTS: TypeAdapter[WorkerEvent] = TypeAdapter(Annotated[WorkerEvent, Field(discriminator="event")])
