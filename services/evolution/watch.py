"""The one loop of evolution: fold the ledgers, read new snapshots, count life lines, report."""

import asyncio

from prometheus_client import Gauge

from services.evolution.api_answers import Answers
from services.evolution.cache import Cache
from services.evolution.lifelines import STATES
from services.evolution.snapshot_reader import Reader
from shared import log
from shared.bus.client import Bus
from shared.errors import BusUnavailable, DiskFull, StoreUnavailable
from shared.files import folder_bytes
from shared.ledger.jobs import Table
from shared.protocol.events import Event, SnapshotStored, parse_event
from shared.protocol.message import ObjectRef
from shared.protocol.names import SPLITS
from shared.protocol.observed import Observed
from shared.service import loop
from shared.service.alarms import service_alarms
from shared.service.disks import Disks, MeasuredDisk
from shared.service.observer import Observer

LIFE_LINES = Gauge("duramen_life_lines", "Probes by their state.", ["split", "state"])
SNAPSHOTS = Gauge("duramen_snapshots_counted", "Snapshots that example histories are made of.")
OBSERVE_SECONDS = 10.0
FIRST_SECONDS = 10.0
EVENT_MARK = "EVT"


class SnapshotWatch:
    """The loop that keeps `answers` up to date."""

    def __init__(self, bus: Bus, reader: Reader, cache: Cache, reserve: int = 0) -> None:
        self.bus, self.reader, self.cache = bus, reader, cache
        self.table = Table()
        self.wake = asyncio.Event()
        self._answers: Answers | None = None
        self._ready = asyncio.Event()
        self._waiting: str | None = None
        self.alarms = service_alarms(bus, "evolution")
        folder = cache.path.parent
        uses = lambda: {"cache": folder_bytes(folder)}  # noqa: E731
        self.disks = Disks(reserve, MeasuredDisk("evolution", folder, "state", uses, {"cache": 0}))
        self.observer = Observer(bus, OBSERVE_SECONDS, quiet=["disks"])
        self._log = log.get()

    async def answers(self) -> Answers:
        """Return the newest view. Raises StoreUnavailable if nothing was read since the start."""
        try:
            await asyncio.wait_for(self._ready.wait(), FIRST_SECONDS)
        except TimeoutError as error:
            raise StoreUnavailable(
                "The snapshots have not been read yet. Try again in a moment."
            ) from error
        assert self._answers is not None
        return self._answers

    async def once(self) -> None:
        """Make one round. Raises BusUnavailable, StoreUnavailable, DiskFull."""
        try:
            self.refuse_full()
            ledger_moved = await self.table.update(self.bus)
            await self.read_events()
            read = await asyncio.to_thread(self.reader.read_new, self.results())
        except (BusUnavailable, StoreUnavailable, DiskFull) as error:
            self._waiting = str(error)
            raise
        self._waiting = None
        if read or ledger_moved or self._answers is None:
            answers = await asyncio.to_thread(Answers.now, self.cache, self.table)
            if self._answers is None or answers.counted != self._answers.counted:
                await asyncio.to_thread(self.count, answers)
            self._answers = answers
        self._ready.set()
        await self.observe(only_changes=True)

    def refuse_full(self) -> None:
        """Raise DiskFull if the cache has no room to grow: nothing is read until there is some."""
        if (why := self.disks.shortage("evolution", 0)) is not None:
            raise DiskFull(why)

    async def read_events(self) -> None:
        """Note the hashes that `snapshot` events name.

        A snapshot whose event is lost is found by listing.
        """
        mark = self.cache.mark(EVENT_MARK)
        _, last = await self.bus.bounds("EVT")
        if last < mark:  # another bus: its sequences mean nothing to the old mark
            mark = 0
        async for entry in self.bus.read("EVT", mark, "evt.trainer.snapshot"):
            try:
                event = Event.model_validate_json(entry.data)
            except ValueError:
                self._log.warning("event_unreadable", sequence=entry.sequence)
                continue
            is_known = isinstance(parse_event(event), SnapshotStored)
            if event.ref is not None and is_known and not entry.copied:
                await asyncio.to_thread(
                    self.cache.name_hash, event.ref.key, event.ref.sha256, by_result=False
                )
        self.cache.set_mark(EVENT_MARK, last)

    def results(self) -> list[ObjectRef]:
        """Return the references to the result.json of every close."""
        return [
            segment.closed.result
            for line in self.table.lines.values()
            for segment in line.segments.values()
            if segment.closed is not None and segment.closed.result is not None
        ]

    def count(self, answers: Answers) -> None:
        """Set the metrics of a new view."""
        self.cache.forget_cells(but=answers.counted)
        tally = answers.states()
        for split in SPLITS:
            for state in STATES:
                LIFE_LINES.labels(split, state).set(tally[split, state])
        SNAPSHOTS.set(len(answers.counted))

    # ---- saying so -------------------------------------------------------------------------------

    async def observe(self, *, only_changes: bool = False) -> None:
        state = "waiting" if self._waiting else "idle" if self._ready.is_set() else "starting"
        view = Observed(
            service="evolution",
            instance="evolution",
            state=state,
            waiting={"*": self._waiting} if self._waiting else {},
            ledger=self.table.seen,
            disks=self.disks.seen,
        )
        await self.observer.show(view, always=not only_changes)

    async def heartbeat(self) -> None:
        """Report the state every 10 s, whatever else happens."""
        await loop.heartbeat(self.observe, OBSERVE_SECONDS)
