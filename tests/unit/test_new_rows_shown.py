"""How much of a file is new is shown where its user looks: `queue show` and `watch`."""

from collections.abc import Iterator
from typing import Any, cast

from services.ctl.commands.watch import describe_event
from services.ctl.views.left_out import new_line, reason_lines, rows_of
from shared.ledger.jobs import Job
from shared.protocol.events import Event, JobPlanned, SegmentClosed
from shared.protocol.names import JobId
from shared.protocol.records import Failure
from shared.store import layout
from shared.store.place import PRECIOUS
from shared.store.s3 import Store
from tests.plans import a_plan
from tests.unit.test_ledger import Stream
from tests.unit.test_preparing import Shelf

JOB = JobId("main", "ab" * 32, 1)
KNOWN: dict[str, Any] = {
    "trained": [[0, 1000]],
    "count": 1000,
    "held_out": 2,
    "jobs": [
        {"job": "3f9a1c2b7d10.1", "version": None, "rows": 200},
        {"job": "0448f6ccd6ee.1", "version": 3, "rows": 800},
    ],
    "changed": 3,
    "changed_rows": [{"row": 1002 + n, "job": "0448f6ccd6ee.1", "version": 3} for n in range(3)],
}


class Lines(Shelf):
    """A store in memory whose objects are read in pieces, too."""

    def blocks(self, bucket: str, key: str) -> Iterator[bytes]:
        yield self.read(bucket, key)


def job_of(stream: Stream, **changes: Any) -> Job:
    stream.job("submit", JOB, rows=1022, **changes)
    return stream.table.jobs[JOB]


def test_queue_show_says_what_is_new_and_where_the_rest_was_trained() -> None:
    shelf = Lines()
    held = {"heldout_rows": [1000, 1001], "train_rows": [*range(1002, 1022)]}
    plan = a_plan(JOB, rows=1022, known=KNOWN, **held).to_bytes()
    ref = shelf.put(PRECIOUS, layout.plan("cd" * 32), plan)
    source = b"".join(b'{"layout":"messages","line":%d}\n' % (n + 1) for n in range(1022))
    shelf.put(PRECIOUS, layout.dataset_source(JOB.sha256), source)
    rows = rows_of(cast("Store", shelf), job_of(Stream(), plan=ref))
    assert reason_lines(rows.left_out) == [
        "200 rows: already trained in job 3f9a1c2b7d10.1",
        "800 rows: already trained in v003",
        "2 rows: held out, to be measured (lines 1001, 1002)",
    ]
    assert rows.new is not None
    assert new_line(rows.new) == "20 of 1,022 rows; 3 answers changed (lines 1003, 1004, 1005)"


def test_before_there_is_a_plan_nothing_is_called_new() -> None:
    assert rows_of(cast("Store", Lines()), job_of(Stream())) == ([], None, {})


def test_watch_says_what_a_plan_trains_and_why_a_job_had_nothing_to_train() -> None:
    stream, numbers = Stream(), {"rows": 1020, "train_rows": 20, "steps": 1}
    planned = JobPlanned(**numbers, new_rows=20, changed_answers=3)
    job_of(stream)

    def shown(data: Any) -> str:
        event = Event.of("trainer", data, lineage="main", job=JOB.path)
        return describe_event(stream.table, event).partition(": ")[2]

    assert shown(planned) == "20 rows in 1 step; new: 20 of 1,020 rows; 3 answers changed"
    whole = {"new_rows": 1020, "changed_answers": 0}
    assert shown(planned.model_copy(update=whole)) == "20 rows in 1 step"
    why = Failure(kind="nothing_new", message="All its 20 rows have already been trained.")
    stream.job("skip", JOB, state="skipped", failure=why)
    closed = SegmentClosed(segment="0" * 12, fence=1, outcome="skipped")
    assert shown(closed) == "All its 20 rows have already been trained."
