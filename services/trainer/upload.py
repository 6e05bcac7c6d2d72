"""What the trainer puts into `work`: checkpoints, snapshots, results. Blocking, all read back."""

from dataclasses import dataclass
from pathlib import Path

from services.trainer import checkpoint
from services.trainer.local import SegmentFolder
from services.trainer.spec import Failure
from shared.errors import ObjectMissing
from shared.ledger import Line, Segment
from shared.manifest import canonical_json, version_name
from shared.messages import CheckpointRef, ObjectRef
from shared.store import PRECIOUS, WORK, Store

KEPT_UPLOADS = 3


@dataclass(frozen=True)
class Found:
    """A checkpoint of a segment, on this disk or in the store."""

    ref: CheckpointRef
    local: Path | None


def reference(lineage: str, name: str, header: checkpoint.Header) -> CheckpointRef:
    return CheckpointRef(
        id=header.id,
        prefix=f"checkpoints/{lineage}/{header.segment}/{name}",
        segment=header.segment,
        fence=header.fence,
        position=header.position,
        global_step=header.global_step,
    )


def put_checkpoint(store: Store, lineage: str, path: Path) -> CheckpointRef:
    """Upload a checkpoint, its header last: a header in the store means that all is there."""
    header = checkpoint.verify(path)
    ref = reference(lineage, path.name, header)
    for name, contents in header.files.items():
        store.put_file(WORK, f"{ref.prefix}/{name}", path / name, contents.sha256)
    store.put_bytes(WORK, f"{ref.prefix}/{checkpoint.HEADER}", header.to_bytes())
    return ref


def put_object(store: Store, key: str, path: Path) -> ObjectRef:
    return store.put_file(WORK, key, path).ref


def put_plan(store: Store, path: Path, sha256: str) -> ObjectRef:
    """A plan is named by its hash, written once, and precious."""
    return store.put_file(PRECIOUS, f"plans/{sha256}.json", path, sha256).ref


def put_progress(store: Store, lineage: str, segment: str, folder: SegmentFolder) -> None:
    """Log and metrics beside the newest checkpoint, so that another host can go on from both."""
    for path in (folder.metrics, folder.job_log):
        if path.exists():
            store.put_file(WORK, f"progress/{lineage}/{segment}/{path.name}", path)


def get_progress(store: Store, lineage: str, segment: str, folder: SegmentFolder) -> None:
    """Bring what another host left; what is missing starts empty."""
    for path in (folder.metrics, folder.job_log):
        key = f"progress/{lineage}/{segment}/{path.name}"
        if not path.exists():
            try:
                path.write_bytes(store.read(WORK, key))
            except ObjectMissing:
                continue


def put_result(
    store: Store, segment: Segment, folder: SegmentFolder, earlier: list[dict[str, object]]
) -> ObjectRef:
    """result.json: hashes of log, metrics and snapshots of the job so far, named by the close."""
    lineage, stem = segment.job.lineage, f"{segment.id}-{segment.fence}"
    files = [entry for entry in earlier if str(entry["path"]).startswith("evolution/")]
    for path in (folder.metrics, folder.job_log):
        if path.exists():
            ref = put_object(store, f"results/{lineage}/{stem}/{path.name}", path)
            files.append({"path": path.name, **ref.model_dump()})
    for path in sorted(folder.snapshots.glob("*.parquet")):
        put_object(store, snapshot_key(lineage, segment.id, path), path)
    for key in store.keys(WORK, f"snapshots/{lineage}/{segment.id}/"):
        name = key.rsplit("/", 1)[-1]
        step, fence = (int(part) for part in name.removesuffix(".parquet").split("-"))
        if segment.holds(fence, step):
            sha256, size = store.read_hash(WORK, key)
            entry = {"bucket": WORK, "key": key, "sha256": sha256, "size": size}
            files.append({"path": f"evolution/{name}", **entry})
    body = {"schema": 1, "job": segment.job.path, "segment": segment.id, "files": files}
    key = f"results/{lineage}/{stem}.json"
    return store.put_bytes(WORK, key, canonical_json(body)).ref


