"""The herald's HTTP side: metrics, health, and a test notification."""

from fastapi import FastAPI

from services.herald.notify import Notifier
from services.herald.outlet import OutletAway
from shared import http
from shared.bus import Bus
from shared.errors import DuramenError, UsageError
from shared.settings import HeraldSettings


class NotTaken(DuramenError):
    """A notification could not be delivered."""

    next_step = "look at the herald's log for which address, and why"


def make(settings: HeraldSettings, bus: Bus, notifier: Notifier) -> FastAPI:
    """Routes: POST /api/notify/test."""
    app = http.make_app(settings, {"bus": bus.ping})

    @app.post("/api/notify/test")
    async def test() -> dict[str, int]:
        """Send one message to every address. 400 without one, 503 if one did not take it."""
        if not notifier.addresses:
            raise UsageError("DURAMEN_NOTIFY_URLS is not set.", next_step="set it in .env; make up")
        try:
            await notifier.send("test", "This is a test. Alerts and finished jobs will come here.")
        except OutletAway as error:
            raise NotTaken(str(error)) from error
        return {"addresses": len(notifier.addresses)}

    return app
