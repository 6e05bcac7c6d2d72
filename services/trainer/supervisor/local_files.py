"""The trainer's disk: the files it fetched (verified by hash) and those it makes for a segment.

cache/bases/<root>/   cache/datasets/<sha256>.jsonl   cache/plans/<sha256>.json
cache/row_ids/<sha256>.bin   cache/sources/<sha256>.jsonl
segments/<lineage>/<segment>/{spec.json,plan.json,metrics.jsonl,job.log,checkpoints/,snapshots/}
"""

import shutil
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from shared.errors import Location, ObjectDamaged, ObjectMissing
from shared.files import files_below, sha256_bytes, sha256_file, whole_folder, write_synced
from shared.formats import row_ids
from shared.formats.checkpoint import HEADER, IN_A_VERSION, listed_files
from shared.formats.result import BAD_ROWS, JOB_LOG, METRICS
from shared.formats.version import parse_sums, root_hash
from shared.ledger.lineage import Line
from shared.memory_estimate import Shape, shape_of_folder
from shared.protocol.message import ObjectRef
from shared.protocol.records import CheckpointRef
from shared.store import layout
from shared.store.base_shape import shape_in_store
from shared.store.place import PRECIOUS, Bucket
from shared.store.s3 import Store

KEPT_SEGMENTS = 8
UNUSED_SECONDS = 3600.0
# Files of each kind: they are fetched again where they are needed. A new plan asks for the plans
# and the row ids of all jobs behind the head.
KEPT_FETCHED = {"datasets": 64, "sources": 64, "plans": 1000, "row_ids": 1000}


@dataclass(frozen=True)
class SegmentFolder:
    """The files of one segment."""

    path: Path

    @property
    def plan(self) -> Path:
        return self.path / "plan.json"

    @property
    def metrics(self) -> Path:
        return self.path / METRICS

    @property
    def job_log(self) -> Path:
        return self.path / JOB_LOG

    @property
    def bad_rows(self) -> Path:
        return self.path / BAD_ROWS

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def snapshots(self) -> Path:
        return self.path / "snapshots"

    def make(self) -> "SegmentFolder":
        for folder in (self.checkpoints, self.snapshots):
            folder.mkdir(parents=True, exist_ok=True)
        return self


