"""Checks of the files that users drop into the inbox."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from services.ctl.check.world import Finding, NotChecked, World
from services.ctl.views.columns import count_of
from shared.files import sha256_file
from shared.formats.report import BESIDE, taking_of
from shared.store import layout
from shared.store.place import PRECIOUS
from shared.store.s3 import Store

# What ingest puts beside a file in done/ or rejected/.
REPORTS = tuple(f".{name}" for name in BESIDE)


def every_file_in_done_is_stored_and_queued(world: World) -> list[Finding]:
    """Every file in done/ is stored and has a job, unless its examples are only measured."""
    if world.inbox is None or not world.inbox.is_dir():
        raise NotChecked("the inbox cannot be reached from this machine")
    originals, measured = stored_originals(world.store)
    queued = {job.sha256 for job in world.table.jobs}
    found = []
    for path in data_files(world.inbox / "done"):
        datasets = originals.get(sha256_file(path)[:12], set())
        if not datasets:
            found.append(Finding(f"inbox/done/{path.name}", "its dataset is not stored"))
        elif not datasets & (queued | measured):
            found.append(Finding(f"inbox/done/{path.name}", "it was never queued"))
    found += [
        Finding(f"inbox/rejected/{path.name}", "it has no report")
        for path in data_files(world.inbox / "rejected")
        if not any(path.with_name(path.name + end).exists() for end in REPORTS[:2])
    ]
    found += taken_twice(world.inbox)
    taken = [p for p in sorted((world.inbox / ".taken").glob("*")) if not p.name.startswith(".")]
    if taken:
        world.pending.append(f"{count_of(len(taken), 'file')} in the inbox: still being read")
    return found


def taken_twice(inbox: Path) -> Iterator[Finding]:
    """Yield a finding for each file that lies in several places under its id of taking."""
    places: dict[str, list[str]] = {}
    for folder in (inbox / ".taken").glob("*"):
        if (folder / "file").exists():
            places.setdefault(folder.name, []).append(f"inbox/.taken/{folder.name}")
    for name in ("done", "rejected"):
        for path in (inbox / name).rglob(f"*{REPORTS[0]}"):
            try:
                taken = taking_of(path.read_bytes())
            except ValueError:
                yield Finding(f"inbox/{name}/{path.name}", "it cannot be read")
                continue
            if taken is not None:
                places.setdefault(taken, []).append(f"inbox/{name}/{path.name}")
    for where in places.values():
        if len(where) > 1:
            yield Finding(where[0], f"it was taken once, but it is also at {', '.join(where[1:])}")


def stored_originals(store: Store) -> tuple[dict[str, set[str]], set[str]]:
    """Return the datasets by the first 12 digits of their originals' SHA-256, and measured ones.

    The second set holds the datasets that are only measured.
    """
    originals: dict[str, set[str]] = {}
    for original in map(layout.parse_original, store.keys(PRECIOUS, layout.DATASETS)):
        if original:
            originals.setdefault(original.digits, set()).add(original.dataset)
    measured = map(layout.parse_eval_record, store.keys(PRECIOUS, layout.EVAL))
    return originals, {record.dataset for record in measured if record}


def data_files(folder: Path) -> Iterable[Path]:
    """Return what a user dropped: all files but the reports beside them."""
    if not folder.is_dir():
        return []
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".") and not path.name.endswith(REPORTS)
    ]
