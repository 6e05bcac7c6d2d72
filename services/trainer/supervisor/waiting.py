"""The reasons why lineages wait, as they are shown, and the check for a worker's memory."""

import asyncio
from dataclasses import dataclass, field, replace

from services.trainer import memory
from services.trainer.settings import TrainerSettings
from services.trainer.supervisor.local_files import Local
from shared.memory_estimate import Shape


@dataclass
class Waiting:
    """The reasons why lineages cannot train now, and the heads that cannot be resumed from.

    `reasons`: by lineage. `unusable`: by the id of a head's checkpoint.
    """

    reasons: dict[str, str] = field(default_factory=dict)
    unusable: dict[str, str] = field(default_factory=dict)

    def note(self, lineage: str, why: str | None) -> None:
        """Note why a lineage waits, or, with None, that it does not."""
        if why is None:
            self.reasons.pop(lineage, None)
        else:
            self.reasons[lineage] = why

    def forget(self) -> None:
        """Forget all reasons, before they are determined again."""
        self.reasons.clear()

    def give_up(self, checkpoint: str, why: str) -> None:
        """Note that training cannot resume from this head."""
        self.unusable[checkpoint] = why


@dataclass
class MemoryCheck:
    """The facts that decide whether a worker fits into memory.

    `shapes`: by root of the base. `free_before`: bytes that were free before the worker started.
    """

    settings: TrainerSettings
    local: Local
    shapes: dict[str, Shape] = field(default_factory=dict)
    free_before: int = 0

    async def shape(self, root: str) -> Shape:
        """Return a base's shape, read once. Raises UsageError, StoreUnavailable, ObjectMissing."""
        if root not in self.shapes:
            self.shapes[root] = await asyncio.to_thread(self.local.shape, root)
        return self.shapes[root]

    def worker_comes(self) -> None:
        """Note how much memory is free before a worker takes its share."""
        self.free_before = memory.measured_memory(self.settings).free

    def here(self, *, is_training: bool) -> memory.Memory:
        """Return this machine's memory; with a worker running, what it holds counts as free.

        That memory is free again once the worker is preempted.
        """
        found = memory.measured_memory(self.settings)
        return replace(found, free=max(found.free, self.free_before)) if is_training else found
