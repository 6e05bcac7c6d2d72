"""The loop: scan the inbox, take what is complete, finish it, say what is waited for.

Nothing is remembered that the inbox, the store and the streams do not hold; what was built of a
taken file is kept until the file is finished, so that an outage does not read it again and again.
"""

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from prometheus_client import Gauge

from services.ingest.inbox import sidecar
from services.ingest.inbox.disks import inbox_disks
from services.ingest.inbox.folders import InboxItem, Unread
from services.ingest.inbox.inbox import Inbox, Taken
from services.ingest.inbox.rename import show_name
from services.ingest.inbox.settle import Settling, partial
from services.ingest.ingest import Ingest
from services.ingest.outcome import late_sidecar
from services.ingest.outcome.finish import Finisher
from services.ingest.outcome.plan_report import Planned
from services.ingest.outcome.preview import Previews
from services.ingest.outcome.read_file import Changed, FileReader, PendingFile
from services.ingest.settings import IngestSettings
from shared import log
from shared.answers.ingest import WaitingFile
from shared.bus.client import Bus
from shared.errors import (
    AlreadyExists,
    BusFull,
    BusUnavailable,
    DiskFull,
    ObjectDamaged,
    StoreUnavailable,
)
from shared.ledger.control import Control
from shared.protocol.observed import MOST_SHOWN, InboxFile, InboxWaits, Observed
from shared.service import loop
from shared.service.alarms import service_alarms
from shared.service.observer import Observer
from shared.sidecar_names import is_sidecar, stem_of_sidecar
from shared.store.s3 import Store

WAITING = Gauge("duramen_ingest_waiting_files", "Files in the inbox that are not finished.")
HEARTBEAT_SECONDS = 10.0
COPIES_WHEN_READ = 2  # the file itself, and its rows
ROUND_SECONDS = 2.0  # after this much work, look at the inbox again: a higher level may have come


