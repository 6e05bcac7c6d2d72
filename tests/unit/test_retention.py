"""What goes from `work` follows from the ledger and the commits alone."""

import pytest

from services.trainer.supervisor.retention import KEPT_DEAD, doomed
from shared.protocol.names import JobId
from shared.protocol.records import CheckpointRef, Head, LineRollback
from tests.unit.test_ledger import JOB, ROOT, Stream, closed, create, opened

OTHER = JobId("main", "ef" * 32, 1)


@pytest.fixture
def stream() -> Stream:
    made = Stream()
    made.line("create", create())
    for job in (JOB, OTHER):
        made.job("submit", job)
    return made


def train(
    stream: Stream, segment: str, job: JobId, outcome: str, position: int, step: int
) -> list[str]:
    """One segment from its open to its close; the keys that it left."""
    fence = opened(stream, segment, job)
    ref = CheckpointRef(
        id=f"{segment}{step:052d}",
        prefix=f"checkpoints/main/{segment}/{step:08d}-x",
        segment=segment,
        fence=fence,
        position=position,
        global_step=step,
    )
    head = Head(base_root=ROOT, global_step=step, checkpoint=ref)
    keeps = {"head": head} if outcome in ("done", "preempted") else {}
    closed(stream, segment, fence, outcome, position, step, **keeps)
    return [
        f"{ref.prefix}/header.json",
        f"results/main/{segment}-{fence}.json",
        f"results/main/{segment}-{fence}/job.log",
        f"snapshots/main/{segment}/{step:08d}-{fence}.parquet",
    ]


def test_nothing_goes_before_a_version_holds_it_and_then_all_but_the_head(stream: Stream) -> None:
    first = train(stream, "a" * 12, JOB, "preempted", 4, 4)
    urgent = train(stream, "b" * 12, OTHER, "done", 3, 7)
    line = stream.table.lines["main"]
    keys = [*first, *urgent]
    assert doomed(line, set(), keys) == []
    # The preempted job goes on: its own results stay, its checkpoint is contained in v001.
    assert doomed(line, {1}, keys) == [first[0], *urgent[1:]]
    last = train(stream, "c" * 12, JOB, "done", 9, 12)
    keys += last
    assert doomed(line, {1}, keys) == [first[0], *urgent]
    assert doomed(line, {1, 2}, keys) == [*first, *urgent, *last[1:]]


def test_what_was_cut_off_goes_and_what_is_not_known_stays(stream: Stream) -> None:
    ended = train(stream, "a" * 12, JOB, "done", 4, 4)
    fence = opened(stream, "b" * 12, OTHER)
    line = stream.table.lines["main"]
    cut_off = [
        f"checkpoints/main/{'a' * 12}/00000003-y/adapter_model.safetensors",
        f"results/main/{'a' * 12}-1.json",
        f"progress/main/{'a' * 12}/job.log",
    ]
    stays = [
        *ended,
        f"checkpoints/main/{'b' * 12}/00000003-y/adapter_model.safetensors",
        f"progress/main/{'b' * 12}/job.log",
        f"snapshots/main/{'b' * 12}/00000004-{fence}.parquet",
        f"progress/main/{'9' * 12}/job.log",
    ]
    assert doomed(line, set(), [*stays, *cut_off]) == cut_off


def test_of_segments_that_led_to_nothing_the_newest_stay(stream: Stream) -> None:
    left = [train(stream, f"{n:012x}", JOB, "void", 0, 0) for n in range(1, KEPT_DEAD + 3)]
    line = stream.table.lines["main"]
    found = doomed(line, set(), [key for keys in left for key in keys[1:]])
    assert found == [*left[0][1:], *left[1][1:]]


def test_a_rollback_leaves_checkpoints_behind_but_no_version_that_is_on_its_way(
    stream: Stream,
) -> None:
    first = train(stream, "a" * 12, JOB, "done", 4, 4)
    awaited = train(stream, "b" * 12, OTHER, "done", 4, 8)
    third = JobId("main", "12" * 32, 1)
    stream.job("submit", third)
    abandoned = train(stream, "c" * 12, third, "preempted", 2, 10)
    line = stream.table.lines["main"]
    target = line.versions[1]
    back = LineRollback(
        by="t", lineage="main", version=1, target=target, head=line.heads[target], cause="t"
    )
    stream.line("rollback", back)
    keys = [*first, *awaited, *abandoned]
    assert doomed(line, {1}, keys) == [*first[1:], abandoned[0]]
    assert doomed(line, {1, 2}, keys) == [*first[1:], *awaited, abandoned[0]]
