"""The chain of exported files in all places, each of which names the hash of the one before.

What counts is what the places hold, so a vault that was killed at any point goes on where they end:
the number of the next file is taken in the backup first, by whoever creates it there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from services.vault.copies import Copies
from shared.errors import AlreadyExists, DuramenError, ObjectMissing, StoreUnavailable
from shared.files import write_synced
from shared.formats.bus_export import BusExport, ExportMark, read_export
from shared.store import layout
from shared.store.place import PRECIOUS, WORK, Place


class ChainBroken(DuramenError):
    """The exported files do not fit together; nothing is written over them."""

    next_step = "docs/runbook.md, the alarm export_chain"


@dataclass(frozen=True)
class ChainHead:
    """The end of the chain: the last file's number and hash, and how far each stream is in it."""

    number: int = 0
    sha256: str | None = None
    marks: dict[str, ExportMark] = field(default_factory=dict)
    sealed_at: datetime | None = None

    @classmethod
    def of(cls, export: BusExport) -> "ChainHead":
        header = export.header
        return cls(header.number, export.sha256, header.marks, header.sealed_at)


class Chain:
    """The exported files in backup, store and archive, and the tail in `work` and the archive.

    Blocking. Raises StoreUnavailable while a place is away.
    """

    def __init__(self, copies: Copies) -> None:
        self._copies = copies

    def load(self) -> ChainHead:
        """Return the end of the chain, once each place has all files that any place has.

        Raises ChainBroken if a file is missing everywhere, or if two places hold different ones.
        """
        self._copies.ping()  # an archive that is not mounted is not filled
        held = self._copies.everywhere(numbers_in)
        known = set[int]().union(*held.values())
        if not known:
            return ChainHead()
        newest = max(known)
        if gone := set(range(1, newest + 1)) - known:
            raise ChainBroken(f"{layout.audit_file(min(gone))} is missing in every place.")
        everywhere = known.intersection(*held.values())
        for number in sorted(known - everywhere):
            self._fill(number, held)
        head = self._same_everywhere(newest)
        if newest > 1 and head.header.previous != self._same_everywhere(newest - 1).sha256:
            raise ChainBroken(f"{layout.audit_file(newest)} does not follow the file before it.")
        return ChainHead.of(head)

    def _fill(self, number: int, held: dict[str, set[int]]) -> None:
        """Copy a file to the places that lack it, from the first one whose copy can be read."""
        key = layout.audit_file(number)
        for place in self._copies.places:
            if number in held[place.name]:
                data = place.read(PRECIOUS, key)
                if export_in(number, data) is not None:
                    self._copy(key, data)
                    return
        raise ChainBroken(f"{key} cannot be read in any place that has it.")

    def _copy(self, key: str, data: bytes) -> None:
        try:
            self._copies.commit(key, data)
        except AlreadyExists as error:
            raise ChainBroken(f"{key} is not the same in {error.where.place}.") from error

    def _same_everywhere(self, number: int) -> BusExport:
        key = layout.audit_file(number)
        found = self._copies.everywhere(lambda place: place.read(PRECIOUS, key))
        data = next(iter(found.values()))
        if differing := [place for place, other in found.items() if other != data]:
            raise ChainBroken(f"{key} is not the same in {differing[0]} as in the backup.")
        export = export_in(number, data)
        if export is None:
            raise ChainBroken(f"{key} cannot be read as number {number} of the export.")
        return export

    def seal(self, number: int, data: bytes) -> ChainHead:
        """Create the next file: in the backup first, then in the other places.

        Raises ChainBroken if another has taken its number; `load` then says who and how.
        """
        self._copies.ping()
        self._copy(layout.audit_file(number), data)
        return ChainHead.of(read_export(data))

    # ---- the tail --------------------------------------------------------------------------------

    def tails(self) -> list[BusExport]:
        """Return the tails that can be read."""
        found = [self._tail_of_work(), self._tail_of_archive()]
        return [tail for data in found if data and (tail := export_in(None, data))]

    def write_tail(self, data: bytes) -> None:
        """Replace the tail in `work` and in the archive, and read both back."""
        self._copies.archive.ping()
        with archive_errors():
            write_synced(self._tail_file, data)
        self._copies.store.put_bytes(WORK, layout.audit_tail(), data)
        if self._tail_of_archive() != data:
            raise ChainBroken("the archive's tail of the export is not what was written.")

    def _tail_of_work(self) -> bytes | None:
        try:
            return self._copies.store.read(WORK, layout.audit_tail())
        except ObjectMissing:
            return None

    def _tail_of_archive(self) -> bytes | None:
        self._copies.archive.ping()
        with archive_errors():
            return self._tail_file.read_bytes() if self._tail_file.exists() else None

    @property
    def _tail_file(self) -> Path:
        return self._copies.archive.folder / layout.TAIL_IN_ARCHIVE


@contextmanager
def archive_errors() -> Iterator[None]:
    """Turn what the archive's file system refuses into StoreUnavailable."""
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(f"archive: the tail of the export: {error}") from error


def numbers_in(place: Place) -> set[int]:
    """Return the numbers of the files that a place holds."""
    keys = place.keys(PRECIOUS, layout.AUDIT)
    return {number for key in keys if (number := layout.parse_audit_file(key)) is not None}


def export_in(number: int | None, data: bytes) -> BusExport | None:
    """Return an exported file if it can be read and has this number; None: any number."""
    try:
        export = read_export(data)
    except ValueError:
        return None
    return export if number in (None, export.header.number) else None
