"""Checks of the ledgers and of the records about jobs.

Each check returns what it finds wrong. All hold at rest; where one waits for somebody, such as a
vault that is publishing, it notes that in `World.pending` instead.
"""

from collections.abc import Iterator

from services.ctl.check.world import Finding, World, closed, mark_of, subject
from shared.errors import ObjectDamaged, ObjectMissing, StoreUnavailable
from shared.ledger.jobs import Table
from shared.ledger.lineage import Line, Segment
from shared.protocol.message import ObjectRef
from shared.protocol.records import Head, LineClose

KEPT = ("done", "preempted", "stopped")


def every_run_starts_where_its_lineage_stood(world: World) -> list[Finding]:
    """Every run of a job starts where its lineage stood and ends where its records say."""
    found: list[Finding] = []
    for line in world.table.lines.values():
        for segment in line.segments.values():
            wrong = *opens_wrong(line, segment), *close_wrong(line, segment)
            found += [Finding(subject(line, segment), what) for what in wrong]
        for at, record in line.rollbacks:
            if record.head != line.heads.get(record.target):
                what = f"the rollback (record {at}) does not lead to the state of its version"
                found.append(Finding(subject(line), what))
    return found + doubly_leased(world)


def doubly_leased(world: World) -> list[Finding]:
    """Return a finding for each trainer that has several segments open, over all lineages."""
    open_now = [line.open_segment for line in world.table.lines.values() if line.open_segment]
    leases = [segment.record.lease for segment in open_now]
    return [
        Finding(f"lease.{lease}", f"has {leases.count(lease)} runs open at once")
        for lease in sorted(set(leases))
        if leases.count(lease) > 1
    ]


def opens_wrong(line: Line, segment: Segment) -> Iterator[str]:
    head, first = line.heads[segment.parent], segment.first
    if (first.checkpoint, first.global_step) != (head.checkpoint, head.global_step):
        yield f"it starts at step {first.global_step}, but its lineage stood at {head.global_step}"
    position = line.position(segment.job, segment.parent)
    if first.position != position:
        yield f"it starts at step {first.position} of its job, which had reached step {position}"
    for before, (fence, record) in zip(segment.opens, segment.opens[1:], strict=False):
        start = record.checkpoint
        if start == first.checkpoint:
            continue
        if start is None or start.segment != segment.id or start.fence > before[0]:
            yield f"it was taken over (record {fence}) from a checkpoint of another run"
        elif (start.global_step, start.position) != (record.global_step, record.position):
            yield f"it was taken over (record {fence}) at a step that is not its checkpoint's"


def close_wrong(line: Line, segment: Segment) -> Iterator[str]:
    close = segment.closed
    if close is None:
        return
    first, before = segment.first, line.heads[segment.parent]
    if (close.from_step, close.from_position) != (first.global_step, first.position):
        yield "the record of its end names a different first step than that of its start"
    if close.to_step - close.from_step != close.to_position - close.from_position:
        yield "it counts a different number of steps for its job than for its lineage"
    if close.to_step < close.from_step:
        yield f"it ends at step {close.to_step}, before it starts"
    yield from head_wrong(close, segment, before)


def head_wrong(close: LineClose, segment: Segment, before: Head) -> Iterator[str]:
    head = close.head
    if close.outcome == "void" and head != before:
        yield "it was cancelled, but it changed the state of its lineage"
    if head == before:
        if close.to_step != close.from_step and close.outcome in KEPT:
            yield "its steps were to be kept, but the state of its lineage did not change"
        return
    if head.base_root != before.base_root:
        yield "it changed the base model"
    left = head.checkpoint
    if left is None or left.segment != segment.id or left.fence not in segment.fences:
        yield "it ends with a checkpoint that is not its own"
    elif not segment.holds(left.fence, left.global_step):
        yield f"it ends with step {left.global_step} of a trainer that had lost its lease"
    elif {left.global_step, head.global_step} != {close.to_step}:
        yield f"it ends at step {close.to_step}, but its checkpoint at {head.global_step}"


def kept_steps_follow_each_other(world: World) -> list[Finding]:
    """The kept steps of a job follow each other and, once it is done, reach the end of its plan."""
    found = []
    for job in world.table.jobs.values():
        last = closed(world, job.id)
        if not last:
            continue
        line, segment = world.table.lines[job.id.lineage], last[-1]
        assert segment.closed is not None
        kept = [s for s in line.kept(mark_of(segment, line)) if s.job == job.id]
        end = 0
        for each in kept:
            assert each.closed is not None
            if each.closed.from_position != end:
                what = (
                    f"it starts at step {each.closed.from_position} of its job, not at step {end}"
                )
                found.append(Finding(subject(line, each), what))
            end = each.closed.to_position
        plan = segment.closed.plan or job.record.plan
        is_done = segment.closed.outcome == "done"
        if plan is None:
            if is_done:
                found.append(Finding(f"job {job.id}", "it is done, but it has no plan"))
            continue
        found += length_wrong(world, str(job.id), plan, end, is_done=is_done)
    return found


def length_wrong(
    world: World, job: str, plan: ObjectRef, end: int, *, is_done: bool
) -> list[Finding]:
    try:
        length = len(world.plan_steps(plan))
    except (ObjectMissing, ObjectDamaged, StoreUnavailable, ValueError) as error:
        return [Finding(f"store: {plan.key}", f"the plan of job {job}: {error}")]
    if is_done != (end == length):
        state = "done" if is_done else "not done"
        what = f"is {state}, and {end} of {length} steps of its plan are kept"
        return [Finding(f"job {job}", what)]
    return []


def every_record_is_valid(world: World) -> list[Finding]:
    """Every record on the bus is valid."""
    voids = [("JOBS", void) for void in world.table.voids]
    voids += [("CTL", void) for control in world.controls.values() for void in control.voids]
    return [
        Finding(f"{stream} {void.sequence}, {void.subject}", f"an invalid record: {void.why}")
        for stream, void in voids
    ]


def job_records_agree_with_their_ledger(world: World) -> list[Finding]:
    """Every job record agrees with the ledger of its lineage."""
    return records_behind(world.table)


def records_behind(table: Table) -> list[Finding]:
    found = []
    for job in table.behind():
        if job.record.state == "removed":
            continue  # removed while it was claimed: its owner closes the segment as void
        what = f"its record says {job.record.state}, its ledger {table.projection(job)}"
        found.append(Finding(f"job {job.id}", what))
    for job in table.jobs.values():
        segment, record = table.last_segment(job.id), job.record
        if segment is None or record.state != table.projection(job):
            continue
        if record.state == "running" and record.fence != segment.fence:
            what = f"its record names fencing token {record.fence}, its ledger {segment.fence}"
            found.append(Finding(f"job {job.id}", what))
        if record.state == "done" and segment.closed and record.version != segment.closed.version:
            what = f"its record names version {record.version}, its ledger {segment.closed.version}"
            found.append(Finding(f"job {job.id}", what))
    return found
