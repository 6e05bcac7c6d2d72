"""An inbox with ingest beside it, as a user has them: files dropped, reports read, jobs seen."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.formats.report import Report
from shared.ledger.control import events
from shared.ledger.jobs import Job, Table
from shared.protocol.events import Event
from tests.services import House, Process, until

SECONDS = 40.0


def row(n: int | str) -> bytes:
    return json.dumps({"prompt": f"What is {n}?", "completion": f"It is {n}."}).encode() + b"\n"


def rows(box: "Box", count: int, words: str = "") -> bytes:
    return b"".join(row(f"{box.lineage} {words} {n}") for n in range(count))


PERIODS = {"scan_seconds": 0.05, "unfinished_seconds": 1.5}


class Box:
    """An inbox of this test alone: what is dropped under @lineage is that lineage's."""

    def __init__(self, house: House, lineage: str, folder: Path) -> None:
        self.house, self.lineage = house, lineage
        self.root, self.state = folder / "inbox", folder / "state"
        for name in ("", "priority", "low", "eval"):
            (self.root / f"@{lineage}" / name).mkdir(parents=True)
        self.settings = {
            "DURAMEN_INBOX_DIR": str(self.root),
            "DURAMEN_STATE_DIR": str(self.state),
            "DURAMEN_SETTLE_SECONDS": "0.3",
        }

    def start(self, **env: str) -> Process:
        return self.house.start("ingest", PERIODS, **{**self.settings, **env})

    @contextmanager
    def running(self, periods: dict[str, float] | None = None, /, **env: str) -> Iterator[Process]:
        periods = {**PERIODS, **(periods or {})}
        with self.house.service("ingest", periods, **{**self.settings, **env}) as process:
            yield process

    def folder(self, name: str = "") -> Path:
        return self.root / f"@{self.lineage}" / name

    def drop(self, name: str, data: bytes, folder: str = "") -> Path:
        """As one should: written elsewhere, renamed into place."""
        part = self.root.parent / "being-written"
        part.write_bytes(data)
        return part.rename(self.folder(folder) / name)

    async def ended(self, name: str, where: str = "done") -> Report:
        """The report of a file, once it and all that goes with it lie where they end."""

        async def look() -> Report | None:
            if not os.path.lexists(self.root / where / name):
                return None
            report = Report.model_validate_json(self.report(name, where).read_bytes())
            return None if (self.root / ".taken" / report.taken).exists() else report

        return await until(look, f"{where}/{name}", SECONDS)

    def report(self, name: str, where: str, suffix: str = "json") -> Path:
        return self.root / where / f"{name}.report.{suffix}"

    def refusal(self, name: str) -> str:
        return self.report(name, "rejected", "txt").read_text()

    async def jobs(self) -> list[Job]:
        async with self.house.bus("ctl") as bus:
            table = Table()
            await table.update(bus)
        mine = [job for job in table.jobs.values() if job.id.lineage == self.lineage]
        return sorted(mine, key=lambda job: job.order)

    async def events(self, kind: str) -> list[Event]:
        async with self.house.bus("ctl") as bus:
            found = [event async for _, event in events(bus, 0, f"evt.ingest.{kind}")]
        return [event for event in found if event.lineage == self.lineage]

    def left(self) -> list[str]:
        """What lies in .taken."""
        return [path.name for path in (self.root / ".taken").iterdir() if path.is_dir()]
