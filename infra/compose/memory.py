"""How much memory each container may use, worked out from what the engine's host has.

Every container gets its floor, without which it does not work. Of what is left, a quarter at most
goes to the servers and small services, up to what they ever need, and the rest to the trainer. A
tenth of the host, 1 GiB at least, is left for the system. Uses only the standard library.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from infra.compose.host import Host, HostRefused

MEBIBYTE = 1 << 20
SYSTEM_SHARE, SYSTEM_LEAST = 10, 1024
SURPLUS_SHARE = 4
SIZE_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": MEBIBYTE, "g": 1 << 30}
SIZE_WRITTEN = re.compile(r"(\d+)\s*([bkmg]?)(?:ib|b)?", re.IGNORECASE)


class Need(NamedTuple):
    """What a container needs at least, and what is of use to it at most, in MiB."""

    floor: int
    most: int


NEEDS = {
    "nats": Need(128, 512),
    "store": Need(512, 4096),
    "backup": Need(512, 4096),
    "ingest": Need(768, 4096),
    "vault": Need(256, 1024),
    "evolution": Need(512, 1024),
    "herald": Need(256, 1024),
    "prometheus": Need(256, 1024),
    "grafana": Need(256, 1024),
}
TRAINER_FLOOR = 2048


def setting_of(container: str) -> str:
    """Return the name of the setting for a container's limit."""
    if container == "trainer":
        return "DURAMEN_TRAINER_MEMORY"
    return f"DURAMEN_MEMORY_{container.upper()}"


def limits(host: Host, total: int) -> dict[str, int]:
    """Return the limit of each container in MiB. `total`: of the engine's host, in bytes.

    Raises HostRefused for a host that is too small, or for a setting that does not fit it.
    """
    floors = {name: need.floor for name, need in NEEDS.items() if name not in host.without}
    floors["trainer"] = TRAINER_FLOOR
    chosen = chosen_limits(host.settings, floors)
    room = total // MEBIBYTE - max(SYSTEM_LEAST, total // MEBIBYTE // SYSTEM_SHARE)
    least = floors | chosen
    left = room - sum(least.values())
    if left < 0:
        raise HostRefused(too_small(total, least, chosen))
    return spread_memory(least, chosen, left)


def spread_memory(least: Mapping[str, int], chosen: Mapping[str, int], left: int) -> dict[str, int]:
    """Return the limits with `left` MiB given to those that the user has not set."""
    grow = {
        name: NEEDS[name].most - floor
        for name, floor in least.items()
        if name != "trainer" and name not in chosen
    }
    given = min(left // SURPLUS_SHARE, sum(grow.values()))
    shares = {name: given * more // sum(grow.values()) for name, more in grow.items()}
    found = {name: floor + shares.get(name, 0) for name, floor in least.items()}
    if "trainer" not in chosen:
        found["trainer"] += left - sum(shares.values())
    return found


def chosen_limits(settings: Mapping[str, str], floors: Mapping[str, int]) -> dict[str, int]:
    """Return the limits that the user has set, in MiB. Raises HostRefused for one that is wrong."""
    chosen = {}
    for container, floor in floors.items():
        name = setting_of(container)
        if not settings.get(name):
            continue
        chosen[container] = mib_of(name, settings[name])
        if chosen[container] < floor:
            raise HostRefused(
                f"{name}={settings[name]} is less than the {floor} MiB that {container} needs: "
                "set it higher, or leave it out"
            )
    return chosen


def mib_of(name: str, text: str) -> int:
    """Return a size such as 64g in MiB. Raises HostRefused for anything else."""
    found = SIZE_WRITTEN.fullmatch(text.strip())
    if found is None:
        raise HostRefused(f"{name}={text}: write a size such as 512m or 64g")
    return int(found.group(1)) * SIZE_UNITS[found.group(2).lower()] // MEBIBYTE


def too_small(total: int, least: Mapping[str, int], chosen: Mapping[str, int]) -> str:
    """Return why the containers do not fit, and what to do about it."""
    needed = sum(least.values()) + SYSTEM_LEAST
    text = (
        f"Docker's host has {total / 2**30:.1f} GiB of memory, and the containers need "
        f"{needed / 1024:.1f} GiB with what the system keeps"
    )
    if chosen:
        names = ", ".join(f"{setting_of(name)} ({size} MiB)" for name, size in chosen.items())
        return f"{text}: lower {names}, or leave it out"
    return f"{text}: use a host with more, or DURAMEN_WITHOUT=grafana, or `make local`"


def handed_on(host: Host, total: int) -> dict[str, str]:
    """Return the settings with which compose limits each container.

    On a host that is too small, which `make up` refuses, they are the floors.
    """
    try:
        found = limits(host, total)
    except HostRefused:
        found = {name: need.floor for name, need in NEEDS.items()} | {"trainer": TRAINER_FLOOR}
    return {setting_of(name): f"{size}m" for name, size in found.items()}
