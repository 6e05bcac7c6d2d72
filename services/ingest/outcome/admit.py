"""From a checked file to a stored dataset and a queued job, in an order that a kill cannot hurt.

Store first, then the record, by compare-and-set; each step may be repeated. The record's nonce is
made from the id of taking, so that a restart knows its own job.
"""

import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from services.ingest.inbox.inbox import TakenFrom
from services.ingest.inbox.rename import show_name
from services.ingest.outcome.known import KnownBefore
from services.ingest.reading.dataset import ORIGINAL, Built
from shared.bus.client import Bus
from shared.errors import AlreadyExists, Conflict
from shared.formats.canonical import canonical_json
from shared.formats.dataset import DATA, REPORT, SOURCE
from shared.formats.known_rows import nothing_new_text
from shared.formats.plan import KnownRows
from shared.formats.row_ids import ROW_IDS
from shared.formats.version import version_name
from shared.ledger.jobs import Job, Table
from shared.protocol.message import ObjectRef
from shared.protocol.names import DEFAULT_LINEAGE, JobId, now
from shared.protocol.records import JobRecord, JobSettings
from shared.store import layout
from shared.store.place import PRECIOUS
from shared.store.s3 import Store

NAMESPACE = uuid.UUID("6f0d6f5c-27e2-4f6b-9a53-1f6a2b7f3c11")


class Admission(NamedTuple):
    """`job`: what a file is trained as. `known`: why it is a duplicate, None if it is not.

    `rows`: what the lineage knows of the file, None where that was not, or not wholly, compared.
    """

    job: JobId
    known: str | None = None
    next_step: str = ""
    version: int | None = None
    rows: KnownRows | None = None


@dataclass(frozen=True)
class Candidate:
    """A file that shall be trained: a dataset in the store, and where it was dropped."""

    origin: TakenFrom
    dataset: ObjectRef
    rows: int
    settings: JobSettings = field(default_factory=JobSettings)
    again: bool = False
    known: KnownBefore | None = None  # None: it is trained whole
    bad_rows: int = 0  # of the file, which were left out of the dataset

    @property
    def is_known(self) -> bool:
        """Whether the lineage has trained or held out every row.

        What it has left out may be trained now, under other settings: the plan finds out.
        """
        rows = self.known.rows if self.known else KnownRows()
        return self.rows == rows.count + rows.held_out

    def nonce(self, job_id: JobId) -> str:
        return uuid.uuid5(NAMESPACE, f"{self.origin.id} {job_id.path}").hex


def store_dataset(store: Store, built: Built) -> ObjectRef:
    """Store what a dataset is made of; each object is read back. Blocking.

    Raises StoreUnavailable, ObjectDamaged, AlreadyExists (data and original: never expected).
    """
    contents = built.contents
    assert contents.dataset is not None, "a refused file is not stored"
    sha256 = contents.original_sha256
    original = layout.dataset_original(contents.dataset, sha256, contents.container)
    store.put_file(PRECIOUS, original, built.folder / ORIGINAL, sha256)
    data = store.put_file(
        PRECIOUS,
        layout.dataset_data(contents.dataset),
        built.folder / DATA,
        sha256=contents.dataset,
    )
    source = layout.dataset_source(contents.dataset), SOURCE
    report = layout.dataset_report(contents.dataset), REPORT
    row_ids = layout.dataset_row_id_file(contents.dataset), ROW_IDS
    for key, name in (source, report, row_ids):
        # Equal rows from another file: what was written of the first one stays.
        with suppress(AlreadyExists):
            store.put_file(PRECIOUS, key, built.folder / name)
    return data.ref


def store_measured(store: Store, origin: TakenFrom, dataset: ObjectRef, rows: int) -> bool:
    """Note that a dataset is only ever measured in a lineage; False if that was noted before."""
    record = {
        "schema": 1,
        "lineage": origin.lineage,
        "dataset": dataset.sha256,
        "rows": rows,
        "name": show_name(origin.name),
        "taken": origin.id,
    }
    key = layout.eval_record(origin.lineage, dataset.sha256)
    try:
        store.create(PRECIOUS, key, canonical_json(record) + b"\n")
    except AlreadyExists:
        return False
    return True


