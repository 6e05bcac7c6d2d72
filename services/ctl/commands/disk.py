"""duramen disk: how much space each place has, who uses it, and what could be freed."""

from collections.abc import Iterable
from typing import Any

from services.ctl import cli
from services.ctl.settings import CtlSettings
from services.ctl.troubles import full_disks, places_of
from services.ctl.views.columns import number, size_of, span_of, text
from shared.files import folder_bytes
from shared.ledger.control import observed_all
from shared.protocol.observed import DiskSeen
from shared.service_names import SERVICES

UNKNOWN_SPACE = "free space unknown: its disk cannot be seen, or who measures it is silent"
DISK_HEADS = (text("PLACE"), number("FREE"), number("OF"), text("FULL IN"), text("USED BY"))
COPIES_OF_BASE = {"store": 2, "backup": 1, "archive": 1, "trainer": 1}
HOW_TO_FREE = {
    "done": "move its oldest files away; each is kept as a dataset in store, backup and archive",
    "fetched files": "stop the trainer and delete its folder cache; it fetches them again",
    "cache": "stop evolution and delete evolution.sqlite; it reads the snapshots again",
}


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


def disk_row(disk: DiskSeen) -> list[str]:
    """Return the row of a place."""
    free = "unknown" if disk.free is None else size_of(disk.free)
    if disk.free is not None and disk.free < disk.reserve:
        free += " FULL"
    used = ", ".join(
        f"{what} {size_of(size)}"
        for what, size in sorted(disk.uses.items(), key=lambda use: -use[1])
        if size
    )
    total = "unknown" if disk.total is None else size_of(disk.total)
    when = "" if disk.full_seconds is None else span_of(disk.full_seconds)
    return [disk.place, free, total, when, used or "not counted yet"]


def disk_notes(disks: Iterable[DiskSeen]) -> list[str]:
    """Return what a table does not say: who shares a disk, how often a base lies on it, limits."""
    groups: dict[tuple[int, int], list[DiskSeen]] = {}
    found = []
    for disk in disks:
        if disk.device is not None and disk.total is not None:
            groups.setdefault((disk.device, disk.total), []).append(disk)
        found += [
            f"{disk.place}: {size_of(size)} of {what} can be freed: {HOW_TO_FREE[what]}"
            for what, size in disk.freeable.items()
            if size and what in HOW_TO_FREE
        ]
    for shared in groups.values():
        if len(shared) < 2:
            continue
        names = ", ".join(disk.place for disk in shared)
        found.append(f"one disk holds {names}")
        bases = {disk.place: disk.uses.get("bases", 0) for disk in shared}
        held = {place: size for place, size in bases.items() if size}
        if len(held) > 1:
            where = ", ".join(f"{place} {size_of(size)}" for place, size in held.items())
            total = size_of(sum(held.values()))
            found.append(f"bases lie {len(held)} times on it, {total}: {where}")
    return found


def cost_of_base(size: int) -> str:
    """Return what a base of `size` bytes takes, before any of it is stored."""
    return (
        f"{size_of(size)}: the base will lie in store, backup and archive, and in the trainer's "
        f"cache while a job needs it: {size_of(4 * size)}, beside your own folder"
    )


def no_room_for_base(disks: Iterable[DiskSeen], size: int) -> list[str]:
    """Return which places have no room for a base; the store holds it twice until it is copied."""
    found = []
    for disk in disks:
        need = size * COPIES_OF_BASE.get(disk.place, 0)
        if need and disk.free is not None and disk.free < need + disk.reserve:
            has = f"{size_of(disk.free)} free, {size_of(disk.reserve)} must stay free"
            found.append(f"the {disk.place} has no room for {size_of(need)} ({has})")
    return found
