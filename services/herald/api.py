"""The herald's HTTP side: metrics, health, and a test notification."""

from collections.abc import Sequence

from fastapi import FastAPI

from services.herald.notify import Address
from services.herald.outlet import OutletAway
from services.herald.settings import HeraldSettings
from shared.answers.herald import Sent
from shared.bus.client import Bus
from shared.errors import DuramenError, UsageError
from shared.service import http


class NotTaken(DuramenError):
    """A notification could not be delivered."""

    next_step = "read the herald's log: it says why (make logs)"


def make(settings: HeraldSettings, bus: Bus, addresses: Sequence[Address]) -> FastAPI:
    """Return the app with its route, POST /api/notify/test."""
    app = http.make_app(settings, {"bus": bus.ping})

    @app.post("/api/notify/test")
    async def test() -> Sent:
        """Send one message to every address. 400 without one, 503 if one did not take it."""
        if not addresses:
            raise UsageError("DURAMEN_NOTIFY_URLS is not set.", next_step="set it in .env; make up")
        failures = []
        for address in addresses:
            try:
                await address.send("test", "This is a test. Alerts and finished jobs come here.")
            except OutletAway as error:
                failures.append(str(error))
        if failures:
            raise NotTaken("; ".join(failures))
        return Sent(addresses=len(addresses))

    return app
