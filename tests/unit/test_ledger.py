"""The folds: what counts, what is void, and what follows from it. No servers: entries by hand."""

from typing import Any

import pytest

from shared.bus.client import EXPECTED_SUBJECT
from shared.bus.entry import EXPECTED, Entry
from shared.errors import UnknownSchema
from shared.ledger.jobs import Table
from shared.ledger.trained import trained_jobs
from shared.protocol.message import ObjectRef
from shared.protocol.names import JobId, now
from shared.protocol.records import (
    CheckpointRef,
    Head,
    JobRecord,
    JobSettings,
    LineageSettings,
    LineClose,
    LineCreate,
    LineOpen,
    LineRollback,
    Record,
)

ROOT, SHA, OTHER = "b" * 64, "a" * 64, "c" * 64
JOB, JOB2 = JobId("main", SHA, 1), JobId("main", OTHER, 1)


class Stream:
    """Writes entries as the server would store them, and folds them."""

    def __init__(self) -> None:
        self.table = Table()
        self.tails: dict[str, int] = {}
        self.sequence = 0

    def put(self, subject: str, record: Record | bytes, **headers: str) -> int:
        """Store one message by compare-and-set on the last one, unless headers say otherwise."""
        wildcard = subject.rsplit(".", 1)[0] + ".*"
        data = record if isinstance(record, bytes) else record.encode()
        sent = {EXPECTED: str(self.tails.get(wildcard, 0)), EXPECTED_SUBJECT: wildcard, **headers}
        self.sequence += 1
        self.tails[wildcard] = self.sequence
        self.table.fold(Entry("JOBS", self.sequence, subject, data, sent))
        return self.sequence

    def line(self, verb: str, record: Record) -> int:
        at = self.table.lines["main"].sequence if "main" in self.table.lines else 0
        return self.put(f"jobs.line.main.{verb}", record.model_copy(update={"prev": at}))

    def job(self, verb: str, job: JobId = JOB, **changes: Any) -> int:
        known = self.table.jobs.get(job)
        fields: dict[str, Any] = {
            "by": "test",
            "job": job.path,
            "state": "queued",
            "level": "normal",
            "name": "rows.jsonl",
            "rows": 3,
            "dataset": ObjectRef(bucket="duramen", key="k", sha256=job.sha256, size=1),
            "queued_at": now(),
            "prev": known.sequence if known else 0,
        }
        record = JobRecord.model_validate({**fields, **changes})
        return self.put(job.subject(verb), record)  # type: ignore[arg-type]


def checkpoint(segment: str, fence: int, position: int, step: int) -> CheckpointRef:
    name = f"{segment}{step:052d}"
    return CheckpointRef(
        id=name, prefix="p", segment=segment, fence=fence, position=position, global_step=step
    )


def create() -> LineCreate:
    return LineCreate(by="t", lineage="main", settings=LineageSettings(base_root=ROOT))


def opened(stream: Stream, segment: str, job: JobId = JOB, **changes: Any) -> int:
    line = stream.table.lines["main"]
    fields: dict[str, Any] = {
        "by": "t",
        "lineage": "main",
        "segment": segment,
        "job": job.path,
        "job_sequence": 1,
        "position": line.position(job),
        "global_step": line.head.global_step if line.head else 0,
        "micro_tokens": 64,
        "dtype": "float32",
        "lease": "trainer.x",
        "owner": "t",
        "host": "h",
    }
    return stream.line("open", LineOpen.model_validate({**fields, **changes}))


def closed(
    stream: Stream, segment: str, fence: int, outcome: str, position: int, step: int, **changes: Any
) -> int:
    line = stream.table.lines["main"]
    assert line.open_segment is not None
    first = line.open_segment.first
    keep = outcome in ("done", "preempted", "stopped")
    head = Head(
        base_root=ROOT, global_step=step, checkpoint=checkpoint(segment, fence, position, step)
    )
    fields: dict[str, Any] = {
        "by": "t",
        "lineage": "main",
        "segment": segment,
        "fence": fence,
        "job": first.job,
        "outcome": outcome,
        "from_step": first.global_step,
        "to_step": step,
        "from_position": first.position,
        "to_position": position,
        "head": head if keep else line.head,
        "version": line.next_version if outcome == "done" else None,
    }
    return stream.line("close", LineClose.model_validate({**fields, **changes}))


