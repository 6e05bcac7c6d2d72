"""Watches how full the streams are from which nothing is ever removed, and raises an alarm in time.

A client of the bus may have the server answer into any subject, so whoever holds a service's key
can fill JOBS and CTL with records that do not count.
"""

from dataclasses import dataclass

from shared.bus.client import Bus
from shared.service.alarms import Alarms

KEPT_STREAMS = ("JOBS", "CTL")
FILLING = 0.7  # of a stream's max_bytes
FILLING_KIND = "stream_filling"
LOOK_AT_STREAMS_SECONDS = 30.0


@dataclass(frozen=True)
class StreamWatch:
    """Says when a stream is filling, once for each stream until it has room again."""

    bus: Bus
    alarms: Alarms

    async def once(self) -> None:
        """Look at each stream. Raises BusUnavailable."""
        for stream in KEPT_STREAMS:
            used, most = await self.bus.bytes_of(stream)
            if used < FILLING * most:
                self.alarms.clear(FILLING_KIND, stream)
                continue
            detail = (
                f"Stream {stream} is {used / most:.0%} full ({used:,} of {most:,} bytes); when it "
                "is full, nothing can be queued or claimed. Nothing is ever removed from it: see "
                "BusFilling in docs/runbook.md."
            )
            await self.alarms.sound(FILLING_KIND, stream, detail)
