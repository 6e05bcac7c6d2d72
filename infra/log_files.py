"""The log files of an embedded run: each is bounded, and its last parts are kept.

A program holds its file open for appending, so the file is copied and then emptied in place; a
line that is written just between these two may be lost.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path

LOG_BYTES = 20 << 20  # as in containers
PARTS_KEPT = 4  # NAME.log.1 is the newest of them


def keep_bounded(log: Path) -> None:
    """Set a log aside if it has grown large: it becomes NAME.log.1, and begins again empty.

    Where the disk is full, its lines are given up instead: the older parts stay.
    """
    try:
        if log.stat().st_size <= LOG_BYTES:
            return
        for number in range(PARTS_KEPT - 1, 0, -1):
            if part(log, number).exists():
                part(log, number).replace(part(log, number + 1))
        shutil.copyfile(log, part(log, 1))
    except OSError:
        with suppress(OSError):
            part(log, 1).unlink()
    with suppress(OSError):
        os.truncate(log, 0)


def part(log: Path, number: int) -> Path:
    """Return the path of an older part of a log."""
    return log.with_name(f"{log.name}.{number}")