def snapshot_key(lineage: str, segment: str, path: Path) -> str:
    return f"snapshots/{lineage}/{segment}/{path.name}"


# ---- finding the newest valid checkpoint of a segment --------------------------------------------


def is_alive(segment: Segment, header: checkpoint.Header) -> bool:
    """Whether recovery may start here: of this segment, and no dead branch of it."""
    return header.segment == segment.id and segment.holds(header.fence, header.global_step)


def newest(
    store: Store, segment: Segment, folder: SegmentFolder, *, only_local: bool = False
) -> Found | None:
    """The newest valid checkpoint of a segment, local or uploaded; a tie goes to the local one."""
    lineage = segment.job.lineage
    found: list[Found] = []
    for path, header in checkpoint.of_segment(folder.checkpoints, segment.id):
        if is_alive(segment, header):
            found.append(Found(reference(lineage, path.name, header), path))
    if not only_local:
        found += [
            Found(ref, None)
            for ref, header in uploaded(store, lineage, segment.id)
            if is_alive(segment, header)
        ]
    found.sort(key=lambda f: (f.ref.fence, f.ref.global_step, f.local is not None), reverse=True)
    for candidate in found:
        if candidate.local is None or is_valid(candidate.local):
            return candidate
    return None


def is_valid(path: Path) -> bool:
    try:
        checkpoint.verify(path)
    except Failure:
        return False
    return True


def uploaded(
    store: Store, lineage: str, segment: str
) -> list[tuple[CheckpointRef, checkpoint.Header]]:
    """Checkpoints of a segment in the store, oldest first, by their headers."""
    found = []
    prefix = f"checkpoints/{lineage}/{segment}/"
    for key in store.keys(WORK, prefix):
        if key.endswith(f"/{checkpoint.HEADER}"):
            data = store.read(WORK, key)
            header = checkpoint.parse_header(data)
            if header is not None:
                found.append((reference(lineage, key.split("/")[-2], header), header))
    return sorted(found, key=lambda pair: (pair[0].fence, pair[0].global_step))


# ---- cleaning up `work`, which belongs to the trainer --------------------------------------------


def prune(store: Store, line: Line, segment: Segment) -> None:
    """Of one segment the newest three uploads stay, and whatever the ledger names."""
    kept = line.referenced()
    refs = [ref for ref, _ in uploaded(store, line.lineage, segment.id)]
    keep_newest = refs[-KEPT_UPLOADS:] if segment.close is None else []
    for ref in refs:
        if ref.id not in kept and ref not in keep_newest:
            drop(store, ref)


def prune_heads(store: Store, line: Line) -> None:
    """A checkpoint named by a close goes when it is no longer the head and a version that
    contains it is committed."""
    committed = [
        mark
        for version, mark in line.versions.items()
        if is_committed(store, line.lineage, version)
    ]
    contained = {mark for version_mark in committed for mark in line.ancestry(version_mark)}
    current = line.head.checkpoint.id if line.head and line.head.checkpoint else None
    for mark in contained:
        held = line.heads[mark].checkpoint
        if held is not None and held.id != current and line.mark != mark:
            drop(store, held)


def is_committed(store: Store, lineage: str, version: int) -> bool:
    key = f"catalog/{lineage}/{version_name(version)}.json"
    return store.oldest(PRECIOUS, key) is not None


def drop(store: Store, ref: CheckpointRef) -> None:
    """Delete an uploaded checkpoint, its header first: without it the rest is nobody's."""
    header_key = f"{ref.prefix}/{checkpoint.HEADER}"
    keys = list(store.keys(WORK, f"{ref.prefix}/"))
    for key in sorted(keys, key=lambda key: key != header_key):
        store.delete(WORK, key)
