"""What would become of a file: read and decided like a dropped one, and nothing of it is kept."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from services.ingest.inbox.inbox import Taken, TakenFrom
from services.ingest.ingest import Ingest
from services.ingest.outcome import admit, job_settings, verdict
from services.ingest.outcome.job_settings import Asked
from services.ingest.outcome.known import compare_with_lineage
from services.ingest.outcome.read_file import FIX_SIDECAR, FileReader, PendingFile
from services.ingest.outcome.refusal import WholeFileRefused
from services.ingest.reading import dataset
from services.ingest.reading.dataset import Built
from services.ingest.reading.parser import ParserDied
from shared.answers.ingest import Preview, SampledRow
from shared.errors import DuramenError
from shared.formats.report import Problem, Report
from shared.protocol.message import ObjectRef
from shared.store import layout
from shared.store.place import PRECIOUS

MOST_WAITING = 4


@dataclass
class Previews:
    """Reads files for their previews, one at a time, in a parser of their own.

    The inbox has another parser, so that it never waits for a preview. `folder` holds the files
    while they are read; what a killed process left there goes when the next one starts.
    """

    ingest: Ingest
    folder: Path
    max_row_bytes: int
    present: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self.reader = FileReader(self.ingest, self.folder, self.max_row_bytes)

    @asynccontextmanager
    async def place_for(self, origin: TakenFrom) -> AsyncIterator[Taken]:
        """Provide a place for a file, and remove all that was made of it, whatever happens.

        Raises DuramenError if too many others are being previewed.
        """
        if self.present >= MOST_WAITING:
            message = f"{MOST_WAITING} other files are being previewed. Try again in a minute."
            raise DuramenError(message)
        taken = Taken(self.folder / f"{origin.id}.file", origin)
        self.present += 1
        try:
            taken.folder.mkdir()
            yield taken
        finally:
            self.present -= 1
            for path in (taken.folder, self.reader.folder(taken)):
                await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)

    async def preview(self, taken: Taken) -> Preview:
        """Return what would become of a file.

        Raises OSError when the disk is full, and BusUnavailable, StoreUnavailable.
        """
        async with self.lock:
            try:
                return await self.read(taken, PendingFile(taken.origin.name))
            finally:
                self.reader.parser.close()  # it may hold as much memory as it is allowed

    async def read(self, taken: Taken, held: PendingFile) -> Preview:
        """Return what `preview` does, while no other file is read."""
        try:
            wrong = await self.understand(taken, held)
            await self.reader.read(taken, held)
        except WholeFileRefused as refused:
            return Preview(report=verdict.whole_refused(taken.origin, refused, held.built), rows=[])
        assert held.built is not None, "it was built above"
        assert held.asked is not None, "settings were understood above"
        report = await self.decide(taken.origin, held.built, held.asked, wrong)
        report.settings = held.asked.settings.model_dump(exclude_none=True)
        return Preview(report=report, rows=await self.sample(held.built))

    async def understand(self, taken: Taken, held: PendingFile) -> list[Problem]:
        """Note the settings that can be taken; return a problem for each other one.

        The file is read all the same. Raises WholeFileRefused if the sidecar cannot be read.
        """
        held.asked, wrong = job_settings.taken_settings(await self.reader.values_of(taken, held))
        return [dataset.problem(each, None, "") for each in wrong]

    async def decide(
        self, origin: TakenFrom, built: Built, asked: Asked, wrong: list[Problem]
    ) -> Report:
        """Return the report that a file would get."""
        problems = [*wrong, *built.contents.problems]
        if wrong:
            report = verdict.whole_refused(origin, WholeFileRefused(wrong, FIX_SIDECAR), built)
            return report.model_copy(update={"problems": problems})
        if built.refused:
            return verdict.rows_refused(origin, built)
        sha256, size = built.contents.dataset, built.contents.dataset_bytes
        assert sha256 is not None, "it would be refused"
        ref = ObjectRef(bucket=PRECIOUS, key=layout.dataset_data(sha256), sha256=sha256, size=size)
        before = await compare_with_lineage(self.ingest, origin.lineage, built, asked)
        rows, settings = built.contents.rows, asked.settings
        wish = admit.Candidate(origin, ref, rows, settings, asked.again, before)
        await self.ingest.table.update(self.ingest.bus)
        decision = admit.admit(self.ingest.table, wish)
        report = verdict.admitted(origin, built, decision)
        if decision.known is None:
            report.why = f"would be {verdict.queued_as(origin, built, decision)}"
            report.next_step = ""
        return report.model_copy(update={"problems": problems})

    async def sample(self, built: Built) -> list[SampledRow]:
        """Return some rows; none if taking them ends the parser."""
        if not built.contents.rows:
            return []
        try:
            self.reader.parser.start()
            return await asyncio.to_thread(self.reader.parser.sample, built)
        except ParserDied:
            return []
