"""The inbox: folders that users drop files into. It belongs to this service alone.

A complete file is taken by a rename to .taken/<id>/ before it is read, so that whatever then comes
under its name is another file. It leaves .taken only for done/ or rejected/, and never overwrites.
"""

import errno
import fcntl
import json
import os
import re
import stat
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from services.ingest.moves import numbered, rename_new
from services.ingest.report import Kind, Report, text
from shared.errors import UsageError
from shared.manifest import sync_folder, write_synced
from shared.messages import LEVEL_RANK, Level

TAKEN, DONE, REJECTED = ".taken", "done", "rejected"
FILE, ORIGIN = "file", "origin.json"
FOLDERS: dict[str, tuple[Level, Kind]] = {
    "": ("normal", "train"),
    "priority": ("high", "train"),
    "high": ("high", "train"),
    "low": ("low", "train"),
    "eval": ("normal", "eval"),
}
MADE = ("priority", "low", "eval", DONE, REJECTED, TAKEN)
LINEAGE = re.compile(r"@([a-z0-9][a-z0-9_-]{0,31})")
DEFAULT_LINEAGE = "main"


class InboxInUse(UsageError):
    """Another process owns this inbox."""


@dataclass(frozen=True)
class Place:
    """A folder of the inbox, and what dropping a file there means."""

    path: Path
    level: Level
    lineage: str
    kind: Kind


@dataclass(frozen=True)
class Entry:
    """Something that lies in a place."""

    path: Path
    place: Place
    status: os.stat_result

    @property
    def order(self) -> tuple[int, int, str]:
        return LEVEL_RANK[self.place.level], self.status.st_mtime_ns, self.path.name


@dataclass(frozen=True)
class Origin:
    """origin.json: what is known of a taken file by where it lay. `id`: its id of taking."""

    id: str
    name: str
    level: Level
    lineage: str
    kind: Kind


@dataclass(frozen=True)
class Taken:
    """A file that was taken: .taken/<id>/file."""

    folder: Path
    origin: Origin

    @property
    def path(self) -> Path:
        return self.folder / FILE

    @property
    def order(self) -> tuple[int, int, str]:
        return LEVEL_RANK[self.origin.level], self.path.lstat().st_mtime_ns, self.origin.name


