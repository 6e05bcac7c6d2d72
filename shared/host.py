"""The machine that this runs on, and the memory control group of this process."""

import platform
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


def cpu_name() -> str:
    """Return the model of the CPU if Linux gives it, or else its architecture."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.machine()


class MachineMemory(NamedTuple):
    """The bytes that this process may use in all, and those that are free."""

    total: int
    free: int


def machine_memory() -> MachineMemory:
    """Return the memory that the kernel could give without swapping, within group limits."""
    machine = psutil.virtual_memory()
    total, free = int(machine.total), int(machine.available)
    limits = cgroup_files("memory.max", "memory.limit_in_bytes")
    usages = cgroup_files("memory.current", "memory.usage_in_bytes")
    for limit, usage in zip(limits, usages, strict=False):
        text = limit.read_text(encoding="ascii").strip()
        if text.isdigit():
            total = min(total, int(text))
            used = int(usage.read_text(encoding="ascii")) - cached(usage.parent)
            free = min(free, int(text) - used)
    return MachineMemory(total, max(0, free))


def cached(group: Path) -> int:
    """Return the bytes of cached files that the kernel would drop before it kills a process."""
    with suppress(OSError, ValueError):
        for line in (group / "memory.stat").read_text(encoding="ascii").splitlines():
            name, _, size = line.partition(" ")
            if name == "inactive_file":
                return int(size)
    return 0


def oom_kills() -> int | None:
    """Return how many processes of this group the kernel has killed for lack of memory.

    None if that is unknown. Only a rise of the number distinguishes an out-of-memory kill from any
    other SIGKILL.
    """
    for file in cgroup_files("memory.events", "memory.oom_control"):
        for line in file.read_text(encoding="ascii").splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return None


def cgroup_files(second: str, first: str) -> list[Path]:
    """Return the files of this process's memory group, by their names in cgroups 2 and 1.

    A container sees its group as the root; `/proc/self/cgroup` may name it by the host's path.
    """
    found = []
    for line in OWN_GROUPS.read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            found += [CGROUPS / path.lstrip("/") / second, CGROUPS / second]
        elif "memory" in controllers.split(","):
            old = CGROUPS / "memory"
            found += [old / path.lstrip("/") / first, old / first]
    return [file for file in found if file.is_file()]
