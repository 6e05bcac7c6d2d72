"""A packed home: its folders in an archive, and servers with services started over them again."""

import subprocess
from pathlib import Path
from typing import Any

import orjson

from shared.bus.client import Bus
from shared.ledger.jobs import Table
from shared.protocol.names import JobId
from tests.services import House, until

HERE = Path(__file__).parent
PACKED = HERE / "packed"
# Data alone: secrets and configuration are made anew where a home is unpacked.
FOLDERS = ("nats", "store", "backup", "archive", "inbox", "state")
SETTINGS = {
    "PYTHONPATH": str(HERE / "pinned"),
    "DURAMEN_DEVICE": "cpu",
    "DURAMEN_THREADS": "1",
    "DURAMEN_SETTLE_SECONDS": "0.1",
    "DURAMEN_CHECKPOINT_SECONDS": "0.5",
    "DURAMEN_BATCH_TOKENS": "64",
    "DURAMEN_LEARNING_RATE": "5e-3",
    "DURAMEN_LEASE_SECONDS": "5",
    "DURAMEN_SNAPSHOT_FRACTION": "0",
    "DURAMEN_SNAPSHOT_ALLOWANCE_SECONDS": "1",
}


def pack(home: Path, name: str) -> Path:
    """Write the folders of a home, in which nothing runs, to packed/<name>.tar.xz."""
    target = PACKED / f"{name}.tar.xz"
    target.parent.mkdir(exist_ok=True)
    command = ["tar", "--create", "--sparse", "--sort=name", "--owner=0", "--group=0"]
    subprocess.run(
        [*command, "--numeric-owner", "--xz", f"--file={target}", f"--directory={home}", *FOLDERS],
        check=True,
        timeout=120,
        env={"PATH": "/usr/bin:/bin", "XZ_OPT": "-9e"},
    )
    return target


def unpack(name: str, home: Path) -> Path:
    """Lay the folders of a packed home into `home`, which exists or not."""
    home.mkdir(parents=True, exist_ok=True)
    archive = PACKED / f"{name}.tar.xz"
    command = ["tar", "--extract", "--xz", f"--file={archive}", f"--directory={home}"]
    subprocess.run([*command, "--no-same-owner"], check=True, timeout=60)
    return home


async def until_published(house: House, version: int, seconds: float) -> dict[str, Any]:
    """The commit record of a version of `main`, once all three places have it."""
    key = f"catalog/main/v{version:03d}.json"
    stores = [house.store("reader", server) for server in ("store", "backup")]
    archived = house.stack.home.archive / key

    async def look() -> dict[str, Any] | None:
        if not archived.exists() or any(key not in s.keys("duramen", key) for s in stores):
            return None
        found: dict[str, Any] = orjson.loads(stores[0].read("duramen", key))
        return found

    return await until(look, f"version {version} is published", seconds)


async def job_named(bus: Bus, name: str) -> tuple[Table, JobId]:
    """The job of a file, by its name."""
    table = await Table.of(bus)
    (job,) = [job for job in table.jobs.values() if job.record.name == name]
    return table, job.id
