"""The exporter: it brings what the bus says to all places, soon and without a gap.

A round every few seconds puts new records into the tail, in `work` and in the archive. When the
oldest of them has waited for almost five minutes, they become the next file of the chain, in all
places. The streams are read again from the chain after every failure: nothing else is remembered.
"""

import asyncio
import time
from datetime import UTC, datetime

from prometheus_client import Gauge

from services.vault.export.chain import Chain, ChainBroken, ChainHead
from services.vault.orphans import Orphans
from shared.bus.client import Bus
from shared.bus.entry import Entry
from shared.errors import (
    MALFORMED,
    BusFull,
    BusUnavailable,
    BusWentBack,
    DuramenError,
    StoreUnavailable,
)
from shared.formats.bus_export import (
    EXPORTED_STREAMS,
    ExportedRecord,
    ExportHeader,
    ExportMark,
    export_mark,
    pack_export,
    record_line,
    text_fields,
)
from shared.service.alarms import Alarms

EXPORTED = Gauge(
    "duramen_vault_last_export_seconds",
    "Unix time when all that the bus holds was last exported, into the tail or sealed.",
    ["part"],
)
EXPORT_ROUND_SECONDS = 5.0
SEAL_SECONDS = 300.0  # so that a day has at most 288 files
SEAL_EARLY_SECONDS = 15.0  # a file is in all places before its oldest record is SEAL_SECONDS old
MOST_PENDING_BYTES = 8 << 20  # then a file is sealed at once


class Exporter:
    """The export of one bus into the vault's places."""

    def __init__(
        self,
        bus: Bus,
        chain: Chain,
        alarms: Alarms,
        orphans: Orphans,
        seal_seconds: float = SEAL_SECONDS,
    ) -> None:
        self._bus, self._chain, self._alarms, self._orphans = bus, chain, alarms, orphans
        self._seal_seconds = seal_seconds
        self._forget()

    def _forget(self) -> None:
        self._head: ChainHead | None = None
        self._marks: dict[str, ExportMark] = {}
        self._lines: list[bytes] = []
        self._bytes, self._since, self._is_told = 0, 0.0, False

    async def once(self) -> None:
        """Export what is new. Raises BusUnavailable, StoreUnavailable.

        A bus that lacks what was exported, and files that do not fit together, are alarmed; nothing
        is written until that is over.
        """
        try:
            await self._round()
        except (BusUnavailable, BusFull, StoreUnavailable):
            self._forget()
            raise
        except BusWentBack as error:
            self._forget()
            self._orphans.bus_went_back = True
            await self._alarms.sound("bus_went_back", error.stream, str(error))
        except (DuramenError, *MALFORMED) as error:
            self._forget()
            await self._alarms.sound("export_chain", "", f"{type(error).__name__}: {error}")

    async def _round(self) -> None:
        head = self._head
        if head is None:
            head = self._head = await self._begin()
        for stream in EXPORTED_STREAMS:
            await self._check(stream, self._marks.get(stream))
        self._are_over()
        is_new = False
        for stream in EXPORTED_STREAMS:
            is_new |= await self._read(stream)
        if self._lines and (is_new or not self._is_told):
            await asyncio.to_thread(self._chain.write_tail, self._packed(head, None))
            self._is_told = True
        if self._lines and self._is_due(head):
            await self._seal(head)
        now = time.time()
        EXPORTED.labels("tail").set(now)
        if not self._lines:
            EXPORTED.labels("sealed").set(now)

    async def _begin(self) -> ChainHead:
        """Return the end of the chain. Raises BusWentBack, also by what only a tail has."""
        head = await asyncio.to_thread(self._chain.load)
        for tail in await asyncio.to_thread(self._chain.tails):
            for stream, mark in tail.header.marks.items():
                await self._check(stream, mark)
        self._marks = dict(head.marks)
        return head

    async def _check(self, stream: str, mark: ExportMark | None) -> None:
        """Raise BusWentBack unless the bus holds what the mark names, or begins above it."""
        if mark is None:
            return
        first, _ = await self._bus.bounds(stream)
        if first > mark.last:
            return
        entry = await self._bus.get(stream, mark.last)
        if entry is None and await self._bus.is_skipped(stream, mark.last):
            return  # only a tail had it that a recovery could not see
        if entry is None or end_mark(entry) != mark:
            raise BusWentBack(stream, mark.last)

    def _are_over(self) -> None:
        self._orphans.bus_went_back = False
        for what, about in list(self._alarms.standing):
            if what in ("bus_went_back", "export_chain"):
                self._alarms.clear(what, about)

    async def _read(self, stream: str) -> bool:
        """Take the records of a stream that are new, until there are enough; return if any were."""
        mark = self._marks.get(stream)
        after = mark.last if mark else 0
        _, last = await self._bus.bounds(stream)
        found = False
        async for entry in self._bus.read_through(stream, after, last):
            if self._bytes < MOST_PENDING_BYTES:  # the rest is read in the next round
                self._take(entry)
                found = True
        return found

    def _take(self, entry: Entry) -> None:
        if not self._lines:
            self._since = time.monotonic()
        line = record_line(exported(entry))
        self._lines.append(line)
        self._bytes += len(line)
        self._marks[entry.stream] = end_mark(entry)

    def _is_due(self, head: ChainHead) -> bool:
        if self._bytes >= MOST_PENDING_BYTES:
            return True
        waited = time.monotonic() - self._since
        if waited < self._seal_seconds - min(SEAL_EARLY_SECONDS, self._seal_seconds / 2):
            return False
        apart = (datetime.now(UTC) - head.sealed_at).total_seconds() if head.sealed_at else None
        # A clock that was set back does not put the next file off for ever.
        return apart is None or apart >= self._seal_seconds or waited >= self._seal_seconds

    async def _seal(self, head: ChainHead) -> None:
        data = self._packed(head, datetime.now(UTC))
        try:
            self._head = await asyncio.to_thread(self._chain.seal, head.number + 1, data)
        except ChainBroken:
            self._forget()  # another vault was first, or a reply was lost: what there is counts
            self._head = await self._begin()
            return
        self._lines, self._bytes = [], 0

    def _packed(self, head: ChainHead, sealed_at: datetime | None) -> bytes:
        header = ExportHeader(
            number=head.number + 1,
            previous=head.sha256,
            marks=self._marks,
            records=len(self._lines),
            sealed_at=sealed_at,
        )
        return pack_export(header, self._lines)


def exported(entry: Entry) -> ExportedRecord:
    """Return a message as it is exported."""
    return ExportedRecord(
        stream=entry.stream,
        sequence=entry.sequence,
        subject=entry.subject,
        headers=entry.headers,
        stored=entry.stored,
        **text_fields(entry.data),
    )


def end_mark(entry: Entry) -> ExportMark:
    return export_mark(entry.sequence, entry.subject, entry.data)
