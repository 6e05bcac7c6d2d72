"""The herald's round: read what happened, tell it to each outlet."""

import asyncio

from services.herald.grafana import Grafana
from services.herald.happenings import STREAMS, Happening, History
from services.herald.notify import Notifier
from services.herald.outlet import Outlet
from shared.bus import Bus
from shared.settings import HeraldSettings


class Herald:
    """Whoever is away is told later; nobody waits for it."""

    def __init__(self, settings: HeraldSettings, bus: Bus, notifier: Notifier) -> None:
        self.bus = bus
        self.wake = asyncio.Event()
        folder = settings.state_dir
        self.notify = Outlet("notify", notifier.deliver, lambda happening: happening.loud, folder)
        self.outlets = [self.notify]
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
        """Raises BusUnavailable."""
        if self.notify.is_new:
            # People are told from now on; Grafana's graphs get the whole history.
            marks = {stream: (await self.bus.bounds(stream))[1] for stream in STREAMS}
            self.notify.begin_at(marks)
            self.notify.is_new = False
        await self.history.update(self.bus)
        for outlet in self.outlets:
            await outlet.once()
