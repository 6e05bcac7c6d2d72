"""The herald's round: read what happened and report it to each outlet."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from services.herald.grafana import Grafana
from services.herald.happenings import STREAMS, Happening, History
from services.herald.notify import Address
from services.herald.outlet import Outlet
from services.herald.settings import HeraldSettings
from shared.bus.client import Bus


class Herald:
    """The herald, which offers each happening to every outlet.

    An outlet that is away gets it later, and no other waits for that.
    """

    def __init__(self, settings: HeraldSettings, bus: Bus, addresses: Sequence[Address]) -> None:
        self.bus = bus
        self.wake = asyncio.Event()
        folder = settings.state_dir
        forget_others(folder, addresses)
        loud = lambda happening: happening.loud  # noqa: E731
        # One for each address: one that is away delays no other, and none is notified twice.
        self.people = [Outlet(to.name, to.deliver, loud, folder) for to in addresses]
        self.outlets = [*self.people]
        if settings.grafana_url:
            assert settings.grafana_password is not None
            grafana = Grafana(settings.grafana_url, settings.grafana_password.get_secret_value())
            # What was refused fills an inbox's folder, not a graph.
            wanted = lambda happening: happening.kind != "refused"  # noqa: E731
            self.outlets.append(Outlet("grafana", grafana.deliver, wanted, folder))
        self.history = History(self._offer)

    def _offer(self, happening: Happening) -> None:
        for outlet in self.outlets:
            outlet.offer(happening)

    async def once(self) -> None:
        """Read what happened and report it to each outlet. Raises BusUnavailable."""
        for outlet in self.people:
            if outlet.is_new:
                # People are notified from now on; Grafana's graphs get the whole history.
                marks = {stream: (await self.bus.bounds(stream))[1] for stream in STREAMS}
                outlet.begin_at(marks)
                outlet.is_new = False
        await self.history.update(self.bus)
        for outlet in self.outlets:
            await outlet.once()


def forget_others(folder: Path, addresses: Sequence[Address]) -> None:
    """Delete the marks of addresses that are no longer set; one that comes back starts afresh."""
    names = {address.name for address in addresses}
    for path in folder.glob("notify-*"):
        if path.stem not in names:
            path.unlink()
