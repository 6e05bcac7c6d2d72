"""Run the vault: `python -m services.vault`."""

import asyncio
from collections import Counter
from functools import partial
from pathlib import Path

from services.vault import api
from services.vault.alarms import LOOK_AT_STREAMS_SECONDS, StreamWatch
from services.vault.archive import Archive
from services.vault.commands import CommandLoop
from services.vault.copies import Copies
from services.vault.export.exporter import EXPORT_ROUND_SECONDS
from services.vault.settings import VaultSettings
from services.vault.vault import Vault
from shared.bus.client import Bus
from shared.files import files_below, folder_bytes
from shared.service import http, loop
from shared.service.disks import Disks, MeasuredDisk
from shared.service.start import load_settings
from shared.store.s3 import Store
from shared.store.usage import bytes_kept, bytes_stored


def connect(settings: VaultSettings) -> Copies:
    """Return the three places; the two stores are opened with the vault's own credentials."""
    backup_keys = settings.backup_access_key, settings.backup_secret_key
    return Copies(
        Store.of(settings),
        Store.opened("backup", settings.backup_url, *backup_keys),
        Archive(settings.archive_dir, settings.state_dir / "archive-id"),
    )


def measured(settings: VaultSettings, copies: Copies) -> Disks:
    """Return the disks that this vault measures, and have it copy nothing that would fill one.

    It sees the folders of bus and stores through read-only mounts, to ask for their free space. An
    S3 elsewhere has none: its disk is unknown, and never called well.
    """
    own, bus = settings.state_dir, settings.bus_disk
    disks = Disks(
        settings.disk_reserve_bytes,
        MeasuredDisk("bus", bus, "bus", partial(of_streams, bus)),
        MeasuredDisk("store", settings.store_disk, "store", partial(bytes_stored, copies.store)),
        MeasuredDisk("backup", settings.backup_disk, "backup", partial(bytes_kept, copies.backup)),
        MeasuredDisk(
            "archive", settings.archive_dir, "archive", partial(bytes_kept, copies.archive)
        ),
        MeasuredDisk("vault", own, "state", lambda: {"state": folder_bytes(own)}),
    )
    copies.room = disks.shortage
    return disks


def of_streams(folder: Path | None) -> dict[str, int]:
    """Return the bytes of each stream of the bus, whose folder this is."""
    found: Counter[str] = Counter()
    if folder is None:
        return {}
    for path, size in files_below(folder):
        parts = path.relative_to(folder).parts
        at = parts.index("streams") + 1 if "streams" in parts[:-1] else 0
        found[parts[at] if at else "server"] += size
    return dict(found)


async def main(
    settings: VaultSettings, *, retry_seconds: float = 30.0, sweep_seconds: float = 300.0
) -> None:
    """Run the vault's loops and its HTTP API until the process ends.

    `retry_seconds` is the longest wait between two attempts to publish a version. `sweep_seconds`
    is the time between two looks for overwritten names, for new inputs and for locks that end.
    """
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    copies = connect(settings)
    disks = measured(settings, copies)
    bus = Bus.of(settings)
    async with bus:
        keeper = Vault(settings, bus, copies, loop.instance("vault"), retry_seconds)
        commands, alarms = CommandLoop(keeper), keeper.alarms
        streams = StreamWatch(bus, alarms)
        keeper.disks = disks
        await bus.subscribe("jobs.line.>", keeper.wake.set)
        await bus.subscribe("evt.ingest.*", keeper.wake_inputs.set)
        for subject in ("ctl.once.vault", "ctl.desired.vault"):
            await bus.subscribe(subject, keeper.wake_commands.set)
        await asyncio.to_thread(copies.archive.tidy)
        try:
            await loop.run(
                disks.keep(),
                loop.repeat("commands", commands.once, keeper.wake_commands, 1.0, alarms),
                loop.repeat("publish", keeper.once, keeper.wake, 2.0, alarms),
                loop.repeat(
                    "inputs", keeper.keep_inputs, keeper.wake_inputs, sweep_seconds, alarms
                ),
                loop.repeat("sweep", keeper.sweep, asyncio.Event(), sweep_seconds, alarms),
                loop.repeat("locks", keeper.extend_locks, asyncio.Event(), sweep_seconds, alarms),
                loop.repeat(
                    "streams", streams.once, asyncio.Event(), LOOK_AT_STREAMS_SECONDS, alarms
                ),
                loop.repeat(
                    "export", keeper.export.once, asyncio.Event(), EXPORT_ROUND_SECONDS, alarms
                ),
                http.serve(api.make(keeper), settings),
            )
        finally:
            copies.close()


if __name__ == "__main__":
    asyncio.run(main(load_settings(VaultSettings)))
