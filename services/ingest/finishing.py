"""One taken file to its end: read, checked, stored, queued and moved to done/, or refused."""

import asyncio
import os
import shutil
import stat
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client import Counter

from services.ingest import admit, dataset
from services.ingest.dataset import Built
from services.ingest.inbox import Inbox, Taken
from services.ingest.moves import show_name
from services.ingest.report import Outcome, Problem, Report, why_refused
from services.ingest.settle import Settling, Signature, open_plainly, signature
from shared import log
from shared.bus import Bus
from shared.jobs import Table
from shared.messages import Event, ObjectRef
from shared.store import Store

FILES = Counter("duramen_ingest_files_total", "Files finished, by outcome.", ["outcome"])
ROWS = Counter("duramen_ingest_rows_total", "Rows of files that were admitted.")
BYTES = Counter("duramen_ingest_bytes_total", "Bytes read of dropped files.")
REFUSED = Counter("duramen_ingest_refusals_total", "Refused rows and files, by rule.", ["rule"])
SUFFIX = ".jsonl"
PUT_AGAIN = "put the mended file into the inbox again."
PUT_INSTEAD = "put a plain .jsonl file into the inbox instead."
KINDS = {
    stat.S_IFLNK: ("symlink", "It is a symbolic link: put the file itself here, not a link to it."),
    stat.S_IFIFO: ("fifo", "It is a pipe, not a file."),
    stat.S_IFSOCK: ("socket", "It is a socket, not a file."),
    stat.S_IFBLK: ("device", "It is a device, not a file."),
    stat.S_IFCHR: ("device", "It is a device, not a file."),
}


class Changed(Exception):
    """A taken file was written to after all."""


@dataclass
class Held:
    """What is known of a taken file between two looks at it. `due` is on the monotonic clock."""

    name: str
    built: Built | None = None
    read: Signature | None = None
    why: str | None = None
    delay: float = 0.0
    due: float = 0.0
    alarmed: bool = False
    done: bool = False


