"""The recovery of a bus: what would come back, what would not, and then the doing of it."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from infra.secrets.secrets import Secrets
from infra.servers.recovery.rebuild import administrator, rebuild
from infra.servers.recovery.source import (
    ExportSource,
    committed_after,
    longest,
    read_source,
)
from shared.bus.client import Bus
from shared.bus.entry import Entry
from shared.bus.marks import Marks
from shared.bus.skipped import UNFINISHED
from shared.errors import DuramenError
from shared.files import write_synced
from shared.formats.bus_export import EXPORTED_STREAMS, ExportMark, export_mark
from shared.protocol.events import Event
from shared.store.place import ReadPlace


@dataclass
class RecoveryPlan:
    """What a recovery will do. `streams`: first sequences of those to be made again."""

    source: ExportSource
    streams: dict[str, int] = field(default_factory=dict)
    present: list[Entry] = field(default_factory=list)
    above: dict[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        """Return what is to be said before it is done."""
        source = self.source
        until = source.until.isoformat(timespec="seconds") if source.until else "the beginning"
        said = [
            f"from the {source.place.name}: {len(source.sha256s)} files, and the newest records"
        ]
        if source.tail is None:
            said = [f"from the {source.place.name}: {len(source.sha256s)} files"]
        for stream in self.streams:
            count, mark = source.counts.get(stream, 0), source.marks[stream]
            said.append(f"{stream}: {count} records come back, up to number {mark.last}")
        said.append(f"what came after {until} is not in it:")
        said += [f"  {line}" for line in self.lost or ["nothing of it is known"]]
        return said


class Recovery:
    """The recovery of one bus. `marks`: folders in which clients remember what they saw."""

    def __init__(self, url: str, secrets: Secrets, marks: Iterable[Path] = ()) -> None:
        self._url, self._seed, self._marks = url, str(secrets.seed_file("admin")), list(marks)

    def _bus(self) -> Bus:
        return Bus(self._url, self._seed, "admin")

    async def plan(self, places: list[ReadPlace]) -> RecoveryPlan | None:
        """Return what is to be done; None: the bus holds all that was exported.

        Raises NotRecoverable, StoreUnavailable, BusUnavailable.
        """
        sources, away = [], []
        for place in places:
            try:
                sources.append(read_source(place))
            except DuramenError as error:
                away.append(f"the {place.name} could not be read: {error.said}")
        source = longest(sources)
        plan = RecoveryPlan(source)
        async with self._bus() as bus:
            for stream in EXPORTED_STREAMS:
                mark = source.marks.get(stream)
                if mark is not None and not await self._holds(bus, stream, mark):
                    plan.streams[stream] = source.starts.get(stream, mark.last + 1)
                    plan.above[stream] = mark.last
                    plan.present += [entry async for entry in bus.read(stream)]
        if not plan.streams:
            return None
        self._note_lost(plan, away)
        for other in sources:
            self._note_commits(plan, other.place)
        return plan

    async def _holds(self, bus: Bus, stream: str, mark: ExportMark) -> bool:
        """Return whether a stream is whole and holds the last record that was exported of it."""
        async with administrator(self._url, self._seed) as connection:
            config = (await connection.jetstream().stream_info(stream)).config
        if UNFINISHED in (config.metadata or {}):
            return False
        first, _ = await bus.bounds(stream)
        entry = await bus.get(stream, mark.last)
        if entry is None:
            return first > mark.last or await bus.is_skipped(stream, mark.last)
        return export_mark(entry.sequence, entry.subject, entry.data) == mark

    def _note_lost(self, plan: RecoveryPlan, away: list[str]) -> None:
        plan.lost += away
        if plan.source.broken:
            plan.lost.append(f"{plan.source.broken}; what came from there on is left out")
        for folder in self._marks:
            for stream, (sequence, _) in Marks(folder / "marks.json").marks.items():
                if stream in plan.streams and sequence > plan.source.marks[stream].last:
                    plan.above[stream] = max(plan.above[stream], sequence)
                    plan.lost.append(f"{folder.name} had record {sequence} of {stream} confirmed")
        beyond = [e for e in plan.present if e.sequence > plan.source.marks[e.stream].last]
        for stream in plan.streams:
            mine = [entry for entry in plan.present if entry.stream == stream]
            if mine:
                plan.above[stream] = max(plan.above[stream], mine[-1].sequence)
        if plan.present:
            plan.lost.append(
                f"the bus of today has {len(plan.present)} records of these streams, {len(beyond)} "
                "with later numbers: all of them are put into a file, and do not count any more"
            )

    def _note_commits(self, plan: RecoveryPlan, place: ReadPlace) -> None:
        if "JOBS" not in plan.streams:
            return
        for key, sequence in committed_after(place, plan.source.marks["JOBS"].last).items():
            plan.above["JOBS"] = max(plan.above["JOBS"], sequence)
            plan.lost.append(f"{place.name} has {key}, which the ledger does not know")

    async def carry_out(self, plan: RecoveryPlan, kept: Path) -> None:
        """Keep the bus of today in the file `kept`, then make the streams again."""
        if plan.present:
            lines = [
                json.dumps([e.stream, e.sequence, e.subject, e.headers, e.data.decode("latin-1")])
                for e in plan.present
            ]
            write_synced(kept, "\n".join(lines).encode(), 0o600)
        async with administrator(self._url, self._seed) as connection:
            js = connection.jetstream(timeout=30)
            passed = await rebuild(js, plan.streams, plan.source.records(), plan.above)
        told = {
            "from": plan.source.place.name,
            "passed_over": {name: [list(each) for each in found] for name, found in passed.items()},
            "lost": plan.lost[:20],
        }
        async with self._bus() as bus:
            await bus.event(Event(service="ctl", kind="recovered", data=told))
