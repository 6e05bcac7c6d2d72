"""`make backup`, and `make restore ARGS=bus`: the bus as a file in HOME/bus-backups.

Versions, bases and datasets have copies of their own; this one holds queue, ledgers and audit. Uses
only the standard library.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.compose.engine import Compose, docker
from infra.compose.host import Host, HostRefused
from shared.service_names import SERVICES

RECORDS = ("JOBS", "CTL", "EVT")
WRITERS = (*SERVICES, "herald")
# What the container that packs and unpacks may do: read and write files of the bus' user.
CAPABILITIES = ("DAC_READ_SEARCH", "DAC_OVERRIDE", "CHOWN", "FOWNER")


def make_backup(host: Host, compose: Compose) -> Path:
    """Make a backup of the bus in a new file, and return its path.

    The bus and all that write to it are stopped meanwhile: files of a stream belong together.
    """
    with _still(compose):
        return pack_bus(host)


def restore_bus(host: Host, compose: Compose, name: str | None) -> Path:
    """Put the bus back as it was in file `name`, or in the newest file; return that file.

    What it replaces is kept as another file.

    Raises HostRefused, with everything as it was, if a service has written since: a bus that went
    back in time would give out the same numbers twice.
    """
    chosen = find_backup(folder_of(host), name)
    with _still(compose) as had:
        before = pack_bus(host, "-replaced")
        unpack_bus(host, chosen)
        compose.output("up", "--detach", "--wait", "--no-deps", "nats")
        try:
            behind(had, lasts(compose))
            check_bus(host)
        except HostRefused as error:
            compose.output("stop", "nats")
            unpack_bus(host, before)
            raise HostRefused(f"{chosen.name} was not restored: {error}") from error
    return chosen


@contextmanager
def _still(compose: Compose) -> Iterator[dict[str, int]]:
    """Stop the writers, then the bus; start them again when the block ends.

    Yields the last sequences of the bus, or nothing if it did not run.
    """
    there = compose.running()
    running = [service for service in WRITERS if service in there]
    if running:
        compose.output("stop", *running)
    had = lasts(compose) if "nats" in there else {}
    compose.output("stop", "nats")
    try:
        yield had
    finally:
        compose.output("up", "--detach", "--wait", "--no-deps", "nats")
        if running:
            compose.output("start", *running)


def lasts(compose: Compose) -> dict[str, int]:
    """Return the last sequence of each stream in RECORDS, as the bus itself reports it."""
    url = "http://127.0.0.1:8222/jsz?streams=true"
    output = compose.output("exec", "-T", "nats", "wget", "-Y", "off", "-q", "-O", "-", url)
    accounts = json.loads(output).get("account_details") or []
    streams = [stream for account in accounts for stream in account.get("stream_detail") or []]
    return {s["name"]: s["state"]["last_seq"] for s in streams if s["name"] in RECORDS}


def behind(had: dict[str, int], has: dict[str, int]) -> None:
    """Compare the last sequences of the streams. Raises HostRefused if one ends before it did."""
    short = [
        f"{name} ends at {has.get(name, 0)}, not {last}"
        for name, last in had.items()
        if has.get(name, 0) < last
    ]
    if short:
        raise HostRefused(
            f"the bus that runs now has more records than this backup: {'; '.join(short)}"
        )


def folder_of(host: Host) -> Path:
    folder = host.home / "bus-backups"
    folder.mkdir(exist_ok=True)
    if os.getuid() == 0:
        os.chown(folder, host.uid, host.gid)
    return folder


def find_backup(folder: Path, name: str | None) -> Path:
    """Return the file called `name`, or else the newest one that no restore has put aside.

    Raises HostRefused if there is none.
    """
    if name:
        found = [folder / Path(name).name]
    else:
        found = sorted(p for p in folder.glob("bus-*.tar") if "-replaced" not in p.name)[-1:]
    if not found or not found[0].is_file():
        there = ", ".join(sorted(p.name for p in folder.glob("bus-*.tar"))) or "none"
        raise HostRefused(f"no such backup in {folder}; there: {there}")
    return found[0]


def pack_bus(host: Host, suffix: str = "") -> Path:
    name = time.strftime(f"bus-%Y%m%dT%H%M%SZ{suffix}.tar", time.gmtime())
    _run(host, "pack", "/bus", f"/backups/{name}")
    return folder_of(host) / name


def unpack_bus(host: Host, archive: Path) -> None:
    """Replace the bus' files by those in the archive.

    Raises HostRefused if the archive is not what its .sha256 says; nothing is changed then.
    """
    _run(host, "unpack", f"/backups/{archive.name}", "/bus")


def _run(host: Host, *words: str) -> None:
    """Run one step in a container that sees the bus' volume, the backups and no network."""
    caps = [word for name in CAPABILITIES for word in ("--cap-add", name)]
    docker(
        *("run", "--rm", "--network", "none", "--user", "0:0", "--cap-drop", "ALL", *caps),
        *("--read-only", "--tmpfs", "/tmp"),  # noqa: S108 - the container's own
        *("-v", f"{host.project}_bus:/bus", "-v", f"{folder_of(host)}:/backups"),
        *(host.image("bootstrap"), "python", "-m", "infra.servers.nats.backup", *words),
        seconds=3600,
    )


def check_bus(host: Host) -> None:
    """Check that the bus holds all that the services saw acknowledged. Raises HostRefused."""
    volumes = docker("volume", "ls", "--quiet").split()
    seen = [service for service in WRITERS if f"{host.project}_{service}" in volumes]
    mounts = [w for s in seen for w in ("-v", f"{host.project}_{s}:/marks/{s}:ro")]
    scheme = "tls" if host.tls else "nats"
    values = {
        "NATS_URL": f"{scheme}://nats:4222",
        "STORE_URL": "http://store:9000",
        "BACKUP_URL": "http://backup:9000",
        "SECRETS_DIR": "/secrets",
    }
    if host.tls:
        mounts += ["-v", f"{host.home / 'run' / 'nats.tls'}:/tls:ro"]
        values["NATS_CA"] = "/tls/ca.pem"
    docker(
        *("run", "--rm", "--network", f"{host.project}_backend", "--cap-drop", "ALL"),
        *("--user", f"{host.uid}:{host.gid}", "-v", f"{host.home / 'secrets'}:/secrets:ro"),
        *(word for name, value in values.items() for word in ("-e", f"DURAMEN_{name}={value}")),
        *(*mounts, host.image("bootstrap"), "python", "-m", "infra.servers.nats.backup", "check"),
        *(f"/marks/{service}" for service in seen),
    )
