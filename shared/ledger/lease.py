"""Leases: which owners are alive, as far as an observer can tell.

A lease is created and renewed by compare-and-set, and names the fence that its owner works under.
An owner is dead when, for `seconds` of the observer's monotonic time on an unbroken connection, its
lease has been missing, has named another fence, or has not changed.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from pydantic import ValidationError

from shared.bus.client import Bus
from shared.protocol.names import lease_subject
from shared.protocol.observed import Lease

Sign = Literal["alive", "dead", "unknown"]


async def read_lease(bus: Bus, name: str) -> tuple[int, Lease | None]:
    """Return (sequence, lease), or (0, None) if there is none.

    A lease that cannot be read is None, with its sequence.
    """
    entry = await bus.last("LEASE", lease_subject(name))
    if entry is None:
        return 0, None
    try:
        return entry.sequence, Lease.model_validate_json(entry.data)
    except ValidationError:
        return entry.sequence, None


async def lease_age(bus: Bus, name: str) -> float | None:
    """Return how many seconds ago a lease was renewed, by the clock of the bus; None without one.

    Only that clock is asked: those of the owner's host and of this one may be wrong.
    """
    entry = await bus.last("LEASE", lease_subject(name))
    if entry is None or entry.stored is None:
        return None
    return (await bus.clock() - entry.stored).total_seconds()


class Sight(NamedTuple):
    """A lease as it was last seen to change. `renewed`: it changed while it was watched."""

    sequence: int
    since: float
    renewed: bool


@dataclass
class LeaseWatch:
    """The leases of others as this observer has seen them: (name, fence) -> Sight."""

    bus: Bus
    seconds: float
    seen: dict[tuple[str, int], Sight] = field(default_factory=dict)

    async def silent_seconds(self, name: str, fence: int) -> float:
        """Return how long the owner of `fence` has shown this observer no sign of life."""
        return self._silence(await self._see(name, fence))

    async def is_dead(self, name: str, fence: int) -> bool:
        return await self.silent_seconds(name, fence) >= self.seconds

    async def look(self, name: str, fence: int) -> Sign:
        """Return whether the owner of `fence` is alive, dead or unknown.

        Alive: the lease was renewed while it was watched. Unknown: it has not been watched for long
        enough yet.
        """
        sight = await self._see(name, fence)
        if self._silence(sight) >= self.seconds:
            return "dead"
        return "alive" if sight.renewed else "unknown"

    async def _see(self, name: str, fence: int) -> Sight:
        sequence, lease = await read_lease(self.bus, name)
        if lease is None or lease.fence != fence:
            sequence = 0  # missing or for another fence: nothing that could change
        before = self.seen.get((name, fence))
        if before is None or before.sequence != sequence:
            renewed = before is not None and sequence > 0
            clock = asyncio.get_running_loop().time()
            self.seen[name, fence] = Sight(sequence, clock, renewed)
        return self.seen[name, fence]

    def _silence(self, sight: Sight) -> float:
        since = max(sight.since, self.bus.unbroken_since)
        return max(0.0, asyncio.get_running_loop().time() - since)