@pytest.fixture
def stream() -> Stream:
    made = Stream()
    made.line("create", create())
    return made


def test_a_close_moves_the_head_and_numbers_the_version(stream: Stream) -> None:
    stream.job("submit")
    fence = opened(stream, "0" * 12)
    at = closed(stream, "0" * 12, fence, "done", 10, 10)
    line = stream.table.lines["main"]
    assert line.head is not None
    assert line.head.global_step == 10
    assert line.versions == {1: at}
    assert line.latest == 1
    assert line.position(JOB) == 10
    assert line.is_trained(SHA) == 1
    assert not stream.table.voids


def test_a_superseded_fence_cannot_close(stream: Stream) -> None:
    stream.job("submit")
    old = opened(stream, "0" * 12)
    new = opened(stream, "0" * 12)
    closed(stream, "0" * 12, old, "done", 10, 10)
    line = stream.table.lines["main"]
    assert line.open_segment is not None
    assert "superseded" in stream.table.voids[-1].why
    closed(stream, "0" * 12, new, "done", 10, 10)
    assert line.open_segment is None


def test_a_second_segment_cannot_open_beside_an_open_one(stream: Stream) -> None:
    stream.job("submit")
    opened(stream, "0" * 12)
    opened(stream, "1" * 12, JOB2)
    assert stream.table.lines["main"].open_segment is not None
    assert "is open" in stream.table.voids[-1].why


def test_position_follows_the_ancestry_of_the_head(stream: Stream) -> None:
    """After a rollback, steps of the abandoned branch are trained again."""
    fence = opened(stream, "0" * 12, JOB2)
    first = closed(stream, "0" * 12, fence, "done", 5, 5)
    fence = opened(stream, "1" * 12)
    closed(stream, "1" * 12, fence, "preempted", 50, 55)
    line = stream.table.lines["main"]
    assert line.position(JOB) == 50
    back = LineRollback(
        by="t", lineage="main", version=1, target=first, head=line.heads[first], cause="c"
    )
    stream.line("rollback", back)
    assert line.position(JOB) == 0
    assert line.latest == 1
    fence = opened(stream, "2" * 12)
    closed(stream, "2" * 12, fence, "done", 100, 105)
    assert line.next_version == 3
    assert [s.id for s in line.kept()] == ["0" * 12, "2" * 12]


def plan_of(job: JobId) -> ObjectRef:
    return ObjectRef(bucket="duramen", key=f"plans/{job.sha256}.json", sha256=job.sha256, size=1)


def test_what_is_trained_is_what_the_head_holds(stream: Stream) -> None:
    """Of a job that was stopped in the middle, its kept steps count; of one that was left, none."""
    line = stream.table.lines["main"]
    one, other = {"plan": plan_of(JOB)}, {"plan": plan_of(JOB2)}
    fence = opened(stream, "0" * 12)
    closed(stream, "0" * 12, fence, "preempted", 4, 4, **one)
    assert trained_jobs(line) == [(JOB, one["plan"], 4, None)]
    fence = opened(stream, "1" * 12, JOB2)
    first = closed(stream, "1" * 12, fence, "done", 9, 13, **other)
    fence = opened(stream, "2" * 12)
    closed(stream, "2" * 12, fence, "done", 20, 29, **one)
    assert trained_jobs(line) == [(JOB, one["plan"], 20, 2), (JOB2, other["plan"], 9, 1)]
    assert trained_jobs(line, but=JOB) == [(JOB2, other["plan"], 9, 1)]
    head = line.heads[first]
    back = LineRollback(by="t", lineage="main", version=1, target=first, head=head, cause="c")
    stream.line("rollback", back)
    assert trained_jobs(line) == [(JOB2, other["plan"], 9, 1), (JOB, one["plan"], 4, 1)]
    fence = opened(stream, "3" * 12)
    closed(stream, "3" * 12, fence, "skipped", 30, 43, **one)  # dropped with its steps
    assert trained_jobs(line)[1].position == 4


def test_a_dropped_segment_leaves_the_head(stream: Stream) -> None:
    fence = opened(stream, "0" * 12)
    closed(stream, "0" * 12, fence, "skipped", 4, 4)
    line = stream.table.lines["main"]
    assert line.head == Head(base_root=ROOT)
    assert line.position(JOB) == 0


