"""How much of a file its lineage has already trained, as far as that is cheap to say beforehand.

The plan of the job decides about it, from the ancestry that the head has then.
"""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from services.ingest.ingest import Ingest
from services.ingest.outcome.job_settings import Asked
from services.ingest.reading.dataset import Built
from shared.errors import ObjectMissing
from shared.files import write_synced
from shared.formats import row_ids
from shared.formats.known_rows import EarlierJob, known_rows
from shared.formats.plan import KnownRows, UsedRows, used_rows
from shared.formats.row_ids import ROW_IDS
from shared.ledger.trained import TrainedJob, trained_jobs
from shared.protocol.names import JobId
from shared.store import layout
from shared.store.place import PRECIOUS
from shared.store.s3 import Store

MOST_ROWS = 500_000  # of the file: each takes some 200 bytes of memory
MOST_EARLIER_ROWS = 2_000_000  # they take about a second
KEPT_FILES = 1000


class KnownBefore(NamedTuple):
    """What a lineage knew of a file, and the newest job that it is known from, if any.

    `is_whole`: all jobs behind the head were compared; else there may be more that is known.
    """

    rows: KnownRows
    is_whole: bool
    job: JobId | None = None
    version: int | None = None


async def compare_with_lineage(
    ingest: Ingest, lineage: str, built: Built, asked: Asked
) -> KnownBefore | None:
    """Return what the lineage knows of a file, or None if all of it shall be trained.

    Raises BusUnavailable, StoreUnavailable, OSError.
    """
    if asked.again or asked.settings.delta == "off":
        return None
    await ingest.table.update(ingest.bus)
    line = ingest.table.lines.get(lineage)
    jobs = trained_jobs(line) if line else []
    return await asyncio.to_thread(known_before, ingest, jobs, built)


def known_before(ingest: Ingest, jobs: list[TrainedJob], built: Built) -> KnownBefore:
    """Return what jobs, given newest first, know of a file. Blocking.

    Raises StoreUnavailable, OSError.
    """
    if not jobs or built.contents.rows > MOST_ROWS:
        return KnownBefore(KnownRows(), is_whole=not jobs)
    chosen = list(affordable(ingest, jobs))
    earlier = EarlierFiles(ingest.store, ingest.cache)
    own = row_ids.opened((built.folder / ROW_IDS).read_bytes())
    rows, _ = known_rows(own, [earlier.of(job) for job in chosen])
    whole = len(chosen) == len(jobs) and not earlier.lost
    newest = next((job for job in chosen if rows.jobs and str(job.job) == rows.jobs[0].job), None)
    if newest is None:
        return KnownBefore(rows, whole)
    return KnownBefore(rows, whole, newest.job, newest.version)


def affordable(ingest: Ingest, jobs: list[TrainedJob]) -> Iterator[TrainedJob]:
    """Yield the jobs, newest first, whose datasets may be compared in a short time."""
    left = MOST_EARLIER_ROWS
    for each in jobs:
        job = ingest.table.jobs.get(each.job)
        left -= job.record.rows if job else left + 1
        if left < 0:
            return
        yield each


@dataclass
class EarlierFiles:
    """Row ids and plans of earlier jobs. The ids are kept in `folder`, if there is one.

    `lost` names the datasets about which something is not in the store.
    """

    store: Store
    folder: Path | None
    lost: list[str] = field(default_factory=list)

    def of(self, job: TrainedJob) -> EarlierJob:
        """Return an earlier job whose files are read when they are needed."""
        return EarlierJob(
            str(job.job), job.version, partial(self.ids, job.job.sha256), partial(self.used, job)
        )

    def ids(self, dataset: str) -> bytes:
        """Return the records of a dataset's row ids, none where the store has none."""
        path = self.folder / f"{dataset}.bin" if self.folder else None
        if path is not None:
            with suppress(FileNotFoundError, ValueError):
                return row_ids.opened(path.read_bytes())
        try:
            data = self.store.read(PRECIOUS, layout.dataset_row_id_file(dataset))
            records = row_ids.opened(data)
        except (ObjectMissing, ValueError):  # of an older release: the trainer makes its own
            self.lost.append(dataset)
            return b""
        if path is not None:
            keep(path, data)
        return records

    def used(self, job: TrainedJob) -> UsedRows:
        """Return what a job's plan did with its rows."""
        try:
            return used_rows(self.store.read(PRECIOUS, job.plan.key), job.position)
        except (ObjectMissing, ValueError):
            self.lost.append(job.job.sha256)
            return UsedRows()


def keep(path: Path, data: bytes) -> None:
    """Write a file for the next time; those that were fetched longest ago make room for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_synced(path, data)
    files = sorted(path.parent.glob("*.bin"), key=lambda file: file.stat().st_mtime)
    for file in files[:-KEPT_FILES]:
        file.unlink(missing_ok=True)
