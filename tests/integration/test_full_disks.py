"""Small file systems that are filled: each place says so, everything waits, nothing fails."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from shared.ledger.control import observed_all
from shared.protocol.observed import Observed
from shared.service_names import SERVICES
from tests.command_line import duramen
from tests.inbox import PERIODS, row
from tests.integration.test_trainer import SLOW_STEPS
from tests.services import House, until
from tests.tiny import tiny_conversations

PLACES = ("inbox", "ingest", "trainer", "archive", "evolution")
RESERVE = 8 << 20
BALLAST = "ballast"


@pytest.fixture
def small(tmp_path: Path) -> Iterator[dict[str, Path]]:
    """A file system of 48 MiB for each place."""
    folders = {place: tmp_path / place for place in PLACES}
    with ExitStack() as mounted:
        for folder in folders.values():
            folder.mkdir()
            command = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder)]
            if subprocess.run(command, capture_output=True).returncode != 0:
                pytest.skip("file systems cannot be mounted here")
            mounted.callback(subprocess.run, ["umount", "-l", str(folder)], check=True)
        yield folders


def said_of(place: str, text: str) -> bool:
    return f"no space for {place}: " in text or f"no space for the {place}: " in text


def fill(folder: Path) -> None:
    """Take all the space that is left."""
    try:
        with (folder / BALLAST).open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
    except OSError:
        pass


async def said(house: House) -> dict[str, Observed]:
    """What each service says of itself."""
    async with house.bus("ctl") as bus:
        seen = {name: await observed_all(bus, name) for name in SERVICES}
    return {name: view for name, views in seen.items() for view in views.values()}


async def test_full_places_are_said_and_what_waits_continues_once_there_is_space(
    house: House, small: dict[str, Path]
) -> None:
    stack = house.stack
    reserve = {"DURAMEN_DISK_RESERVE_BYTES": str(RESERVE), "DURAMEN_SETTLE_SECONDS": "0.1"}
    where = {
        "ingest": {
            "DURAMEN_INBOX_DIR": str(small["inbox"]),
            "DURAMEN_STATE_DIR": str(small["ingest"]),
        },
        "trainer": {
            "DURAMEN_STATE_DIR": str(small["trainer"]),
            "DURAMEN_CHECKPOINT_SECONDS": "0.2",
        },
        "vault": {"DURAMEN_ARCHIVE_DIR": str(small["archive"])},
        "evolution": {"DURAMEN_STATE_DIR": str(small["evolution"])},
    }
    periods = {"ingest": PERIODS, "vault": {"retry_seconds": 1.0}}
    await house.create("main", house.add_base())
    job = await house.submit("main", tiny_conversations(30), **SLOW_STEPS)
    with ExitStack() as running:
        for name, settings in where.items():
            running.enter_context(house.service(name, periods.get(name), **{**settings, **reserve}))

        async def has_checkpoint() -> bool:
            seen = (await said(house)).get("trainer")
            return seen is not None and seen.checkpoint is not None

        await until(has_checkpoint, "a checkpoint is stored")
        for place in PLACES:
            fill(small[place])
        (small["inbox"] / BALLAST).rename(small["inbox"] / "rows.jsonl")  # what fills it is a file

        async def all_said() -> bool:
            troubles = json.loads(duramen(stack, "status", "--json").stdout)["troubles"]
            full = [t["said"] for t in troubles if t["what"] == "disk"]
            return all(any(said_of(p, text) for text in full) for p in PLACES)

        await until(all_said, "status names every place")

        async def all_wait() -> bool:
            seen = await said(house)
            table = await house.until_state(job, "queued")
            waits = seen["trainer"].waiting.get("main", ""), seen["ingest"].inbox
            files = {each.file: each.why for each in waits[1].files} if waits[1] else {}
            assert table.jobs[job].record.failure is None
            return "disk: " in waits[0] and "inbox: no space: " in files.get("rows.jsonl", "")

        await until(all_wait, "job and file wait with the reason")
        doctor = duramen(stack, "doctor")
        assert doctor.returncode == 1
        assert "no space for the archive: 0 B free" in doctor.stdout
        shown = json.loads(duramen(stack, "disk", "--json").stdout)
        free = {each["place"]: each["free"] for each in shown["places"]}
        assert free.keys() == {*PLACES, "bus", "store", "backup", "vault"}
        assert {free[place] for place in PLACES} == {0}
        assert free["store"] > RESERVE
        (small["inbox"] / "rows.jsonl").write_bytes(row("a file that fits"))
        for place in ("ingest", "trainer", "evolution"):
            (small[place] / BALLAST).unlink()
        await house.until_state(job, "done")

        async def pending() -> bool:
            reason = (await said(house))["vault"].waiting.get("main", "")
            return "v001 is not published: archive: no space for" in reason

        await until(pending, "the version waits for the archive")
        (small["archive"] / BALLAST).unlink()

        async def whole() -> bool:
            status = json.loads(duramen(stack, "status", "--json").stdout)
            full = [t for t in status["troubles"] if t["what"] == "disk"]
            return not full and status["published"].get("main", "").startswith("v00")

        await until(whole, "published, and nothing is full any more")
        assert not (small["inbox"] / "rows.jsonl").exists()
