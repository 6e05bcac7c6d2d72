"""Happenings: a line for people from valid records of JOBS and CTL, and events of EVT.

Nothing is remembered: at a start, all is folded again from the streams, and each outlet keeps its
own mark of what it has sent.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from pydantic import ValidationError

from shared.bus.client import Bus
from shared.bus.entry import Entry
from shared.formats.version import version_name
from shared.ledger.jobs import Table, parse_record
from shared.protocol.control import Desired
from shared.protocol.events import Alarm, Event, FileRefused, VersionPublished, parse_event
from shared.protocol.names import JobId, desired_subject
from shared.protocol.records import LINE_MODELS, LineClose, LineOpen, LineRollback

STREAMS = ("JOBS", "CTL", "EVT")
TRAINER = desired_subject("trainer")
# Which job outcomes people want to hear of; the others are only drawn.
LOUD = {"done", "failed"}
KINDS_TOLD = {
    VersionPublished.kind: "version",
    FileRefused.kind: "refused",
    Alarm.kind: "alarm",
}
RAW_LENGTH = 500


@dataclass(frozen=True)
class Happening:
    """A line for people about one message, which `stream` and `sequence` name permanently.

    `loud`: people want to be notified of it.
    """

    stream: str
    sequence: int
    kind: str
    text: str
    at: datetime
    loud: bool = False

    @property
    def tag(self) -> str:
        return f"{self.stream}:{self.sequence}"


@dataclass
class History:
    """Everything that happened so far, in the order of each stream."""

    tell: Callable[[Happening], None]
    table: Table = field(default_factory=Table)
    seen: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STREAMS, 0))
    _desired: int = 0
    _tail: int = 0

    async def update(self, bus: Bus) -> None:
        """Read the new messages of each stream. Raises BusUnavailable."""
        for stream, take in (("JOBS", self.job), ("CTL", self.command), ("EVT", self.event)):
            async for entry in bus.read(stream, self.seen[stream]):
                found = take(entry)
                self.seen[stream] = entry.sequence
                if found is not None:
                    self.tell(found)

    def job(self, entry: Entry) -> Happening | None:
        """Return what a valid record says that people may want to see, or None.

        It is a record of a ledger, or the record with which the last job leaves the queue.
        """
        self.table.fold(entry)
        if self.table.voids and self.table.voids[-1].sequence == entry.sequence:
            return None
        match entry.subject.split("."):
            case ["jobs", "line", lineage, "open" | "close" | "rollback"]:
                return self._line(entry, lineage)
            case ["jobs", "rec", lineage, sha256, run, "done" | "fail" | "skip"]:
                return self._empty(entry, JobId(lineage, sha256, int(run)))
        return None

    def _line(self, entry: Entry, lineage: str) -> Happening | None:
        record = LINE_MODELS[entry.subject.rsplit(".", 1)[1]].model_validate_json(entry.data)
        if isinstance(record, LineOpen):
            verb = "goes on" if record.position else "starts"
            text = f"{self._name(record.job)} {verb} at step {record.global_step} of {lineage}"
            return Happening("JOBS", entry.sequence, "job_start", text, record.at)
        if isinstance(record, LineClose):
            text = f"{self._name(record.job)}: {record.outcome} at step {record.to_step}"
            if record.failure:
                text += f": {record.failure.message}"
            kind = "preemption" if record.outcome == "preempted" else "job_end"
            loud = record.outcome in LOUD
            return Happening("JOBS", entry.sequence, kind, text, record.at, loud)
        assert isinstance(record, LineRollback)
        text = f"{lineage} went back to {version_name(record.version)}"
        return Happening("JOBS", entry.sequence, "rollback", text, record.at, loud=True)

    def _name(self, path: str) -> str:
        for job_id, job in self.table.jobs.items():
            if job_id.path == path:
                return f"{job.record.name} ({job_id})"
        return path

    def _empty(self, entry: Entry, job_id: JobId) -> Happening | None:
        if self.table.queue() or any(j.record.state == "running" for j in self.table.jobs.values()):
            return None
        at = self.table.jobs[job_id].record.at
        return Happening("JOBS", entry.sequence, "queue_empty", "The queue is empty.", at, True)

    def command(self, entry: Entry) -> Happening | None:
        """Return what a valid desired state of the trainer says, or None."""
        if entry.subject != TRAINER:
            return None
        before, self._tail = self._tail, entry.sequence
        record = parse_record(entry, Desired, before, self._desired)
        if not isinstance(record, Desired):
            return None
        self._desired = entry.sequence
        kind = {"paused": "pause", "running": "resume", "stopped": "stop"}[record.state]
        why = f" ({record.reason})" if record.reason else ""
        return Happening("CTL", entry.sequence, kind, f"{kind} by {record.by}{why}", record.at)

    def event(self, entry: Entry) -> Happening | None:
        """Return what a service reported, if it is for people, or None."""
        try:
            event = Event.model_validate_json(entry.data)
        except ValidationError:
            return None
        if entry.copied or entry.subject != f"evt.{event.service}.{event.kind}":
            return None
        found = spoken(event)
        if found is None:
            return None
        kind, text = found
        loud = kind in ("version", "alarm", "refused")
        return Happening("EVT", entry.sequence, kind, text, event.at, loud)


def spoken(event: Event) -> tuple[str, str] | None:
    """Return (kind, text) of an event that people may want to see, or None.

    An event of these kinds in a form that this program does not know is shown as it is.
    """
    match parse_event(event):
        case VersionPublished(version=version, copies=copies):
            name = version_name(version)
            return "version", f"{event.lineage or ''} {name} is kept in {copies} copies"
        case FileRefused(name=name):
            return "refused", f"refused: {name}"
        case Alarm(what=what, detail=detail):
            return "alarm", f"{event.service}: {what} {detail}".strip()
        case None if event.kind in KINDS_TOLD:
            text = event.model_dump_json(include={"data"}, exclude_none=True)
            return KINDS_TOLD[event.kind], f"{event.service} {event.kind}: {text[:RAW_LENGTH]}"
    return None
