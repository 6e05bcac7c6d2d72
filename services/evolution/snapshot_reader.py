"""Reading snapshots: each is found in the store and read once, its hash compared.

They lie in `work/snapshots/<lineage>/<segment>/<step>-<fence>.parquet` while training continues; of
what `work` no longer has, there are copies in versions (`duramen/lineages/…/evolution/`). The hash
is compared with the one that an event, a result or a commit record names. Blocking.
"""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import Counter, Gauge
from pydantic import ValidationError

from services.evolution.cache import Cache, CachedSnapshot, Row
from shared import log
from shared.errors import ObjectDamaged, ObjectMissing
from shared.files import sha256_bytes
from shared.formats.result import SNAPSHOT_FOLDER, SegmentResult
from shared.formats.snapshot import PER_FILE
from shared.formats.snapshot_parquet import decode_snapshot
from shared.formats.version import CommitRecord
from shared.protocol.message import ObjectRef
from shared.store import layout
from shared.store.place import PRECIOUS, WORK, Bucket
from shared.store.s3 import Store

READ = Counter("duramen_snapshots_read_total", "Snapshot files read.", ["place"])
DAMAGED = Gauge("duramen_snapshots_damaged", "Snapshot files that cannot be used.")


@dataclass(frozen=True)
class StoredSnapshot:
    """A snapshot object that exists; `etag` changes when it is written again."""

    place: str
    bucket: Bucket
    key: str
    etag: str
    lineage: str
    version_id: str | None = None


class Reader:
    """A reader, whose every round (`read_new`) updates the cache to what the store holds now."""

    def __init__(self, store: Store, cache: Cache) -> None:
        self.store, self.cache = store, cache
        self._commits: dict[str, CommitRecord] = {}
        self._unreadable: set[str] = set()
        self._log = log.get()

    def read_new(self, results: list[ObjectRef]) -> bool:
        """Read what is new or was written again; return whether anything was.

        `results` are the result.json of all closes, which name the final hash of each snapshot.
        """
        self.read_results(results)
        named = self.cache.named()
        known = {found.key: found for found in self.cache.snapshots()}
        changed = False
        for wanted in self.in_work():
            changed |= self.take(wanted, known.get(wanted.key), named.get(wanted.key))
        # What was read from `work` before it was cleaned is in the cache; the rest is in versions.
        usable = {identity(found) for found in self.cache.snapshots() if found.problem is None}
        for wanted, sha256 in self.in_versions():
            if identity(wanted) not in usable:
                changed |= self.take(wanted, known.get(wanted.key), sha256)
        DAMAGED.set(sum(found.problem is not None for found in self.cache.snapshots()))
        return changed

    def take(self, wanted: StoredSnapshot, known: CachedSnapshot | None, named: str | None) -> bool:
        if known is not None and known.etag == wanted.etag:
            if known.problem is None and named in (None, known.sha256):
                return False
            if known.problem is not None and known.judged_by == named:
                return False
        try:
            data = self.store.read(wanted.bucket, wanted.key, wanted.version_id)
        except ObjectMissing:
            return False  # cleaned up between listing and reading
        found, rows = parse_measurements(wanted, data, named)
        try:
            self.cache.add(found, rows)
        except (sqlite3.IntegrityError, OverflowError) as error:  # as of an example measured twice
            found, rows = unusable(wanted, found.sha256, named, f"not a snapshot: {error}"), []
            self.cache.add(found, rows)
        READ.labels(wanted.place).inc()
        if found.problem is not None:
            self._log.error("snapshot_unusable", key=wanted.key, why=found.problem)
        else:
            self._log.info("snapshot_read", key=wanted.key, rows=len(rows))
        return True

    # ---- where snapshots are ---------------------------------------------------------------------

    def in_work(self) -> Iterator[StoredSnapshot]:
        for version in self.store.versions(WORK, layout.ALL_SNAPSHOTS):
            lineage = layout.parse_snapshot(version.key)
            if lineage is not None and not version.is_delete_marker:
                yield StoredSnapshot("work", WORK, version.key, version.etag, lineage)

    def in_versions(self) -> Iterator[tuple[StoredSnapshot, str]]:
        """Yield the snapshots of committed versions, with the hash that the commit record gives."""
        for key in self.store.keys(PRECIOUS, layout.CATALOG):
            if layout.parse_commit(key):
                commit = self.commit(key)
                if commit is None or commit.aborted:
                    continue
                for file in commit.files:
                    name = file.path.rpartition("/")[2]
                    if file.path.startswith(SNAPSHOT_FOLDER) and layout.parse_snapshot_name(name):
                        path = f"{commit.prefix.rstrip('/')}/{file.path}"
                        etag = file.store_version_id
                        wanted = StoredSnapshot(
                            "version", PRECIOUS, path, etag, commit.lineage, etag
                        )
                        yield wanted, file.sha256

    def commit(self, key: str) -> CommitRecord | None:
        """Return a commit record, or None if it cannot be read.

        It never changes, so it is read only once.
        """
        if key not in self._commits:
            try:
                data = self.store.read(PRECIOUS, key)
                self._commits[key] = CommitRecord.model_validate_json(data)
            except (ObjectMissing, ValidationError) as error:
                self._log.error("commit_unreadable", key=key, error=str(error))
                return None
        return self._commits[key]

    def read_results(self, results: list[ObjectRef]) -> None:
        """Note the hashes that are named by results which were not read yet."""
        done = self.cache.named()
        for ref in results:
            if ref.key in done or ref.key in self._unreadable:
                continue
            try:
                data = self.store.read(ref.bucket, ref.key, sha256=ref.sha256)
                result = SegmentResult.from_bytes(data)
            except (ObjectMissing, ObjectDamaged, ValueError) as error:
                # Cleaned up once its version was committed, or damaged, which `check` reports.
                self._unreadable.add(ref.key)
                self._log.warning("result_unreadable", key=ref.key, error=str(error))
                continue
            for file in result.files:
                if file.is_snapshot:
                    self.cache.name_hash(file.key, file.sha256, by_result=True)
            self.cache.name_hash(ref.key, ref.sha256, by_result=True)


