"""Deletes from the bucket `work`, which belongs to the trainer. Blocking. It keeps:

    checkpoints         of the open segment: the newest three uploads, and the one that it resumes
                        from; of closed ones: what a close left as head, until a committed version
                        contains it or a rollback left it behind
    progress            of the open segment
    results, snapshots  until a committed version of their job holds them; of segments that led to
                        nothing (void, skipped, unusable, rolled back), the newest of the lineage

So what is kept grows only with jobs that were trained in part and never finished.
"""

from collections.abc import Iterable

from services.trainer.supervisor import work_bucket
from shared import log
from shared.formats.checkpoint import HEADER
from shared.formats.version import is_commit_of
from shared.ledger.lineage import Line, Segment
from shared.store import layout
from shared.store.place import PRECIOUS, WORK
from shared.store.s3 import Store

KEPT_UPLOADS = 3
KEPT_DEAD = 32  # segments of a lineage whose log and snapshots may still be looked at


def prune_uploads(store: Store, line: Line, segment: Segment) -> None:
    """Delete all uploads of the open segment but the newest three and those the ledger names."""
    kept = line.referenced()
    refs = [ref for ref, _ in work_bucket.uploaded(store, line.lineage, segment.id)]
    for ref in refs[:-KEPT_UPLOADS]:
        if ref.id not in kept:
            delete_all(store, store.keys(WORK, f"{ref.prefix}/"))


def sweep_ended(store: Store, line: Line) -> None:
    """Delete, after a close, what nobody needs any longer of the lineage's ended segments."""
    prefixes = layout.segment_prefixes(line.lineage)
    keys = [key for prefix in prefixes for key in store.keys(WORK, prefix)]
    listed = committed_versions(store, line)
    first = doomed(line, listed, keys)
    delete_all(store, doomed(line, listed - foreign_versions(store, line, listed, first), keys))


def doomed(line: Line, committed: set[int], keys: Iterable[str]) -> list[str]:
    """Return those of the keys that may be deleted, given the committed versions."""
    heads = {ref.prefix for ref in line.unpublished_heads(committed).values()}
    held = {segment.id for segment in held_segments(line, committed)}
    found = []
    for key in keys:
        kind, place, fence = layout.parse_work(key)
        segment = line.segments.get(place)
        if segment is None or segment is line.open_segment:
            continue  # delete nothing that is not known to have ended
        stays = {
            "checkpoints": key.rpartition("/")[0] in heads,
            "progress": False,
            "results": place in held and is_last_fence(segment, fence),
            "snapshots": place in held,
        }
        if not stays[kind]:
            found.append(key)
    return found


def committed_versions(store: Store, line: Line) -> set[int]:
    """Return the versions of the ledger that have a commit record in the store."""
    keys = set(store.keys(PRECIOUS, layout.commit_records(line.lineage)))
    names = {v: layout.commit(line.lineage, v) for v in line.versions}
    return {version for version, key in names.items() if key in keys}


def foreign_versions(store: Store, line: Line, listed: set[int], keys: Iterable[str]) -> set[int]:
    """Return the versions whose commit in the store belongs to another close than the ledger's.

    A commit under a version's name may date from before the bus was lost. Commits from before the
    oldest segment of these keys are not read: they contain nothing of it.
    """
    segments = (line.segments.get(key.split("/")[2].partition("-")[0]) for key in keys)
    closed = [s.closed_at for s in segments if s and s.closed]
    found = set()
    for version in listed if closed else ():
        sequence, close = line.versions[version], line.version_close(version)
        if sequence < min(closed) or close is None:
            continue
        key = layout.commit(line.lineage, version)
        if not is_commit_of(store.read(PRECIOUS, key), sequence, close):
            log.get().error("foreign_commit", key=key, sequence=sequence)
            found.add(version)
    return found


def held_segments(line: Line, committed: set[int]) -> list[Segment]:
    """Return the ended segments whose log, metrics and snapshots must stay in `work`.

    No committed version has them, or a job that is not finished still carries them along. Of dead
    segments only the newest count.
    """
    living = line.living()
    pending = set(line.versions) - committed
    finished = {s.job for s in line.kept() if s.closed and s.closed.outcome == "done"}
    held, dead = [], []
    for segment in line.segments.values():
        if segment is line.open_segment:
            continue
        version = line.version_with(segment)
        stored = version in committed
        if version in pending:
            held.append(segment)
        elif segment.id in living:
            held += [] if stored and segment.job in finished else [segment]
        elif not stored:
            dead.append(segment)
    return held + dead[-KEPT_DEAD:]


def is_last_fence(segment: Segment, fence: int | None) -> bool:
    """Return whether a result belongs to the fence that closed the segment, not an earlier one."""
    return segment.closed is None or fence == segment.closed.fence


def delete_all(store: Store, keys: Iterable[str]) -> None:
    """Delete these keys, headers of checkpoints first: without a header no reader uses the rest."""
    for key in sorted(keys, key=lambda key: not key.endswith(f"/{HEADER}")):
        store.delete(WORK, key)