@dataclass
class Finisher:
    """Finishes taken files, each step repeatable. `work_dir` holds private copies, no originals."""

    bus: Bus
    store: Store
    inbox: Inbox
    settling: Settling
    work_dir: Path
    max_row_bytes: int
    table: Table = field(default_factory=Table)

    def __post_init__(self) -> None:
        self._log = log.get()
        shutil.rmtree(self.work_dir, ignore_errors=True)
        self.work_dir.mkdir(parents=True)

    async def finish(self, taken: Taken, held: Held) -> str | None:
        """Why the file is not complete yet; None when it has left. Raises Changed, OSError."""
        status = taken.path.lstat()
        if not stat.S_ISREG(status.st_mode):
            rule, message = KINDS.get(stat.S_IFMT(status.st_mode), ("kind", "It is not a file."))
            await self.refuse_whole(taken, held, rule, message)
            return None
        why = self.settling.why_not(taken.path, status, time.monotonic())
        if why is not None:
            return why
        if not taken.origin.name.lower().endswith(SUFFIX):
            message = f"Only {SUFFIX} files are taken: JSON lines, one row on each line."
            await self.refuse_whole(taken, held, "file_type", message)
            return None
        if held.built is None:
            try:
                held.built, held.read = await asyncio.to_thread(self.build, taken)
            except PermissionError:
                message = "It cannot be read: its permissions do not allow it (chmod a+r)."
                await self.refuse_whole(taken, held, "unreadable", message)
                return None
        self.check_unchanged(taken, held)
        built = held.built
        assert built is not None, "it was built above"
        await (self.refuse if built.refused else self.accept)(taken, held, built)
        return None

    def build(self, taken: Taken) -> tuple[Built, Signature]:
        """A private copy, checked and in canonical form. Blocking. Raises Changed."""
        folder = self.work_dir / taken.origin.id
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        descriptor = open_plainly(taken.path)
        try:
            before = signature(os.fstat(descriptor))
            dataset.copy_original(descriptor, folder / dataset.ORIGINAL)
            if signature(os.fstat(descriptor)) != before:
                raise Changed
        finally:
            os.close(descriptor)
        name = show_name(taken.origin.name)
        built = dataset.build(folder, name, self.max_row_bytes)
        BYTES.inc(built.contents.original_bytes)
        return built, before

    def check_unchanged(self, taken: Taken, held: Held) -> None:
        """Raises Changed if the file is no longer what was read."""
        if signature(taken.path.lstat()) != held.read:
            raise Changed

    async def accept(self, taken: Taken, held: Held, built: Built) -> None:
        """Store, queue, move to done/."""
        origin, contents = taken.origin, built.contents
        ref = await asyncio.to_thread(admit.store_dataset, self.store, built)
        self.check_unchanged(taken, held)
        facts = {"name": contents.name, "rows": contents.rows, "level": origin.level}
        await self.tell(taken, "stored", {**facts, "bytes": ref.size}, ref=ref)
        if origin.kind == "eval":
            report = await self.measure(taken, built, ref)
        else:
            wish = admit.Wish(origin, ref, contents.rows)
            report = self.decided(taken, built, await admit.queue(self.bus, self.table, wish))
        if report.outcome != "measured":
            data = {**facts, "why": report.why, "next": report.next_step}
            await self.tell(taken, report.outcome, data, ref=ref, job=report.job)
        # Had it grown until here, what was added would go untrained: read it all again.
        self.check_unchanged(taken, held)
        ROWS.inc(contents.rows)
        await self.end(taken, held, report)

    async def measure(self, taken: Taken, built: Built, ref: ObjectRef) -> Report:
        """Rows that are only ever measured have no job."""
        rows = built.contents.rows
        first = await asyncio.to_thread(admit.store_measured, self.store, taken.origin, ref, rows)
        if first:
            why = "it is measured at every snapshot and never trained."
            return self.report(taken, "measured", why, built)
        return self.report(taken, "duplicate", "these rows are measured already.", built)

    def decided(self, taken: Taken, built: Built, decision: admit.Decision) -> Report:
        job = decision.job
        if decision.known is None:
            why = f"queued as job {job}, {built.contents.rows} rows, level {taken.origin.level}."
            report = self.report(taken, "queued", why, built)
            return report.model_copy(update={"job": job.path, "next_step": "duramen queue list"})
        changes = {"job": job.path, "next_step": decision.next_step, "version": decision.version}
        return self.report(taken, "duplicate", decision.known, built).model_copy(update=changes)

    async def refuse(self, taken: Taken, held: Held, built: Built) -> None:
        """A file with bad rows, or of another format, is refused whole."""
        contents = built.contents
        why = why_refused(contents)
        next_step = "mend these lines (or leave them out), then " + PUT_AGAIN
        if contents.bad_rows == 0:
            why, next_step = contents.problems[0].message, "mend it, then " + PUT_AGAIN
        report = self.report(taken, "refused", why, built)
        report = report.model_copy(update={"next_step": next_step, "problems": contents.problems})
        await self.end_refused(taken, held, report, contents.rules)

    async def refuse_whole(self, taken: Taken, held: Held, rule: str, message: str) -> None:
        """What is no file, or none that can be read, is refused unread."""
        report = self.report(taken, "refused", message, None)
        problem = Problem(field="file", rule=rule, message=message)
        changes = {"problems": [problem], "next_step": PUT_INSTEAD}
        await self.end_refused(taken, held, report.model_copy(update=changes), {rule: 1})

    async def end_refused(
        self, taken: Taken, held: Held, report: Report, rules: dict[str, int]
    ) -> None:
        for rule, count in rules.items():
            REFUSED.labels(rule).inc(count)
        # Rules and places only: a message may quote the row.
        first = report.problems[0]
        where = f"line {first.line}, {first.field}" if first.line else first.field
        data = {"name": report.name, "why": f"{first.rule} ({where})", "rules": rules}
        await self.tell(taken, "refused", data)
        await self.end(taken, held, report)

    def report(self, taken: Taken, outcome: Outcome, why: str, built: Built | None) -> Report:
        origin = taken.origin
        contents = built.contents.model_copy(update={"problems": []}) if built else None
        return Report(
            taken=origin.id,
            name=show_name(origin.name),
            outcome=outcome,
            why=why,
            lineage=origin.lineage,
            level=origin.level,
            kind=origin.kind,
            contents=contents,
        )

    async def end(self, taken: Taken, held: Held, report: Report) -> None:
        """The last step: the file leaves .taken."""
        target = await asyncio.to_thread(self.inbox.finish, taken, report)
        held.done = True
        await asyncio.to_thread(shutil.rmtree, self.work_dir / taken.origin.id, ignore_errors=True)
        FILES.labels(report.outcome).inc()
        where = str(target.relative_to(self.inbox.root))
        self._log.info(
            "file_finished",
            name=report.name,
            outcome=report.outcome,
            job=report.job,
            lineage=report.lineage,
            rows=report.contents.rows if report.contents else 0,
            where=show_name(where),
        )

    async def tell(
        self,
        taken: Taken,
        kind: str,
        data: dict[str, Any],
        ref: ObjectRef | None = None,
        job: str | None = None,
    ) -> None:
        event = Event(
            service="ingest", kind=kind, lineage=taken.origin.lineage, job=job, ref=ref, data=data
        )
        await self.bus.event(event)
