"""Is the owner of an open segment alive? Its lease says so, to who watches it long enough."""

import asyncio
from dataclasses import dataclass, field
from typing import Literal

from pydantic import ValidationError

from shared.bus import Bus
from shared.ledger import Segment
from shared.messages import Lease, lease_subject

Sign = Literal["alive", "dead", "unknown"]


@dataclass
class Watch:
    """What this observer has seen: lease -> (its sequence, since when, whether it ever changed)."""

    bus: Bus
    seconds: float
    seen: dict[str, tuple[int, float, bool]] = field(default_factory=dict)

    async def look(self, segment: Segment) -> Sign:
        """Alive: renewed while it was watched. Dead: missing, for another fence, or unchanged, for
        `seconds` of this process's clock on an unbroken connection. Raises BusUnavailable."""
        name, clock = segment.record.lease, asyncio.get_running_loop().time()
        entry = await self.bus.last("LEASE", lease_subject(name))
        sequence = 0
        if entry is not None and names_fence(entry.data, segment.fence):
            sequence = entry.sequence
        key = f"{name} {segment.fence}"
        before = self.seen.get(key)
        if before is None or before[0] != sequence:
            renewed = before is not None and sequence > 0
            self.seen[key] = (sequence, clock, renewed)
            return "alive" if renewed else "unknown"
        since = max(before[1], self.bus.unbroken_since)
        if clock - since >= self.seconds:
            return "dead"
        return "alive" if before[2] else "unknown"


def names_fence(data: bytes, fence: int) -> bool:
    try:
        return Lease.model_validate_json(data).fence == fence
    except ValidationError:
        return False
