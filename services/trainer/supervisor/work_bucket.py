"""Puts checkpoints, snapshots and results into the bucket `work`. Blocking; all are read back."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from services.trainer import checkpoint
from services.trainer.supervisor.local_files import SegmentFolder
from shared import log
from shared.errors import CannotTrain, ObjectDamaged, ObjectMissing
from shared.formats.checkpoint import HEADER, Header, header_or_none, listed_files
from shared.formats.result import SNAPSHOT_FOLDER, ResultFile, SegmentResult
from shared.ledger.lineage import Segment
from shared.protocol.message import ObjectRef
from shared.protocol.records import CheckpointRef
from shared.store import layout
from shared.store.place import PRECIOUS, WORK
from shared.store.s3 import Store


@dataclass(frozen=True)
class Found:
    """A checkpoint of a segment, on this disk (`local`), in the store (`stored`), or both."""

    ref: CheckpointRef
    local: Path | None
    stored: bool


def reference(lineage: str, name: str, header: Header) -> CheckpointRef:
    """Return the record of a checkpoint, given its folder's name and its header."""
    return CheckpointRef(
        id=header.id,
        prefix=layout.checkpoint(lineage, header.segment, name),
        segment=header.segment,
        fence=header.fence,
        position=header.position,
        global_step=header.global_step,
    )


def put_checkpoint(store: Store, lineage: str, path: Path) -> CheckpointRef:
    """Upload a checkpoint, its header last: a header in the store means that all files are there.

    Raises CannotTrain (checkpoint) if it is damaged on this disk.
    """
    header = checkpoint.verify_checkpoint(path)
    ref = reference(lineage, path.name, header)
    for name, contents in header.files.items():
        key = layout.checkpoint_file(ref.prefix, name)
        store.put_file(WORK, key, path / name, contents.sha256)
    key = layout.checkpoint_file(ref.prefix, HEADER)
    store.put_bytes(WORK, key, header.to_bytes())
    return ref


def put_object(store: Store, key: str, path: Path) -> ObjectRef:
    return store.put_file(WORK, key, path).ref


def put_plan(store: Store, path: Path, sha256: str) -> ObjectRef:
    """Upload a plan to the bucket of precious objects, named by its hash."""
    return store.put_file(PRECIOUS, layout.plan(sha256), path, sha256).ref


def put_progress(store: Store, lineage: str, segment: str, folder: SegmentFolder) -> None:
    """Upload log and metrics beside the newest checkpoint, so that another host can resume."""
    for path in (folder.metrics, folder.job_log):
        if path.exists():  # read at once: it grows while it is uploaded
            key = layout.progress_file(lineage, segment, path.name)
            store.put_bytes(WORK, key, path.read_bytes())


def get_progress(store: Store, lineage: str, segment: str, folder: SegmentFolder) -> None:
    """Fetch log and metrics that another host left; keep those on this disk."""
    for path in (folder.metrics, folder.job_log):
        key = layout.progress_file(lineage, segment, path.name)
        if not path.exists():
            try:
                path.write_bytes(store.read(WORK, key))
            except ObjectMissing:
                continue


def put_result(
    store: Store, segment: Segment, folder: SegmentFolder, earlier: Sequence[ResultFile]
) -> ObjectRef:
    """Upload log, metrics, bad rows, snapshots, and the result.json that lists their hashes.

    Returns the reference to result.json, which the close names. It covers the whole job so far:
    `earlier` are the files of its earlier segments.
    """
    named = segment.job.lineage, segment.id
    files = [file for file in earlier if file.is_snapshot]
    for path in (folder.metrics, folder.job_log, folder.bad_rows):
        if path.exists():
            ref = put_object(store, layout.result_file(*named, segment.fence, path.name), path)
            files.append(ResultFile.at(path.name, ref))
    for path in sorted(folder.snapshots.glob("*.parquet")):
        put_object(store, layout.snapshot_file(*named, path.name), path)
    for key in store.keys(WORK, layout.snapshots(*named)):
        name = key.rsplit("/", 1)[-1]
        taken = layout.parse_snapshot_name(name)
        if taken is not None and segment.holds(taken.fence, taken.global_step):
            sha256, size = store.read_hash(WORK, key)
            ref = ObjectRef(bucket=WORK, key=key, sha256=sha256, size=size)
            files.append(ResultFile.at(f"{SNAPSHOT_FOLDER}{name}", ref))
    result = SegmentResult(job=segment.job.path, segment=segment.id, files=tuple(files))
    return store.put_bytes(WORK, layout.result(*named, segment.fence), result.to_bytes()).ref


# ---- finding the newest valid checkpoint of a segment --------------------------------------------


def is_alive(segment: Segment, header: Header) -> bool:
    """Return whether recovery may start here: in this segment, and not on a dead branch of it."""
    return header.segment == segment.id and segment.holds(header.fence, header.global_step)


def newest_checkpoint(
    store: Store, segment: Segment, folder: SegmentFolder, *, only_local: bool = False
) -> Found | None:
    """Return the newest valid checkpoint of a segment, or None.

    It may be local or uploaded; at the same step the local one is preferred.
    """
    lineage = segment.job.lineage
    there = [] if only_local else uploaded(store, lineage, segment.id)
    stored = {ref.id for ref, _ in there}
    found = [Found(ref, None, True) for ref, header in there if is_alive(segment, header)]
    for path, header in checkpoint.of_segment(folder.checkpoints, segment.id):
        if is_alive(segment, header):
            ref = reference(lineage, path.name, header)
            found.append(Found(ref, path, ref.id in stored))
    found.sort(key=lambda f: (f.ref.fence, f.ref.global_step, f.local is not None), reverse=True)
    return next((candidate for candidate in found if is_whole(store, candidate)), None)


def is_whole(store: Store, candidate: Found) -> bool:
    """Return whether every byte is what was written, by reading it now."""
    if candidate.local is not None:
        return is_valid(candidate.local)
    prefix = candidate.ref.prefix
    try:
        key = layout.checkpoint_file(prefix, HEADER)
        header = store.read(WORK, key, sha256=candidate.ref.id)
        for name, file in listed_files(header).items():
            key = layout.checkpoint_file(prefix, name)
            store.verify(ObjectRef(bucket=WORK, key=key, sha256=file.sha256, size=file.size))
    except (ObjectMissing, ObjectDamaged) as error:
        log.get().error("checkpoint_damaged", prefix=prefix, error=str(error))
        return False
    return True


def is_valid(path: Path) -> bool:
    """Return whether a local checkpoint is undamaged."""
    try:
        checkpoint.verify_checkpoint(path)
    except CannotTrain:
        return False
    return True


def uploaded(store: Store, lineage: str, segment: str) -> list[tuple[CheckpointRef, Header]]:
    """Return the checkpoints of a segment in the store with their headers, oldest first."""
    found = []
    for key in store.keys(WORK, layout.checkpoints(lineage, segment)):
        file = layout.parse_checkpoint_file(key)
        if file and file.name == HEADER:
            data = store.read(WORK, key)
            header = header_or_none(data)
            if header is not None:
                found.append((reference(lineage, file.checkpoint, header), header))
    return sorted(found, key=lambda pair: (pair[0].fence, pair[0].global_step))
