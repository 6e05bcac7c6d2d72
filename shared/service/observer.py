"""The reports of a service about itself: at once after a change, else every few seconds."""

import time
from collections.abc import Collection

from shared.bus.client import Bus
from shared.protocol.observed import Observed


class Observer:
    """Publishes the observations of a service.

    `shown` is the last one published. A change of only `quiet` fields can wait for the next time, a
    change of `slow` ones for half a second.
    """

    def __init__(
        self,
        bus: Bus,
        seconds: float,
        *,
        quiet: Collection[str] = (),
        slow: Collection[str] = (),
    ) -> None:
        self._bus, self._seconds = bus, seconds
        self._quiet, self._slow = {"at", *quiet, *slow}, set(slow)
        self.shown: Observed | None = None
        self._at = float("-inf")

    async def show(self, view: Observed, *, always: bool = False) -> None:
        """Publish a view if it changed, if it is time, or if `always`. Raises BusUnavailable."""
        if not (always or self._is_news(view)):
            return
        before = self.shown, self._at
        # Before it is sent: several tasks may show at a time.
        self.shown, self._at = view, time.monotonic()
        try:
            await self._bus.observe(view)
        except BaseException:
            self.shown, self._at = before
            raise

    def _is_news(self, view: Observed) -> bool:
        seconds = time.monotonic() - self._at
        if self.shown is None or seconds >= self._seconds:
            return True
        said, says = self.shown.model_dump(exclude={"at"}), view.model_dump(exclude={"at"})
        changed = {name for name in says if says[name] != said[name]}
        return bool(changed - self._quiet) or (bool(changed & self._slow) and seconds >= 0.5)
