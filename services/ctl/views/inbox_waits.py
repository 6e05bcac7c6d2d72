"""What waits in the inbox and why: the same lines in `status`, `queue list` and `doctor`."""

from collections.abc import Mapping, Sequence
from typing import Any

from services.ctl.views.columns import count_of, span_of
from services.ctl.views.silence import QUIET_SECONDS
from shared.foreign_text import one_line
from shared.protocol.names import now
from shared.protocol.observed import InboxWaits, Observed


def inbox_of(views: Mapping[str, Observed]) -> Observed | None:
    """Return what ingest said last, if something waits in its inbox."""
    seen = max(views.values(), key=lambda said: said.at, default=None)
    return seen if seen and seen.inbox else None


def inbox_lines(seen: Observed | None) -> list[str]:
    """Return a heading and a line for each file or folder that waits; nothing if none does."""
    if seen is None or seen.inbox is None:
        return []
    silent = (now() - seen.at).total_seconds()
    since = f", as ingest said {span_of(silent)} ago" if silent > QUIET_SECONDS else ""
    return [
        f"waiting in the inbox, not queued: {seen.inbox.count}{since}",
        *(f"  {line}" for line in waits_lines(seen.inbox)),
    ]


def waits_lines(waits: InboxWaits) -> list[str]:
    """Return a line for each file or folder that waits, and how many are not shown."""
    lines = [f"{one_line(each.file)}: {one_line(each.why)}" for each in waits.files]
    left = waits.count - len(waits.files)
    return lines + ([f"… and {count_of(left)} more"] if left else [])


def inbox_json(seen: Observed | None) -> dict[str, Any]:
    """Return what waits for programs: `count`, and the first of the `files`."""
    waits = seen.inbox if seen else None
    return waits.model_dump(mode="json") if waits else {"count": 0, "files": []}


def inbox_rows(seen: Observed | None, jobs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what waits as rows of the queue for programs: `state` is "inbox", and `job` is None.

    They have the names that the rows of `jobs` have.
    """
    blank = dict.fromkeys(["job", *(jobs[0] if jobs else [])])
    return [
        {**blank, "state": "inbox", "name": each["file"], "reason": each["why"]}
        for each in inbox_json(seen)["files"]
    ]
