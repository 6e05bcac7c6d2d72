"""When is a file complete? When it no longer changes, and does not look cut off."""

import os
import stat
from pathlib import Path
from typing import NamedTuple

PARTIAL_SUFFIXES = (".part", ".partial", ".tmp", ".crdownload", ".download", ".filepart")


class Signature(NamedTuple):
    """What changes when a file is written to, or another takes its name. A rename keeps it."""

    device: int
    inode: int
    size: int
    changed: int


def signature(status: os.stat_result) -> Signature:
    return Signature(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def is_partial(name: str) -> bool:
    """Names by which programs say that they still write."""
    return name.startswith(".") or name.lower().endswith(PARTIAL_SUFFIXES)


class Settling:
    """For each path, since when (on this process's clock) its signature has been the same.

    The clock of a network share is never trusted, so a file settles anew after a restart.
    """

    def __init__(self, settle_seconds: float, unfinished_seconds: float) -> None:
        self.settle_seconds, self.unfinished_seconds = settle_seconds, unfinished_seconds
        self._since: dict[Path, tuple[Signature, float]] = {}

    def why_not(self, path: Path, status: os.stat_result, now: float) -> str | None:
        """Why a file is not complete yet; None if it is, or if it is no file to wait for."""
        if not stat.S_ISREG(status.st_mode):
            return None
        seen = signature(status)
        before = self._since.get(path)
        if before is None or before[0] != seen:
            self._since[path] = before = (seen, now)
        quiet = now - before[1]
        if quiet < self.settle_seconds:
            return "it may still be growing"
        if quiet < self.unfinished_seconds and (end := unfinished(path, status.st_size)):
            left = self.unfinished_seconds - quiet
            return f"{end}; taken as it is in {left:.0f} s if nothing follows"
        return None

    def settled(self, path: Path) -> Signature | None:
        found = self._since.get(path)
        return found[0] if found else None

    def move(self, old: Path, new: Path) -> None:
        """A rename keeps what is known."""
        if old in self._since:
            self._since[new] = self._since.pop(old)

    def restart(self, path: Path) -> None:
        """It changed after all: let it settle again."""
        self._since.pop(path, None)

    def keep_only(self, paths: set[Path]) -> None:
        """Forget paths that are gone."""
        for path in self._since.keys() - paths:
            del self._since[path]


def unfinished(path: Path, size: int) -> str | None:
    """How a file ends if it looks cut off: empty, in zeros, without a newline; else None."""
    if size == 0:
        return "it is empty"
    try:
        descriptor = open_plainly(path)
    except OSError:
        return None  # reading it will say what is wrong
    try:
        last = os.pread(descriptor, 1, size - 1)
    finally:
        os.close(descriptor)
    if last == b"\0":
        return "it ends in zeros"
    return None if last == b"\n" else "its last line does not end"


def open_plainly(path: Path) -> int:
    """A descriptor for reading: follows no link, waits for no writer of a pipe."""
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
