"""The settings of the trainer."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from shared.formats.plan import TrainingSettings
from shared.protocol.largest import LARGEST
from shared.protocol.names import SCHEDULES, OnLong, Schedule
from shared.settings import LeaseSettings

# The settings of a job, as a user names them -> as records, plans and headers store them.
OF_A_JOB = {
    "learning_rate": "learning_rate",
    "num_train_epochs": "epochs",
    "batch_tokens": "batch_tokens",
    "max_length": "max_length",
    "on_long": "on_long",
    "max_grad_norm": "clip",
    "warmup_steps": "warmup_steps",
    "lr_scheduler_type": "schedule",
    "neftune_alpha": "neftune_alpha",
}
JOB_DEFAULTS = TrainingSettings()  # whose defaults are those of a job


class TrainerSettings(LeaseSettings):
    """The settings of one trainer, with one GPU and one folder of checkpoints.

    Its training settings are the defaults of a job.
    """

    service = "trainer"

    learning_rate: float = Field(
        default=JOB_DEFAULTS.learning_rate,
        gt=0,
        le=LARGEST["learning_rate"],
        description="The learning rate after the warm-up.",
    )
    num_train_epochs: int = Field(
        default=JOB_DEFAULTS.epochs,
        ge=1,
        le=LARGEST["epochs"],
        description="How often a job trains on each row.",
    )
    batch_tokens: int = Field(
        default=JOB_DEFAULTS.batch_tokens,
        ge=16,
        le=LARGEST["batch_tokens"],
        description="The size of a batch, which makes one optimizer step.",
    )
    max_length: int = Field(
        default=JOB_DEFAULTS.max_length,
        ge=16,
        le=LARGEST["max_length"],
        description="The longest row in tokens; `ON_LONG` says what happens to longer ones.",
    )
    on_long: OnLong = Field(
        default=JOB_DEFAULTS.on_long,
        description="Rows over `MAX_LENGTH` are left out and listed (`set_aside`), cut "
        "(`truncate`), or fail the job (`refuse`).",
    )
    max_grad_norm: float = Field(
        default=JOB_DEFAULTS.clip,
        gt=0,
        le=LARGEST["clip"],
        description="Gradients are clipped to this norm.",
    )
    warmup_steps: int = Field(
        default=JOB_DEFAULTS.warmup_steps,
        ge=0,
        le=LARGEST["warmup_steps"],
        description="Steps over which the learning rate rises, once in a lineage.",
    )
    lr_scheduler_type: Annotated[
        Schedule, BeforeValidator(lambda name: SCHEDULES.get(name, name))
    ] = Field(
        default=JOB_DEFAULTS.schedule,
        description="The learning rate after the warm-up: `constant`, or down to a tenth by the "
        "end of each job (`cosine`, `wsd`).",
    )
    neftune_alpha: float = Field(
        default=JOB_DEFAULTS.neftune_alpha,
        ge=0,
        le=LARGEST["neftune_alpha"],
        description="Noise on the embeddings while training; 5 is usual, 0 is none.",
    )

    device: Literal["auto", "cuda", "cpu"] = Field(
        default="auto",
        description="What to train on: `auto` takes a GPU if there is one; `cuda` never falls back "
        "to the CPU.",
    )
    threads: int | None = Field(
        default=None, ge=1, description="Threads on a CPU; unset, one for each core."
    )
    micro_batch_tokens: int = Field(
        default=1024,
        ge=16,
        description="How many tokens pass through the model at once. It decides memory, not the "
        "result.",
    )
    gradient_checkpointing: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Whether activations are computed again instead of kept, which needs less "
        "memory: `auto` does so if training would not fit otherwise.",
    )
    memory_limit: int | None = Field(
        default=None,
        gt=0,
        description="How many bytes of memory the trainer may plan with; unset, all that is free.",
    )
    work_limit_bytes: int | None = Field(
        default=None,
        gt=0,
        description="How many bytes the bucket `work` may hold; a job that would need more waits. "
        "Unset, what the store's disk has.",
    )
    checkpoint_seconds: float = Field(
        default=60.0, gt=0, description="Time between checkpoints: the most that a crash can cost."
    )
    store_away_seconds: float = Field(
        default=300.0,
        gt=0,
        description="How long the store may be unavailable before the trainer reports it. Training "
        "continues either way.",
    )
    eval_fraction: float = Field(
        default=0.05,
        ge=0,
        le=0.5,
        description="The fraction of a file's rows that is held out of training, in files of 200 "
        "rows or more.",
    )
    snapshot_fraction: float = Field(
        default=0.05,
        ge=0,
        description="Time budget for snapshots, as a fraction of training time.",
    )
    snapshot_allowance_seconds: float = Field(
        default=60.0,
        ge=0,
        description="Time that each job's snapshots may take on top of `SNAPSHOT_FRACTION`; its "
        "first and its last get as much again.",
    )

    def job_defaults(self) -> dict[str, Any]:
        """Return the settings of a job that sets none itself, by the names that plans store."""
        return {stored: getattr(self, name) for name, stored in OF_A_JOB.items()}
