"""What lineages wait for: the reasons that are shown, and the memory that a worker would need."""

import asyncio
from dataclasses import dataclass, field, replace

from services.trainer import memory
from services.trainer.settings import TrainerSettings
from services.trainer.supervisor.local_files import Local
from shared.memory_estimate import Shape


@dataclass
class Waiting:
    """Why lineages cannot train now, and the heads that nobody can go on from.

    `reasons` by lineage. `unusable`: by the id of a head's checkpoint.
    """

    reasons: dict[str, str] = field(default_factory=dict)
    unusable: dict[str, str] = field(default_factory=dict)

    def note(self, lineage: str, why: str | None) -> None:
        """Note why a lineage waits; None: it does not."""
        if why is None:
            self.reasons.pop(lineage, None)
        else:
            self.reasons[lineage] = why

    def forget(self) -> None:
        """Forget all reasons, since they are asked for anew."""
        self.reasons.clear()

    def give_up(self, checkpoint: str, why: str) -> None:
        """Note that nobody can go on from this head."""
        self.unusable[checkpoint] = why


@dataclass
class MemoryCheck:
    """What is known of bases, and of this machine while a worker runs on it.

    `shapes` by root of the base. `free_before`: bytes, before the worker came.
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
        """Note what is free before a worker takes its part."""
        self.free_before = memory.measured_memory(self.settings).free

    def here(self, *, is_training: bool) -> memory.Memory:
        """Return what there is; what a worker holds is free again once it is preempted."""
        found = memory.measured_memory(self.settings)
        return replace(found, free=max(found.free, self.free_before)) if is_training else found
