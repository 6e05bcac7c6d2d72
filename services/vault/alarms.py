"""The vault's alarms, with the metrics that show them."""

from dataclasses import dataclass

from prometheus_client import Counter, Gauge

from shared.bus.client import Bus
from shared.service.alarms import Alarms, service_alarms

ALARMS = Counter("duramen_vault_alarms_total", "Alarms raised, by kind.", ["what"])
STANDING = Gauge("duramen_vault_standing_alarms", "Alarms that are active now, by kind.", ["what"])

# Nothing is ever removed from these, and whoever holds a service's key can fill them: the server
# answers its requests into any subject.
KEPT_STREAMS = ("JOBS", "CTL")
FILLING = 0.7  # of a stream's max_bytes
FILLING_KIND = "stream_filling"
LOOK_AT_STREAMS_SECONDS = 30.0


def vault_alarms(bus: Bus) -> Alarms:
    """Return the vault's alarms, none of which stands yet."""
    return service_alarms(bus, "vault", ALARMS, STANDING)


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
