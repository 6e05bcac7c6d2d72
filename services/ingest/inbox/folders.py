"""The folders of the inbox: which are read, what a file in them means, and why others are not read.

A link to a folder counts as that folder, so that a level can lie on another disk. Links to files
are never followed: through one, a file that only ingest may read could be trained.
"""

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from services.ingest.inbox.rename import show_name
from shared.formats.report import Kind
from shared.protocol.names import DEFAULT_LINEAGE, LEVEL_RANK, Level

TAKEN_FOLDER, DONE_FOLDER, REJECTED = ".taken", "done", "rejected"
UPLOADS = ".uploads"
ASIDE = ".duramen-taking"  # in a folder on another disk: what is being copied from there
# A folder of the inbox or of a lineage => the level and the kind of the files dropped there.
LEVEL_FOLDERS: dict[str, tuple[Level, Kind]] = {
    "": ("normal", "train"),
    "priority": ("high", "train"),
    "high": ("high", "train"),
    "low": ("low", "train"),
    "eval": ("normal", "eval"),
}
OWN = (DONE_FOLDER, REJECTED, TAKEN_FOLDER, UPLOADS)  # nothing is taken from these
MADE = ("priority", "low", "eval", *OWN)
LINEAGE_NAME = re.compile(r"@([a-z0-9][a-z0-9_-]{0,31})")


@dataclass(frozen=True)
class InboxFolder:
    """A folder of the inbox, and what dropping a file there means."""

    path: Path
    level: Level
    lineage: str
    kind: Kind


@dataclass(frozen=True)
class InboxItem:
    """A file or folder that lies in a folder of the inbox."""

    path: Path
    place: InboxFolder
    status: os.stat_result

    @property
    def order(self) -> tuple[int, int, str]:
        return LEVEL_RANK[self.place.level], self.status.st_mtime_ns, self.path.name


@dataclass(frozen=True)
class Unread:
    """A folder that is left where it is and not read, and why."""

    path: Path
    why: str


class Listing:
    """What lies in the inbox at one moment: `entries` to take, in order, and folders not read."""

    def __init__(self, root: Path) -> None:
        self.root, self.real = root, root.resolve()
        self.entries: list[InboxItem] = []
        self.unread: list[Unread] = []
        self.places: list[InboxFolder] = []
        self._look(InboxFolder(root, "normal", DEFAULT_LINEAGE, "train"), is_lineage=True)
        self.entries.sort(key=lambda entry: entry.order)

    def _look(self, place: InboxFolder, *, is_lineage: bool) -> None:
        """Read a folder and the levels in it."""
        try:
            items = list(list_inbox(place))
        except OSError as error:
            why = f"ingest cannot read it: {error.strerror}. Give its user access to the folder"
            self.unread.append(Unread(place.path, why))
            return
        self.places.append(place)
        for item in items:
            mode = item.status.st_mode
            inner = self._meaning(place, item.path) if is_lineage else None
            if stat.S_ISDIR(mode) or (stat.S_ISLNK(mode) and (inner or item.path.is_dir())):
                self._folder(place, item, inner)
            else:
                self.entries.append(item)

    def _folder(self, place: InboxFolder, item: InboxItem, inner: InboxFolder | None) -> None:
        """Read a folder that has a meaning; note why another is not read."""
        name = item.path.name
        if name == ASIDE or (place.path == self.root and name in OWN):
            return
        if inner is None:
            self.unread.append(Unread(item.path, why_unknown(item)))
        elif (why := self.why_not_followed(item)) is not None:
            self.unread.append(Unread(item.path, why))
        else:
            self._look(inner, is_lineage=name.startswith("@"))

    def _meaning(self, place: InboxFolder, path: Path) -> InboxFolder | None:
        """Return what a folder means by its name, or None if it means nothing."""
        if path.name in LEVEL_FOLDERS:
            level, kind = LEVEL_FOLDERS[path.name]
            return InboxFolder(path, level, place.lineage, kind)
        match = LINEAGE_NAME.fullmatch(path.name) if place.path == self.root else None
        return InboxFolder(path, "normal", match[1], "train") if match else None

    def why_not_followed(self, item: InboxItem) -> str | None:
        """Return why a link that stands for a folder is not followed; None if it is, or is none."""
        if not stat.S_ISLNK(item.status.st_mode):
            return None
        real = Path(os.path.realpath(item.path))
        if not real.is_dir():
            what = "which is not a folder" if real.exists() else "which ingest cannot find"
            return f"it is a link to {show_name(str(real))}, {what}: fix the link, or remove it"
        if real.is_relative_to(self.real) or self.real.is_relative_to(real):
            return "it is a link into the inbox itself, or to a folder around it: remove the link"
        return None


def why_unknown(item: InboxItem) -> str:
    """Return why a folder without a meaning is not read, and what to do."""
    name, lower = item.path.name, item.path.name.lower()
    if LINEAGE_NAME.fullmatch(name):
        return "the folder of a lineage lies in the inbox itself: move it there"
    if name != lower and (lower in LEVEL_FOLDERS or LINEAGE_NAME.fullmatch(lower)):
        return f"folders are named in lower case: rename it to {lower}"
    if name.startswith("@"):
        form = "a letter or digit, then letters, digits, - and _, all lower case, 32 at most"
        return f"{show_name(name[1:])} cannot be the name of a lineage, which is {form}: rename it"
    what = "a link to a folder" if stat.S_ISLNK(item.status.st_mode) else "a folder"
    return f"it is {what}, and folders are not read: move its files into the inbox itself"


def list_inbox(place: InboxFolder) -> Iterator[InboxItem]:
    """Yield what lies in a folder. Raises OSError if the folder cannot be read."""
    try:
        with os.scandir(place.path) as listing:
            names = [Path(item.path) for item in listing]
    except FileNotFoundError:
        return
    for path in names:
        try:
            yield InboxItem(path, place, path.lstat())
        except FileNotFoundError:
            continue  # renamed away in this moment
