"""Alarms: told once for each condition, until it is over; then it may be told again."""

from collections.abc import Awaitable, Callable

from prometheus_client import Counter, Gauge

from shared import log
from shared.bus.client import Bus
from shared.errors import BusUnavailable
from shared.protocol.events import Alarm, Event
from shared.service_names import Service

DETAIL_LENGTH = 2000

Tell = Callable[[Alarm, str | None], Awaitable[None]]


class Alarms:
    """Keep what is wrong now: `standing` holds the detail by (what, about).

    `tell` sends an alarm of a lineage. `raised` counts alarms, and `active` shows those that
    stand; both have the label `what`.
    """

    def __init__(
        self, tell: Tell, raised: Counter | None = None, active: Gauge | None = None
    ) -> None:
        self._tell, self._raised, self._active = tell, raised, active
        self.standing: dict[tuple[str, str], str] = {}

    async def sound(self, what: str, about: str, detail: str, lineage: str | None = None) -> None:
        """Tell of a condition, unless it stands already.

        `about` is empty where it concerns the whole service. Raises BusUnavailable where `tell`
        does: then it is told again the next time.
        """
        is_new = (what, about) not in self.standing
        self.standing[what, about] = detail
        if not is_new:
            return
        self._show(what)
        if self._raised is not None:
            self._raised.labels(what).inc()
        log.get().error("alarm", what=what, about=about, detail=detail)
        alarm = Alarm(what=what, about=about or None, detail=detail[:DETAIL_LENGTH])
        try:
            await self._tell(alarm, lineage)
        except BusUnavailable:
            self.standing.pop((what, about), None)
            raise

    def clear(self, what: str, about: str) -> None:
        """Note that a condition is over, if it stood."""
        if self.standing.pop((what, about), None) is not None:
            log.get().info("alarm_over", what=what, about=about)
            self._show(what)

    def _show(self, what: str) -> None:
        if self._active is not None:
            self._active.labels(what).set(sum(1 for kind, _ in self.standing if kind == what))


def service_alarms(
    bus: Bus, service: Service, raised: Counter | None = None, active: Gauge | None = None
) -> Alarms:
    """Return the alarms of a service, which are events on the bus; none of them stands yet."""

    async def tell(alarm: Alarm, lineage: str | None) -> None:
        await bus.event(Event.of(service, alarm, lineage=lineage))

    return Alarms(tell, raised, active)
