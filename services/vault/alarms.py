"""Alarms: each condition is reported once while it lasts, and again if it comes back."""

from prometheus_client import Counter, Gauge

from shared import log
from shared.bus.client import Bus
from shared.errors import BusUnavailable
from shared.protocol.events import Alarm, Event

ALARMS = Counter("duramen_vault_alarms_total", "Alarms raised, by kind.", ["what"])
STANDING = Gauge("duramen_vault_standing_alarms", "Alarms that are active now, by kind.", ["what"])
DETAIL_LENGTH = 2000


class Alarms:
    """The alarms that are active now: their details by (what, about)."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.standing: dict[tuple[str, str], str] = {}

    async def sound(self, what: str, about: str, detail: str, lineage: str | None = None) -> None:
        """Raise an alarm; if it is already active, only update its detail.

        Raises BusUnavailable; the alarm then does not count as raised, and the next call raises it.
        """
        if (what, about) in self.standing:
            self.standing[what, about] = detail
            return
        self.standing[what, about] = detail
        self._count(what)
        ALARMS.labels(what).inc()
        log.get().error("alarm", what=what, about=about, detail=detail)
        alarm = Alarm(what=what, about=about, detail=detail[:DETAIL_LENGTH])
        try:
            await self.bus.event(Event.of("vault", alarm, lineage=lineage))
        except BusUnavailable:
            del self.standing[what, about]  # said again when the bus is back
            raise

    def clear(self, what: str, about: str) -> None:
        if self.standing.pop((what, about), None) is not None:
            log.get().info("alarm_over", what=what, about=about)
            self._count(what)

    def _count(self, what: str) -> None:
        STANDING.labels(what).set(sum(1 for kind, _ in self.standing if kind == what))
