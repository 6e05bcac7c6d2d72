"""Run evolution: `python -m services.evolution`."""

import asyncio

from services.evolution import api
from services.evolution.cache import Cache
from services.evolution.settings import EvolutionSettings
from services.evolution.snapshot_reader import Reader
from services.evolution.watch import SnapshotWatch
from shared.bus.client import Bus
from shared.service import http, loop
from shared.service.start import load_settings
from shared.store.s3 import Store

ROUND_SECONDS = 5.0


async def main(settings: EvolutionSettings) -> None:
    """Read the snapshots that are there, then each new one, until the process ends."""
    store = Store.of(settings)
    cache = Cache(settings.state_dir / "evolution.sqlite")
    bus = Bus.of(settings)
    async with bus:
        watch = SnapshotWatch(bus, Reader(store, cache), cache, settings.disk_reserve_bytes)
        for subject in ("jobs.line.>", "evt.trainer.snapshot", "evt.vault.version_published"):
            await bus.subscribe(subject, watch.wake.set)
        await loop.run(
            watch.heartbeat(),
            loop.repeat("evolution", watch.once, watch.wake, ROUND_SECONDS, watch.alarms),
            watch.disks.keep(),
            http.serve(api.make(settings, watch, store), settings),
        )


if __name__ == "__main__":
    asyncio.run(main(load_settings(EvolutionSettings)))
