"""Takes a file from a folder on another disk, from where it cannot be renamed but must be copied.

The file is first set aside on its own disk, so that its name is free at once and no other file is
mistaken for it. The copy is whole and synced before the original goes. What a kill leaves set aside
is put back under its name, and the copy, whole or not, is dropped: that file is then taken again.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from services.ingest.inbox.folders import ASIDE
from services.ingest.inbox.rename import numbered, rename_new
from services.ingest.inbox.settle import signature
from shared.files import copy_synced, sync_folder


def move_file(source: Path, target: Path, taken_id: str) -> None:
    """Rename a file, or copy it where `target` is on another disk.

    Raises FileExistsError, FileNotFoundError, OSError; the source is then where it was.
    """
    try:
        rename_new(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        copy_across(source, target, taken_id)


def copy_across(source: Path, target: Path, taken_id: str) -> None:
    """Move a file to another disk. Raises OSError, for instance if it was written to meanwhile."""
    if source.is_symlink() or not source.is_file():
        raise OSError(errno.EXDEV, "it is not a plain file, and its folder is on another disk")
    folder = source.parent / ASIDE / taken_id
    folder.mkdir(parents=True)
    aside = folder / source.name
    try:
        rename_new(source, aside)
        before = aside.lstat()
        copy_synced(aside, target)
        os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))
        if signature(aside.lstat()) != signature(before):
            raise OSError(errno.EBUSY, "it was written to while it was copied from its disk")
    except OSError:
        target.unlink(missing_ok=True)
        put_back(folder)
        raise
    aside.unlink()
    clear(folder)


def set_aside(places: list[Path]) -> Iterator[Path]:
    """Yield the folders of ASIDE, named by their id of taking, that a kill has left."""
    for place in places:
        with suppress(OSError):
            yield from sorted((place / ASIDE).iterdir())


def put_back(folder: Path) -> None:
    """Give a file that was set aside its name back, or the next free one like it."""
    for aside in folder.iterdir():
        number = 1
        while True:
            name = aside.name if number == 1 else numbered(aside.name, number)
            number += 1
            with suppress(FileExistsError):
                rename_new(aside, folder.parent.parent / name)
                break
    clear(folder)


def clear(folder: Path) -> None:
    """Remove an empty folder of ASIDE, and ASIDE itself once nothing is in it."""
    sync_folder(folder.parent.parent)
    for empty in (folder, folder.parent):
        with suppress(OSError):
            empty.rmdir()
