"""The disks of a service: each place is measured by its owner, shown, and exported as metrics.

Free space is asked for every few seconds; who uses it is counted now and then, because that walks
over all files. Nothing is remembered over a restart.
"""

import asyncio
import shutil
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client import Gauge

from shared import log
from shared.errors import DuramenError
from shared.memory_estimate import gib
from shared.protocol.observed import DiskSeen
from shared.service import http

DISK_TOTAL = Gauge("duramen_disk_total_bytes", "Size of the disk where a folder lies.", ["folder"])
RESERVE = Gauge("duramen_disk_reserve_bytes", "Bytes that stay free (DURAMEN_DISK_RESERVE_BYTES).")
USED = Gauge("duramen_disk_used_bytes", "Bytes of a place, by what uses them.", ["folder", "what"])
MEASURE_SECONDS = 2.0
RECOUNT_SECONDS = 60.0
COUNTING_SHARE = 50  # counting takes no more than a fiftieth of the time
RATE_SECONDS = (3600.0, 6 * 3600.0)  # a rate is told from the first on, and over the second at most


@dataclass
class MeasuredDisk:
    """One place on a disk. `folder` is None where there is nothing to ask, as for an S3 elsewhere.

    `metric`: its name in the metrics. `count` returns the bytes by what uses them; it may take
    long. `bounds`: of the uses that are kept elsewhere, too, the bytes beyond which they may go.
    """

    place: str
    folder: Path | None
    metric: str
    count: Callable[[], dict[str, int]] = dict
    bounds: Mapping[str, int] = field(default_factory=dict)
    uses: dict[str, int] = field(default_factory=dict)
    _seen: deque[tuple[float, int]] = field(default_factory=deque)  # monotonic, free bytes

    def __post_init__(self) -> None:
        if self.folder is not None:
            http.watch_space(self.metric, self.folder)

    def free(self) -> int | None:
        """Return the free bytes, or None where nobody can say."""
        try:
            return shutil.disk_usage(self.folder).free if self.folder else None
        except OSError:
            return None

    def shortage(self, size: int, reserve: int) -> str | None:
        """Return why `size` more bytes do not fit, or None; unknown is not called short."""
        free = self.free()
        if free is None or free >= size + reserve:
            return None
        wanted = f" for {gib(size)}" if size else ""
        return (
            f"{self.place}: no space{wanted}: {gib(free)} free in {self.folder}, and "
            f"{gib(reserve)} must stay free: duramen disk"
        )

    def look(self, reserve: int, now: float) -> DiskSeen:
        """Measure the place at a monotonic moment, and return what is shown of it."""
        beyond = {what: max(0, self.uses.get(what, 0) - self.bounds[what]) for what in self.bounds}
        shown = DiskSeen(place=self.place, reserve=reserve, uses=self.uses, freeable=beyond)
        try:
            usage = shutil.disk_usage(self.folder) if self.folder else None
        except OSError:
            usage = None
        if usage is None or self.folder is None:
            return shown
        DISK_TOTAL.labels(self.metric).set(usage.total)
        self._seen.append((now, usage.free))
        while now - self._seen[0][0] > RATE_SECONDS[1]:
            self._seen.popleft()
        told = {
            "folder": str(self.folder),
            "free": usage.free,
            "total": usage.total,
            "device": self.folder.stat().st_dev,
            "full_seconds": self._full_seconds(),
        }
        return shown.model_copy(update=told)

    def _full_seconds(self) -> float | None:
        """Return when the disk will be full at the present rate, or None if it does not fill."""
        (began, had), (now, free) = self._seen[0], self._seen[-1]
        if now - began < RATE_SECONDS[0] or free >= had:
            return None
        return free * (now - began) / (had - free)

    def recount(self) -> None:
        """Count again who uses the place; what cannot be read counts as unknown."""
        try:
            self.uses = self.count()
        except (DuramenError, OSError) as error:
            log.get().warning("disk_not_counted", place=self.place, error=str(error))
            return
        for what, size in self.uses.items():
            USED.labels(self.metric, what).set(size)


class Disks:
    """The places that one service measures. `seen` is what it shows of them.

    `reserve`: the bytes that stay free on each.
    """

    def __init__(self, reserve: int, *places: MeasuredDisk) -> None:
        self.reserve, self.places = reserve, places
        self.seen: list[DiskSeen] = []
        RESERVE.set(reserve)
        self.look()

    def shortage(self, place: str, size: int) -> str | None:
        """Return why `size` more bytes do not fit into a place, or None; unknown is not short."""
        found = next((each for each in self.places if each.place == place), None)
        return found.shortage(size, self.reserve) if found is not None else None

    def look(self) -> list[DiskSeen]:
        """Measure all places and return what is shown of them."""
        now = time.monotonic()
        self.seen = [place.look(self.reserve, now) for place in self.places]
        return self.seen

    async def keep(self) -> None:
        """Measure again and again, and count now and then who uses what. Never returns."""
        due = float("-inf")
        while True:
            if (began := time.monotonic()) >= due:
                for place in self.places:
                    await asyncio.to_thread(place.recount)
                took = time.monotonic() - began
                due = began + max(RECOUNT_SECONDS, COUNTING_SHARE * took)
            await asyncio.to_thread(self.look)
            await asyncio.sleep(MEASURE_SECONDS)
