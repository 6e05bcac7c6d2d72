"""Checks of checkpoints, and of the steps that were trained."""

from collections.abc import Iterator

from services.ctl.check.world import Finding, World, committed_records, mark_of
from shared.errors import ObjectDamaged, ObjectMissing, StoreUnavailable
from shared.formats.checkpoint import HEADER, listed_files
from shared.formats.metrics import MetricsLine
from shared.formats.result import METRICS, SegmentResult
from shared.ledger.lineage import Line, Segment
from shared.protocol.records import CheckpointRef
from shared.store import layout
from shared.store.place import PRECIOUS

BROKEN = (ObjectMissing, ObjectDamaged, StoreUnavailable, ValueError)


def needed_checkpoints_are_whole(world: World) -> list[Finding]:
    """Every checkpoint that training or a pending version needs is stored and undamaged."""
    found = []
    for line in world.table.lines.values():
        for ref, version in needed(world, line):
            for where, what in checkpoint_wrong(world, line, ref, version):
                found.append(Finding(where, what))
    return found


def needed(world: World, line: Line) -> Iterator[tuple[CheckpointRef, int | None]]:
    """Yield the checkpoints of the head, the open segment and waiting closes.

    Each comes with the number of the version that holds it, too, or None.
    """
    numbers = {at: version for version, at in line.versions.items()}
    done = {v for lineage, v in committed_records(world) if lineage == line.lineage}
    heads = line.unpublished_heads(done)
    for mark, ref in heads.items():
        yield ref, numbers.get(mark)
    if line.open_segment is not None:
        start = line.open_segment.record.checkpoint
        if start is not None and start.id not in {ref.id for ref in heads.values()}:
            yield start, None


def checkpoint_wrong(
    world: World, line: Line, ref: CheckpointRef, version: int | None
) -> Iterator[tuple[str, str]]:
    """Yield (where, what) for each object of a checkpoint that is missing or damaged.

    A head that is committed may have been cleaned from `work`: its version holds it.
    """
    where = f"store: {ref.bucket}/{ref.prefix}"
    try:
        header = world.store.read(
            ref.bucket, layout.checkpoint_file(ref.prefix, HEADER), sha256=ref.id
        )
    except ObjectMissing:
        if version is None or (line.lineage, version) not in committed_records(world):
            yield f"{where}/{HEADER}", f"it is missing (step {ref.global_step})"
        return
    except (ObjectDamaged, StoreUnavailable) as error:
        yield f"{where}/{HEADER}", f"it is damaged: {error}"
        return
    for name, file in listed_files(header).items():
        key = layout.checkpoint_file(ref.prefix, name)
        try:
            found, _ = world.store.read_hash(ref.bucket, key)
        except (ObjectMissing, StoreUnavailable) as error:
            yield f"{where}/{name}", f"it cannot be read: {error}"
            continue
        if found != file.sha256:
            what = f"it is damaged: its SHA-256 is {found[:16]}…, not {file.sha256[:16]}…"
            yield f"{where}/{name}", what


def planned_steps_were_trained_once(world: World) -> list[Finding]:
    """Every finished job trained each step of its plan once, in order, with the planned rows."""
    found = []
    for job in world.table.jobs.values():
        line = world.table.lines.get(job.id.lineage)
        last = world.table.last_segment(job.id)
        if line is None or last is None or last.closed is None or last.closed.outcome != "done":
            continue
        plan = last.closed.plan or job.record.plan
        if plan is None:
            continue  # the check of the ledger against the plans says so
        try:
            steps = world.plan_steps(plan)
            trained = [
                step
                for segment in line.kept(mark_of(last, line))
                if segment.job == job.id
                for step in trained_steps(world, line, segment)
            ]
        except BROKEN as error:
            found.append(Finding(f"job {job.id}", str(error)))
            continue
        what = steps_wrong(steps, trained)
        if what is not None:
            found.append(Finding(f"job {job.id}, metrics.jsonl", what))
    return found


def trained_steps(world: World, line: Line, segment: Segment) -> list[tuple[int, list[int]]]:
    """Return (plan position, rows) of a segment's own steps, as its metrics list them."""
    assert segment.closed is not None
    close = segment.closed
    if close.to_position == close.from_position:
        return []
    rows = []
    for text in metrics(world, line, segment).splitlines():
        step = MetricsLine.model_validate_json(text)
        if step.rows is None:
            continue  # a decision about a snapshot
        if close.from_position < step.position <= close.to_position:
            rows.append((step.position, [shown.row for shown in step.rows]))
    return rows


def metrics(world: World, line: Line, segment: Segment) -> bytes:
    """Return a segment's metrics.jsonl as its result names it, else from its version.

    Raises ObjectMissing, ObjectDamaged, StoreUnavailable, ValueError.
    """
    assert segment.closed is not None
    close = segment.closed
    if close.result is not None:
        try:
            ref = close.result
            result = SegmentResult.from_bytes(
                world.store.read(ref.bucket, ref.key, sha256=ref.sha256)
            )
            file = result.file(METRICS)
            if file is not None:
                return world.store.read(file.bucket, file.key, sha256=file.sha256)
        except ObjectMissing:
            pass
    version = line.version_with(segment)
    if version is not None:
        key = layout.version_file(line.lineage, version, METRICS)
        return world.store.read(PRECIOUS, key)
    raise ObjectMissing("store", "work", f"metrics.jsonl of segment {segment.id}")


def steps_wrong(steps: list[tuple[int, ...]], trained: list[tuple[int, list[int]]]) -> str | None:
    positions = [position for position, _ in trained]
    if positions != list(range(1, len(steps) + 1)):
        odd = next(
            (n for n, p in enumerate(positions, 1) if p != n), min(len(positions), len(steps)) + 1
        )
        return (
            f"it has {len(positions)} steps for a plan of {len(steps)} and is wrong from step "
            f"{odd} on"
        )
    for (position, rows), planned in zip(trained, steps, strict=True):
        if list(rows) != list(planned):
            return f"step {position} was trained on rows that differ from the plan's"
    return None
