"""Says which jobs trained the state that a lineage's head holds, and how far each came."""

from bisect import bisect_left
from typing import NamedTuple

from shared.ledger.lineage import Line
from shared.protocol.message import ObjectRef
from shared.protocol.names import JobId


class TrainedJob(NamedTuple):
    """A job behind the head. `position`: how many steps of its plan were trained and kept.

    `version` is the first in the head's ancestry that holds them, or None while none does.
    """

    job: JobId
    plan: ObjectRef
    position: int
    version: int | None


def trained_jobs(line: Line, but: JobId | None = None) -> list[TrainedJob]:
    """Return the jobs in the head's ancestry, newest first, without the one in `but`.

    What a rollback has left, or a skip has discarded, is not among them.
    """
    marks = set(line.ancestry())
    versions = sorted((at, version) for version, at in line.versions.items() if at in marks)
    found: dict[JobId, TrainedJob] = {}
    for segment in reversed(line.kept()):
        close = segment.closed
        if close is None or close.plan is None or segment.job in found or segment.job == but:
            continue
        after = bisect_left(versions, (segment.closed_at, 0))
        version = versions[after][1] if after < len(versions) else None
        found[segment.job] = TrainedJob(segment.job, close.plan, close.to_position, version)
    return list(found.values())