class Local:
    """Files under the trainer's state folder. Blocking."""

    def __init__(self, state_dir: Path, store: Store) -> None:
        self.root, self.store = state_dir, store
        self.cache = state_dir / "cache"

    def segment(self, lineage: str, segment: str) -> SegmentFolder:
        return SegmentFolder(self.root / "segments" / lineage / segment)

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.root).free

    def base(self, root: str) -> Path:
        """Return the folder of a base, fetched once and verified by hash.

        Raises ObjectMissing, ObjectDamaged.
        """
        folder = self.cache / "bases" / root
        if folder.exists():
            folder.touch()  # it is in use, and stays a while
            return folder
        found = parse_sums(self.store.read(PRECIOUS, layout.base_commit(root)))
        if root_hash(found.items()) != root:
            where = Location(self.store.name, PRECIOUS, layout.base_commit(root))
            raise ObjectDamaged(where, root, root_hash(found.items()))
        with whole_folder(folder) as temporary:
            for path, sha256 in found.items():
                key = layout.base_file(root, path)
                ref = ObjectRef(bucket="duramen", key=key, sha256=sha256, size=0)
                self.store.fetch(ref, temporary / path)
        return folder

    def missing_of_base(self, root: str) -> int:
        """Return how many bytes of a base would still have to be fetched.

        Raises StoreUnavailable.
        """
        if (self.cache / "bases" / root).exists():
            return 0
        return sum(v.size for v in self.store.versions(PRECIOUS, layout.base_files(root)))

    def shape(self, root: str) -> Shape:
        """Return the shape of a base, which decides about memory, from this disk or the store.

        Raises UsageError, StoreUnavailable, ObjectMissing.
        """
        folder = self.cache / "bases" / root
        return shape_of_folder(folder) if folder.exists() else shape_in_store(self.store, root)

    def object(self, kind: str, ref: ObjectRef, suffix: str) -> Path:
        """Return the file of a dataset or plan, by hash. Raises ObjectMissing, ObjectDamaged."""
        path = self.cache / kind / f"{ref.sha256}{suffix}"
        if not path.exists() or sha256_file(path) != ref.sha256:
            self.store.fetch(ref, path)
        return path

    def source(self, dataset: str) -> Path | None:
        """Return the file that says where a dataset's rows came from, or None if it is nowhere."""
        path = self.cache / "sources" / f"{dataset}.jsonl"
        try:
            data = self.store.read(PRECIOUS, layout.dataset_source(dataset))
        except ObjectMissing:
            return None
        path.parent.mkdir(parents=True, exist_ok=True)
        write_synced(path, data)
        return path

    def row_ids(self, dataset: str) -> Path:
        """Return the file with the ids of a dataset's rows; it is made where the store has none.

        Raises ObjectMissing, ObjectDamaged.
        """
        path = self.cache / "row_ids" / f"{dataset}.bin"
        with suppress(FileNotFoundError, ValueError):
            row_ids.opened(path.read_bytes())
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        write_synced(path, row_ids.sealed(self._row_ids(dataset)))
        return path

    def _row_ids(self, dataset: str) -> bytes:
        with suppress(ObjectMissing, ValueError):
            return row_ids.opened(self.store.read(PRECIOUS, layout.dataset_row_id_file(dataset)))
        ref = ObjectRef(bucket="duramen", key=layout.dataset_data(dataset), sha256=dataset, size=0)
        with self.object("datasets", ref, ".jsonl").open("rb") as lines:
            return row_ids.records_of(line.rstrip(b"\n") for line in lines)

    def checkpoint(self, line: Line, ref: CheckpointRef) -> Path:
        """Return a checkpoint's folder: local if whole, else from `work`, else from its version.

        Raises ObjectMissing or ObjectDamaged if it is nowhere whole.
        """
        mine = self.segment(line.lineage, ref.segment).checkpoints
        name = ref.prefix.rsplit("/", 1)[-1]
        for folder in (mine / name, self.cache / "checkpoints" / name):
            if folder.is_dir() and is_checkpoint_whole(folder, ref.id):
                return folder
        target = self.cache / "checkpoints" / name
        shutil.rmtree(target, ignore_errors=True)
        try:
            self._fetch_checkpoint(ref, "work", ref.prefix, target, {})
        except (ObjectMissing, ObjectDamaged):
            version = version_of(line, ref)
            if version is None:
                raise
            prefix = layout.version_files(line.lineage, version).rstrip("/")
            self._fetch_checkpoint(ref, PRECIOUS, prefix, target, IN_A_VERSION)
        return target

    def has_head(self, line: Line) -> bool:
        """Return whether the head's checkpoint is here, in `work`, or in a version.

        In the store only its header's existence is checked, so damage is not noticed.
        """
        ref = line.head.checkpoint if line.head else None
        if ref is None:
            return True
        name = ref.prefix.rsplit("/", 1)[-1]
        if is_checkpoint_whole(self.segment(line.lineage, ref.segment).checkpoints / name, ref.id):
            return True
        version = version_of(line, ref)
        places: list[tuple[Bucket, str]] = [("work", layout.checkpoint_file(ref.prefix, HEADER))]
        if version is not None:
            inside = IN_A_VERSION[HEADER]
            key = layout.version_file(line.lineage, version, inside)
            places.append((PRECIOUS, key))
        return any(next(iter(self.store.keys(b, key)), None) == key for b, key in places)

    def _fetch_checkpoint(
        self, ref: CheckpointRef, bucket: Bucket, prefix: str, target: Path, names: dict[str, str]
    ) -> None:
        header_key = f"{prefix}/{names.get(HEADER, HEADER)}"
        header = self.store.read(bucket, header_key)
        if sha256_bytes(header) != ref.id:
            where = Location(self.store.name, bucket, header_key)
            raise ObjectDamaged(where, ref.id, sha256_bytes(header))
        with whole_folder(target) as temporary:
            for name, file in listed_files(header).items():
                key = f"{prefix}/{names.get(name, name)}"
                there = ObjectRef(bucket=bucket, key=key, sha256=file.sha256, size=file.size)
                self.store.fetch(there, temporary / name)
            write_synced(temporary / HEADER, header)

    def prune_bases(self, needed: set[str]) -> None:
        """Remove the bases that no job needs, an hour after their last use.

        A trial or an example that is shown may use one meanwhile. It is fetched again if needed.
        """
        unused_since = time.time() - UNUSED_SECONDS
        for folder in (self.cache / "bases").glob("[!.]*"):
            if folder.name not in needed and folder.stat().st_mtime < unused_since:
                doomed = folder.with_name(f".{folder.name}.doomed")
                folder.rename(doomed)  # first: a folder of a base's name is always whole
        for doomed in (self.cache / "bases").glob(".*.doomed"):
            shutil.rmtree(doomed, ignore_errors=True)

    def uses(self) -> dict[str, int]:
        """Return the bytes of this folder, by what takes them."""
        found: Counter[str] = Counter()
        for path, size in files_below(self.root):
            found[use_of(path.relative_to(self.root).parts)] += size
        return dict(found)

    def prune(self, keep: set[str]) -> None:
        """Remove old files: segment folders, except the newest few and those named in `keep`.

        Fetched checkpoints go as well, and all but the newest fetched datasets and plans.
        """
        folders = sorted(
            self.root.glob("segments/*/*"), key=lambda f: f.stat().st_mtime, reverse=True
        )
        for folder in folders[KEPT_SEGMENTS:]:
            if folder.name not in keep:
                shutil.rmtree(folder, ignore_errors=True)
        for folder in (self.cache / "checkpoints").glob("*"):
            shutil.rmtree(folder, ignore_errors=True)
        for kind, kept in KEPT_FETCHED.items():
            files = sorted(
                (self.cache / kind).glob("*"), key=lambda f: f.stat().st_mtime, reverse=True
            )
            for file in files[kept:]:
                file.unlink(missing_ok=True)


def use_of(parts: tuple[str, ...]) -> str:
    """Return what a file below the trainer's folder is for, by the parts of its path."""
    if parts[0] == "cache":
        return {"bases": "bases", "checkpoints": "checkpoints"}.get(parts[1], "fetched files")
    inside = parts[3] if parts[0] == "segments" and len(parts) > 3 else ""
    if inside in ("checkpoints", "snapshots"):
        return inside
    return "logs and plans" if inside else "state"


def is_checkpoint_whole(folder: Path, checkpoint_id: str) -> bool:
    """Return whether a local checkpoint has this id, with every byte in place."""
    header = folder / HEADER
    if not header.is_file() or sha256_file(header) != checkpoint_id:
        return False
    return all(
        (folder / name).is_file() and sha256_file(folder / name) == file.sha256
        for name, file in listed_files(header.read_bytes()).items()
    )


def version_of(line: Line, ref: CheckpointRef) -> int | None:
    """Return the version that contains this checkpoint's files, or None."""
    for version, mark in line.versions.items():
        held = line.heads[mark].checkpoint
        if held is not None and held.id == ref.id:
            return version
    return None
