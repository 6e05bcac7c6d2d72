"""Watches the memory of a worker, which no limit of the kernel can bound well.

CUDA and mapped weights reserve address space far above what they use, so a limit of address space
would end honest workers. What counts is what a worker has written into memory of its own.
"""

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path

from shared.memory_estimate import GIB, gib

MEMORY_LOOK_SECONDS = 1.0
Watch = asyncio.Task[str]  # done where it ended the worker: the reason
ROOM = 6 * GIB  # for libraries, a GPU's context, and what the estimate does not know
TIMES_ESTIMATE = 2
TIMES_DATASET = 40  # of a file's bytes: its rows as objects and as tokens
UNKNOWN_NEED = 64 * GIB  # of a base whose files do not say


def most_resident(need: int | None, dataset: Path) -> int:
    """Return how many bytes a worker may hold; `need`: by estimate, None where it is unknown."""
    expected = UNKNOWN_NEED if need is None else TIMES_ESTIMATE * need
    return ROOM + expected + TIMES_DATASET * dataset.stat().st_size


def own_bytes(pid: int) -> int:
    """Return the bytes of a process that are in memory and in no file; 0 if it has ended."""
    with suppress(OSError, ValueError, IndexError):
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
        return (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGE_SIZE")
    return 0


async def watch_memory(pid: int, most: int) -> str:
    """Kill a process that holds more than it may, and return why; never return otherwise."""
    while True:
        held = own_bytes(pid)
        if held > most:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            return (
                f"The worker held {gib(held)} of this machine's memory, where {gib(most)} would be "
                "much already, and was ended. The base's tokenizer or a row may make it grow "
                "without end."
            )
        await asyncio.sleep(MEMORY_LOOK_SECONDS)
