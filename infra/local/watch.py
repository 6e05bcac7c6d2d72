"""The health of one program of an embedded run, asked in a thread of its own.

A server that hangs, or that refuses writes for ever because its disk was full once, does not end.
The supervisor asks each program and ends what has been ill for too long; it is then started again
like all that ended. Nothing is ended while its disk is full: it would be no better afterwards.
"""

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from shared.backoff import Backoff

FIRST_WELL_SECONDS = 120.0  # how long a program may take until it is well for the first time
FIRST_AGAIN_SECONDS = 15.0
LONGEST_AGAIN_SECONDS = 600.0
WELL_AGAIN_SECONDS = 120.0  # after that long without a fault, the next one counts as a first one
ROOM_BYTES = 64 << 20
ROOM_SHARE = 10  # a small disk has room once a tenth of it is free


@dataclass
class Watch:
    """Asks `ill` every few seconds; `ill` returns what is wrong, or "" if nothing is.

    `patience`: for how many seconds it may be wrong. `folder`: what the program writes to.
    """

    ill: Callable[[], str]
    patience: float
    every: float = 2.0
    folder: Path | None = None
    found: str = ""
    _since: float | None = None
    _asked: float = 0.0
    _begun: float = field(default_factory=time.monotonic)
    _was_well: bool = False
    _well_since: float | None = None
    _again: Backoff = field(
        default_factory=lambda: Backoff(FIRST_AGAIN_SECONDS, LONGEST_AGAIN_SECONDS)
    )
    _asking: threading.Thread | None = None

    def began(self) -> None:
        """Note that the program was started: what was found before says nothing about it."""
        self._begun, self._was_well = time.monotonic(), False
        self._since = self._well_since = None

    def verdict(self) -> str:
        """Return why the program must be ended now, or "". Never blocks."""
        self._ask_in_time()
        if self._since is None:
            return ""
        now = time.monotonic()
        if no_room(self.folder):
            self._since = now  # from when there is room again, it has its time to recover
            return ""
        grown_up = self._was_well or now - self._begun > FIRST_WELL_SECONDS
        if not grown_up or now - self._since < self.patience or not self._again.is_over:
            return ""
        self._again.grow()
        return self.found

    def said(self) -> str:
        """Return what is wrong, for people, or ""."""
        lack = no_room(self.folder)
        if not (self.found or lack):
            return ""
        return "; ".join(part for part in (self.found, lack) if part)

    def _ask_in_time(self) -> None:
        if self._asking is not None and self._asking.is_alive():
            return
        if time.monotonic() - self._asked < self.every:
            return
        self._asked = time.monotonic()
        self._asking = threading.Thread(target=self._ask, args=(self._begun,), daemon=True)
        self._asking.start()

    def _ask(self, begun: float) -> None:
        try:
            found = self.ill()
        except Exception as error:  # noqa: BLE001 - whatever it was, it is not a healthy answer
            found = f"{type(error).__name__}: {error}"
        if begun == self._begun:  # it was not started again meanwhile
            self._take(found, time.monotonic())

    def _take(self, found: str, now: float) -> None:
        self.found = found
        if found:
            self._well_since = None
            self._since = self._since or now
            return
        self._since, self._was_well = None, True
        self._well_since = self._well_since or now
        if now - self._well_since > WELL_AGAIN_SECONDS:
            self._again.end()


def no_room(folder: Path | None) -> str:
    """Return that the disk of `folder` is full, or "" if there is room."""
    if folder is None:
        return ""
    try:
        disk = shutil.disk_usage(folder)
    except OSError as error:
        return f"{folder}: {error.strerror}"
    if disk.free >= min(ROOM_BYTES, disk.total // ROOM_SHARE):
        return ""
    return f"the disk of {folder} is full ({disk.free >> 20} MiB are free)"