class Inbox:
    """The inbox at `root`. Raises InboxInUse if another process has it open."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in MADE:
            (root / name).mkdir(parents=True, exist_ok=True)
        self._lock = os.open(root / TAKEN / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.close()
            raise InboxInUse(f"{root} is watched by another ingest.") from error

    def close(self) -> None:
        os.close(self._lock)

    # ---- what lies there -------------------------------------------------------------------------

    def places(self) -> Iterator[Place]:
        """The folders that exist now: those of the main lineage, and below each @lineage."""
        roots = [(self.root, DEFAULT_LINEAGE)]
        for path in sorted(self.root.glob("@*")):
            match = LINEAGE.fullmatch(path.name)
            if match and is_folder(path):
                roots.append((path, match[1]))
        for root, lineage in roots:
            for name, (level, kind) in FOLDERS.items():
                if is_folder(root / name):
                    yield Place(root / name, level, lineage, kind)

    def entries(self) -> list[Entry]:
        """Everything in the folders that is no folder, in the order of taking."""
        found = []
        for place in self.places():
            found += [e for e in look(place) if not stat.S_ISDIR(e.status.st_mode)]
        return sorted(found, key=lambda entry: entry.order)

    def strangers(self) -> list[Path]:
        """Folders that mean nothing here: they are left where they are."""
        found = [
            entry.path
            for place in self.places()
            for entry in look(place)
            if stat.S_ISDIR(entry.status.st_mode) and not self._is_known(place, entry.path.name)
        ]
        damaged = [f for f in (self.root / TAKEN).iterdir() if is_folder(f) and not origin_of(f)]
        return found + damaged

    def _is_known(self, place: Place, name: str) -> bool:
        if place.path == self.root:
            return name in {*FOLDERS, *MADE} or bool(LINEAGE.fullmatch(name))
        return place.path.parent == self.root and place.path.name[:1] == "@" and name in FOLDERS

    # ---- taking ----------------------------------------------------------------------------------

    def take(self, entry: Entry) -> Taken | None:
        """Move an entry to .taken; None if it is gone. The origin is on disk before the file moves.

        Raises OSError if the folder lies on another file system.
        """
        name, place = entry.path.name, entry.place
        origin = Origin(uuid.uuid4().hex, name, place.level, place.lineage, place.kind)
        taken = Taken(self.root / TAKEN / origin.id, origin)
        taken.folder.mkdir()
        # ASCII, so that a name that is no UTF-8 comes back as it was.
        write_synced(taken.folder / ORIGIN, json.dumps(asdict(origin)).encode("ascii"))
        try:
            rename_new(entry.path, taken.path)
        except FileNotFoundError:
            drop(taken.folder)
            return None
        except OSError:
            drop(taken.folder)
            raise
        sync_folder(taken.folder)
        sync_folder(entry.path.parent)
        return taken

    def taken(self) -> list[Taken]:
        """What was taken and not finished, in order; remains of an interrupted move are cleared."""
        found = []
        for folder in sorted((self.root / TAKEN).iterdir()):
            if not is_folder(folder):
                continue
            if not os.path.lexists(folder / FILE):
                drop(folder)  # never filled, or emptied: the file itself is elsewhere
                continue
            origin = origin_of(folder)
            if origin is not None:
                found.append(Taken(folder, origin))
        return sorted(found, key=lambda taken: taken.order)

    # ---- giving back -----------------------------------------------------------------------------

    def finish(self, taken: Taken, report: Report) -> Path:
        """Move a taken file to done/ or rejected/ with its report beside it; where it now lies.

        The report is written first: a move that was interrupted finds its own name again by it.
        """
        folder = self.root / (REJECTED if report.outcome == "refused" else DONE)
        number = 1
        while True:
            target = folder / numbered(taken.origin.name, number)
            number += 1
            if not is_free(target, taken.origin.id):
                continue
            write_synced(beside(target, "json"), report.encode())
            if report.outcome == "refused":
                write_synced(beside(target, "txt"), text(report))
            try:
                rename_new(taken.path, target)
                break
            except FileExistsError:  # put there in this moment: the next name, then
                for suffix in ("json", "txt"):
                    beside(target, suffix).unlink(missing_ok=True)
        sync_folder(folder)
        sync_folder(taken.folder)
        drop(taken.folder)
        return target

    def refused_lately(self, count: int) -> list[dict[str, Any]]:
        """The newest reports in rejected/, newest first."""
        reports = (self.root / REJECTED).glob("*.report.json")
        newest = sorted(reports, key=lambda path: path.lstat().st_mtime_ns, reverse=True)
        found = []
        for path in newest[:count]:
            try:
                report = Report.model_validate_json(path.read_bytes())
            except (OSError, ValueError):
                continue
            wanted = {"name", "why", "next_step", "lineage", "level", "kind", "at"}
            found.append(report.model_dump(mode="json", include=wanted))
        return found


def look(place: Place) -> Iterator[Entry]:
    try:
        with os.scandir(place.path) as listing:
            names = [Path(item.path) for item in listing]
    except FileNotFoundError:
        return
    for path in names:
        try:
            yield Entry(path, place, path.lstat())
        except FileNotFoundError:
            continue  # renamed away in this moment


def is_folder(path: Path) -> bool:
    """A real one: a link that points to a folder is none."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return False
        raise


def origin_of(folder: Path) -> Origin | None:
    """Where a taken file came from; None if nothing readable says so."""
    try:
        return Origin(**json.loads((folder / ORIGIN).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def beside(target: Path, suffix: str) -> Path:
    return target.with_name(f"{target.name}.report.{suffix}")


def is_free(target: Path, taken_id: str) -> bool:
    """Whether a name can be used: nothing is there, or only the report of this very taking."""
    if os.path.lexists(target):
        return False
    try:
        report = json.loads(beside(target, "json").read_bytes())
    except FileNotFoundError:
        return not os.path.lexists(beside(target, "txt"))
    except (OSError, ValueError):
        return False
    return isinstance(report, dict) and report.get("taken") == taken_id


def drop(folder: Path) -> None:
    """Remove a taken folder that holds no file of the user's."""
    for path in folder.iterdir():
        assert path.name != FILE, "a user's file is never deleted"
        path.unlink()
    folder.rmdir()
