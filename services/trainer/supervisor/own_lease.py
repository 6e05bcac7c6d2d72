"""This trainer's lease and the lock on its folder: it is alive, and it is the only one there."""

import asyncio
import fcntl
import os
import re
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path

from shared import log
from shared.bus.client import Bus
from shared.errors import BusUnavailable, Conflict
from shared.files import write_synced
from shared.foreign.state_file import kept_as
from shared.ledger.lease import read_lease
from shared.protocol.observed import Lease


def lease_name(state_dir: Path) -> str:
    """Return `trainer.<id>`; the id is kept in the checkpoint folder, whose owner has the lease."""
    path = state_dir / "lease-id"
    known = kept_as(path, lease_id, "")
    if not known:
        known = uuid.uuid4().hex[:12]
        write_synced(path, known.encode())
    return f"trainer.{known}"


def lease_id(data: bytes) -> str:
    """Return the id in a file. Raises ValueError for what cannot be a part of a subject."""
    text = data.decode().strip()
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text):
        raise ValueError("it is not an id")
    return text


@dataclass
class OwnLease:
    """The lease that says that this trainer is alive.

    The trainer's folder is locked, so any process that wrote the lease before has ended.
    """

    bus: Bus
    name: str
    owner: str
    seconds: float
    fence: int | None = None
    _sequence: int = -1

    async def renew(self) -> None:
        """Write the lease now. Raises Conflict if another process of this name is alive."""
        if self._sequence < 0:
            self._sequence, _ = await read_lease(self.bus, self.name)
        lease = Lease(owner=self.owner, host=socket.gethostname(), fence=self.fence)
        try:
            self._sequence = await self.bus.lease(self.name, lease, self._sequence)
        except Conflict:
            self._sequence, found = await read_lease(self.bus, self.name)
            if found is not None and found.owner != self.owner:
                raise

    async def keep(self) -> None:
        """Renew the lease every quarter of its length, without end; outages are waited out."""
        while True:
            try:
                await self.renew()
            except BusUnavailable as error:
                log.get().warning("lease_not_renewed", error=str(error))
            await asyncio.sleep(self.seconds / 4)


def lock_folder(path: Path) -> int | None:
    """Take the lock of a supervisor's folder; return its descriptor, or None if it is taken."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
