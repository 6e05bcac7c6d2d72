"""What a job's plan made of a file: told beside the file in done/, once there is a plan.

`<name>.plan.json` lists the rows that are not trained, by line and reason; `<name>.long.jsonl`
holds those that were too long, as they are stored, to be cut or split by hand. Rows that only the
template showed to be bad follow those in `<name>.bad.jsonl`, also if the job failed for them. Why
a job failed before it had a plan is in `<name>.report.txt` until it has one: it may be retried.
"""

import asyncio
import shutil
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from services.ingest.inbox.inbox import beside
from services.ingest.ingest import Ingest
from services.ingest.reading.output import BAD
from shared import log
from shared.errors import MALFORMED, ObjectDamaged, ObjectMissing
from shared.files import copy_synced, write_synced
from shared.formats.dataset import DATA, chosen_lines, original_lines
from shared.formats.plan import KnownRows, Plan
from shared.formats.report import Report
from shared.formats.result import BAD_ROWS, BadRows, SegmentResult
from shared.protocol.message import ObjectRef
from shared.protocol.names import JobId
from shared.protocol.records import Failure, JobRecord
from shared.store import layout
from shared.store.place import PRECIOUS

LOOK_SECONDS = 5.0
MAY_GO_ON = ("queued", "running", "failed", "skipped")
LONG, PLAN, REPORT_TEXT = "long.jsonl", "plan.json", "report.txt"


@dataclass
class Planned:
    """Follows the jobs of files in done/ until their plans are told. Remembers nothing on disk.

    `failed`: the failures that were told of jobs that may still be retried. `unreadable`: why the
    plan of a job could not be told yet.
    """

    ingest: Ingest
    work_dir: Path
    queued: list[tuple[Report, Path]] = field(default_factory=list)  # where each now lies
    waiting: dict[JobId, Path] | None = None
    failed: dict[JobId, Failure] = field(default_factory=dict)
    unreadable: dict[JobId, str] = field(default_factory=dict)
    due: float = 0.0

    async def once(self) -> None:
        """Tell what is new. Raises BusUnavailable, StoreUnavailable."""
        if time.monotonic() < self.due:
            return
        self.due = time.monotonic() + LOOK_SECONDS
        if self.waiting is None:
            found = await asyncio.to_thread(lambda: list(self.ingest.inbox.finished()))
            self.waiting = {job_id(report): target for target, report in found}
        for report, target in self.queued:
            self.waiting[job_id(report)] = target
        self.queued.clear()
        if not self.waiting:
            return
        table = self.ingest.table
        await table.update(self.ingest.bus)
        for job, target in list(self.waiting.items()):
            record = table.jobs[job].record if job in table.jobs else None
            if record is not None and record.plan is not None:
                if not await self.is_told(job, record.plan, target):
                    continue
            elif record is not None and record.state in MAY_GO_ON:
                if record.failure not in (None, self.failed.get(job)):
                    await asyncio.to_thread(self.tell_failure, job, record, target)
                    self.failed[job] = record.failure
                continue
            self.failed.pop(job, None)
            del self.waiting[job]

    async def is_told(self, job: JobId, plan: ObjectRef, target: Path) -> bool:
        """Tell of a plan; return whether it could be read. The files behind it go on.

        Raises StoreUnavailable, OSError.
        """
        try:
            await asyncio.to_thread(self.tell, job, plan, target)
        except (ObjectMissing, ObjectDamaged, *MALFORMED) as error:
            if self.unreadable.get(job) != str(error):
                self.unreadable[job] = str(error)
                log.get().error("plan_unreadable", job=str(job), why=str(error))
            return False
        self.unreadable.pop(job, None)
        return True

    def tell(self, job: JobId, plan: ObjectRef, target: Path) -> None:
        """Write what lies beside the file. Blocking. Raises StoreUnavailable, OSError."""
        store, folder = self.ingest.store, self.work_dir / f"plan-{plan.sha256}"
        folder.mkdir(exist_ok=True)
        made = Plan.from_bytes(store.read(PRECIOUS, plan.key))
        left = made.left_out_of(job.sha256)
        source = store.blocks(PRECIOUS, layout.dataset_source(job.sha256))
        known = made.known or KnownRows()
        changed = [row.row for row in known.changed_rows]
        lines = original_lines(source, {*left, *made.heldout_rows, *changed})
        told = account(job, plan.sha256, made, lines)
        long = [n for n, row in left.items() if row.tokens is not None]
        bad = [n for n, row in left.items() if row.bad]
        if long or bad:
            store.fetch(self.ingest.table.jobs[job].record.dataset, folder / DATA)
        if long:
            copy_chosen(folder, long, folder / LONG)
            copy_synced(folder / LONG, beside(target, LONG))
        if bad:
            copy_chosen(folder, bad, folder / BAD)
            add_lines(folder / BAD, beside(target, BAD))
        (folder / PLAN).write_bytes(orjson.dumps(told, option=orjson.OPT_INDENT_2) + b"\n")
        copy_synced(folder / PLAN, beside(target, PLAN))
        beside(target, REPORT_TEXT).unlink(missing_ok=True)  # of a failure before a retry
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        log.get().info("plan_told", job=str(job), left_out=len(left), long=len(long), bad=len(bad))

    def tell_failure(self, job: JobId, record: JobRecord, target: Path) -> None:
        """Write why nothing of a file was trained, and the rows that were too many bad ones.

        Blocking. Raises StoreUnavailable, OSError.
        """
        why = record.failure
        assert why is not None
        next_step = f"Next: {why.next_step}\n" if why.next_step else ""
        ended = "was skipped" if record.state == "skipped" else "failed"
        told = f"Job {job} {ended}, and nothing of {target.name} was trained.\n\n{why.message}\n\n"
        if bad := self.too_many_bad(job):
            folder = self.work_dir / f"failed-{job.sha256}"
            folder.mkdir(exist_ok=True)
            self.ingest.store.fetch(record.dataset, folder / DATA)
            copy_chosen(folder, bad, folder / BAD)
            add_lines(folder / BAD, beside(target, BAD))
            shutil.rmtree(folder, ignore_errors=True)
            told += f"All bad rows, as they are stored, are in {beside(target, BAD).name}.\n"
        write_synced(beside(target, REPORT_TEXT), (told + next_step).encode())

    def too_many_bad(self, job: JobId) -> tuple[int, ...]:
        """Return the rows for which the last segment of a job failed, if it did. Blocking."""
        segment, store = self.ingest.table.last_segment(job), self.ingest.store
        listed = segment.closed.result if segment and segment.closed else None
        if listed is None:
            return ()
        try:
            data = store.read(listed.bucket, listed.key, sha256=listed.sha256)
            file = SegmentResult.from_bytes(data).file(BAD_ROWS)
            if file is None:
                return ()
            rows = store.read(file.bucket, file.key, sha256=file.sha256)
            return BadRows.from_bytes(rows).rows
        except (ObjectMissing, ValueError):  # the trainer clears its results in time
            return ()


