"""Memory as it is: what is free and who holds it, what is needed, and how its end is seen.

Needs no torch: the supervisor asks, too.
"""

import json
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pynvml

from services.trainer import device as dtype
from services.trainer.nvml import first, plain
from services.trainer.settings import TrainerSettings
from shared.memory_estimate import (
    Adapter,
    Choice,
    Dtype,
    Estimate,
    Shape,
    estimate,
    gib,
    shape_of_folder,
)
from shared.protocol.records import LineageSettings

CGROUPS = Path("/sys/fs/cgroup")


def oom_kills() -> int | None:
    """How many processes of this control group the kernel has killed for memory; None if it does
    not say. Only a rise of it tells an out-of-memory kill from any other SIGKILL."""
    for file in cgroup_files("memory.events", "memory.oom_control"):
        for line in file.read_text(encoding="ascii").splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return None


def cgroup_files(second: str, first: str) -> list[Path]:
    """Files of this process's own memory group, by their names in cgroups version 2 and 1.

    A container sees its group as the root; `/proc/self/cgroup` may name it by the host's path.
    """
    found = []
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            found += [CGROUPS / path.lstrip("/") / second, CGROUPS / second]
        elif "memory" in controllers.split(","):
            old = CGROUPS / "memory"
            found += [old / path.lstrip("/") / first, old / first]
    return [file for file in found if file.is_file()]


# ---- what is needed, what is there ---------------------------------------------------------------


@dataclass(frozen=True)
class Memory:
    """Of the device that is trained on, in bytes."""

    device: str  # cuda or cpu
    total: int
    free: int
    limit: int | None = None  # DURAMEN_MEMORY_LIMIT, if that is less than what is free


def measured(settings: TrainerSettings) -> Memory:
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
    kept = dtype.file_in(settings.state_dir)
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
    """Free is what the kernel could give without swapping, and what the group is still allowed."""
    machine = psutil.virtual_memory()
    found_total, free = int(machine.total), int(machine.available)
    limits = cgroup_files("memory.max", "memory.limit_in_bytes")
    usages = cgroup_files("memory.current", "memory.usage_in_bytes")
    for limit, usage in zip(limits, usages, strict=False):
        text = limit.read_text(encoding="ascii").strip()
        if text.isdigit():
            found_total = min(found_total, int(text))
            used = int(usage.read_text(encoding="ascii")) - cached(usage.parent)
            free = min(free, int(text) - used)
    return Memory("cpu", found_total, max(0, free))


def cached(group: Path) -> int:
    """Bytes of files that the kernel would drop before it kills."""
    with suppress(OSError, ValueError):
        for line in (group / "memory.stat").read_text(encoding="ascii").splitlines():
            name, _, size = line.partition(" ")
            if name == "inactive_file":
                return int(size)
    return 0


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
    return Path(plain(pynvml.nvmlSystemGetProcessName(pid))).name


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
    adapter = Adapter(lora.rank, targets, lora.dropout)
    return estimate(shape, choice, adapter, measured(settings).device)


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
