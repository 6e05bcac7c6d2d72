"""What the ledger answers from an index is what a plain walk over all its segments finds."""

from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from shared.ledger.lineage import Line, Segment
from shared.protocol.names import JobId
from shared.protocol.records import LineClose, LineRollback
from tests.unit.test_ledger import Stream, closed, create, opened

JOBS = [JobId("main", f"{n}" * 64, 1 + n % 2) for n in range(4)]
OUTCOMES = ("done", "done", "done", "preempted", "stopped", "skipped", "failed", "void")


class Act(NamedTuple):
    """One step of a random history; `number` chooses a job, a version, or how many steps."""

    kind: str
    number: int
    outcome: str


KINDS = ("submit", "open", "open", "close", "close", "rollback")
acts = st.builds(Act, st.sampled_from(KINDS), st.integers(0, 20), st.sampled_from(OUTCOMES))
histories = st.lists(acts, min_size=30, max_size=60)


def play(history: list[Act]) -> Stream:
    """Write each act that the rules allow at its turn."""
    stream = Stream()
    stream.line("create", create())
    line = stream.table.lines["main"]
    for turn, act in enumerate(history):
        job, now = JOBS[act.number % len(JOBS)], line.open_segment
        match act.kind:
            case "submit":
                stream.job("submit", job)
            case "open":
                opened(stream, now.id if now else f"{turn:012x}", now.job if now else job)
            case "close" if now is not None:
                first, steps = now.first, act.number
                ends = first.position + steps, first.global_step + steps
                closed(stream, now.id, now.fence, act.outcome, *ends)
            case "rollback" if line.versions:
                roll_back(stream, line, act.number % len(line.versions) + 1)
    return stream


def roll_back(stream: Stream, line: Line, version: int) -> None:
    target, now = line.versions[version], line.open_segment
    record = LineRollback(
        by="t",
        lineage="main",
        version=version,
        target=target,
        head=line.heads[target],
        void_segment=now.id if now else None,
        cause="c",
    )
    stream.line("rollback", record)


def walked_kept(line: Line, mark: int | None = None) -> list[Segment]:
    marks = set(line.ancestry(mark))
    found = [s for s in line.segments.values() if s.closed and s.closed_at in marks]
    return sorted(found, key=lambda s: s.closed_at)


def walked_close(line: Line, version: int) -> LineClose | None:
    for segment in line.segments.values():
        if segment.closed and segment.closed_at == line.versions.get(version):
            return segment.closed
    return None


def walked_version_with(line: Line, segment: Segment) -> int | None:
    for version, at in line.versions.items():
        found = walked_close(line, version)
        if found and found.job == segment.job.path and segment in walked_kept(line, at):
            return version
    return None


@settings(max_examples=100, deadline=None)
@given(histories)
def test_indexed_answers_are_those_of_a_walk(history: list[Act]) -> None:
    stream = play(history)
    line = stream.table.lines["main"]
    assert not [v for v in stream.table.voids if v.subject.startswith("jobs.line")]
    for job in JOBS:
        mine = [s for s in line.segments.values() if s.job == job]
        assert stream.table.segments_of(job) == mine
        assert stream.table.last_segment(job) is (mine[-1] if mine else None)
    assert line.kept() == walked_kept(line)
    for mark in line.heads:
        assert line.kept(mark) == walked_kept(line, mark)
    for version in [*line.versions, line.next_version]:
        assert line.version_close(version) == walked_close(line, version)
    for segment in line.segments.values():
        assert line.version_with(segment) == walked_version_with(line, segment)
