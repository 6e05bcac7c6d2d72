"""What a job's plan made of a file: told beside the file in done/, once there is a plan.

`<name>.plan.json` lists the rows that are not trained, by line and reason; `<name>.long.jsonl`
holds those that were too long, as they are stored, to be cut or split by hand.
"""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson

from services.ingest.inbox.inbox import beside
from services.ingest.outcome.finish import Finisher
from services.ingest.outcome.report import Report
from shared import log
from shared.files import copy_synced
from shared.protocol.message import ObjectRef
from shared.protocol.names import JobId
from shared.store.s3 import PRECIOUS

LOOK_SECONDS = 5.0
DATA, SOURCE, LONG, PLAN = "data.jsonl", "source.jsonl", "long.jsonl", "plan.json"


@dataclass
class Planned:
    """Follows the jobs of files in done/ until their plans are told. Remembers nothing on disk."""

    finisher: Finisher
    waiting: dict[JobId, Path] | None = None
    due: float = 0.0

    async def once(self) -> None:
        """Tell what is new. Raises BusUnavailable, StoreUnavailable."""
        if time.monotonic() < self.due:
            return
        self.due = time.monotonic() + LOOK_SECONDS
        if self.waiting is None:
            found = await asyncio.to_thread(lambda: list(self.finisher.inbox.finished()))
            self.waiting = {job_id(report): target for target, report in found}
        for report, target in self.finisher.queued:
            self.waiting[job_id(report)] = target
        self.finisher.queued.clear()
        if not self.waiting:
            return
        table = self.finisher.table
        await table.update(self.finisher.bus)
        for job, target in list(self.waiting.items()):
            record = table.jobs[job].record if job in table.jobs else None
            if record is None or (
                record.plan is None and record.state not in ("queued", "running")
            ):
                del self.waiting[job]
            elif record.plan is not None:
                await asyncio.to_thread(self.tell, job, record.plan, target)
                del self.waiting[job]

    def tell(self, job: JobId, plan: ObjectRef, target: Path) -> None:
        """Write what lies beside the file. Blocking. Raises StoreUnavailable, OSError."""
        store, folder = self.finisher.store, self.finisher.work_dir / f"plan-{plan.sha256}"
        folder.mkdir(exist_ok=True)
        made = orjson.loads(store.read(PRECIOUS, plan.key))
        prefix = f"datasets/{job.sha256}"
        left = {e["row"]: e for e in made["left_out"] if e["dataset"] == job.sha256}
        asked = sorted({*left, *made["heldout_rows"]})
        lines: dict[int, int] = {}
        if asked:
            with (folder / SOURCE).open("wb") as file:
                file.writelines(store.blocks(PRECIOUS, f"{prefix}/{SOURCE}"))
            lines = {n: orjson.loads(raw)["line"] for n, raw in chosen(folder / SOURCE, asked)}
        told = {
            "schema": 1,
            "job": job.path,
            "plan": plan.sha256,
            "max_length": made["settings"]["max_length"],
            "rows": made["rows"],
            "trained_rows": len(made["train_rows"]),
            "tokens": made["tokens"],
            "held_out_lines": [lines.get(n) for n in made["heldout_rows"]],
            "left_out": [
                {"line": lines.get(n), "reason": e["reason"], "tokens": e.get("tokens")}
                for n, e in sorted(left.items())
            ],
        }
        long = sorted(n for n, e in left.items() if e.get("tokens") is not None)
        if long:
            ref = self.finisher.table.jobs[job].record.dataset
            store.fetch(ref, folder / DATA)
            with (folder / LONG).open("wb") as file:
                file.writelines(raw for _, raw in chosen(folder / DATA, long))
            copy_synced(folder / LONG, beside(target, LONG))
        (folder / PLAN).write_bytes(orjson.dumps(told, option=orjson.OPT_INDENT_2) + b"\n")
        copy_synced(folder / PLAN, beside(target, PLAN))
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        log.get().info("plan_told", job=str(job), left_out=len(left), long=len(long))


def job_id(report: Report) -> JobId:
    assert report.job is not None, "it was queued"
    return JobId.parse(report.job)


def chosen(path: Path, numbers: list[int]) -> Iterator[tuple[int, bytes]]:
    """(number from 0, line) of these lines."""
    wanted = set(numbers)
    with path.open("rb") as file:
        for number, line in enumerate(file):
            if number in wanted:
                yield number, line
