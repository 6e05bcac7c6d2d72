"""Run the vault: `python -m services.vault`."""

import asyncio

from services.vault import api
from services.vault.archive import Archive
from services.vault.commands import CommandLoop
from services.vault.copies import Copies
from services.vault.export.chain import Chain
from services.vault.export.exporter import EXPORT_ROUND_SECONDS, Exporter
from services.vault.settings import VaultSettings
from services.vault.streams import LOOK_AT_STREAMS_SECONDS, StreamWatch
from services.vault.vault import Vault
from shared.bus.client import Bus
from shared.service import http, loop
from shared.service.start import load_settings
from shared.store.s3 import Store


def connect(settings: VaultSettings) -> Copies:
    """Return the three places; the two stores are opened with the vault's own credentials."""
    backup_keys = settings.backup_access_key, settings.backup_secret_key
    return Copies(
        Store.of(settings),
        Store.opened("backup", settings.backup_url, *backup_keys),
        Archive(settings.archive_dir, settings.state_dir / "archive-id"),
    )


async def main(
    settings: VaultSettings, *, retry_seconds: float = 30.0, sweep_seconds: float = 300.0
) -> None:
    """Run the vault's loops and its HTTP API until the process ends.

    `retry_seconds` is the longest wait between two attempts to publish a version. `sweep_seconds`
    is the time between two looks for overwritten names, for new inputs and for locks that end.
    """
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    copies = connect(settings)
    http.watch_space("archive", settings.archive_dir)
    if settings.backup_disk is not None:
        http.watch_space("backup", settings.backup_disk)
    bus = Bus.of(settings)
    async with bus:
        keeper = Vault(settings, bus, copies, loop.instance("vault"), retry_seconds)
        commands, alarms = CommandLoop(keeper), keeper.alarms
        streams = StreamWatch(bus, alarms)
        await bus.subscribe("jobs.line.>", keeper.wake.set)
        await bus.subscribe("evt.ingest.*", keeper.wake_inputs.set)
        for subject in ("ctl.once.vault", "ctl.desired.vault"):
            await bus.subscribe(subject, keeper.wake_commands.set)
        exporter = Exporter(bus, Chain(copies), alarms, keeper.orphans)
        await asyncio.to_thread(copies.archive.tidy)
        try:
            await loop.run(
                loop.repeat("commands", commands.once, keeper.wake_commands, 1.0, alarms),
                loop.repeat("publish", keeper.once, keeper.wake, 2.0, alarms),
                loop.repeat(
                    "inputs", keeper.keep_inputs, keeper.wake_inputs, sweep_seconds, keeper.alarms
                ),
                loop.repeat("sweep", keeper.sweep, asyncio.Event(), sweep_seconds, alarms),
                loop.repeat(
                    "locks", keeper.extend_locks, asyncio.Event(), sweep_seconds, keeper.alarms
                ),
                loop.repeat(
                    "streams", streams.once, asyncio.Event(), LOOK_AT_STREAMS_SECONDS, alarms
                ),
                loop.repeat("export", exporter.once, asyncio.Event(), EXPORT_ROUND_SECONDS, alarms),
                http.serve(api.make(keeper), settings),
            )
        finally:
            copies.close()


if __name__ == "__main__":
    asyncio.run(main(load_settings(VaultSettings)))
