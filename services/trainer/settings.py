"""The settings of trainer."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from shared.protocol.names import SCHEDULES, OnLong, Schedule
from shared.settings import StoreSettings

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


class TrainerSettings(StoreSettings):
    """trainer: one GPU, one folder of checkpoints. Training settings are a job's defaults."""

    service = "trainer"
    # What to train on. `cuda` is never answered with the CPU; `auto` takes what is there.
    device: Literal["auto", "cuda", "cpu"] = "auto"
    learning_rate: float = Field(default=2e-4, gt=0)
    num_train_epochs: int = Field(default=2, ge=1)
    batch_tokens: int = Field(default=2048, ge=16)
    max_length: int = Field(default=2048, ge=16)
    on_long: OnLong = "set_aside"
    micro_batch_tokens: int = Field(default=1024, ge=16)
    # `auto`: where the estimate says that it does not fit otherwise, or memory ran out before.
    gradient_checkpointing: Literal["auto", "on", "off"] = "auto"
    # What of the device's memory the trainer may plan with; None: all of it that is free.
    memory_limit: int | None = Field(default=None, gt=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    warmup_steps: int = Field(default=10, ge=0)
    lr_scheduler_type: Annotated[
        Schedule, BeforeValidator(lambda name: SCHEDULES.get(name, name))
    ] = "constant"
    neftune_alpha: float = Field(default=0.0, ge=0)
    eval_fraction: float = Field(default=0.05, ge=0, le=0.5)
    checkpoint_seconds: float = Field(default=60.0, gt=0)
    # How long the store may be away before it is said; training goes on, uploads follow.
    store_away_seconds: float = Field(default=300.0, gt=0)
    snapshot_fraction: float = Field(default=0.05, ge=0)
    snapshot_allowance_seconds: float = Field(default=60.0, ge=0)
    threads: int | None = Field(default=None, ge=1)

    def job_defaults(self) -> dict[str, Any]:
        """Return what a job trains with that sets nothing itself, by the names that plans store."""
        return {stored: getattr(self, name) for name, stored in OF_A_JOB.items()}
