"""Notes since when the store has not answered while training goes on, and raises the alarm."""

import time
from dataclasses import dataclass
from datetime import datetime

from prometheus_client import Gauge

from shared import log
from shared.protocol.names import now
from shared.service.alarms import Alarms

AWAY = Gauge("duramen_train_store_away_seconds", "Since the store's first refusal; 0: it answers.")
AWAY_ALARM = "store_away"


@dataclass
class Outage:
    """An outage of the store. It ends no training.

    `limit_seconds`: how long the store may be away before it is reported.
    """

    limit_seconds: float
    alarms: Alarms
    _began: float | None = None  # monotonic
    _since: datetime | None = None

    def failed(self, error: Exception) -> None:
        """Note that the store refused, or did not answer."""
        if self._began is None:
            self._began, self._since = time.monotonic(), now()
        seconds = time.monotonic() - self._began
        AWAY.set(seconds)
        log.get().warning("store_away", error=str(error), seconds=round(seconds, 1))

    def over(self) -> None:
        """Note that the store did what it was asked to."""
        if self._began is not None:
            log.get().info("store_back", seconds=round(time.monotonic() - self._began, 1))
        self._began = None
        self.alarms.clear(AWAY_ALARM, "")
        AWAY.set(0)

    async def tell(self) -> None:
        """Alarm once when the store has been away for longer than its limit."""
        if self.is_long:
            await self.alarms.sound(AWAY_ALARM, "", self.sentence)

    @property
    def is_on(self) -> bool:
        """True while the store is away."""
        return self._began is not None

    @property
    def is_long(self) -> bool:
        """True once the store has been away for longer than its limit."""
        return self._began is not None and time.monotonic() - self._began > self.limit_seconds

    @property
    def sentence(self) -> str:
        """The sentence that users read about the outage."""
        return (
            f"the store has not answered since {self._since:%H:%M:%S} UTC, and what was trained "
            "lies on the trainer's disk until it does: duramen doctor"
        )