@dataclass
class Intake:
    """State of one process. `reasons`: why each file that lies in the inbox is not taken yet."""

    settings: IngestSettings
    bus: Bus
    store: Store
    inbox: Inbox
    unfinished_seconds: float = 60.0
    control: Control = field(default_factory=lambda: Control("ingest"))
    held: dict[str, PendingFile] = field(default_factory=dict)
    reasons: list[WaitingFile] = field(default_factory=list)
    sidecars: bool = False  # some lay in the inbox at the last look
    outage: str | None = None
    busy: str | None = None

    def __post_init__(self) -> None:
        self.wake = asyncio.Event()
        self.settling = Settling(self.settings.settle_seconds, self.unfinished_seconds)
        cache = self.settings.state_dir / "row_ids"
        self.ingest = Ingest(self.bus, self.store, self.inbox, cache=cache)
        work_dir = self.settings.state_dir / "work"
        reader = FileReader(self.ingest, work_dir, self.settings.max_row_bytes)
        previews = self.settings.state_dir / "previews"
        self.previews = Previews(self.ingest, previews, self.settings.max_row_bytes)
        self.planned = Planned(self.ingest, work_dir)
        self.finisher = Finisher(self.ingest, self.settling, reader, self.planned)
        self._told: set[Path] = set()
        self.alarms = service_alarms(self.bus, "ingest")
        self.disks = inbox_disks(self.settings)
        quiet = ["ledger", "disks"]
        self.observer = Observer(self.bus, HEARTBEAT_SECONDS, quiet=quiet, slow=["inbox"])
        self._log = log.get()

    async def once(self) -> None:
        """One look at the inbox. Raises BusUnavailable, BusFull, StoreUnavailable."""
        try:
            await self.control.update(self.bus)
            if self.sidecars:
                await self.ingest.table.update(self.bus)
            taken = await asyncio.to_thread(self.scan)
            if self.control.state == "running":
                await self.finish_all(taken)
                await self.planned.once()
            self.outage = None
        except (BusUnavailable, BusFull, StoreUnavailable) as error:
            self.outage = str(error)
            raise
        await self.observe()

    # ---- taking ----------------------------------------------------------------------------------

    def scan(self) -> list[Taken]:
        """Take what is complete, note why the rest is not; all that is taken now. Blocking."""
        held_back = None if self.control.state == "running" else f"ingest is {self.control.state}"
        clock, reasons = time.monotonic(), []
        listing = self.inbox.look()
        entries = listing.entries
        self.sidecars = any(is_sidecar(entry.path.name) for entry in entries)
        for entry in entries:
            why = self.why_not(entry, entries, clock) or held_back or self.take(entry)
            if why is not None:
                reasons.append(self.describe(entry, why))
        taken = self.inbox.taken()
        self.settling.keep_only({e.path for e in entries} | {t.path for t in taken})
        WAITING.set(len(reasons) + len(taken))
        unread = [*listing.unread, *self.inbox.damaged()]
        self.reasons = [*map(self.describe_folder, unread), *reasons]
        for folder in unread:
            if folder.path not in self._told:
                self._told.add(folder.path)
                self._log.warning("folder_left", path=show_name(str(folder.path)), why=folder.why)
        return taken

    def why_not(self, entry: InboxItem, entries: list[InboxItem], clock: float) -> str | None:
        if (why := partial(entry.path.name)) is not None:
            return why
        if is_sidecar(entry.path.name):
            return self.why_not_sidecar(entry, entries, clock)
        return self.settling.why_not(entry.path, entry.status, clock)

    def why_not_sidecar(
        self, entry: InboxItem, entries: list[InboxItem], clock: float
    ) -> str | None:
        """A sidecar is taken by its data file, or alone if that is a job already."""
        name, place = entry.path.name, entry.place
        why = self.settling.growing(entry.path, entry.status, clock)
        if why is not None:
            return why
        with_it = [e.path.name for e in entries if e.place == place]
        folder = str(place.path.relative_to(self.inbox.root))
        with_it += [t.origin.name for t in self.inbox.taken() if t.origin.folder == folder]
        data = next((other for other in with_it if sidecar.belongs(name, other)), None)
        if data is not None:
            return f"it is the sidecar of {show_name(data)}"
        table = self.ingest.table
        job = late_sidecar.job_of(table, place.lineage, name)
        if job is None:
            return orphan(name, with_it)
        if (table.projection(job) or job.record.state) == "queued":
            return None
        return self.settling.waiting(entry.path, clock, f"job {job.id} is no longer queued")

    def take(self, entry: InboxItem) -> str | None:
        """Take an entry; why not, if it cannot be taken."""
        if (why := self.disks.shortage("inbox", 0)) is not None:
            self.say_full(why)
            return why
        self._told.discard(self.inbox.root)
        try:
            taken = self.inbox.take(entry)
        except OSError as error:
            return f"it cannot be moved: {error.strerror}"
        if taken is not None:
            self.settling.move(entry.path, taken.path)
        return None

    def say_full(self, why: str) -> None:
        """Log that a disk is full, once until it is not."""
        if self.inbox.root not in self._told:
            self._told.add(self.inbox.root)
            self._log.warning("disk_full", why=why)

    def describe(self, entry: InboxItem, why: str) -> WaitingFile:
        """Return a waiting file for people."""
        where = entry.path.relative_to(self.inbox.root)
        place = entry.place
        return WaitingFile(
            file=show_name(str(where)),
            level=place.level,
            lineage=place.lineage,
            kind=place.kind,
            size=entry.status.st_size,
            why=why,
        )

    def describe_folder(self, folder: Unread) -> WaitingFile:
        """A folder that is not read. It is not moved: files may still be copied into it."""
        where = show_name(str(folder.path.relative_to(self.inbox.root)))
        return WaitingFile(file=f"{where}/", why=folder.why)

    # ---- finishing -------------------------------------------------------------------------------

    async def finish_all(self, taken: list[Taken]) -> None:
        """Bring taken files to their end, for a while: a file of a higher level may have come."""
        end = time.monotonic() + ROUND_SECONDS
        for one in taken:
            await self.try_finish(one)
            if time.monotonic() > end:
                self.wake.set()
                return

    async def try_finish(self, taken: Taken) -> None:
        """Bring one taken file to its end, or note why that has to wait."""
        held = self.held.setdefault(taken.origin.id, PendingFile(show_name(taken.origin.name)))
        if not held.delay.is_over:
            return
        if held.why is None:
            self.busy = held.name
            await self.observe()
        try:
            self.refuse_full(taken, held)
            held.why = await self.finisher.finish(taken, held)
        except Changed:
            self.settling.restart(taken.path)
            self.held[taken.origin.id] = PendingFile(held.name, why="it was still being written")
        except (StoreUnavailable, ObjectDamaged, AlreadyExists, DiskFull, OSError) as error:
            await self.put_off(held, error)
        finally:
            self.busy = None
        if held.done:
            self.alarms.clear("not_stored", held.name)
            del self.held[taken.origin.id]

    def refuse_full(self, taken: Taken, held: PendingFile) -> None:
        """Raise DiskFull if a file that is not read yet has no room for its copy and its rows."""
        size = 0 if held.built else COPIES_WHEN_READ * taken.path.lstat().st_size
        if size and (why := self.disks.shortage("ingest", size)) is not None:
            raise DiskFull(why)

    async def put_off(self, held: PendingFile, error: Exception) -> None:
        """The store is away, or a disk is full: the file stays where it is, and is tried again."""
        held.why = str(error)
        held.delay.grow()
        seconds = held.delay.seconds
        self._log.warning("waiting", name=held.name, why=held.why, retry_seconds=seconds)
        if isinstance(error, ObjectDamaged | AlreadyExists):
            await self.alarms.sound("not_stored", held.name, held.why)

    # ---- telling ---------------------------------------------------------------------------------

    def reason(self) -> str | None:
        """Return the first few reasons why ingest waits, or None."""
        stuck = [f"{held.name}: {held.why}" for held in self.held.values() if held.why]
        return "; ".join([*([self.outage] if self.outage else []), *stuck][:3])[:2000] or None

    def inbox_waits(self) -> InboxWaits | None:
        """Return what waits in the inbox and why, the first few; None if nothing does."""
        held = [InboxFile(file=h.name, why=h.why) for h in self.held.values() if h.why]
        files = [InboxFile(file=each.file, why=each.why) for each in self.reasons]
        found = [*held, *files]
        return InboxWaits(count=len(found), files=found[:MOST_SHOWN]) if found else None

    async def observe(self) -> None:
        """Say what ingest is: at once when it changed, else every 10 s."""
        state: Literal["idle", "waiting", "running", "paused", "stopped"]
        if self.control.state != "running":
            state = self.control.state
        else:
            state = "running" if self.busy else "waiting" if self.reason() else "idle"
        why = self.reason() or self.busy
        view = Observed(
            service="ingest",
            instance="ingest",
            state=state,
            generation=self.control.generation,
            waiting={"*": why} if why else {},
            ledger=self.ingest.table.seen,
            inbox=self.inbox_waits(),
            disks=self.disks.seen,
        )
        await self.observer.show(view)

    async def heartbeat(self) -> None:
        """Observe also while a long file is read."""
        await loop.heartbeat(self.observe, HEARTBEAT_SECONDS)


def orphan(name: str, others: list[str]) -> str:
    """Return why a sidecar without a data file waits, naming a file whose name is nearly right."""
    near = next((other for other in others if sidecar.differs_in_case(name, other)), None)
    if near is not None:
        return f"it differs from {show_name(near)} in upper and lower case: give both one name"
    stem = show_name(stem_of_sidecar(name))
    return f"it is a sidecar, and waits for its data file, such as {stem}.jsonl"
