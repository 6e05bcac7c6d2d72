"""What a place holds of the bus: its exported files, as far as they fit together, and the tail."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from infra.servers.streams import EVENT_SECONDS
from shared.errors import DuramenError, ObjectMissing, StoreUnavailable
from shared.formats.bus_export import BusExport, ExportedRecord, ExportMark, read_export
from shared.formats.version import CommitRecord
from shared.store import layout
from shared.store.folder import Folder
from shared.store.place import PRECIOUS, WORK, ReadPlace


class NotRecoverable(DuramenError):
    """The bus cannot be made whole from this."""

    exit_code = 8


@dataclass
class ExportSource:
    """The export as one place has it, every file of which was read and follows the one before."""

    place: ReadPlace
    sha256s: list[str] = field(default_factory=list)
    marks: dict[str, ExportMark] = field(default_factory=dict)
    starts: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    until: datetime | None = None
    tail: BusExport | None = None
    broken: str | None = None

    @property
    def length(self) -> tuple[int, int]:
        return len(self.sha256s), len(self.tail.records) if self.tail else 0

    def records(self) -> Iterator[ExportedRecord]:
        """Yield all records that come back, by stream in sequence; one file is held at a time."""
        for number, sha256 in enumerate(self.sha256s, 1):
            data = self.place.read(PRECIOUS, layout.audit_file(number), sha256=sha256)
            yield from self._kept(read_export(data))
        if self.tail is not None:
            yield from self._kept(self.tail)

    def _kept(self, export: BusExport) -> Iterator[ExportedRecord]:
        for record in export.records:
            if record.sequence >= self.starts.get(record.stream, 1 << 62):
                yield record

    def _take(self, export: BusExport) -> None:
        """Count a file's records. Events that their stream would have dropped by now stay out."""
        oldest = datetime.now(UTC) - timedelta(seconds=EVENT_SECONDS)
        for record in export.records:
            if record.stream == "EVT" and record.stored is not None and record.stored < oldest:
                continue
            self.starts.setdefault(record.stream, record.sequence)
            self.counts[record.stream] = self.counts.get(record.stream, 0) + 1
            if record.stored is not None:
                self.until = max(self.until or record.stored, record.stored)
        self.marks = dict(export.header.marks)

    def read_chain(self) -> None:
        """Read all files in order, to the end or to the first that does not fit."""
        known = set(map(layout.parse_audit_file, self.place.keys(PRECIOUS, layout.AUDIT)))
        before, number = None, 1
        while number in known:
            key = layout.audit_file(number)
            try:
                export = read_export(self.place.read(PRECIOUS, key))
            except ValueError as error:
                self.broken = f"{key} cannot be read: {error}"
                return
            if (export.header.number, export.header.previous) != (number, before):
                self.broken = f"{key} does not follow the file before it"
                return
            self._take(export)
            self.sha256s.append(before := export.sha256)
            number += 1
        if any(other is not None and other > number for other in known):
            self.broken = f"{layout.audit_file(number)} is missing"

    def add_tail(self, data: bytes | None) -> None:
        """Take a tail, if it goes on where the files end."""
        if data is None or self.broken:
            return
        try:
            tail = read_export(data)
        except ValueError:
            return
        end = self.sha256s[-1] if self.sha256s else None
        if (tail.header.number, tail.header.previous) == (len(self.sha256s) + 1, end):
            self._take(tail)
            self.tail = tail


def read_source(place: ReadPlace) -> ExportSource:
    """Return what a place has of the export. Raises StoreUnavailable, ObjectDamaged."""
    source = ExportSource(place)
    source.read_chain()
    source.add_tail(tail_of(place))
    return source


def tail_of(place: ReadPlace) -> bytes | None:
    """Return the tail that a place has, or None: the store has one, and so has the archive."""
    if isinstance(place, Folder):
        path = place.folder / layout.TAIL_IN_ARCHIVE
        return path.read_bytes() if path.is_file() else None
    try:
        return place.read(WORK, layout.audit_tail())
    except (ObjectMissing, StoreUnavailable):
        return None  # the backup has no such bucket


def longest(sources: list[ExportSource]) -> ExportSource:
    """Return the source that has most. Raises NotRecoverable where none has any, or two differ."""
    best = max(sources, key=lambda source: source.length, default=None)
    if best is None or not any(best.length):
        raise NotRecoverable(
            "No place that was read has an export of the bus: it was written by a version before "
            "there was one. Its versions can be restored, but queue and ledgers cannot be rebuilt.",
            next_step="duramen restore VERSION --to DIR, or duramen lineage new NAME --base …",
        )
    for other in sources:
        shared_files = min(len(other.sha256s), len(best.sha256s))
        if other.sha256s[:shared_files] != best.sha256s[:shared_files]:
            raise NotRecoverable(
                f"{best.place.name} and {other.place.name} hold different exports of the bus.",
                next_step=f"choose one: duramen recover --from {best.place.name}",
            )
    return best


def committed_after(place: ReadPlace, sequence: int) -> dict[str, int]:
    """Return the commit records that the ledger does not explain, with the sequences they name."""
    found = {}
    for key in place.keys(PRECIOUS, layout.CATALOG):
        if layout.parse_commit(key) is None:
            continue
        try:
            commit = CommitRecord.model_validate_json(place.read(PRECIOUS, key))
        except ValueError:
            continue
        if commit.ledger_sequence > sequence:
            found[key] = commit.ledger_sequence
    return found
