"""What the supervisor tells the worker (a JSON file), and how the worker says that it cannot."""

import errno
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from shared.formats.adapter import AdapterShape as Lora
from shared.formats.canonical import Part
from shared.formats.plan import TrainingSettings
from shared.protocol.names import Sha256

DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # no space, no quota, no larger file

Device = Literal["auto", "cuda", "cpu"]  # `cuda` is never answered with the CPU


class EvalDataset(Part):
    path: Path
    sha256: Sha256


class Place(NamedTuple):
    """How far training has come: steps of the job's plan, and optimizer updates of the lineage."""

    position: int
    global_step: int


class Start(Part):
    """Where training goes on. `job_steps_from`: the plan position at which this segment began;
    the rhythm of the snapshots is counted from there."""

    position: int = Field(ge=0)
    global_step: int = Field(ge=0)
    job_steps_from: int = Field(default=0, ge=0)


class SnapshotSettings(Part):
    """Snapshots may cost `fraction` of the training time plus an allowance for the job; its first
    and its last may each cost another allowance.

    `baselines`: where later jobs find what the bare base said to the same probes.
    """

    fraction: float = Field(default=0.05, ge=0)
    allowance_seconds: float = Field(default=60.0, ge=0)
    directory: Path
    baselines: Path | None = None


class Spec(BaseModel):
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
    eval_datasets: tuple[EvalDataset, ...] = ()
    earlier_plans: tuple[Path, ...] = ()  # of the last jobs: their probes are measured on
    lineage_plans: tuple[Path, ...] = ()  # of all others: what they held out is not trained
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
    clock: str  # ISO time that a chat template is told, frozen
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
