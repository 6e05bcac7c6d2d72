"""What a worker needs is brought to this disk: the newest there is, and what lies there already."""

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
from shared.ledger.jobs import Job
from shared.ledger.lineage import Line
from shared.protocol.message import ObjectRef
from shared.protocol.names import JobId, now
from shared.protocol.records import (
    Head,
    JobRecord,
    LineageSettings,
    LineClose,
    LineCreate,
    LineOpen,
)
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
