"""One taken file to its end: read, checked, stored, queued and moved to done/, or refused."""

import asyncio
import os
import shutil
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client import Counter, Histogram

from services.ingest.inbox.inbox import Inbox, Taken
from services.ingest.inbox.rename import show_name
from services.ingest.inbox.settle import Settling, Signature, open_plainly, signature
from services.ingest.outcome import admit, job_settings, late_sidecar
from services.ingest.outcome.job_settings import Asked, SettingsRefused
from services.ingest.outcome.refusal import WholeFileRefused, refuse_other_kinds
from services.ingest.outcome.report import why_refused
from services.ingest.reading import dataset, special_tokens
from services.ingest.reading.containers import TAKEN, container_of
from services.ingest.reading.dataset import Built, ReadingRequest
from services.ingest.reading.output import BAD
from services.ingest.reading.parser import Parser, ParserDied, SidecarRefused
from shared import log
from shared.backoff import Backoff
from shared.bus.client import Bus
from shared.files import write_synced
from shared.formats.report import Outcome, Report
from shared.ledger.jobs import Table
from shared.protocol import events
from shared.protocol.events import Event, EventData
from shared.protocol.message import ObjectRef
from shared.store.s3 import Store

FILES = Counter("duramen_ingest_files_total", "Files finished, by outcome.", ["outcome"])
ROWS = Counter("duramen_ingest_rows_total", "Rows of files that were admitted.")
BYTES = Counter("duramen_ingest_bytes_total", "Bytes read of dropped files.")
STORED = Counter("duramen_ingest_stored_bytes_total", "Bytes of originals and datasets uploaded.")
SECONDS = Histogram(
    "duramen_ingest_stage_seconds",
    "For one file: `copy` it, `read` it (parse, check, hash, find repeated rows), `upload` it.",
    ["stage"],
    buckets=(0.01, 0.1, 1, 10, 60, 300, 1800, 7200),
)
REFUSED = Counter("duramen_ingest_refusals_total", "Refused rows and files, by rule.", ["rule"])
DEATHS = Counter("duramen_ingest_parser_deaths_total", "Parsers that a file has ended.")
MOST_DEATHS = 2
FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 0.5, 30.0
REMEMBERED = 1000
PUT_AGAIN = "fix the file, then put it into the inbox again."


class Changed(Exception):
    """A taken file was written to after all."""


