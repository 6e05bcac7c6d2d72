"""Memory as it is: what is free and who holds it, and what is needed.

Needs no torch: the supervisor asks, too.
"""

import json
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pynvml

from services.trainer import device
from services.trainer.nvml import first, plain_text
from services.trainer.settings import TrainerSettings
from shared.formats.adapter import AdapterShape
from shared.host import machine_memory
from shared.memory_estimate import (
    Choice,
    Dtype,
    Estimate,
    Shape,
    estimate_memory,
    gib,
    shape_of_folder,
)
from shared.protocol.records import LineageSettings


@dataclass(frozen=True)
class Memory:
    """Of the device that is trained on, in bytes."""

    device: str  # cuda or cpu
    total: int
    free: int
    limit: int | None = None  # DURAMEN_MEMORY_LIMIT, if that is less than what is free


def measured_memory(settings: TrainerSettings) -> Memory:
    """Of the GPU as NVML sees it, or of this machine as far as its container may use it."""
    found = of_gpu() if takes_gpu(settings) else None
    found = found or of_machine()
    if settings.memory_limit is None:
        return found
    if settings.memory_limit >= found.free:
        return found
    return replace(found, free=settings.memory_limit, limit=settings.memory_limit)


def takes_gpu(settings: TrainerSettings) -> bool:
    """Whether torch computes there, too: `auto` is what it was measured on, once it was. A driver
    may answer for a GPU that this torch cannot use."""
    kept = device.file_in(settings.state_dir)
    if settings.device == "auto" and kept.is_file():
        measured_on: str = json.loads(kept.read_bytes()).get("device", "cuda")
        return measured_on == "cuda"
    return settings.device != "cpu"


def of_gpu() -> Memory | None:
    """The GPU that is trained on; None without one."""
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(first())
    except pynvml.NVMLError:
        return None
    return Memory("cuda", int(memory.total), int(memory.free))


def of_machine() -> Memory:
    """Return this machine's memory, as far as its container may use it."""
    return Memory("cpu", *machine_memory())


def process_name(pid: int, device: str) -> str:
    """`ollama (pid 4711)`; the number alone where the process is another container's.

    NVML numbers processes as the host does, so it is asked for their names as well.
    """
    try:
        name = psutil.Process(pid).name() if device == "cpu" else gpu_process_name(pid)
    except (psutil.Error, pynvml.NVMLError):
        return f"pid {pid}"
    return f"{name} (pid {pid})"


def gpu_process_name(pid: int) -> str:
    return Path(plain_text(pynvml.nvmlSystemGetProcessName(pid))).name


def holders(device: str) -> list[tuple[int, int]]:
    """(bytes, pid) of the three programs that hold most of a device's memory."""
    if device == "cuda":
        found = [(size, pid) for pid, size in on_gpu().items()]
    else:
        found = [
            (int(p.info["memory_info"].rss), int(p.pid))
            for p in psutil.process_iter(["memory_info"])
            if p.info["memory_info"] is not None
        ]
    return sorted(found, reverse=True)[:3]


def on_gpu() -> dict[int, int]:
    """Bytes by pid, of all that compute or draw there; who does both is told of twice."""
    found: dict[int, int] = {}
    kinds = (
        pynvml.nvmlDeviceGetGraphicsRunningProcesses,
        pynvml.nvmlDeviceGetComputeRunningProcesses,
    )
    for running in kinds:
        with suppress(pynvml.NVMLError):
            here = running(first())
            found |= {int(p.pid): int(p.usedGpuMemory or 0) for p in here}
    return found


def need(
    base: Path | Shape,
    line: LineageSettings,
    settings: TrainerSettings,
    dtype: Dtype,
    micro_tokens: int,
    *,
    recompute: bool = False,
) -> Estimate:
    """Of a segment. Before the plan is known its longest row is taken for a micro-batch at most."""
    choice = Choice(dtype, micro_tokens, line.quantize, recompute)
    lora = line.lora
    targets = lora.targets if isinstance(lora.targets, str) else tuple(lora.targets)
    shape = base if isinstance(base, Shape) else shape_of_folder(base)
    adapter = AdapterShape(rank=lora.rank, targets=targets, dropout=lora.dropout)
    return estimate_memory(shape, choice, adapter, measured_memory(settings).device)


def shortage(least: Estimate, here: Memory) -> str | None:
    """Why to wait, with the need, what is free, and who holds it; None if there is enough, or if
    waiting would not help: an estimate may be wrong, and what does not fit will say so itself."""
    if least.total <= here.free or least.total > here.total:
        return None
    what = "GPU memory" if here.device == "cuda" else "memory"
    needed = f"{what}: {gib(least.total)} needed"
    if here.limit is not None:
        return f"{needed}, DURAMEN_MEMORY_LIMIT allows {gib(here.limit)}"
    held = ", ".join(
        f"{process_name(pid, here.device)} {gib(size)}" for size, pid in holders(here.device)
    )
    return (
        f"{needed}, {gib(here.free)} of {gib(here.total)} free, "
        f"held by {held or 'nobody that can be seen'}"
    )
