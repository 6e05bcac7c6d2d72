"""An outlet: where happenings are sent, in order, each until it succeeds, with a mark on disk."""

import json
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path

from prometheus_client import Counter, Gauge

from services.herald.happenings import Happening
from shared import log
from shared.backoff import Backoff
from shared.files import write_synced
from shared.foreign.state_file import kept_numbers

TOLD = Counter("duramen_herald_told_total", "Notifications sent, by target.", ["outlet"])
FAILED = Counter("duramen_herald_failures_total", "Failed attempts to send, by target.", ["outlet"])
WAITING = Gauge(
    "duramen_herald_waiting", "Notifications waiting to be sent, by target.", ["outlet"]
)
LONGEST_SECONDS = 300.0


class OutletAway(Exception):
    """The outlet does not answer; nothing is lost, since it is sent later."""


class Outlet:
    """An outlet, which sends the happenings that it wants.

    `deliver` is called with one happening at a time; it raises OutletAway.
    """

    def __init__(
        self,
        name: str,
        deliver: Callable[[Happening], Awaitable[None]],
        wants: Callable[[Happening], bool],
        folder: Path,
    ) -> None:
        self.name, self._deliver, self._wants = name, deliver, wants
        self._path = folder / f"{name}.json"
        self._marks = kept_numbers(self._path)
        self.is_new = not self._marks
        self._waiting: deque[Happening] = deque()
        self._delay = Backoff(1.0, LONGEST_SECONDS)

    def begin_at(self, marks: dict[str, int]) -> None:
        """Set the marks of a new outlet, so that it sends nothing from before them."""
        self._marks = dict(marks)
        self._keep()

    def offer(self, happening: Happening) -> None:
        """Take a happening that is wanted, unless it was sent before this process began."""
        if happening.sequence > self._marks.get(happening.stream, 0) and self._wants(happening):
            self._waiting.append(happening)

    async def once(self) -> None:
        """Send what waits; after a failure, not before a growing delay is over."""
        WAITING.labels(self.name).set(len(self._waiting))
        while self._waiting and self._delay.is_over:
            happening = self._waiting[0]
            try:
                await self._deliver(happening)
            except OutletAway as error:
                FAILED.labels(self.name).inc()
                self._delay.grow()
                log.get().warning("outlet_away", outlet=self.name, error=str(error))
                return
            self._delay.end()
            self._waiting.popleft()
            self._marks[happening.stream] = happening.sequence
            self._keep()
            TOLD.labels(self.name).inc()
            WAITING.labels(self.name).set(len(self._waiting))
            log.get().info("told", outlet=self.name, kind=happening.kind, what=happening.tag)

    def _keep(self) -> None:
        write_synced(self._path, json.dumps(self._marks).encode())
