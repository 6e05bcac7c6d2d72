"""What must hold on the streams: the ledgers, the records, the commands and their receipts.

Each function checks one numbered invariant on a `World` and returns what it finds wrong. They hold
at rest and, where they wait for somebody (a vault that publishes, a trainer that answers), note
that in `World.pending` instead.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from shared.errors import ObjectDamaged, ObjectMissing, StoreUnavailable
from shared.formats.plan import Plan
from shared.ledger.control import Control
from shared.ledger.jobs import Table
from shared.ledger.lineage import Line, Segment
from shared.protocol.control import Once
from shared.protocol.events import Answered
from shared.protocol.message import ObjectRef
from shared.protocol.names import JobId, Service, observed_subject
from shared.protocol.observed import Observed
from shared.protocol.records import Head, LineClose
from shared.store.place import ReadPlace
from shared.store.s3 import Store

KEPT = ("done", "preempted", "stopped")


@dataclass(frozen=True)
class Finding:
    """Something wrong: which invariant, where (a subject, key or file), and what."""

    invariant: int
    where: str
    what: str


class NotChecked(Exception):
    """This invariant cannot be checked here; the message says why. `is_outage`: only just now."""

    def __init__(self, why: str, *, is_outage: bool = False) -> None:
        super().__init__(why)
        self.is_outage = is_outage


@dataclass
class World:
    """The running system as it was read: streams folded, stores and folders to be read."""

    table: Table
    controls: dict[str, Control]
    answers: list[tuple[Service, Answered]]  # service, what it answered
    observed: dict[str, list[tuple[int, Observed]]]
    store: Store
    backup: Store
    archive: ReadPlace | None = None
    inbox: Path | None = None
    evolution: Any = None  # path -> JSON of the evolution service
    answers_since: datetime | None = None  # answers from before it may have left the bus
    pending: list[str] = field(default_factory=list)
    hashes: dict[tuple[str, str, str | None], str] = field(default_factory=dict)
    plans: dict[str, list[tuple[int, ...]]] = field(default_factory=dict)

    def latest(self, service: str) -> Observed | None:
        seen = self.observed.get(service)
        return seen[-1][1] if seen else None

    @property
    def vault_busy(self) -> str | None:
        """What the vault is still doing, as it says itself; None if it says nothing."""
        said = self.latest("vault")
        if said is None or said.state in ("idle", "paused", "stopped"):
            return None
        return said.waits_for or said.state

    def plan_steps(self, ref: ObjectRef) -> list[tuple[int, ...]]:
        """The rows of each step of a plan. Raises ObjectMissing, ObjectDamaged, ValueError."""
        if ref.sha256 not in self.plans:
            data = self.store.read(ref.bucket, ref.key, sha256=ref.sha256)
            self.plans[ref.sha256] = Plan.from_bytes(data).steps
        return self.plans[ref.sha256]


def subject(line: Line, segment: Segment | None = None) -> str:
    return f"jobs.line.{line.lineage}" + (f" segment {segment.id}" if segment else "")


def mark_of(segment: Segment, line: Line) -> int:
    """The mark at which the head stands after this segment: its close's, if that moved it."""
    return segment.closed_at if segment.closed_at in line.heads else segment.parent


# ---- 1: the ledgers ----------------------------------------------------------------------------


def invariant_1(world: World) -> list[Finding]:
    """Each segment starts from the head before it, and leaves the head that its close names."""
    found: list[Finding] = []
    for line in world.table.lines.values():
        for segment in line.segments.values():
            wrong = *opens_wrong(line, segment), *close_wrong(line, segment)
            found += [Finding(1, subject(line, segment), what) for what in wrong]
        for at, record in line.rollbacks:
            if record.head != line.heads.get(record.target):
                what = f"the rollback at {at} leaves another head than that of its version"
                found.append(Finding(1, subject(line), what))
    return found + doubly_leased(world)


