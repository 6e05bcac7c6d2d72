"""One taken file to its end: read, checked, stored, queued and moved to done/, or refused."""

import asyncio
import os
import shutil
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from prometheus_client import Counter

from services.ingest.container.names import container_of, other_type
from services.ingest.inbox.inbox import Taken
from services.ingest.inbox.rename import show_name
from services.ingest.inbox.settle import Settling
from services.ingest.ingest import Ingest
from services.ingest.outcome import admit, late_sidecar, verdict
from services.ingest.outcome.known import compare_with_lineage
from services.ingest.outcome.plan_report import Planned
from services.ingest.outcome.read_file import SECONDS, FileReader, PendingFile, check_unchanged
from services.ingest.outcome.refusal import WholeFileRefused, refuse_other_kinds
from services.ingest.reading.dataset import Built
from services.ingest.reading.output import BAD
from shared import log
from shared.formats.report import Report
from shared.protocol import events
from shared.protocol.message import ObjectRef

FILES = Counter("duramen_ingest_files_total", "Files finished, by outcome.", ["outcome"])
ROWS = Counter("duramen_ingest_rows_total", "Rows of files that were admitted.")
STORED = Counter("duramen_ingest_stored_bytes_total", "Bytes of originals and datasets uploaded.")
REFUSED = Counter("duramen_ingest_refusals_total", "Refused rows and files, by rule.", ["rule"])
REMEMBERED = 1000