def admit(table: Table, wish: Candidate) -> Admission:
    """Which job a file becomes, or which one it is already."""
    decision = job_or_duplicate(table, wish)
    if decision.known is not None or wish.known is None or not wish.known.is_whole:
        return decision
    return decision._replace(rows=wish.known.rows)


def job_or_duplicate(table: Table, wish: Candidate) -> Admission:
    """Decide as `admit` does, without how much of the file is new."""
    lineage, sha256 = wish.origin.lineage, wish.dataset.sha256
    runs = table.runs(lineage, sha256)
    for job in runs:
        if job.history[0][2].nonce == wish.nonce(job.id):
            return Admission(job.id)  # queued before a restart
    if wish.again:
        return Admission(JobId(lineage, sha256, runs[-1].id.run + 1 if runs else 1))
    line = table.lines.get(lineage)
    version = line.is_trained(sha256) if line else None
    if version is not None and wish.settings.delta != "off":
        job_id = runs[-1].id if runs else JobId(lineage, sha256, 1)
        why = f"these rows have already been trained; see {version_name(version)}"
        return trained_before(job_id, why, version)
    state = (table.projection(runs[-1]) or runs[-1].record.state) if runs else None
    if wish.known and wish.known.job and wish.is_known and state not in ("queued", "running"):
        why = nothing_new_text(wish.rows, wish.known.rows)
        return trained_before(wish.known.job, why, wish.known.version)
    if not runs:
        return Admission(JobId(lineage, sha256, 1))
    return again(table, runs[-1])


def trained_before(job: JobId, why: str, version: int | None) -> Admission:
    """Return that a file is a duplicate of what a job has trained."""
    why = (
        f"{why} of {job.lineage}. To train them again, put `again: true` into the sidecar or use "
        "duramen submit --again."
    )
    if version is None:
        return Admission(job, why, f"duramen queue show {job}")
    shown = f"duramen versions show {version_name(version)} -l {job.lineage}"
    return Admission(job, why, shown, version)


def again(table: Table, job: Job) -> Admission:
    """Decide where the last job on these rows is not trained in the head's ancestry."""
    state = table.projection(job) or job.record.state
    match state:
        case "queued" | "running":
            why = f"these rows are already {state}, as job {job.id}."
            return Admission(job.id, why, "duramen queue list")
        case "failed" | "skipped":
            why = f"these rows belong to job {job.id}, which {duplicate_words(state)}."
            return Admission(job.id, why, f"duramen queue retry {job.id}")
    # Removed, or done on a branch that a rollback has left: a new wish to train.
    return Admission(job.id._replace(run=job.id.run + 1))


def duplicate_words(state: str) -> str:
    return "has failed" if state == "failed" else "was skipped"


def after_queued(table: Table, lineage: str) -> str:
    """Return what to do next about a queued file: its lineage may not have been made yet."""
    if lineage == DEFAULT_LINEAGE or lineage in table.lines:
        return "duramen queue list"
    return f"duramen lineage new {lineage} --base BASE, because there is no such lineage yet."


async def queue(bus: Bus, table: Table, wish: Candidate) -> Admission:
    """Queue a job for a stored dataset, once. Raises BusUnavailable, BusFull, BusWentBack."""
    while True:
        await table.update(bus)
        decision = admit(table, wish)
        if decision.known is not None:
            return decision
        if decision.job in table.jobs:
            return decision._replace(next_step=after_queued(table, decision.job.lineage))
        record = JobRecord(
            nonce=wish.nonce(decision.job),
            by="ingest",
            job=decision.job.path,
            state="queued",
            level=wish.origin.level,
            name=show_name(wish.origin.name),
            dataset=wish.dataset,
            rows=wish.rows,
            bad_rows=wish.bad_rows or None,
            settings=wish.settings,
            queued_at=now(),
        )
        # A conflict: another was first under this name, so there is something new to decide on.
        with suppress(Conflict):
            await table.submit(bus, decision.job, record)
