"""The room on the trainer's disk: what a job will need, and what happens once it was full."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shared.backoff import Backoff
from shared.memory_estimate import gib

AFTER_SECONDS = (2.0, 300.0)  # after a full disk; the longest after many in a row
FREED_BYTES = 16 << 20  # once this much more is free than when it was full, it is tried at once


@dataclass
class Disk:
    """Decides whether there is room to train in `folder`, of which `reserve` bytes stay free.

    `full`: the write that found no space, until the next try. A quota is not seen in the free
    space, so a try that fails again puts off the next one for longer.
    """

    folder: Path
    reserve: int
    full: str = ""
    _free_then: int = 0
    _again: Backoff = field(default_factory=lambda: Backoff(*AFTER_SECONDS))

    def failed(self, why: str) -> None:
        """Note that a write found no space: nothing is tried for a while."""
        self.full, self._free_then = why, shutil.disk_usage(self.folder).free
        if self._again.is_over:
            self._again.grow()

    def tries(self) -> None:
        """Note that something is written again."""
        self.full = ""

    def wrote(self) -> None:
        """Note that a worker ended for another reason: its checkpoints found their space."""
        self.full = ""
        self._again.end()

    @property
    def sentence(self) -> str:
        """Why everything waits, after a write that found no space."""
        why = f" ({self.full})" if self.full else ""
        return f"there was no space in {self.folder}{why}; it is tried again: duramen disk"

    def shortage(self, parts: Mapping[str, int], free: int) -> str | None:
        """Return why to wait for space, naming what it is needed for, or None.

        `parts`: the bytes that a job will need, by what takes them. `free`: what there is.
        """
        if not self._again.is_over and free < self._free_then + FREED_BYTES:
            return self.sentence
        needed = sum(parts.values()) + self.reserve
        if free >= needed:
            return None
        shown = ", ".join(f"{name} {gib(size)}" for name, size in parts.items() if size)
        shown = f"{shown}, " if shown else ""
        return (
            f"disk: {gib(needed)} needed in {self.folder} ({shown}{gib(self.reserve)} stay free), "
            f"{gib(free)} free: duramen disk"
        )
