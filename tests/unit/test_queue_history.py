"""What `duramen queue show` says of each entry in a job's history."""

from services.ctl.views.history import changed, history_of, history_rows
from shared.ledger.jobs import Job, Table
from shared.protocol.records import Failure
from tests.unit.test_nothing_is_empty import described


def failed_in(segment: str, message: str) -> Job:
    """Return a job that was queued, and failed in a run with this message."""
    job = described()
    failure = Failure(kind="CannotTrain", message=message)
    after = job.record.model_copy(
        update={"state": "failed", "segment": segment, "fence": 7, "failure": failure}
    )
    job.history += [(1, "queued", job.record), (2, "failed", after)]
    return job


def test_ids_are_left_out_without_touching_what_an_error_said() -> None:
    said = "the loss was not finite, segment 3 of the row, fence 9"
    job = failed_in("s-1", said)
    assert [row[-1] for row in history_rows(job, details=False)] == ["normal priority", said]
    assert history_rows(job, details=True)[1][-1] == f"segment s-1, {said}"
    shown = [entry["how"] for entry in history_of(Table(), job)["history"]]
    assert shown == ["normal priority", f"segment s-1, {said}"]


def test_a_fence_is_told_where_the_run_stayed_the_same() -> None:
    before = failed_in("s-1", "x").record
    after = before.model_copy(update={"fence": 8})
    assert changed(before, after) == ["fence 8"]
    assert changed(before, after, ids=False) == []