def doubly_leased(world: World) -> list[Finding]:
    """One trainer has at most one segment open, over all lineages."""
    open_now = [line.open_segment for line in world.table.lines.values() if line.open_segment]
    leases = [segment.record.lease for segment in open_now]
    return [
        Finding(1, f"lease.{lease}", f"holds {leases.count(lease)} open segments")
        for lease in sorted(set(leases))
        if leases.count(lease) > 1
    ]


def opens_wrong(line: Line, segment: Segment) -> Iterator[str]:
    head, first = line.heads[segment.parent], segment.first
    if (first.checkpoint, first.global_step) != (head.checkpoint, head.global_step):
        yield f"opened at step {first.global_step}, the head stood at {head.global_step}"
    position = line.position(segment.job, segment.parent)
    if first.position != position:
        yield f"opened at plan position {first.position}, its job had come to {position}"
    for before, (fence, record) in zip(segment.opens, segment.opens[1:], strict=False):
        start = record.checkpoint
        if start == first.checkpoint:
            continue
        if start is None or start.segment != segment.id or start.fence > before[0]:
            yield f"reclaimed at {fence} from a checkpoint that is not of this segment"
        elif (start.global_step, start.position) != (record.global_step, record.position):
            yield f"reclaimed at {fence} at another step than its checkpoint's"


def close_wrong(line: Line, segment: Segment) -> Iterator[str]:
    close = segment.closed
    if close is None:
        return
    first, before = segment.first, line.heads[segment.parent]
    if (close.from_step, close.from_position) != (first.global_step, first.position):
        yield "its close names another beginning than its open record"
    if close.to_step - close.from_step != close.to_position - close.from_position:
        yield "plan position and global step did not advance alike"
    if close.to_step < close.from_step:
        yield f"it ends at step {close.to_step}, before its beginning"
    yield from head_wrong(close, segment, before)


def head_wrong(close: LineClose, segment: Segment, before: Head) -> Iterator[str]:
    head = close.head
    if close.outcome == "void" and head != before:
        yield "it is void and moved the head"
    if head == before:
        if close.to_step != close.from_step and close.outcome in KEPT:
            yield "its steps were to be kept, and the head stayed"
        return
    if head.base_root != before.base_root:
        yield "it changed the base"
    left = head.checkpoint
    if left is None or left.segment != segment.id or left.fence not in segment.fences:
        yield "it left a head that is no checkpoint of its own"
    elif not segment.holds(left.fence, left.global_step):
        yield f"it left a checkpoint of a superseded owner (step {left.global_step})"
    elif {left.global_step, head.global_step} != {close.to_step}:
        yield f"it ends at step {close.to_step}, its head at {head.global_step}"


# ---- 2: positions ------------------------------------------------------------------------------


def invariant_2(world: World) -> list[Finding]:
    """A job's kept segments are contiguous from 0, and end at its plan's length if it is done."""
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
                what = f"begins at plan position {each.closed.from_position}, not at {end}"
                found.append(Finding(2, subject(line, each), what))
            end = each.closed.to_position
        plan = segment.closed.plan or job.record.plan
        is_done = segment.closed.outcome == "done"
        if plan is None:
            if is_done:
                found.append(Finding(2, f"job {job.id}", "is done without a plan"))
            continue
        found += length_wrong(world, str(job.id), plan, end, is_done=is_done)
    return found


def closed(world: World, job: JobId) -> list[Segment]:
    """The closed segments of a job, in the order of their closes."""
    return [segment for segment in world.table.segments_of(job) if segment.closed]


def length_wrong(
    world: World, job: str, plan: ObjectRef, end: int, *, is_done: bool
) -> list[Finding]:
    try:
        length = len(world.plan_steps(plan))
    except (ObjectMissing, ObjectDamaged, StoreUnavailable, ValueError) as error:
        return [Finding(2, f"store: {plan.key}", f"the plan of job {job}: {error}")]
    if is_done != (end == length):
        state = "done" if is_done else "not done"
        what = f"is {state}, and {end} of {length} steps of its plan are kept"
        return [Finding(2, f"job {job}", what)]
    return []


# ---- 3, 4: the records -------------------------------------------------------------------------