@dataclass
class PendingFile:
    """What is known of a taken file between two looks at it."""

    name: str
    asked: Asked | None = None
    built: Built | None = None
    read: Signature | None = None
    why: str | None = None
    delay: Backoff = field(
        default_factory=lambda: Backoff(FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS)
    )
    deaths: int = 0
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
    parser: Parser = field(default_factory=Parser)
    ended: OrderedDict[str, Report] = field(default_factory=OrderedDict)  # by id of taking
    queued: list[tuple[Report, Path]] = field(default_factory=list)  # where each now lies

    def __post_init__(self) -> None:
        self._log = log.get()
        shutil.rmtree(self.work_dir, ignore_errors=True)
        self.work_dir.mkdir(parents=True)

    async def finish(self, taken: Taken, held: PendingFile) -> str | None:
        """Why the file is not complete yet; None when it has left. Raises Changed, OSError."""
        try:
            return await self.advance(taken, held)
        except WholeFileRefused as refused:
            report = self.report(taken, "refused", str(refused), held.built)
            changes = {"problems": refused.problems, "next_step": refused.next_step}
            rules = {p.rule: 1 for p in refused.problems}
            await self.end_refused(taken, held, report.model_copy(update=changes), rules)
        return None

    async def advance(self, taken: Taken, held: PendingFile) -> str | None:
        """As `finish`. Raises Refused too."""
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
            raise WholeFileRefused.of(
                "file_type", f"Files of this type are not read. Types: {TAKEN}."
            )
        if held.asked is None:
            held.asked = await self.settings_of(taken, held)
        if held.built is None:
            await self.read(taken, held)
        self.check_unchanged(taken, held)
        built = held.built
        assert built is not None, "it was built above"
        if built.refused:
            why = self.looks_cut_off(taken, built)
            if why is not None:
                held.built = None
                return why
        await (self.refuse if built.refused else self.accept)(taken, held, built)
        return None

    # ---- reading ---------------------------------------------------------------------------------

    def sidecar_waits(self, taken: Taken) -> str | None:
        """Take the sidecar of a file, if it has one; why not yet."""
        if os.path.lexists(taken.sidecar):
            return None
        for entry in self.inbox.sidecars(taken):
            why = self.settling.growing(entry.path, entry.status, time.monotonic())
            if why is not None:
                return f"its sidecar {show_name(entry.path.name)} is not complete: {why}"
            self.inbox.take_sidecar(taken, entry)
            return None
        return None

    async def settings_of(self, taken: Taken, held: PendingFile) -> Asked:
        """What was set for this file, by its sidecar or with the upload. Raises Refused."""
        values: dict[str, Any] = {}
        if taken.origin.sidecar is not None:
            write_synced(taken.sidecar, taken.origin.sidecar.encode())
        if os.path.lexists(taken.sidecar):
            values = await self.sidecar_values(taken.sidecar, held)
        values = job_settings.over(values, taken.origin.settings)
        try:
            return job_settings.read_settings(values)
        except SettingsRefused as error:
            problems = [dataset.problem(p, None, "") for p in error.problems]
            step = "fix the sidecar, then put both files into the inbox again."
            raise WholeFileRefused(problems, step) from error

    async def sidecar_values(self, path: Path, held: PendingFile) -> dict[str, Any]:
        """Names and values of a sidecar. Raises Refused."""
        refuse_other_kinds(path.lstat())
        try:
            values: dict[str, Any] = await self.in_parser(held, self.parser.settings, path)
            return values
        except SidecarRefused as error:
            step = "fix the sidecar, then put it into the inbox again together with its data file."
            raise WholeFileRefused([error.problem], step) from error

    async def read(self, taken: Taken, held: PendingFile) -> None:
        """Build the dataset of a file. Raises Changed, Refused, OSError."""
        assert held.asked is not None
        folder = self.work_dir / taken.origin.id
        try:
            with SECONDS.labels("copy").time():
                held.read = await asyncio.to_thread(self.copy, taken, folder)
        except PermissionError as error:
            message = "Its permissions do not allow it to be read. Type: chmod a+r FILE"
            raise WholeFileRefused.of("unreadable", message, PUT_AGAIN) from error
        tokens = await self.special_tokens(taken.origin.lineage)
        wanted = ReadingRequest(self.max_row_bytes, held.asked.allow_bad, tokens)
        name = show_name(taken.origin.name)
        # By its own name: what is shown may be cut.
        container = container_of(taken.origin.name)
        assert container is not None
        if container_of(name) != container:
            name += container.suffix
        with SECONDS.labels("read").time():
            held.built = await self.in_parser(held, self.parser.build, folder, name, wanted)
        BYTES.inc(held.built.contents.original_bytes)

    async def in_parser(self, held: PendingFile, call: Any, *arguments: Any) -> Any:
        """Let the parser do something; a file that has ended it twice is refused."""
        while True:
            self.parser.start()
            try:
                return await asyncio.to_thread(call, *arguments)
            except asyncio.CancelledError:
                self.parser.close()
                raise
            except ParserDied as error:
                held.deaths += 1
                DEATHS.inc()
                self._log.warning("parser_died", name=held.name, why=str(error))
                if held.deaths >= MOST_DEATHS:
                    message = f"It cannot be read: {error}, {held.deaths} times."
                    raise WholeFileRefused.of("parser", message) from error

    async def special_tokens(self, lineage: str) -> tuple[str, ...]:
        """Those of the lineage's base; none while it has no base."""
        await self.table.update(self.bus)
        line = self.table.lines.get(lineage)
        if line is None or line.head is None:
            return ()
        return await asyncio.to_thread(special_tokens.of_base, self.store, line.head.base_root)

    def copy(self, taken: Taken, folder: Path) -> Signature:
        """A private copy. Blocking. Raises Changed."""
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
        return before

    def check_unchanged(self, taken: Taken, held: PendingFile) -> None:
        """Raises Changed if the file is no longer what was read."""
        if signature(taken.path.lstat()) != held.read:
            raise Changed

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
            ref = await asyncio.to_thread(admit.store_dataset, self.store, built)
        STORED.inc(contents.original_bytes + contents.dataset_bytes)
        self.check_unchanged(taken, held)
        name, rows, level = contents.name, contents.rows, origin.level
        stored = events.FileStored(name=name, rows=rows, level=level, bytes=ref.size)
        await self.tell(taken, stored, ref)
        if origin.kind == "eval":
            report = await self.measure(taken, built, ref)
        else:
            asked = held.asked
            wish = admit.Candidate(origin, ref, rows, asked.settings, asked.again)
            report = self.decided(taken, built, await admit.queue(self.bus, self.table, wish))
            report.settings = asked.settings.model_dump(exclude_none=True)
        if report.outcome != "measured":
            kind = events.JobQueued if report.outcome == "queued" else events.FileKnown
            ended = kind(name=name, rows=rows, level=level, why=report.why, next=report.next_step)
            await self.tell(taken, ended, ref, report.job)
        # Had it grown until here, what was added would go untrained: read it all again.
        self.check_unchanged(taken, held)
        ROWS.inc(rows)
        report.problems = contents.problems
        await self.end(taken, held, report)

    async def measure(self, taken: Taken, built: Built, ref: ObjectRef) -> Report:
        """Rows that are only ever measured have no job."""
        rows = built.contents.rows
        first = await asyncio.to_thread(admit.store_measured, self.store, taken.origin, ref, rows)
        if first:
            why = "its examples are measured at every snapshot and are never trained on."
            return self.report(taken, "measured", why, built)
        return self.report(taken, "duplicate", "these rows are already measured.", built)

    def decided(self, taken: Taken, built: Built, decision: admit.Admission) -> Report:
        job, contents = decision.job, built.contents
        if decision.known is None:
            rows = counted_problems(contents.rows, "row")
            why = f"queued as job {job}, {rows}, {taken.origin.level} priority."
            if contents.bad_rows:
                bad = counted_problems(contents.bad_rows, "bad row")
                why += f" Left out: {bad}, listed in the .bad.jsonl file beside it."
            report = self.report(taken, "queued", why, built)
            return report.model_copy(update={"job": job.path, "next_step": "duramen queue list"})
        changes = {"job": job.path, "next_step": decision.next_step, "version": decision.version}
        return self.report(taken, "duplicate", decision.known, built).model_copy(update=changes)

    async def apply_late(self, taken: Taken, held: PendingFile) -> None:
        """End a sidecar that came after its data file. Raises Refused, OSError."""
        values = await self.sidecar_values(taken.path, held)
        job, settings = await late_sidecar.apply(self.bus, self.table, taken.origin, values)
        report = self.report(taken, "applied", f"job {job.id} uses these settings.", None)
        report.job, report.settings = job.id.path, settings.model_dump(exclude_none=True)
        report.next_step = f"duramen queue show {job.id}"
        await self.tell(taken, events.JobAmended(name=report.name), job=report.job)
        await self.end(taken, held, report)

    async def refuse(self, taken: Taken, held: PendingFile, built: Built) -> None:
        """A file with bad rows, or of another format, is refused whole."""
        contents = built.contents
        next_step = "fix or delete these lines, then put the file into the inbox again."
        if contents.bad_rows == 0 or contents.problems[0].field == "file":
            next_step = PUT_AGAIN
        report = self.report(taken, "refused", why_refused(contents), built)
        report = report.model_copy(update={"next_step": next_step, "problems": contents.problems})
        await self.end_refused(taken, held, report, contents.rules)

    async def end_refused(
        self, taken: Taken, held: PendingFile, report: Report, rules: dict[str, int]
    ) -> None:
        for rule, count in rules.items():
            REFUSED.labels(rule).inc(count)
        # Rules and places only: a message may quote the row.
        first = report.problems[0]
        where = f"line {first.line}, {first.field}" if first.line else first.field
        why = f"{first.rule} ({where})"
        await self.tell(taken, events.FileRefused(name=report.name, why=why, rules=rules))
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

    async def end(self, taken: Taken, held: PendingFile, report: Report) -> None:
        """The last step: the file leaves .taken."""
        folder = self.work_dir / taken.origin.id
        contents = report.contents
        left = contents is not None and contents.dataset and contents.bad_rows
        products = {BAD: folder / BAD} if left else {}
        target = await asyncio.to_thread(self.inbox.finish, taken, report, products)
        held.done = True
        self.ended[taken.origin.id] = report
        if report.outcome == "queued":
            self.queued.append((report, target))
        if len(self.ended) > REMEMBERED:
            self.ended.popitem(last=False)
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
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
        self, taken: Taken, data: EventData, ref: ObjectRef | None = None, job: str | None = None
    ) -> None:
        about = {"lineage": taken.origin.lineage, "job": job}
        await self.bus.event(Event.of("ingest", data, ref=ref, **about))


def counted_problems(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