@dataclass
class Finisher:
    """Finishes taken files, each step repeatable."""

    ingest: Ingest
    settling: Settling
    reader: FileReader
    planned: Planned
    ended: OrderedDict[str, Report] = field(default_factory=OrderedDict)  # by id of taking

    async def finish(self, taken: Taken, held: PendingFile) -> str | None:
        """Why the file is not complete yet; None when it has left. Raises Changed, OSError."""
        try:
            return await self.advance(taken, held)
        except WholeFileRefused as refused:
            report = verdict.whole_refused(taken.origin, refused, held.built)
            await self.end_refused(taken, held, report, {p.rule: 1 for p in refused.problems})
        return None

    async def advance(self, taken: Taken, held: PendingFile) -> str | None:
        """Do what `finish` does. Raises Refused, too."""
        status, name = taken.path.lstat(), taken.origin.name
        refuse_other_kinds(status)
        if taken.origin.kind == "settings":
            await self.apply_late(taken, held)
            return None
        # An upload was closed by this process; a dropped file is looked at once more.
        if taken.origin.folder is not None:
            why = self.settling.why_not(taken.path, status, time.monotonic(), name)
            why = why or self.sidecar_waits(taken)
            if why is not None:
                return why
        if container_of(name) is None:
            raise WholeFileRefused.of("file_type", other_type(name))
        if held.asked is None:
            held.asked = await self.reader.settings_of(taken, held)
        if held.built is None:
            await self.reader.read(taken, held)
        check_unchanged(taken, held)
        built = held.built
        assert built is not None, "it was built above"
        if built.refused:
            why = self.looks_cut_off(taken, built)
            if why is not None:
                held.built = None
                return why
        await (self.refuse if built.refused else self.accept)(taken, held, built)
        return None

    # ---- waiting ---------------------------------------------------------------------------------

    def sidecar_waits(self, taken: Taken) -> str | None:
        """Take the sidecar of a file, if it has one; why not yet."""
        if os.path.lexists(taken.sidecar):
            return None
        for entry in self.ingest.inbox.sidecars(taken):
            why = self.settling.growing(entry.path, entry.status, time.monotonic())
            if why is not None:
                return f"its sidecar {show_name(entry.path.name)} is not complete: {why}"
            self.ingest.inbox.take_sidecar(taken, entry)
            return None
        return None

    def looks_cut_off(self, taken: Taken, built: Built) -> str | None:
        """Packed data that break off may be a copy that stalled: why to wait."""
        if taken.origin.folder is None or "damaged" not in built.contents.rules:
            return None
        return self.settling.waiting(taken.path, time.monotonic(), "its data end early")

    # ---- ends ------------------------------------------------------------------------------------

    async def accept(self, taken: Taken, held: PendingFile, built: Built) -> None:
        """Store, queue, move to done/."""
        origin, contents = taken.origin, built.contents
        assert held.asked is not None
        with SECONDS.labels("upload").time():
            ref = await asyncio.to_thread(admit.store_dataset, self.ingest.store, built)
        STORED.inc(contents.original_bytes + contents.dataset_bytes)
        check_unchanged(taken, held)
        name, rows, level = contents.name, contents.rows, origin.level
        stored = events.FileStored(name=name, rows=rows, level=level, bytes=ref.size)
        await self.ingest.tell(origin.lineage, stored, ref)
        if origin.kind == "eval":
            report = await self.measure(taken, built, ref)
        else:
            asked = held.asked
            before = await compare_with_lineage(self.ingest, origin.lineage, built, asked)
            bad, settings = contents.bad_rows, asked.settings
            wish = admit.Candidate(origin, ref, rows, settings, asked.again, before, bad)
            admission = await admit.queue(self.ingest.bus, self.ingest.table, wish)
            report = verdict.admitted(origin, built, admission)
            report.settings = asked.settings.model_dump(exclude_none=True)
        if report.outcome != "measured":
            kind = events.JobQueued if report.outcome == "queued" else events.FileKnown
            ended = kind(name=name, rows=rows, level=level, why=report.why, next=report.next_step)
            if contents.ignored_fields:
                ended = ended.model_copy(update={"ignored": verdict.first_ignored(contents)})
            await self.ingest.tell(origin.lineage, ended, ref, report.job)
        # Had it grown until here, what was added would go untrained: read it all again.
        check_unchanged(taken, held)
        ROWS.inc(rows)
        report.problems = contents.problems
        await self.end(taken, held, report)

    async def measure(self, taken: Taken, built: Built, ref: ObjectRef) -> Report:
        """Rows that are only ever measured have no job."""
        rows = built.contents.rows
        first = await asyncio.to_thread(
            admit.store_measured, self.ingest.store, taken.origin, ref, rows
        )
        if first:
            why = "its examples are measured at every snapshot and are never trained on."
            return verdict.report_on(taken.origin, "measured", why, built)
        return verdict.report_on(
            taken.origin, "duplicate", "these rows are already measured.", built
        )

    async def apply_late(self, taken: Taken, held: PendingFile) -> None:
        """End a sidecar that came after its data file. Raises Refused, OSError."""
        values = await self.reader.sidecar_values(taken.path, held)
        job, settings = await late_sidecar.apply(self.ingest, taken.origin, values)
        report = verdict.report_on(
            taken.origin, "applied", f"job {job.id} uses these settings.", None
        )
        report.job, report.settings = job.id.path, settings.model_dump(exclude_none=True)
        report.next_step = f"duramen queue show {job.id}"
        amended = events.JobAmended(name=report.name)
        await self.ingest.tell(taken.origin.lineage, amended, job=report.job)
        await self.end(taken, held, report)

    async def refuse(self, taken: Taken, held: PendingFile, built: Built) -> None:
        """A file with bad rows, or of another format, is refused whole."""
        report = verdict.rows_refused(taken.origin, built)
        await self.end_refused(taken, held, report, built.contents.rules)

    async def end_refused(
        self, taken: Taken, held: PendingFile, report: Report, rules: dict[str, int]
    ) -> None:
        for rule, count in rules.items():
            REFUSED.labels(rule).inc(count)
        # Rules and places only: a message may quote the row.
        first = report.problems[0]
        where = f"line {first.line}, {first.field}" if first.line else first.field
        why = f"{first.rule} ({where})"
        refused = events.FileRefused(name=report.name, why=why, rules=rules)
        await self.ingest.tell(taken.origin.lineage, refused)
        await self.end(taken, held, report)

    async def end(self, taken: Taken, held: PendingFile, report: Report) -> None:
        """The last step: the file leaves .taken."""
        folder = self.reader.folder(taken)
        contents = report.contents
        left = contents is not None and contents.dataset and contents.bad_rows
        products = {BAD: folder / BAD} if left else {}
        target = await asyncio.to_thread(self.ingest.inbox.finish, taken, report, products)
        held.done = True
        self.ended[taken.origin.id] = report
        if report.outcome == "queued":
            self.planned.queued.append((report, target))
        if len(self.ended) > REMEMBERED:
            self.ended.popitem(last=False)
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        FILES.labels(report.outcome).inc()
        where = str(target.relative_to(self.ingest.inbox.root))
        log.get().info(
            "file_finished",
            name=report.name,
            outcome=report.outcome,
            job=report.job,
            lineage=report.lineage,
            rows=report.contents.rows if report.contents else 0,
            where=show_name(where),
        )
