"""What a worker needs is brought to this disk: the newest there is, and what lies there already."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from services.trainer.protocol import Spec
from services.trainer.settings import TrainerSettings
from services.trainer.supervisor.local_files import Local
from services.trainer.supervisor.run.prepare import Preparation
from shared.errors import ObjectMissing, StoreUnavailable
from shared.files import sha256_bytes
from shared.formats.result import ResultFile, SegmentResult
from shared.formats.row_ids import opened as opened_ids
from shared.formats.row_ids import records_of, sealed
from shared.ledger.jobs import Job
from shared.ledger.lineage import Line
from shared.protocol.message import ObjectRef
from shared.protocol.names import JobId, now
from shared.protocol.records import (
    Head,
    JobRecord,
    JobSettings,
    LineageSettings,
    LineClose,
    LineCreate,
    LineOpen,
)
from shared.store import layout
from shared.store.place import PRECIOUS, WORK
from shared.store.s3 import Store
from tests.tiny import line_of, shared_tiny, tiny_conversations

ROOT = "ab" * 32
FIRST, SECOND = "11" * 6, "22" * 6
PLAN = b"{}"


class Shelf:
    """A store in memory, which can be away."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], bytes] = {}
        self.away = False

    def put(self, bucket: Any, key: str, data: bytes) -> ObjectRef:
        self.objects[bucket, key] = data
        return ObjectRef(bucket=bucket, key=key, sha256=sha256_bytes(data), size=len(data))

    def read(self, bucket: str, key: str, **_: Any) -> bytes:
        if self.away:
            raise StoreUnavailable("away")
        if (bucket, key) not in self.objects:
            raise ObjectMissing("shelf", bucket, key)
        return self.objects[bucket, key]

    def keys(self, bucket: str, prefix: str) -> list[str]:
        if self.away:
            raise StoreUnavailable("away")
        return sorted(k for b, k in self.objects if b == bucket and k.startswith(prefix))

    def fetch(self, ref: ObjectRef, target: Path) -> Path:
        data = self.read(ref.bucket, ref.key)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        return target


class Prepared:
    """A job in its second segment, on a disk that has base and dataset."""

    def __init__(self, directory: Path) -> None:
        self.shelf = Shelf()
        local = Local(directory, cast("Store", self.shelf))
        base = local.cache / "bases" / ROOT
        base.parent.mkdir(parents=True)
        base.symlink_to(shared_tiny())
        rows = b"".join(line_of(c) + b"\n" for c in tiny_conversations(4))
        dataset = self.shelf.put(PRECIOUS, "datasets/x/data.jsonl", rows)
        local.object("datasets", dataset, ".jsonl")
        plan = self.shelf.put(PRECIOUS, f"plans/{sha256_bytes(PLAN)}.json", PLAN)
        job_id = JobId("main", dataset.sha256, 1)
        record = JobRecord(
            by="t",
            job=job_id.path,
            state="running",
            level="normal",
            name="rows.jsonl",
            dataset=dataset,
            rows=4,
            queued_at=now(),
            plan=plan,
        )
        line = line_with(job_id, self.result())
        segment = line.open_segment
        assert segment is not None
        self.folder = local.segment("main", segment.id).make()
        needed: dict[str, Any] = {
            "nats_url": "nats://none",
            "nats_seed_file": directory / "seed",
            "state_dir": directory,
            "http_port": 1,
            "http_token": "t" * 32,
            "store_url": "http://none",
            "store_access_key": "k" * 32,
            "store_secret_key": "s" * 32,
            "device": "cpu",
        }
        parts = (TrainerSettings(**needed), local, line, Job(job_id, record, 1, 1), segment)
        self.preparation = Preparation(*parts, self.folder)

    def result(self) -> ObjectRef:
        """Of the first segment."""
        files = []
        for name in ("metrics.jsonl", "job.log"):
            ref = self.shelf.put(WORK, f"results/{name}", b"of the first\n")
            files.append(ResultFile.at(name, ref))
        return self.shelf.put(
            WORK, "results/first.json", SegmentResult(files=tuple(files)).to_bytes()
        )

    def leave(self, name: str, data: bytes) -> None:
        """As another host would leave it, of the open segment."""
        self.shelf.put(WORK, f"progress/main/{SECOND}/{name}", data)

    def spec(self) -> Spec:
        return self.preparation.spec()


def line_with(job: JobId, result: ObjectRef) -> Line:
    """A lineage whose first segment was preempted, with the second one open."""
    line = Line("main")
    settings = LineageSettings(base_root=ROOT)
    line.fold(1, LineCreate(by="t", lineage="main", settings=settings))
    line.fold(2, opened(job, FIRST))
    fields: dict[str, Any] = {"from_step": 0, "to_step": 1, "from_position": 0, "to_position": 1}
    fields |= {"by": "t", "prev": 2, "lineage": "main", "segment": FIRST, "fence": 2}
    head = Head(base_root=ROOT, global_step=1)
    close = LineClose(job=job.path, outcome="preempted", head=head, result=result, **fields)
    line.fold(3, close)
    line.fold(4, opened(job, SECOND))
    return line


def opened(job: JobId, segment: str) -> LineOpen:
    return LineOpen.model_validate(
        {
            "by": "t",
            "prev": 1,
            "lineage": job.lineage,
            "segment": segment,
            "job": job.path,
            "job_sequence": 1,
            "checkpoint": None,
            "position": 0,
            "global_step": 0,
            "plan": None,
            "micro_tokens": 64,
            "dtype": "float32",
            "lease": "trainer.x",
            "owner": "t",
            "host": "here",
        }
    )


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    return Prepared(tmp_path)


