"""The state of one trainer while it runs; the other modules act on it."""

import asyncio
from dataclasses import dataclass, field

from prometheus_client import Gauge

from services.trainer.settings import TrainerSettings
from services.trainer.supervisor.claim import Owner
from services.trainer.supervisor.disk import Disk
from services.trainer.supervisor.held import HeldSegment
from services.trainer.supervisor.local_files import Local
from services.trainer.supervisor.orders import Orders
from services.trainer.supervisor.store_outage import Outage
from services.trainer.supervisor.waiting import MemoryCheck, Waiting
from shared import log
from shared.bus.client import Bus
from shared.errors import BusUnavailable
from shared.ledger.jobs import Table
from shared.ledger.lease import LeaseWatch
from shared.ledger.lineage import Segment
from shared.protocol.events import Event, EventData
from shared.protocol.names import LEVELS
from shared.service.alarms import Alarms
from shared.service.disks import Disks, MeasuredDisk
from shared.service.loop import instance
from shared.service.observer import Observer

QUEUE = Gauge("duramen_queue_jobs", "Queued jobs, by level.", ["level"])
DESIRED = Gauge("duramen_train_desired_running", "1 unless the trainer is paused or stopped.")
BEAT_SECONDS = 5.0


@dataclass
class Trainer:
    """The parts of one trainer: the streams as read so far, and the owner of each part of state."""

    settings: TrainerSettings
    bus: Bus
    local: Local
    dtype: str
    held: HeldSegment
    table: Table = field(default_factory=Table)
    waiting: Waiting = field(default_factory=Waiting)
    outage: Outage = field(init=False)
    disk: Disk = field(init=False)
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.by = instance("trainer")
        self.orders = Orders(self.bus, self.instance, self.settings.state_dir)
        self.memory = MemoryCheck(self.settings, self.local)
        self.watch = LeaseWatch(self.bus, self.settings.lease_seconds)
        self.alarms = Alarms(self.tell)
        self.outage = Outage(self.settings.store_away_seconds, self.alarms)
        folder, reserve = self.settings.state_dir, self.settings.disk_reserve_bytes
        self.disk = Disk(folder, reserve)
        here = MeasuredDisk("trainer", folder, "state", self.local.uses, {"fetched files": 0})
        self.disks = Disks(reserve, here)
        self.observer = Observer(self.bus, BEAT_SECONDS, quiet=["disks"], slow=["progress"])

    @property
    def instance(self) -> str:
        """The id of the trainer's lease, which stays with its folder."""
        return self.held.lease.name.removeprefix("trainer.")

    @property
    def owner(self) -> Owner:
        """The trainer as the records of a claim name it."""
        return Owner(self.by, self.held.lease.name, self.dtype, self.settings.micro_batch_tokens)

    def is_mine(self, segment: Segment) -> bool:
        """Return whether the segment is still open under the fence that this trainer holds."""
        line = self.table.lines[segment.job.lineage]
        return line.open_segment is not None and line.open_segment.fence == segment.fence

    async def refresh(self) -> None:
        """Read what is new on the bus, and set the metrics of queue and desired state."""
        await self.table.update(self.bus)
        await self.orders.refresh()
        for level in LEVELS:
            queued = [j for j in self.table.queue() if j.record.level == level]
            QUEUE.labels(level).set(len(queued))
        DESIRED.set(self.orders.state == "running")

    async def tell(
        self, data: EventData, lineage: str | None = None, of: Segment | None = None
    ) -> None:
        """Send an event about the segment `of`, or else the held one; an outage is only logged."""
        segment = of or self.held.segment
        job = segment.job.path if segment else None
        lineage = lineage or (segment.job.lineage if segment else None)
        event = Event.of("trainer", data, lineage=lineage, job=job)
        try:
            await self.bus.event(event)
        except BusUnavailable as error:
            log.get().warning("event_not_sent", kind=data.kind, error=str(error))
