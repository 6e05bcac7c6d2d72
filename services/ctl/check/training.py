"""What must hold of training: its checkpoints, its metrics, the files behind it, its life lines."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from services.ctl.check.copies import commits, parsed
from services.ctl.check.ledgers import Finding, NotChecked, World, mark_of
from shared.errors import DuramenError, ObjectDamaged, ObjectMissing, StoreUnavailable
from shared.files import sha256_file
from shared.formats.checkpoint import HEADER, listed_files
from shared.formats.metrics import MetricsLine
from shared.formats.report import taking_of
from shared.formats.result import METRICS, SegmentResult
from shared.ledger.lineage import Line, Segment
from shared.protocol.records import CheckpointRef
from shared.store import layout
from shared.store.place import PRECIOUS
from shared.store.s3 import Store

# What ingest puts beside a file in done/ or rejected/.
REPORTS = (".report.json", ".report.txt", ".plan.json", ".long.jsonl", ".bad.jsonl", ".yaml")
BROKEN = (ObjectMissing, ObjectDamaged, StoreUnavailable, ValueError)

# ---- 9: checkpoints ----------------------------------------------------------------------------


def invariant_9(world: World) -> list[Finding]:
    """The head's checkpoint, and each that no commit or rollback follows, is there and whole."""
    found = []
    for line in world.table.lines.values():
        for ref, version in needed(world, line):
            for where, what in checkpoint_wrong(world, line, ref, version):
                found.append(Finding(9, where, what))
    return found


def needed(world: World, line: Line) -> Iterator[tuple[CheckpointRef, int | None]]:
    """(checkpoint, version that holds it too) of the head, the open segment and waiting closes."""
    numbers = {at: version for version, at in line.versions.items()}
    done = {v for lineage, v in parsed(commits(world.backup)) if lineage == line.lineage}
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
    """A head that is committed may have been cleaned from `work`: its version holds it."""
    where = f"store: {ref.bucket}/{ref.prefix}"
    try:
        header = world.store.read(
            ref.bucket, layout.checkpoint_file(ref.prefix, HEADER), sha256=ref.id
        )
    except ObjectMissing:
        committed = version is not None and (line.lineage, version) in parsed(commits(world.backup))
        if not committed:
            yield f"{where}/{HEADER}", f"is missing (step {ref.global_step})"
        return
    except (ObjectDamaged, StoreUnavailable) as error:
        yield f"{where}/{HEADER}", f"damaged: {error}"
        return
    for name, file in listed_files(header).items():
        key = layout.checkpoint_file(ref.prefix, name)
        try:
            found, _ = world.store.read_hash(ref.bucket, key)
        except (ObjectMissing, StoreUnavailable) as error:
            yield f"{where}/{name}", f"cannot be read: {error}"
            continue
        if found != file.sha256:
            what = f"damaged: SHA-256 is {found[:16]}…, not {file.sha256[:16]}…"
            yield f"{where}/{name}", what


# ---- 10: what was trained ----------------------------------------------------------------------


def invariant_10(world: World) -> list[Finding]:
    """The metrics of a finished job have each step of its plan once, in order, with its rows."""
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
            found.append(Finding(10, f"job {job.id}", str(error)))
            continue
        what = steps_wrong(steps, trained)
        if what is not None:
            found.append(Finding(10, f"job {job.id}, metrics.jsonl", what))
    return found


def trained_steps(world: World, line: Line, segment: Segment) -> list[tuple[int, list[int]]]:
    """(plan position, rows) of a segment's own steps, as its metrics list them."""
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
    """A segment's metrics.jsonl: as its result names it, else out of its version."""
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
        key = layout.version_file(line.lineage, version, "metrics.jsonl")
        return world.store.read(PRECIOUS, key)
    raise ObjectMissing("store", "work", f"metrics.jsonl of segment {segment.id}")


def steps_wrong(steps: list[tuple[int, ...]], trained: list[tuple[int, list[int]]]) -> str | None:
    positions = [position for position, _ in trained]
    if positions != list(range(1, len(steps) + 1)):
        odd = next(
            (n for n, p in enumerate(positions, 1) if p != n), min(len(positions), len(steps)) + 1
        )
        return f"has {len(positions)} steps for a plan of {len(steps)}; wrong from step {odd} on"
    for (position, rows), planned in zip(trained, steps, strict=True):
        if list(rows) != list(planned):
            return f"step {position} was trained on other rows than the plan's"
    return None