def copy_chosen(folder: Path, rows: Collection[int], target: Path) -> None:
    """Write these rows of the folder's dataset, by number from 0, as they are stored."""
    with (folder / DATA).open("rb") as data, target.open("wb") as file:
        file.writelines(line + b"\n" for _, line in chosen_lines(data, rows))


def add_lines(source: Path, target: Path) -> None:
    """Add the lines of `source` that `target` lacks, so that it may be done again."""
    there = target.read_bytes() if target.exists() else b""
    there += b"" if there.endswith(b"\n") or not there else b"\n"
    known = set(there.split(b"\n"))
    more = [line for line in source.read_bytes().split(b"\n") if line not in known]
    write_synced(target, there + b"".join(line + b"\n" for line in more))


def account(job: JobId, sha256: str, made: Plan, lines: dict[int, int]) -> dict[str, Any]:
    """Return what a plan, named by its SHA-256, made of a file; `lines` of the original, by row."""
    left = made.left_out_of(job.sha256)
    return {
        "schema": 1,
        "job": job.path,
        "plan": sha256,
        "max_length": made.settings.max_length,
        "rows": made.rows,
        "trained_rows": len(made.train_rows),
        "tokens": made.tokens,
        "new_rows": made.new_rows,
        **already_known(made.known or KnownRows(), lines),
        "held_out_lines": [lines.get(n) for n in made.heldout_rows],
        "left_out": [
            {"line": lines.get(n), **row.model_dump(include={"reason", "tokens"}), "bad": row.bad}
            for n, row in sorted(left.items())
        ],
    }


def already_known(known: KnownRows, lines: dict[int, int]) -> dict[str, Any]:
    """Return what the lineage had trained before, and which answers have changed; see `Plan`."""
    return {
        "already_trained": [job.model_dump() for job in known.jobs],
        "changed_answers": known.changed,
        "first_changed": [
            {"line": lines.get(row.row), **row.model_dump(exclude={"row"})}
            for row in known.changed_rows
        ],
    }


def job_id(report: Report) -> JobId:
    assert report.job is not None, "it was queued"
    return JobId.parse(report.job)
