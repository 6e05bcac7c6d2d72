"""The test of whether a file is complete.

It is when it no longer changes, nobody writes to it, and it looks whole.
"""

import fcntl
import os
import signal
import stat
from pathlib import Path
from typing import NamedTuple

from services.ingest.container.names import PACKINGS

PARTIAL_SUFFIXES = (".part", ".partial", ".tmp", ".crdownload", ".download", ".filepart")

UTF16_ENDS = (b"\n", b"}", b"]")  # each followed by a zero
SAID_BY_READING = (*PACKINGS, ".arrow", ".feather")


class Signature(NamedTuple):
    """The facts that change when a file is written to, or another takes its name.

    A rename keeps them.
    """

    device: int
    inode: int
    size: int
    changed: int


def signature(status: os.stat_result) -> Signature:
    return Signature(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def partial(name: str) -> str | None:
    """Return why a file is not read because of its name, or None if it is.

    Programs give such names to what they still write, and rename it at the end.
    """
    if name.startswith("."):
        return "its name begins with a dot, so it is hidden: rename it if it is to be read"
    suffix = next((s for s in PARTIAL_SUFFIXES if name.lower().endswith(s)), None)
    return f"its name says that it is still being written ({suffix})" if suffix else None


class Settling:
    """The time since when each path has had the same signature, on this process's clock.

    The clock of a network share is never trusted, so a file settles again after a restart.
    """

    def __init__(self, settle_seconds: float, unfinished_seconds: float) -> None:
        self.settle_seconds, self.unfinished_seconds = settle_seconds, unfinished_seconds
        self._since: dict[Path, tuple[Signature, float]] = {}

    def why_not(
        self, path: Path, status: os.stat_result, now: float, name: str | None = None
    ) -> str | None:
        """Return why a file is not complete yet.

        None if it is, or if it is not a file to wait for. `name`: what it is called, if that is not
        the end of `path`.
        """
        if not stat.S_ISREG(status.st_mode):
            return None
        if (why := self.growing(path, status, now)) is not None:
            return why
        if self.quiet(path, now) < self.unfinished_seconds:
            end = unfinished(path, status.st_size, name or path.name)
            return self.waiting(path, now, end) if end else None
        return None

    def growing(self, path: Path, status: os.stat_result, now: float) -> str | None:
        """Return why a file may still be written to, or None if it has been quiet long enough."""
        seen = signature(status)
        before = self._since.get(path)
        if before is None or before[0] != seen:
            self._since[path] = (seen, now)
        if self.quiet(path, now) < self.settle_seconds:
            return f"it is new, and read once it has not changed for {self.settle_seconds:g} s"
        return "another program has it open for writing" if is_written(path) else None

    def quiet(self, path: Path, now: float) -> float:
        """Return for how many seconds a file has been the same."""
        before = self._since.get(path)
        return now - before[1] if before else 0.0

    def waiting(self, path: Path, now: float, end: str) -> str | None:
        """Return that a file looks cut off, and when it is read as it is.

        None once it was quiet for so long that this may be intended.
        """
        if self.quiet(path, now) >= self.unfinished_seconds:
            return None
        return f"{end}; read as it is once it has not changed for {self.unfinished_seconds:g} s"

    def settled(self, path: Path) -> Signature | None:
        found = self._since.get(path)
        return found[0] if found else None

    def move(self, old: Path, new: Path) -> None:
        """Keep what is known of a file that was renamed."""
        if old in self._since:
            self._since[new] = self._since.pop(old)

    def restart(self, path: Path) -> None:
        """Let a file settle again, because it has changed after all."""
        self._since.pop(path, None)

    def keep_only(self, paths: set[Path]) -> None:
        """Forget paths that are gone."""
        for path in self._since.keys() - paths:
            del self._since[path]


def unfinished(path: Path, size: int, name: str) -> str | None:
    """Return how a file ends if it looks cut off, or None.

    It depends on the name: packed bytes may end in any way.
    """
    if size == 0:
        return "it is empty"
    lower = name.lower()
    if lower.endswith(SAID_BY_READING):
        return None  # unpacking it will tell
    try:
        descriptor = open_plainly(path)
    except OSError:
        return None  # reading it will say what is wrong
    try:
        end = os.pread(descriptor, 4, max(0, size - 4))
    finally:
        os.close(descriptor)
    if lower.endswith(".parquet"):
        return None if end == b"PAR1" else "its end is not that of a Parquet file"
    if end[-1:] == b"\0" and end[-2:-1] not in UTF16_ENDS:
        return "it ends in zeros"
    if lower.endswith(".json") and end[-1:] in b"]}":
        return None
    return None if end[-1:] in (b"\n", b"\0") else "its last line has no line break"


def is_written(path: Path) -> bool:
    """Return whether a process has a file open for writing; False also if that is unknown.

    The kernel grants a read lease on a file that nobody writes to, to its owner. It is given back
    at once. Whoever opens the file in this moment waits for that; the signal for this process is
    ignored.
    """
    try:
        descriptor = open_plainly(path)
    except OSError:
        return False
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return True
    except (OSError, AttributeError):
        return False
    finally:
        os.close(descriptor)
    return False


def open_plainly(path: Path) -> int:
    """Return a descriptor for reading; no link is followed, no writer of a pipe awaited."""
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
