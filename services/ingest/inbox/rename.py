"""Renames that never overwrite, and names that can be written anywhere."""

import ctypes
import errno
import os
from pathlib import Path

from services.ingest.container.names import PACKINGS

RENAME_NOREPLACE = 1
AT_FDCWD = -100
NAME_BYTES = 255  # of one path component, on every file system that matters
# A report beside it, under the temporary name that it is written with.
LONGEST_SUFFIX = len("..report.json.4194304.tmp")
NUMBERS = len(".999999")
SHOWN_CHARACTERS = 200

_libc = ctypes.CDLL(None, use_errno=True)


def rename_new(source: Path, target: Path) -> None:
    """Rename. Raises FileExistsError if `target` exists, whatever it is."""
    call = getattr(_libc, "renameat2", None)
    if call is not None:
        paths = os.fsencode(source), os.fsencode(target)
        if call(AT_FDCWD, paths[0], AT_FDCWD, paths[1], RENAME_NOREPLACE) == 0:
            return
        number = ctypes.get_errno()
        if number not in (errno.EINVAL, errno.ENOSYS):
            raise OSError(number, os.strerror(number), str(source), None, str(target))
    # A file system without that flag: nobody but this service writes where it moves things to.
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    source.rename(target)


def numbered(name: str, number: int) -> str:
    """Return `name`, then `name.2.jsonl`, `name.3.jsonl`, …

    The names are short enough for the names of their reports.
    """
    stem, suffix = Path(name).stem, Path(name).suffix
    if suffix.lower() in PACKINGS:  # the suffix before that says what it holds
        suffix = Path(stem).suffix + suffix
        stem = name.removesuffix(suffix)
    if len(os.fsencode(suffix)) > 16:
        stem, suffix = name, ""
    if number > 1:
        suffix = f".{number}{suffix}"
    room = NAME_BYTES - LONGEST_SUFFIX - NUMBERS - len(os.fsencode(suffix))
    raw = os.fsencode(stem)
    if len(raw) > room:
        # Cut between characters; a name that is not UTF-8 at all is cut between bytes.
        raw = raw[:room].decode(errors="ignore").encode() or raw[:room]
    return os.fsdecode(raw) + suffix


def show_name(name: str) -> str:
    """Return a file name for messages, logs and terminals.

    It is valid UTF-8, with nothing unprintable.
    """
    text = os.fsencode(name).decode(errors="backslashreplace")
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return shown if len(shown) <= SHOWN_CHARACTERS else shown[: SHOWN_CHARACTERS - 1] + "…"
