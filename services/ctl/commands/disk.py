"""duramen disk: how much space each place has, who uses it, and what could be freed."""

from typing import Any

from services.ctl import cli
from services.ctl.settings import CtlSettings
from services.ctl.troubles import full_disks, places_of
from services.ctl.views.columns import size_of
from services.ctl.views.disks import DISK_HEADS, disk_notes, disk_row
from shared.files import folder_bytes
from shared.ledger.control import observed_all
from shared.protocol.observed import DiskSeen
from shared.service_names import SERVICES


def disk(json: cli.Json = False) -> None:
    """Show how much space each place has, who uses it, what could be freed, and when it is full."""
    cli.run_command(_disk(json))


async def _disk(json: bool) -> None:
    config = cli.settings()
    async with cli.bus(config) as bus:
        seen = {name: await observed_all(bus, name) for name in SERVICES}
    disks, logs = places_of(seen), bytes_of_logs(config)
    value: dict[str, Any] = {
        "places": [each.model_dump(mode="json") for each in disks],
        "logs": logs,
        "notes": disk_notes(disks),
        "troubles": [vars(trouble) for trouble in full_disks(disks)],
    }
    cli.emit(value, json, lambda: print_disks(disks, logs))


def bytes_of_logs(config: CtlSettings) -> int | None:
    """Return the bytes of the logs of an embedded run, or None where there is none."""
    if config.supervisor_file is None:
        return None
    return folder_bytes(config.supervisor_file.parent.parent / "logs")


def print_disks(disks: list[DiskSeen], logs: int | None) -> None:
    for trouble in full_disks(disks):
        cli.note(f"! {trouble.said}", "red")
    cli.print_table(DISK_HEADS, [disk_row(each) for each in disks])
    if logs is not None:
        cli.note(f"logs: {size_of(logs)}", "dim")
    for note in disk_notes(disks):
        cli.note(note, "dim")
