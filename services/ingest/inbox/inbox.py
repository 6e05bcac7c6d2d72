"""The inbox: folders that users drop files into. It belongs to this service alone.

A complete file is taken by a rename to .taken/<id>/ before it is read, so that whatever then comes
under its name is another file. It leaves .taken only for done/ or rejected/, and never overwrites.
"""

import errno
import fcntl
import json
import os
import stat
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import get_args

from services.ingest.inbox import other_disk
from services.ingest.inbox.folders import (
    DONE_FOLDER,
    LEVEL_FOLDERS,
    MADE,
    REJECTED,
    TAKEN_FOLDER,
    UPLOADS,
    InboxFolder,
    InboxItem,
    Listing,
    Unread,
    list_inbox,
)
from services.ingest.inbox.rename import numbered, rename_new
from services.ingest.inbox.sidecar import stems_for
from services.ingest.outcome.report import report_text
from shared.answers.ingest import RefusedFile
from shared.errors import UsageError
from shared.files import copy_synced, sync_folder, write_synced
from shared.formats.report import BESIDE, Kind, Report, taking_of
from shared.protocol.names import LEVEL_RANK, Level
from shared.sidecar_names import is_sidecar, sidecars_among

FILE, ORIGIN, SIDECAR, TARGET = "file", "origin.json", "sidecar.yaml", "target"


class InboxInUse(UsageError):
    """Another process owns this inbox."""


@dataclass(frozen=True)
class TakenFrom:
    """The file origin.json: what is known of a taken file by where it lay.

    `id` is its id of taking. `folder`: where it lay, below the inbox; None for an upload, whose
    `settings`, and the text of whose `sidecar`, came with it.
    """

    id: str
    name: str
    level: Level
    lineage: str
    kind: Kind
    folder: str | None = None
    settings: dict[str, str] = field(default_factory=dict)
    sidecar: str | None = None


@dataclass(frozen=True)
class Taken:
    """A file that was taken from the inbox: .taken/<id>/file."""

    folder: Path
    origin: TakenFrom

    @property
    def path(self) -> Path:
        return self.folder / FILE

    @property
    def sidecar(self) -> Path:
        """The path of its sidecar, once that was taken, too."""
        return self.folder / SIDECAR

    @property
    def order(self) -> tuple[int, int, str]:
        return LEVEL_RANK[self.origin.level], self.path.lstat().st_mtime_ns, self.origin.name


