"""ingest: `python -m services.ingest`."""

import asyncio

from services.ingest import api
from services.ingest.inbox.inbox import Inbox
from services.ingest.intake import Intake
from services.ingest.settings import IngestSettings
from shared.bus.client import Bus
from shared.service import http, loop
from shared.service.start import load_settings
from shared.store.s3 import Store


async def main(
    settings: IngestSettings, *, scan_seconds: float = 0.5, unfinished_seconds: float = 60.0
) -> None:
    """Watch the inbox, for ever.

    `scan_seconds`: between two looks at it. `unfinished_seconds`: how long a file that looks cut
    off must be quiet before it is read as it is.
    """
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    inbox = Inbox(settings.inbox_dir)
    store = Store.of(settings)
    bus = Bus.of(settings)
    async with bus:
        intake = Intake(settings, bus, store, inbox, unfinished_seconds)
        await bus.subscribe("ctl.desired.ingest", intake.wake.set)
        await loop.run(
            loop.repeat("inbox", intake.once, intake.wake, scan_seconds, intake.alarms),
            intake.heartbeat(),
            intake.disks.keep(),
            http.serve(api.make(intake), settings),
        )


if __name__ == "__main__":
    asyncio.run(main(load_settings(IngestSettings)))