def test_log_and_metrics_of_the_open_segment_come_before_those_of_the_one_before(
    prepared: Prepared,
) -> None:
    prepared.leave("metrics.jsonl", b"of the first\nof the second\n")
    prepared.leave("job.log", b"of the first\nof the second\n")
    prepared.spec()
    assert prepared.folder.metrics.read_bytes() == b"of the first\nof the second\n"
    assert prepared.folder.job_log.read_bytes().startswith(b"of the first\nof the second\n")


def test_a_new_segment_carries_log_and_metrics_of_the_one_before(prepared: Prepared) -> None:
    prepared.spec()
    assert prepared.folder.metrics.read_bytes() == b"of the first\n"
    assert prepared.folder.job_log.read_bytes().startswith(b"of the first\n")


def test_a_plan_that_was_made_here_needs_no_store(prepared: Prepared) -> None:
    prepared.folder.plan.write_bytes(PLAN)
    for path in (prepared.folder.metrics, prepared.folder.job_log):
        path.write_bytes(b"")
    prepared.shelf.away = True
    assert prepared.spec().plan == prepared.folder.plan
    prepared.folder.plan.write_bytes(b"another")
    with pytest.raises(StoreUnavailable):
        prepared.spec()
    prepared.shelf.away = False
    plan = prepared.spec().plan
    assert plan is not None
    assert plan.read_bytes() == PLAN


def test_what_is_needed_of_a_base_on_this_disk_is_told_without_the_store(
    prepared: Prepared,
) -> None:
    prepared.shelf.away = True
    local = prepared.preparation.local
    assert local.shape(ROOT).layers > 0
    with pytest.raises(StoreUnavailable):
        local.shape("cd" * 32)


EARLIER = [line_of(c) for c in tiny_conversations(3, start=50)]


def with_an_earlier_job(prepared: Prepared, delta: str | None = None) -> Prepared:
    """The same job, without a plan yet, in a lineage with a version of another one."""
    at, rows = prepared.preparation, b"\n".join([*EARLIER, b""])
    earlier = JobId("main", sha256_bytes(rows), 1)
    prepared.shelf.put(PRECIOUS, layout.dataset_data(earlier.sha256), rows)
    name = sha256_bytes(PLAN)
    plan = ObjectRef(bucket="duramen", key=layout.plan(name), sha256=name, size=2)
    line = Line("main")
    line.fold(1, LineCreate(by="t", lineage="main", settings=LineageSettings(base_root=ROOT)))
    line.fold(2, opened(earlier, FIRST))
    fields: dict[str, Any] = {"from_step": 0, "to_step": 7, "from_position": 0, "to_position": 7}
    fields |= {"by": "t", "prev": 2, "lineage": "main", "segment": FIRST, "fence": 2, "plan": plan}
    head = Head(base_root=ROOT, global_step=7)
    line.fold(3, LineClose(job=earlier.path, outcome="done", head=head, version=1, **fields))
    line.fold(4, opened(at.job.id, SECOND))
    settings = JobSettings.model_validate({"delta": delta})
    record = at.job.record.model_copy(update={"plan": None, "settings": settings})
    assert line.open_segment is not None
    job = Job(at.job.id, record, 1, 1)
    prepared.preparation = replace(at, line=line, job=job, segment=line.open_segment)
    return prepared


def test_the_worker_of_a_new_plan_learns_what_was_trained_before(prepared: Prepared) -> None:
    (trained,) = with_an_earlier_job(prepared).spec().trained
    assert (trained.version, trained.position, trained.plan.read_bytes()) == (1, 7, PLAN)
    assert opened_ids(trained.row_ids.read_bytes()) == records_of(EARLIER)
    # It is on this disk now, and is made again where it is damaged.
    prepared.shelf.away = True
    dataset = trained.row_ids.stem
    assert prepared.preparation.local.row_ids(dataset) == trained.row_ids
    prepared.shelf.away = False
    for damaged in (b"", b"x" * 128):
        trained.row_ids.write_bytes(damaged)
        path = prepared.preparation.local.row_ids(dataset)
        assert opened_ids(path.read_bytes()) == records_of(EARLIER)


def test_row_ids_come_from_the_store_where_ingest_left_them(prepared: Prepared) -> None:
    whole, dataset = sealed(records_of(EARLIER[:1])), "cd" * 32
    prepared.shelf.put(PRECIOUS, layout.dataset_row_id_file(dataset), whole)
    assert prepared.preparation.local.row_ids(dataset).read_bytes() == whole


def test_with_delta_off_nothing_counts_as_trained(prepared: Prepared) -> None:
    assert with_an_earlier_job(prepared, "off").spec().trained == ()


def test_rows_of_a_lost_dataset_count_as_new_and_the_log_says_so(prepared: Prepared) -> None:
    lost = with_an_earlier_job(prepared).shelf.objects
    for key in [key for key in lost if key[1].startswith(layout.DATASETS)]:
        del lost[key]
    assert prepared.spec().trained == ()
    assert "are not known again" in prepared.folder.job_log.read_text()


@pytest.mark.parametrize("result", [b"", b"[]", b"{}", b'{"files": 1}', b"[" * 200_000])
def test_a_result_that_cannot_be_read_stops_no_job(tmp_path: Path, result: bytes) -> None:
    job = Prepared(tmp_path)
    job.shelf.put(WORK, "results/first.json", result)
    job.spec()
    assert not job.folder.metrics.exists()
