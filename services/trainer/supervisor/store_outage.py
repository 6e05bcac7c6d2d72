"""Notes since when the store has not answered, and whether people have been alarmed."""

import time
from dataclasses import dataclass
from datetime import datetime

from prometheus_client import Gauge

from shared import log
from shared.protocol.names import now

AWAY = Gauge("duramen_train_store_away_seconds", "Since the store's first refusal; 0: it answers.")
USUAL_LIMIT_SECONDS = 300.0


@dataclass
class Outage:
    """An outage of the store. It ends no training.

    `limit_seconds`: how long the store may be away before it is reported.
    """

    limit_seconds: float = USUAL_LIMIT_SECONDS
    told: bool = False
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
        self._began, self.told = None, False
        AWAY.set(0)

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
