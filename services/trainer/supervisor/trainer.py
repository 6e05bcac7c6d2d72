"""What one trainer holds while it lives; the other rooms act on it."""

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client import Gauge

from services.trainer.settings import TrainerSettings
from services.trainer.supervisor.claim import Owner
from services.trainer.supervisor.local_files import Local
from services.trainer.supervisor.own_lease import Held
from services.trainer.supervisor.store_outage import Outage
from services.trainer.supervisor.worker_run import End, Training
from shared import log
from shared.bus.client import Bus
from shared.errors import BusUnavailable
from shared.ledger.control import Control, answered_through
from shared.ledger.invalid import VoidTeller
from shared.ledger.jobs import Table
from shared.ledger.lease import Watch
from shared.ledger.lineage import Segment
from shared.memory_estimate import Shape
from shared.protocol.control import Once
from shared.protocol.events import Event, EventData
from shared.protocol.names import LEVELS
from shared.service.loop import instance
from shared.service.observer import Observer

QUEUE = Gauge("duramen_queue_jobs", "Queued jobs, by level.", ["level"])
DESIRED = Gauge("duramen_train_desired_running", "1 unless the trainer is paused or stopped.")
BEAT_SECONDS = 5.0


@dataclass
class Wish:
    """Why a running worker is asked to end, and the one-time command behind it, if any."""

    why: str  # pause, stop, skip, preempt, lost
    once: tuple[int, Once] | None = None
    since: float = field(default_factory=time.monotonic)


@dataclass
class Ended:
    """How the worker of the held segment ended, and the wish behind it. `hindered`: what that asks
    for was tried, and needs a store that is away."""

    end: End
    wish: Wish | None
    hindered: bool = False


@dataclass
class Trainer:
    """The streams as folded, the segment that is held (at most one), and who trains it.

    `waiting`: lineage -> why it cannot train. `spoilt`: id of a head's checkpoint that cannot be
    used -> why. `ended`: what a worker's end still asks for. `unstored`: the checkpoint that the
    held segment goes on from, if only this disk has it.
    """

    settings: TrainerSettings
    bus: Bus
    local: Local
    dtype: str
    lease: Held
    table: Table = field(default_factory=Table)
    control: Control = field(default_factory=lambda: Control("trainer"))
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    held: Segment | None = None
    training: Training | None = None
    waiting: dict[str, str] = field(default_factory=dict)
    spoilt: dict[str, str] = field(default_factory=dict)
    ended: Ended | None = None
    unstored: Path | None = None
    outage: Outage = field(default_factory=Outage)
    shapes: dict[str, Shape] = field(default_factory=dict)  # of bases, by root
    free_before: int = 0  # bytes of memory, before the worker came
    once_through: int = -1

    def __post_init__(self) -> None:
        self.by = instance("trainer")
        self.watch = Watch(self.bus, self.settings.lease_seconds)
        self.outage.limit_seconds = self.settings.store_away_seconds
        self.observer = Observer(self.bus, BEAT_SECONDS, slow=["progress"])
        # Of its own commands; the vault tells the rest.
        told = self.settings.state_dir / "voids-told"
        self.voids = VoidTeller(self.bus, "trainer", "CTL", told)

    @property
    def instance(self) -> str:
        """The id of its lease, which stays with its folder."""
        return self.lease.name.removeprefix("trainer.")

    @property
    def owner(self) -> Owner:
        """How a record says who claims."""
        return Owner(self.by, self.lease.name, self.dtype, self.settings.micro_batch_tokens)

    def is_mine(self, segment: Segment) -> bool:
        line = self.table.lines[segment.job.lineage]
        return line.open_segment is not None and line.open_segment.fence == segment.fence

    def release(self) -> None:
        """Hold nothing any more."""
        self.held, self.lease.fence = None, None
        self.ended, self.unstored = None, None

    async def refresh(self) -> None:
        """Fold what is new on the bus."""
        await self.table.update(self.bus)
        await self.control.update(self.bus)
        if self.once_through < 0:
            self.once_through = await answered_through(self.bus, "trainer", self.instance)
        for level in LEVELS:
            queued = [j for j in self.table.queue() if j.record.level == level]
            QUEUE.labels(level).set(len(queued))
        DESIRED.set(self.control.state == "running")
        await self.voids.tell(self.control.voids)

    async def tell(
        self, data: EventData, lineage: str | None = None, of: Segment | None = None
    ) -> None:
        segment = of or self.held
        job = segment.job.path if segment else None
        lineage = lineage or (segment.job.lineage if segment else None)
        event = Event.of("trainer", data, lineage=lineage, job=job)
        try:
            await self.bus.event(event)
        except BusUnavailable as error:
            log.get().warning("event_not_sent", kind=data.kind, error=str(error))