class Inbox:
    """The inbox at `root`. Raises InboxInUse if another process has it open."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._taking = threading.Lock()  # uploads arrive beside the loop
        make_folders(root)
        self._lock = os.open(
            root / TAKEN_FOLDER / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.close()
            raise InboxInUse(
                f"{root} is already watched by another ingest process. Stop that one first."
            ) from error
        for path in (root / UPLOADS).iterdir():
            path.unlink()  # it was cut off: nobody was notified that it had arrived

    def close(self) -> None:
        os.close(self._lock)

    # ---- what lies there -------------------------------------------------------------------------

    def look(self) -> Listing:
        """Return what lies in the inbox now, and put back what a kill has left set aside."""
        listing = Listing(self.root)
        left = list(other_disk.set_aside([place.path for place in listing.places]))
        for folder in left:
            self._drop_copy(folder)
            other_disk.put_back(folder)
        return Listing(self.root) if left else listing

    def _drop_copy(self, aside: Path) -> None:
        """Remove the copy of a file whose original still lies on its own disk, set aside."""
        folder = self.root / TAKEN_FOLDER / aside.name
        origin = origin_of(folder)
        for original in aside.iterdir():
            if origin is not None:
                is_data = original.name == origin.name
                (folder / (FILE if is_data else SIDECAR)).unlink(missing_ok=True)

    def damaged(self) -> list[Unread]:
        """Return taken folders that do not say where their file came from."""
        why = "its origin.json cannot be read: move the file in it back into the inbox"
        folders = (self.root / TAKEN_FOLDER).iterdir()
        return [Unread(f, why) for f in folders if is_folder(f) and not origin_of(f)]

    # ---- taking ----------------------------------------------------------------------------------

    def take(self, entry: InboxItem) -> Taken | None:
        """Move an entry to .taken; return None if it is gone.

        The origin is on disk before the file moves. Raises OSError if it cannot be moved.
        """
        name, place = entry.path.name, entry.place
        folder = str(place.path.relative_to(self.root))
        kind: Kind = "settings" if is_sidecar(name) else place.kind
        origin = TakenFrom(uuid.uuid4().hex, name, place.level, place.lineage, kind, folder)
        taken = self._prepare(origin)
        try:
            other_disk.move_file(entry.path, taken.path, origin.id)
        except FileNotFoundError:
            remove_taken(taken.folder)
            return None
        except OSError:
            remove_taken(taken.folder)
            raise
        sync_folder(taken.folder)
        sync_folder(entry.path.parent)
        return taken

    def _prepare(self, origin: TakenFrom) -> Taken:
        """Make the folder that a file is taken to, with its origin on disk."""
        taken = Taken(self.root / TAKEN_FOLDER / origin.id, origin)
        taken.folder.mkdir()
        # ASCII, so that a name that is not UTF-8 comes back as it was.
        write_synced(taken.folder / ORIGIN, json.dumps(asdict(origin)).encode("ascii"))
        return taken

    def receive(self, origin: TakenFrom, file: Path) -> Taken:
        """Take an upload that lies whole and synced in UPLOADS."""
        with self._taking:  # a folder without a file is cleared away
            taken = self._prepare(origin)
            rename_new(file, taken.path)
        sync_folder(taken.folder)
        return taken

    def sidecars(self, taken: Taken) -> list[InboxItem]:
        """Return the sidecars that lie where a taken file lay, the one that counts first."""
        if taken.origin.folder is None:
            return []
        place = InboxFolder(
            self.root / taken.origin.folder,
            taken.origin.level,
            taken.origin.lineage,
            taken.origin.kind,
        )
        found = {entry.path.name: entry for entry in list_inbox(place)}
        return [found[name] for name in sidecars_among(found, stems_for(taken.origin.name))]

    def take_sidecar(self, taken: Taken, entry: InboxItem) -> None:
        """Move a sidecar to the file that it is for."""
        other_disk.move_file(entry.path, taken.sidecar, taken.origin.id)
        sync_folder(taken.folder)

    def taken(self) -> list[Taken]:
        """Return files taken and not finished, in order; clear what a cut-off move has left."""
        with self._taking:
            return self._taken()

    def _taken(self) -> list[Taken]:
        found = []
        for folder in sorted((self.root / TAKEN_FOLDER).iterdir()):
            if not is_folder(folder):
                continue
            if not os.path.lexists(folder / FILE):
                leave(self.root, folder)  # never filled, or emptied: the file itself is elsewhere
                continue
            origin = origin_of(folder)
            if origin is not None:
                found.append(Taken(folder, origin))
        return sorted(found, key=lambda taken: taken.order)

    # ---- giving back -----------------------------------------------------------------------------

    def finish(
        self, taken: Taken, report: Report, products: Mapping[str, Path] | None = None
    ) -> Path:
        """Move a taken file to done/ or rejected/ with its report beside it; return its path.

        `products`: suffix -> a file that is copied beside it. Everything beside it is written
        first, and the sidecar follows: a move that was interrupted finds its own name again.
        """
        folder = self.root / (REJECTED if report.outcome == "refused" else DONE_FOLDER)
        number = 1
        while True:
            target = folder / numbered(taken.origin.name, number)
            number += 1
            if not is_free(target, taken.origin.id):
                continue
            write_synced(beside(target, "report.json"), report.encode())
            if report.outcome == "refused":
                write_synced(beside(target, "report.txt"), report_text(report))
            for suffix, path in (products or {}).items():
                copy_synced(path, beside(target, suffix))
            where = target.relative_to(self.root)
            write_synced(taken.folder / TARGET, os.fsencode(where))
            try:
                rename_new(taken.path, target)
                break
            except FileExistsError:  # put there in this moment: the next name, then
                for suffix in ("report.json", "report.txt", *(products or {})):
                    beside(target, suffix).unlink(missing_ok=True)
        sync_folder(folder)
        sync_folder(taken.folder)
        leave(self.root, taken.folder)
        return target

    def finished(self) -> Iterator[tuple[Path, Report]]:
        """Yield (file, its report) of all that was queued and has no plan.json beside it yet."""
        for path in (self.root / DONE_FOLDER).glob("*.report.json"):
            target = path.with_name(path.name.removesuffix(".report.json"))
            if beside(target, "plan.json").exists():
                continue
            with suppress(OSError, ValueError):
                report = Report.model_validate_json(path.read_bytes())
                if report.outcome == "queued" and report.job:
                    yield target, report

    def report_of(self, taken_id: str) -> Report | None:
        """Return the report of a finished file by its id of taking, from all reports, or None."""
        for folder in (REJECTED, DONE_FOLDER):
            for path in (self.root / folder).glob("*.report.json"):
                with suppress(OSError, ValueError):
                    data = path.read_bytes()
                    if taken_id.encode() in data:
                        return Report.model_validate_json(data)
        return None

    def refused_lately(self, count: int) -> list[RefusedFile]:
        """Return the newest `count` reports in rejected/, newest first."""
        reports = (self.root / REJECTED).glob("*.report.json")
        newest = sorted(reports, key=lambda path: path.lstat().st_mtime_ns, reverse=True)
        found = []
        for path in newest[:count]:
            try:
                report = Report.model_validate_json(path.read_bytes())
            except (OSError, ValueError):
                continue
            found.append(RefusedFile.model_validate(report, from_attributes=True))
        return found


def make_folders(root: Path) -> None:
    """Make the folders of an inbox. Raises UsageError where a name is taken by something else."""
    for folder in (root, *(root / name for name in MADE)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            if folder.parent == root and folder.name in LEVEL_FOLDERS:
                continue  # a file or a broken link: the service says so, and reads the rest
            what = "a link to a place that does not exist" if folder.is_symlink() else "a file"
            raise UsageError(
                f"{folder} is {what}, so the inbox cannot be used. Remove it, or make it a folder."
            ) from error


def is_folder(path: Path) -> bool:
    """Return whether a path is a real folder; a link to a folder is not one."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return False
        raise


