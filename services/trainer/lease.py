"""Leases: say that one lives, and see who does not.

A lease is created and renewed by compare-and-set. Its owner is dead when it is missing, or names
another fence, or has not changed, for `lease_seconds` of the observer's monotonic time on an
unbroken connection.
"""

import asyncio
import fcntl
import os
import socket
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from shared import log
from shared.bus import Bus
from shared.errors import BusUnavailable, Conflict
from shared.manifest import write_synced
from shared.messages import Lease, lease_subject


def lease_name(state_dir: Path) -> str:
    """`trainer.<id>`, the id kept with the checkpoint folder: who holds that folder holds it."""
    path = state_dir / "lease-id"
    if not path.exists():
        write_synced(path, uuid.uuid4().hex[:12].encode())
    return f"trainer.{path.read_text().strip()}"


async def read(bus: Bus, name: str) -> tuple[int, Lease | None]:
    """(sequence, lease) as it stands; (0, None) if there is none, no lease if unreadable."""
    entry = await bus.last("LEASE", lease_subject(name))
    if entry is None:
        return 0, None
    try:
        return entry.sequence, Lease.model_validate_json(entry.data)
    except ValidationError:
        return entry.sequence, None


@dataclass
class Held:
    """This trainer's own lease. Its folder is locked, so whoever wrote it before is gone."""

    bus: Bus
    name: str
    owner: str
    seconds: float
    fence: int | None = None
    _sequence: int = -1

    async def renew(self) -> None:
        """Write it now. Raises Conflict if another process of this name lives."""
        if self._sequence < 0:
            self._sequence, _ = await read(self.bus, self.name)
        lease = Lease(owner=self.owner, host=socket.gethostname(), fence=self.fence)
        try:
            self._sequence = await self.bus.lease(self.name, lease, self._sequence)
        except Conflict:
            self._sequence, found = await read(self.bus, self.name)
            if found is not None and found.owner != self.owner:
                raise

    async def keep(self) -> None:
        """Renew four times a lease's length, for ever; outages are waited out."""
        while True:
            try:
                await self.renew()
            except BusUnavailable as error:
                log.get().warning("lease_not_renewed", error=str(error))
            await asyncio.sleep(self.seconds / 4)


@dataclass
class Watch:
    """What this observer has seen of others' leases: name -> (sequence, fence, since)."""

    bus: Bus
    seconds: float
    seen: dict[str, tuple[int, int, float]] = field(default_factory=dict)

    async def silent_seconds(self, name: str, fence: int) -> float:
        """How long the owner of `fence` has shown no sign of life to this observer."""
        clock = asyncio.get_running_loop().time()
        sequence, lease = await read(self.bus, name)
        if lease is None or lease.fence != fence:
            sequence = 0  # missing or for another fence: nothing that could change
        before = self.seen.get(name)
        since = before[2] if before and before[:2] == (sequence, fence) else clock
        since = max(since, self.bus.unbroken_since)
        self.seen[name] = (sequence, fence, since)
        return max(0.0, clock - since)

    async def is_dead(self, name: str, fence: int) -> bool:
        return await self.silent_seconds(name, fence) >= self.seconds


def lock_folder(path: Path) -> int | None:
    """Take the lock that says "a supervisor lives here"; its descriptor, None if it is taken."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
