"""The reports of a service about itself: at once after a change, else every few seconds."""

import time
from collections.abc import Collection

from shared.bus.client import Bus
from shared.protocol.observed import Observed
from shared.service.loop import failed_rounds


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
        view = with_failures(view, failed_rounds())
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


def with_failures(view: Observed, failed: str | None) -> Observed:
    """Return a view that also tells which loops of the service fail, if any do."""
    if failed is None:
        return view
    why = "; ".join(filter(None, (failed, view.waiting.get("*"))))[:2000]
    state = "waiting" if view.state == "idle" else view.state
    return view.model_copy(update={"waiting": {**view.waiting, "*": why}, "state": state})