def origin_of(folder: Path) -> TakenFrom | None:
    """Return where a taken file came from, or None if nothing readable says so.

    Its id is that of the folder: other folders are named, and removed, by it.
    """
    try:
        found = TakenFrom(**json.loads((folder / ORIGIN).read_bytes()))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    words = isinstance(found.name, str) and isinstance(found.lineage, str)
    known = found.level in get_args(Level) and found.kind in get_args(Kind)
    return found if words and known and found.id == folder.name else None


def beside(target: Path, suffix: str) -> Path:
    return target.with_name(f"{target.name}.{suffix}")


def is_free(target: Path, taken_id: str) -> bool:
    """Return whether nothing has a name, or only what belongs to this very taking."""
    if os.path.lexists(target):
        return False
    try:
        return taking_of(beside(target, "report.json").read_bytes()) == taken_id
    except FileNotFoundError:
        return not any(os.path.lexists(beside(target, suffix)) for suffix in BESIDE)
    except (OSError, ValueError):
        return False


def leave(root: Path, folder: Path) -> None:
    """Remove a taken folder whose file is elsewhere; its sidecar goes where the file went."""
    sidecar = folder / SIDECAR
    if os.path.lexists(sidecar):
        if not (folder / TARGET).exists():
            return  # somebody took the file away by hand: what is left is not ours to judge
        target = root / os.fsdecode((folder / TARGET).read_bytes())
        number = 1
        while True:
            name = "yaml" if number == 1 else f"{number}.yaml"
            number += 1
            with suppress(FileExistsError):
                rename_new(sidecar, beside(target, name))
                break
        sync_folder(target.parent)
    remove_taken(folder)


def remove_taken(folder: Path) -> None:
    """Remove a taken folder that holds no file of the user's."""
    for path in folder.iterdir():
        assert path.name not in (FILE, SIDECAR), "a user's file is never deleted"
        path.unlink()
    folder.rmdir()
