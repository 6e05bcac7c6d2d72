"""Memory as it is: what an out-of-memory error looks like, and how the kernel says it killed.

Needs no torch: the supervisor asks, too.
"""

from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
FLOOR_TOKENS = 64  # smaller micro-batches are not tried: the weights fill the memory, not these
SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc")


def is_out_of_memory(error: BaseException) -> bool:
    """torch.OutOfMemoryError, and what the allocators of a CPU raise instead."""
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in SIGNS)


def smaller(micro_tokens: int) -> int | None:
    """The micro-batch to try after memory ran out; None at the floor."""
    half = micro_tokens // 2
    return half if half >= FLOOR_TOKENS else None


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
