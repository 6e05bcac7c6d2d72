"""Alarms about records that do not count, one for each record where they are few.

A note on disk prevents a second alarm: the records stay on the bus, and readers restart.
"""

from collections.abc import Iterable
from pathlib import Path

from prometheus_client import Counter

from shared import log
from shared.bus.client import Bus
from shared.foreign.state_file import keep_number, kept_number
from shared.ledger.jobs import Void
from shared.protocol.events import Alarm, Event
from shared.service_names import Service

# Alarms of one look: whoever floods a stream shall not flood the events and people's mail, too.
MOST_TOLD = 20
VOIDS = Counter("duramen_void_records_total", "Invalid records found.", ["stream"])


class VoidTeller:
    """Reports the invalid records of one stream.

    `file` keeps the sequence up to which all have been reported.
    """

    def __init__(self, bus: Bus, service: Service, stream: str, file: Path) -> None:
        self._bus, self._service, self._stream, self._file = bus, service, stream, file
        self._told = kept_number(file)
        VOIDS.labels(stream)  # from the start: a series that begins at 1 never increased

    async def tell(self, voids: Iterable[Void]) -> None:
        """Publish an alarm for each of the records that is new, up to 20, and one for the rest.

        Raises BusUnavailable; the next call publishes what is missing.
        """
        new = sorted(
            (void for void in voids if void.sequence > self._told), key=lambda v: v.sequence
        )
        for void in new[:MOST_TOLD]:
            await self._tell(void, void.why)
            VOIDS.labels(self._stream).inc()
        if rest := new[MOST_TOLD:]:
            await self._tell(rest[-1], f"{len(rest)} more since {rest[0].sequence}; {rest[-1].why}")
            VOIDS.labels(self._stream).inc(len(rest))

    async def _tell(self, void: Void, why: str) -> None:
        alarm = Alarm(
            what="void_record",
            about=str(void.sequence),
            sequence=void.sequence,
            subject=void.subject,
            detail=why,
        )
        log.get().error("void_record", sequence=void.sequence, subject=void.subject, detail=why)
        await self._bus.event(Event.of(self._service, alarm))
        self._told = void.sequence
        keep_number(self._file, self._told)
