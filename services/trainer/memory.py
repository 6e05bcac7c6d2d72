"""Measures memory: what is free, who holds it, and what training would need.

Works without torch, because the supervisor uses it as well.
"""

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
    """The memory of the device that is trained on, in bytes."""

    device: str  # cuda or cpu
    total: int
    free: int
    limit: int | None = None  # DURAMEN_MEMORY_LIMIT, if that is less than what is free


def measured_memory(settings: TrainerSettings) -> Memory:
    """Return the memory to train in: the GPU's as NVML sees it, or this machine's.

    The machine's is counted as far as its container may use it. The free part is at most
    DURAMEN_MEMORY_LIMIT.
    """
    found = of_gpu() if takes_gpu(settings) else None
    found = found or of_machine()
    if settings.memory_limit is None:
        return found
    if settings.memory_limit >= found.free:
        return found
    return replace(found, free=settings.memory_limit, limit=settings.memory_limit)


def takes_gpu(settings: TrainerSettings) -> bool:
    """Return whether training runs on the GPU.

    `auto` means the device of the last measurement, once there is one: a driver may answer for a
    GPU that this torch cannot use.
    """
    kept = device.file_in(settings.state_dir)
    if settings.device == "auto" and (found := device.measurement(kept)):
        return found.get("device", "cuda") == "cuda"
    return settings.device != "cpu"


def of_gpu() -> Memory | None:
    """Return the memory of the GPU that is trained on, or None without one."""
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(first())
    except pynvml.NVMLError:
        return None
    return Memory("cuda", int(memory.total), int(memory.free))


def of_machine() -> Memory:
    """Return this machine's memory as far as its container may use it."""
    return Memory("cpu", *machine_memory())


def process_name(pid: int, device: str) -> str:
    """Return a process as `ollama (pid 4711)`, or as `pid 4711` if its name cannot be read.

    NVML numbers GPU processes as the host does, so NVML is also asked for their names.
    """
    try:
        name = psutil.Process(pid).name() if device == "cpu" else gpu_process_name(pid)
    except (psutil.Error, pynvml.NVMLError):
        return f"pid {pid}"
    return f"{name} (pid {pid})"


def gpu_process_name(pid: int) -> str:
    """Return the name of a process that uses the GPU. Raises NVMLError."""
    return Path(plain_text(pynvml.nvmlSystemGetProcessName(pid))).name


def holders(device: str) -> list[tuple[int, int]]:
    """Return (bytes, pid) of the three programs that hold most of a device's memory."""
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
    """Return the bytes held by each pid that computes or draws on the GPU.

    NVML lists a process that does both twice; it is counted once.
    """
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
    """Return the memory that a segment is estimated to need.

    The plan need not be known: its longest row is assumed to fit into one micro-batch.
    """
    choice = Choice(dtype, micro_tokens, line.quantize, recompute)
    lora = line.lora
    targets = lora.targets if isinstance(lora.targets, str) else tuple(lora.targets)
    shape = base if isinstance(base, Shape) else shape_of_folder(base)
    adapter = AdapterShape(rank=lora.rank, targets=targets, dropout=lora.dropout)
    return estimate_memory(shape, choice, adapter, measured_memory(settings).device)


def shortage(least: Estimate, here: Memory) -> str | None:
    """Return why to wait for memory, naming the need, what is free and who holds it, or None.

    None if there is enough, and also if the device could never hold it: waiting would not help, the
    estimate may be wrong, and training reports it if memory really runs out.
    """
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