def identity(found: StoredSnapshot | CachedSnapshot) -> tuple[str, str]:
    """Return lineage and `<step>-<fence>`, by which the same snapshot is recognised in any place.

    A fence is unique, so no other snapshot has the same ones.
    """
    return found.lineage, found.key.rsplit("/", 1)[-1]


def problem_of(sha256: str, named: str | None) -> str | None:
    if named is not None and sha256 != named:
        return f"SHA-256 is {sha256[:16]}…, expected {named[:16]}…"
    return None


def unusable(
    wanted: StoredSnapshot, sha256: str, named: str | None, problem: str
) -> CachedSnapshot:
    """Return a snapshot that cannot be used, with nothing but the reason."""
    return CachedSnapshot(
        wanted.place, wanted.key, wanted.etag, sha256, named, problem, wanted.lineage
    )


def parse_measurements(
    wanted: StoredSnapshot, data: bytes, named: str | None
) -> tuple[CachedSnapshot, list[Row]]:
    """Return the snapshot and its measurements.

    A file that cannot be used gives a snapshot with a problem, and no measurements.
    """
    sha256 = sha256_bytes(data)
    problem = problem_of(sha256, named)
    if problem is not None:
        return unusable(wanted, sha256, named, problem), []
    try:
        snapshot = decode_snapshot(data)
        one = {name: snapshot.rows[0][name] for name in (*PER_FILE, "at", "job_tokens")}
        named_so = layout.parse_snapshot_name(wanted.key.rpartition("/")[2])
        if (one["global_step"], one["fence"]) != named_so:
            raise ValueError("the step or owner in its name differs from its rows")
    except ValueError as error:
        return unusable(wanted, sha256, named, f"not a snapshot: {error}"), []
    place = wanted.place, wanted.key, wanted.etag, sha256, named, None, wanted.lineage
    return CachedSnapshot(*place, **one, decision=snapshot.decision), snapshot.rows
