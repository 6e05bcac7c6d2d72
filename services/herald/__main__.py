"""Run the herald: `python -m services.herald`."""

import asyncio

from prometheus_client import Gauge

from services.herald import api
from services.herald.alerts import Alerts
from services.herald.herald import Herald
from services.herald.notify import addresses
from services.herald.poll import Poll
from services.herald.settings import HeraldSettings
from shared.bus.client import Bus
from shared.bus.system import BusServer
from shared.service import http, loop
from shared.service.alarms import service_alarms
from shared.service.disks import Disks, MeasuredDisk
from shared.service.start import load_settings

POLL_SECONDS = 5.0
# Set by the herald, because a trainer that loses its GPU ends, and its series with it.
GPU_EXPECTED = Gauge("duramen_gpu_expected", "1 if the trainer is to have a GPU.")


async def main(settings: HeraldSettings) -> None:
    """Read, report and measure until the process ends."""
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    people = addresses(settings.notify_urls.get_secret_value())
    server = BusServer(settings.nats_url, settings.nats_monitor_seed_file, settings.nats_ca)
    poll = Poll(server, settings.store_health_urls)
    alerts = Alerts(settings.prometheus_url, people, settings.state_dir)
    GPU_EXPECTED.set(settings.torch == "cuda")
    disks = Disks(settings.disk_reserve_bytes, MeasuredDisk("herald", settings.state_dir, "state"))
    bus = Bus.of(settings)
    async with bus:
        alarms = service_alarms(bus, "herald")
        herald = Herald(settings, bus, people)
        for subject in ("jobs.>", "evt.>"):
            await bus.subscribe(subject, herald.wake.set)
        await loop.run(
            loop.repeat("herald", herald.once, herald.wake, POLL_SECONDS, alarms),
            loop.repeat("poll", poll.once, asyncio.Event(), POLL_SECONDS, alarms),
            loop.repeat("alerts", alerts.once, asyncio.Event(), POLL_SECONDS, alarms),
            disks.keep(),
            http.serve(api.make(settings, bus, people), settings),
        )


if __name__ == "__main__":
    asyncio.run(main(load_settings(HeraldSettings)))