def invariant_3(world: World) -> list[Finding]:
    """Every message on JOBS and CTL is a valid record; what is void was forged or damaged."""
    voids = [("JOBS", void) for void in world.table.voids]
    voids += [("CTL", void) for control in world.controls.values() for void in control.voids]
    return [
        Finding(3, f"{stream} {void.sequence}, {void.subject}", f"a void message: {void.why}")
        for stream, void in voids
    ]


def invariant_4(world: World) -> list[Finding]:
    """Each job record says what the ledger says of its job."""
    return records_behind(world.table)


def records_behind(table: Table) -> list[Finding]:
    found = []
    for job in table.behind():
        if job.record.state == "removed":
            continue  # removed while it was claimed: its owner closes the segment as void
        what = f"its record says {job.record.state}, its ledger {table.projection(job)}"
        found.append(Finding(4, f"job {job.id}", what))
    for job in table.jobs.values():
        segment, record = table.last_segment(job.id), job.record
        if segment is None or record.state != table.projection(job):
            continue
        if record.state == "running" and record.fence != segment.fence:
            what = f"its record names fence {record.fence}, the ledger {segment.fence}"
            found.append(Finding(4, f"job {job.id}", what))
        if record.state == "done" and segment.closed and record.version != segment.closed.version:
            what = f"its record names version {record.version}, its close {segment.closed.version}"
            found.append(Finding(4, f"job {job.id}", what))
    return found


# ---- 12: commands and receipts -----------------------------------------------------------------


def invariant_12(world: World) -> list[Finding]:
    """Each accepted command has one answer; no step was made under a fence that said paused.

    Events leave the bus after 30 days: a command from before the oldest one was answered, if its
    service says that it has come past it.
    """
    found = []
    for service, control in world.controls.items():
        said = {one.instance: one.once_through for _, one in world.observed.get(service, [])}
        through = max(said.values(), default=0)
        for at, once in sorted(control.once.items()):
            outcomes = answers_to(world, service, at, once)
            where = f"ctl.once.{service} {at} ({once.command})"
            if not outcomes and at > through:
                world.pending.append(f"12: {once.command} at {at} waits for its answer")
            elif not outcomes and not (world.answers_since and once.at < world.answers_since):
                found.append(Finding(12, where, "was passed over without an answer"))
            elif len(outcomes) > 1:
                what = f"has {len(outcomes)} different answers: {', '.join(sorted(outcomes))}"
                found.append(Finding(12, where, what))
    return found + receipts_wrong(world)


def answers_to(world: World, service: str, at: int, once: Once) -> set[str]:
    """Outcomes that were answered; a repeated answer after a crash says the same again."""
    return {
        answer.outcome
        for answering, answer in world.answers
        if answering == service and (answer.sequence == at or answer.command == once.nonce)
    }


def receipts_wrong(world: World) -> list[Finding]:
    found = []
    before: dict[str, Observed] = {}
    for at, said in world.observed.get("trainer", []):
        where = f"{observed_subject('trainer', said.instance)} {at}"
        paused = before.pop(said.instance, None)
        if said.state == "paused" and said.fence is not None:
            current = fence_at(world, said)
            if current != said.fence:
                what = f"says paused with fence {said.fence}; the ledger's was {current}"
                found.append(Finding(12, where, what))
        if paused is not None and same_pause(paused, said) and position(said) > position(paused):
            what = f"step {position(said)} under fence {said.fence}, paused at {position(paused)}"
            found.append(Finding(12, where, what))
        if said.state == "paused":
            before[said.instance] = said
    return found


def fence_at(world: World, said: Observed) -> int | None:
    """The open segment's fence as of the ledger sequence that an observation names."""
    for line in world.table.lines.values():
        segment = line.segments.get(said.segment or "")
        if segment is not None:
            if segment.closed is not None and segment.closed_at <= said.ledger:
                return None
            return max((fence for fence in segment.fences if fence <= said.ledger), default=None)
    return None


def same_pause(paused: Observed, said: Observed) -> bool:
    return (paused.fence, paused.generation) == (said.fence, said.generation)


def position(said: Observed) -> int:
    if said.progress is not None:
        return said.progress.position
    return said.checkpoint.position if said.checkpoint else 0
