"""The disks of ingest: the inbox, and its own folder, where it reads private copies."""

from collections import Counter
from functools import partial
from pathlib import Path

from services.ingest.settings import IngestSettings
from shared.files import files_below, folder_bytes
from shared.service.disks import Disks, MeasuredDisk

ENDED = ("done", "rejected")


def inbox_disks(settings: IngestSettings) -> Disks:
    """Return the disks that ingest measures, and counts in.

    Of done/ may go what is beyond its limit: each dataset lies in three places.
    """
    root, own = settings.inbox_dir, settings.state_dir
    bounds = {"done": settings.done_limit_bytes}
    return Disks(
        settings.disk_reserve_bytes,
        MeasuredDisk("inbox", root, "inbox", partial(inbox_uses, root), bounds),
        MeasuredDisk("ingest", own, "state", lambda: {"state": folder_bytes(own)}),
    )


def inbox_uses(root: Path) -> dict[str, int]:
    """Return the bytes in the inbox: what waits, done/ and rejected/."""
    found: Counter[str] = Counter()
    for path, size in files_below(root):
        top = path.relative_to(root).parts[0]
        found[top if top in ENDED else "waiting"] += size
    return dict(found)
