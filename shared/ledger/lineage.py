"""The ledger of a lineage: the open segment, if any, and the head that the last one left.

A `Line` is the fold of all valid records under `jobs.line.<lineage>.*`. Closing a segment is the
commit point of training. A *mark* is the sequence of a record that left a head (the `create`, or a
close that moved it); the marks form a tree, and the ancestry of the head is its path to the root.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

from shared.bus.client import Bus
from shared.protocol.names import JobId, LineVerb, line_subject, line_wildcard
from shared.protocol.records import (
    CheckpointRef,
    Head,
    LineageSettings,
    LineClose,
    LineCreate,
    LineOpen,
    LineRecord,
    LineRollback,
)


@dataclass
class Segment:
    """An unbroken stretch of one job on the head: opened once or more, closed at most once.

    `opens` has (sequence, record) for the beginning of each owner; the sequence is that owner's
    fence. `closed_at` is the sequence of `closed`, 0 while there is none.
    """

    id: str
    job: JobId
    parent: int
    opens: list[tuple[int, LineOpen]]
    closed: LineClose | None = None
    closed_at: int = 0

    @property
    def fence(self) -> int:
        return self.opens[-1][0]

    @property
    def first(self) -> LineOpen:
        """The record with which its first owner opened it."""
        return self.opens[0][1]

    @property
    def record(self) -> LineOpen:
        return self.opens[-1][1]

    @property
    def fences(self) -> set[int]:
        return {sequence for sequence, _ in self.opens}

    def holds(self, fence: int, global_step: int) -> bool:
        """Return whether what a fence did at a step is part of this segment.

        What lies beyond the step at which a later owner began, or beyond the close, is dead.
        """
        if fence not in self.fences or global_step < self.first.global_step:
            return False
        limits = [record.global_step for later, record in self.opens if later > fence]
        if self.closed is not None:
            limits.append(self.closed.to_step)
        return all(global_step <= limit for limit in limits)


@dataclass
class Line:
    """One lineage as its records describe it.

    `sequence` is that of the last valid record, `last` that of the last message of any kind.
    `segments` are in the order in which they were opened. `by_job`, `by_close` and `versions_of`
    (the path of a job that closes name -> versions) answer what would otherwise need a walk over
    them all.
    """

    lineage: str
    sequence: int = 0
    last: int = 0
    settings: LineageSettings | None = None
    head: Head | None = None
    mark: int = 0
    parents: dict[int, int] = field(default_factory=dict)
    heads: dict[int, Head] = field(default_factory=dict)
    segments: dict[str, Segment] = field(default_factory=dict)
    by_job: dict[JobId, list[Segment]] = field(default_factory=dict)
    by_close: dict[int, Segment] = field(default_factory=dict)
    versions: dict[int, int] = field(default_factory=dict)
    versions_of: dict[str, list[int]] = field(default_factory=dict)
    rollbacks: list[tuple[int, LineRollback]] = field(default_factory=list)
    open_segment: Segment | None = None

    # ---- folding ---------------------------------------------------------------------------------

    def refusal(self, record: LineRecord) -> str | None:  # noqa: C901 - a case a verb
        """Return why a record that builds on the valid one cannot follow it, or None if it can."""
        match record:
            case LineCreate():
                return "exists already" if self.settings else None
            case _ if self.settings is None:
                return "the lineage was never created"
            case LineOpen():
                return self._why_not_opened(record)
            case LineClose():
                if self.open_segment is None or self.open_segment.id != record.segment:
                    return "that segment is not open"
                if self.open_segment.fence != record.fence:
                    return f"fence {record.fence} is superseded by {self.open_segment.fence}"
                if record.version is not None and record.version != self.next_version:
                    return f"version {record.version} is not next ({self.next_version})"
                return None
            case LineRollback():
                if self.open_segment and self.open_segment.id != record.void_segment:
                    return f"segment {self.open_segment.id} is open"
                if self.versions.get(record.version) != record.target:
                    return f"version {record.version} is not that of sequence {record.target}"
                return None

    def _why_not_opened(self, record: LineOpen) -> str | None:
        job = JobId.named(record.job)
        if job is None or job.lineage != self.lineage:
            return "it does not name a job of this lineage"
        if self.open_segment is None:
            return "segment id used before" if record.segment in self.segments else None
        if self.open_segment.id != record.segment:
            return f"segment {self.open_segment.id} is open"
        return None if self.open_segment.job == job else "another job"

    def fold(self, sequence: int, record: LineRecord) -> None:
        """Fold a valid record."""
        self.sequence = sequence
        match record:
            case LineCreate():
                self.settings = record.settings
                self.head = Head(base_root=record.settings.base_root)
                self._move(sequence, 0, self.head)
            case LineOpen():
                if self.open_segment is None:
                    job = JobId.parse(record.job)
                    self.open_segment = Segment(record.segment, job, self.mark, [])
                    self.segments[record.segment] = self.open_segment
                    self.by_job.setdefault(job, []).append(self.open_segment)
                self.open_segment.opens.append((sequence, record))
            case LineClose():
                assert self.open_segment is not None
                self.open_segment.closed, self.open_segment.closed_at = record, sequence
                self.by_close[sequence] = self.open_segment
                self.open_segment = None
                # A version needs a mark even if the head stays the same: rollbacks lead to it, and
                # the segments behind the version are those in its ancestry.
                if record.head != self.head or record.version is not None:
                    self._move(sequence, self.mark, record.head)
                if record.version is not None:
                    self.versions[record.version] = sequence
                    self.versions_of.setdefault(record.job, []).append(record.version)
            case LineRollback():
                # A forced rollback names the open segment. It ends without `closed`, since there is
                # no record of a close, and without a mark: no ancestry contains it.
                if self.open_segment is not None:
                    self.open_segment = None
                self.rollbacks.append((sequence, record))
                self.mark, self.head = record.target, self.heads[record.target]

    def _move(self, sequence: int, parent: int, head: Head) -> None:
        self.parents[sequence], self.heads[sequence] = parent, head
        self.mark, self.head = sequence, head

    # ---- questions -------------------------------------------------------------------------------

    @property
    def next_version(self) -> int:
        """The number of the next version.

        Numbers only grow: a rolled-back version keeps its own, too.
        """
        return max(self.versions, default=0) + 1

    @property
    def dtype(self) -> str | None:
        """The number format, decided once: by the settings, or by the first open record.

        None until then.
        """
        if self.settings is not None and self.settings.dtype != "auto":
            return self.settings.dtype
        for segment in self.segments.values():
            return segment.first.dtype
        return None

    def ancestry(self, mark: int | None = None) -> list[int]:
        """Return the marks from the given one (or the head's) back to the `create`."""
        path = [self.mark if mark is None else mark]
        while self.parents.get(path[-1]):
            path.append(self.parents[path[-1]])
        return path

    def kept(self, mark: int | None = None) -> list[Segment]:
        """Return the closed segments in an ancestry, oldest first."""
        return [self.by_close[at] for at in reversed(self.ancestry(mark)) if at in self.by_close]

    def living(self, mark: int | None = None) -> dict[str, Segment]:
        """Return, by id, the kept segments of an ancestry and the open one.

        They are in the order of training. The open one is left out if a mark is given.
        """
        found = {segment.id: segment for segment in self.kept(mark)}
        if mark is None and self.open_segment is not None:
            found[self.open_segment.id] = self.open_segment
        return found

    def position(self, job: JobId, mark: int | None = None) -> int:
        """Return how many plan steps of a job are in an ancestry: derived, never stored."""
        ends = [s.closed.to_position for s in self.kept(mark) if s.job == job and s.closed]
        return ends[-1] if ends else 0

    def is_trained(self, sha256: str) -> int | None:
        """Return the version that holds this dataset's finished training, or None.

        Only the head's ancestry counts.
        """
        for segment in self.kept():
            close = segment.closed
            if close and segment.job.sha256 == sha256 and close.outcome == "done":
                return close.version  # not a bool: the report of a duplicate names this version
        return None

    @property
    def latest(self) -> int | None:
        """The newest version in the head's ancestry, or None."""
        marks = set(self.ancestry())
        return max((v for v, at in self.versions.items() if at in marks), default=None)

    def version_close(self, version: int) -> LineClose | None:
        segment = self.by_close.get(self.versions.get(version, 0))
        return segment.closed if segment else None

    def version_with(self, segment: Segment) -> int | None:
        """Return the version that holds a segment's log, metrics and snapshots, or None.

        It is one of the same job.
        """
        if segment.closed is None:
            return None
        for version in self.versions_of.get(segment.job.path, []):
            if self._descends(self.versions[version], segment.closed_at):
                return version
        return None

    def _descends(self, mark: int, ancestor: int) -> bool:
        """Return whether a mark is `ancestor` or comes after it.

        A parent is older than its child, so that the search can stop early.
        """
        while mark > ancestor:
            mark = self.parents.get(mark, 0)
        return mark == ancestor

    def segments_behind(self, version: int) -> list[Segment]:
        """Return the segments whose replay gives the bytes of a version, oldest first."""
        return self.kept(self.versions[version])

    def referenced(self) -> set[str]:
        """Return the ids of checkpoints that a record names and recovery may still need."""
        # A copy: uploads ask from a thread while the fold continues.
        ids = {h.checkpoint.id for h in list(self.heads.values()) if h.checkpoint}
        if self.open_segment and self.open_segment.record.checkpoint:
            ids.add(self.open_segment.record.checkpoint.id)
        return ids

    def unpublished_heads(self, committed: Collection[int]) -> dict[int, CheckpointRef]:
        """Return the checkpoints, by mark, that must stay in `work`.

        They are the head's, and those of closes that no commit or rollback follows yet. `committed`
        are the versions that are committed.
        """
        # Marks whose steps a committed version holds, itself included.
        contained = {m for v in committed if v in self.versions for m in self._marks_of(v)}
        pending = {at for version, at in self.versions.items() if version not in committed}
        living = set(self.ancestry())
        rollback = max((at for at, _ in self.rollbacks), default=0)
        needed = {}
        for mark, head in sorted(self.heads.items()):
            # No commit holds it yet, and the head builds on it: only a later version can hold it.
            # Marks after the last rollback are all in the head's ancestry, too. Other marks were
            # left by a rollback, and stay only while their version is pending.
            waits = mark not in contained and (mark in living or mark > rollback)
            if head.checkpoint and (mark == self.mark or mark in pending or waits):
                needed[mark] = head.checkpoint
        return needed

    def _marks_of(self, version: int) -> list[int]:
        return self.ancestry(self.versions[version])

    # ---- writing ---------------------------------------------------------------------------------

    async def append(self, bus: Bus, verb: LineVerb, record: LineRecord) -> int:
        """Append one record by compare-and-set on what this fold knows; return its sequence.

        The caller folds the stream again afterwards; `record.prev` must be `self.sequence`. Raises
        Conflict, and the errors of the bus.
        """
        assert record.prev == self.sequence, "a record names its predecessor"
        why = self.refusal(record)
        assert why is None, why
        return await bus.append(
            "JOBS",
            line_subject(self.lineage, verb),
            line_wildcard(self.lineage),
            record,
            self.last,
        )
