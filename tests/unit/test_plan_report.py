"""What is written beside a file about the rows that its plan leaves out."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from services.ingest.outcome.plan_report import Planned, add_lines, copy_chosen
from shared.errors import Location, ObjectDamaged, ObjectMissing
from shared.formats.dataset import DATA
from shared.formats.result import BAD_ROWS, BadRows, ResultFile, SegmentResult
from shared.protocol.message import ObjectRef
from shared.protocol.names import JobId
from shared.protocol.records import Failure


def test_rows_found_bad_late_follow_those_found_bad_early_once(tmp_path: Path) -> None:
    (tmp_path / DATA).write_bytes(b"one\ntwo\nthree\n")
    copy_chosen(tmp_path, [0, 2], tmp_path / "late")
    assert (tmp_path / "late").read_bytes() == b"one\nthree\n"
    beside = tmp_path / "x.jsonl.bad.jsonl"
    add_lines(tmp_path / "late", beside)
    assert beside.read_bytes() == b"one\nthree\n"
    beside.write_bytes(b"{early")
    for _ in range(2):
        add_lines(tmp_path / "late", beside)
        assert beside.read_bytes() == b"{early\none\nthree\n"


# ---- jobs that failed before they had a plan -----------------------------------------------------


class Kept:
    """A store of some bytes by key."""

    def __init__(self, **objects: bytes) -> None:
        self.objects = objects

    def read(self, _: str, key: str, **_hash: str) -> bytes:
        return self.objects[key]

    def fetch(self, ref: ObjectRef, target: Path) -> None:
        target.write_bytes(self.objects[ref.key])


class Jobs:
    """A table with one job, whose last segment closed with a result."""

    def __init__(self, job: Any) -> None:
        self.jobs = {JOB: job}

    async def update(self, _: object) -> None:
        pass

    def last_segment(self, _: JobId) -> Any:
        return SimpleNamespace(closed=SimpleNamespace(result=ref("result")))


def ref(key: str) -> ObjectRef:
    return ObjectRef(bucket="work", key=key, sha256="a" * 64, size=1)


JOB = JobId("main", "a" * 64, 1)
LISTED = SegmentResult(files=(ResultFile.at(BAD_ROWS, ref("bad")),))


def follow(tmp_path: Path, listed: SegmentResult) -> tuple[Planned, Any]:
    store = Kept(
        result=listed.to_bytes(), bad=BadRows(rows=(0, 2)).to_bytes(), data=b"one\ntwo\nthree\n"
    )
    job = SimpleNamespace(record=None)
    table = Jobs(job)
    ingest: Any = SimpleNamespace(store=store, table=table, bus=None, inbox=None)
    return Planned(ingest, tmp_path, waiting={JOB: tmp_path / "x.jsonl"}), job


def record_of(state: str, why: str = "", step: str = "Mend it.") -> Any:
    failure = Failure(kind="data", message=why, next_step=step) if why else None
    return SimpleNamespace(state=state, failure=failure, plan=None, dataset=ref("data"))


async def look(planned: Planned) -> None:
    planned.due = 0.0
    await planned.once()


async def test_a_job_that_failed_for_bad_rows_lists_them_beside_its_file(tmp_path: Path) -> None:
    planned, job = follow(tmp_path, LISTED)
    job.record = record_of("failed", "2 of 3 rows are bad")
    await look(planned)
    assert (tmp_path / "x.jsonl.bad.jsonl").read_bytes() == b"one\nthree\n"
    told = (tmp_path / "x.jsonl.report.txt").read_text()
    assert "x.jsonl.bad.jsonl" in told
    assert "Next: Mend it." in told


async def test_a_failure_of_another_kind_lists_no_rows(tmp_path: Path) -> None:
    planned, job = follow(tmp_path, SegmentResult(files=()))
    job.record = record_of("failed", "The base is away.")
    await look(planned)
    assert not (tmp_path / "x.jsonl.bad.jsonl").exists()
    assert "The base is away." in (tmp_path / "x.jsonl.report.txt").read_text()


async def test_a_plan_that_cannot_be_read_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned, job = follow(tmp_path, LISTED)
    other = JobId("main", "b" * 64, 1)
    planned.waiting = {JOB: tmp_path / "x.jsonl", other: tmp_path / "y.jsonl"}
    planned.ingest.table.jobs[other] = job
    job.record = record_of("done")
    job.record.plan = ref("plan")
    told: list[JobId] = []
    causes: list[Exception] = [
        ObjectMissing("store", "duramen", "plans/x"),
        ObjectDamaged(Location("store", "duramen", "plans/x"), "a" * 64, "b" * 64),
        TypeError("'NoneType' object is not subscriptable"),
    ]

    def tell(_: Planned, job: JobId, plan: ObjectRef, target: Path) -> None:
        if job == JOB and causes:
            raise causes.pop()
        told.append(job)

    monkeypatch.setattr(Planned, "tell", tell)
    while causes:
        await look(planned)
        assert told == [other]
        assert list(planned.waiting or {}) == [JOB]
    await look(planned)  # it has come back
    assert told == [other, JOB]
    assert not planned.unreadable


async def test_a_failed_job_is_followed_until_its_retry_has_a_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned, job = follow(tmp_path, LISTED)
    for record in (
        record_of("failed", "first"),
        record_of("queued"),
        record_of("running"),
        record_of("skipped", "second"),
        record_of("queued"),
    ):
        job.record = record
        await look(planned)
        assert JOB in (planned.waiting or {})
    assert "second" in (tmp_path / "x.jsonl.report.txt").read_text()
    told: list[JobId] = []
    monkeypatch.setattr(Planned, "tell", lambda _, job, plan, target: told.append(job))
    job.record.plan = ref("plan")
    await look(planned)
    assert told == [JOB]
    assert not planned.waiting
    assert not planned.failed