# ---- 11: the inbox -----------------------------------------------------------------------------


def invariant_11(world: World) -> list[Finding]:
    """Each file in done/ has its dataset stored and a job, unless it is only ever measured."""
    if world.inbox is None or not world.inbox.is_dir():
        raise NotChecked("the inbox cannot be reached from here")
    originals, measured = stored_originals(world.store)
    queued = {job.sha256 for job in world.table.jobs}
    found = []
    for path in data_files(world.inbox / "done"):
        datasets = originals.get(sha256_file(path)[:12], set())
        if not datasets:
            found.append(Finding(11, f"inbox/done/{path.name}", "its dataset is not stored"))
        elif not datasets & (queued | measured):
            found.append(Finding(11, f"inbox/done/{path.name}", "it was never queued"))
    found += [
        Finding(11, f"inbox/rejected/{path.name}", "it has no report")
        for path in data_files(world.inbox / "rejected")
        if not any(path.with_name(path.name + end).exists() for end in REPORTS[:2])
    ]
    found += taken_twice(world.inbox)
    taken = [p for p in sorted((world.inbox / ".taken").glob("*")) if not p.name.startswith(".")]
    if taken:
        world.pending.append(f"11: {len(taken)} taken files are being worked on")
    return found


def taken_twice(inbox: Path) -> Iterator[Finding]:
    """A file has one id of taking, and lies in one place under it."""
    places: dict[str, list[str]] = {}
    for folder in (inbox / ".taken").glob("*"):
        if (folder / "file").exists():
            places.setdefault(folder.name, []).append(f"inbox/.taken/{folder.name}")
    for name in ("done", "rejected"):
        for path in (inbox / name).rglob(f"*{REPORTS[0]}"):
            try:
                taken = taking_of(path.read_bytes())
            except ValueError:
                yield Finding(11, f"inbox/{name}/{path.name}", "cannot be read")
                continue
            if taken is not None:
                places.setdefault(taken, []).append(f"inbox/{name}/{path.name}")
    for where in places.values():
        if len(where) > 1:
            yield Finding(11, where[0], f"was taken once and lies also at {', '.join(where[1:])}")


def stored_originals(store: Store) -> tuple[dict[str, set[str]], set[str]]:
    """(first 12 digits of an original's SHA-256 -> datasets, datasets that are only measured)."""
    originals: dict[str, set[str]] = {}
    for original in map(layout.parse_original, store.keys(PRECIOUS, layout.DATASETS)):
        if original:
            originals.setdefault(original.digits, set()).add(original.dataset)
    measured = map(layout.parse_eval_record, store.keys(PRECIOUS, layout.EVAL))
    return originals, {record.dataset for record in measured if record}


def data_files(folder: Path) -> Iterable[Path]:
    """What a user dropped: all files but the reports beside them."""
    if not folder.is_dir():
        return []
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".") and not path.name.endswith(REPORTS)
    ]


# ---- 15: life lines ----------------------------------------------------------------------------


def invariant_15(world: World) -> list[Finding]:
    """Life lines use only snapshots whose fence and step lie in kept segments or the open one."""
    if world.evolution is None:
        raise NotChecked("no address of the evolution service")
    try:
        datasets = world.evolution("/datasets")["datasets"]
        curves = [
            world.evolution(f"/snapshots/{d['dataset']}?lineage={d['lineage']}") for d in datasets
        ]
    except DuramenError as error:
        raise NotChecked(str(error), is_outage=True) from error
    found = []
    for curve in curves:
        living = world.table.lines[curve["lineage"]].living()
        for snapshot in curve["snapshots"]:
            segment = living.get(snapshot["segment"])
            step, fence = snapshot["global_step"], snapshot["fence"]
            if segment is None or not segment.holds(fence, step):
                where = f"dataset {curve['dataset'][:12]}, step {step}"
                found.append(Finding(15, where, f"a snapshot of dead fence {fence} is counted"))
    return found