def test_a_job_record_behind_its_ledger_is_found(stream: Stream) -> None:
    stream.job("submit")
    fence = opened(stream, "0" * 12)
    assert [str(j.id) for j in stream.table.behind()] == [str(JOB)]
    stream.job("run", state="running", fence=fence)
    assert not stream.table.behind()
    closed(stream, "0" * 12, fence, "done", 10, 10)
    assert stream.table.projection(stream.table.jobs[JOB]) == "done"
    stream.job("done", state="done")
    assert not stream.table.behind()


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ({EXPECTED: "7"}, "expected sequence"),
        ({EXPECTED: ""}, "without compare-and-set"),
        ({"Nats-Stream": "OTHER"}, "a copy"),
    ],
)
def test_a_forged_record_is_void_and_the_next_right_one_counts(
    stream: Stream, headers: dict[str, str], why: str
) -> None:
    """A reply of the server, a mirrored copy, or a publish without the condition."""
    stream.job("submit")
    job = stream.table.jobs[JOB]
    forged = job.record.model_copy(update={"state": "done", "prev": job.sequence})
    stream.put(JOB.subject("done"), forged, **headers)
    assert stream.table.jobs[JOB].record.state == "queued"
    assert why in stream.table.voids[-1].why
    stream.job("run", state="running")
    assert stream.table.jobs[JOB].record.state == "running"


def test_garbage_is_void(stream: Stream) -> None:
    stream.put("jobs.line.main.open", b"{not json")
    stream.put("jobs.line.main.explode", b"{}")
    stream.put("jobs.elsewhere", b"{}")
    assert len(stream.table.voids) == 3


def test_a_newer_schema_is_refused(stream: Stream) -> None:
    with pytest.raises(UnknownSchema):
        stream.put("jobs.line.main.open", b'{"schema":2}')


def test_a_newer_schema_is_refused_also_when_it_is_read_again(stream: Stream) -> None:
    data, at = b'{"schema":2}', stream.sequence + 1
    sent = {EXPECTED: str(stream.tails["jobs.line.main.*"])}
    newer = Entry("JOBS", at, "jobs.line.main.open", data, sent)
    for _ in range(2):
        with pytest.raises(UnknownSchema):
            stream.table.fold(newer)
    assert (stream.table.voids, stream.table.seen) == ([], at - 1)


@pytest.mark.parametrize(
    ("settings", "schema"),
    [
        ({}, 1),
        ({"epochs": 3}, 1),
        ({"allow_bad": "2%"}, 2),
        ({"delta": "off"}, 2),
        ({"delta": "on"}, 2),
    ],
)
def test_a_record_has_the_schema_that_its_settings_need(
    stream: Stream, settings: dict[str, Any], schema: int
) -> None:
    stream.job("submit", settings=settings)
    stored = stream.table.jobs[JOB].record
    assert (stored.schema_, stored.settings) == (schema, JobSettings(**settings))
    assert stored.encode().startswith(b'{"schema":%d,' % schema)
    # As `Table.write` copies a record under other settings.
    kept = stored.model_dump(exclude={"schema_"})
    assert JobRecord.model_validate({**kept, "settings": {"delta": "off"}}).schema_ == 2
    assert JobRecord.model_validate({**kept, "settings": {}}).schema_ == 1


def test_a_job_of_schema_3_is_refused(stream: Stream) -> None:
    with pytest.raises(UnknownSchema):
        stream.put(JOB.subject("submit"), b'{"schema":3}')


def test_the_queue_is_by_level_then_by_ticket(stream: Stream) -> None:
    ids = [JobId("main", f"{n}" * 64, 1) for n in range(4)]
    for job, level in zip(ids, ("normal", "low", "high", "normal"), strict=True):
        stream.job("submit", job, level=level)
    assert [j.id for j in stream.table.queue()] == [ids[2], ids[0], ids[3], ids[1]]
    stream.job("move", ids[1], level="high")
    assert [j.id for j in stream.table.queue()][:2] == [ids[1], ids[2]]  # its ticket is older


def test_a_removed_job_is_not_brought_back(stream: Stream) -> None:
    stream.job("submit")
    stream.job("remove", state="removed")
    stream.job("run", state="running")
    assert stream.table.jobs[JOB].record.state == "removed"
