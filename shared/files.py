"""Files that survive a power cut, and their hashes. Uses only the standard library."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

BLOCK_BYTES = 1 << 20
DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # no space, no quota, no larger file


def is_disk_full(error: OSError) -> bool:
    """Return whether a write failed because its disk is full."""
    return error.errno in DISK_FULL


def sha256_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file, in hex, using constant memory."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def whole_file(
    path: Path,
    mode: int | None = None,
    *,
    owner: tuple[int, int] | None = None,
    once: bool = False,
    through: Path | None = None,
) -> Iterator[BinaryIO]:
    """Open a file that gets its name when the block ends without an error, whole and synced.

    `mode`: its permission bits, whatever the umask; until then nobody else can read it. `owner`:
    the uid and gid that root gives it to; other users cannot. `once`: raise FileExistsError if the
    name is taken, instead of replacing the file that has it. `through`: the path to write first,
    where several threads may write this file at the same time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = through or hidden_beside(path)
    temporary.unlink(missing_ok=True)  # of a killed process that had the same number
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        with os.fdopen(os.open(temporary, flags, 0o666 if mode is None else 0o600), "wb") as file:
            yield file
            file.flush()
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            if owner is not None and os.getuid() == 0:
                os.fchown(file.fileno(), *owner)
            os.fsync(file.fileno())
        if once:
            give_new_name(temporary, path)
        else:
            temporary.replace(path)
    finally:  # a full disk is not kept full by what did not fit
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def give_new_name(temporary: Path, path: Path) -> None:
    """Give a file its name, or raise FileExistsError: a link never replaces, a rename does.

    A file system without links (exFAT) gets a check and then a rename.
    """
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:
        if path.exists():
            raise FileExistsError(str(path)) from None
        temporary.rename(path)


def write_synced(
    path: Path,
    data: bytes,
    mode: int | None = None,
    *,
    owner: tuple[int, int] | None = None,
    once: bool = False,
) -> None:
    """Write a file so that a power cut leaves it whole or absent. See whole_file for the rest."""
    with whole_file(path, mode, owner=owner, once=once) as file:
        file.write(data)


def copy_synced(source: Path, target: Path) -> None:
    """Copy a file so that the copy is whole or absent; a file of that name is replaced."""
    with source.open("rb") as reading, whole_file(target) as file:
        shutil.copyfileobj(reading, file, BLOCK_BYTES)


@contextmanager
def whole_folder(folder: Path, mode: int = 0o777) -> Iterator[Path]:
    """Yield a hidden folder to fill; it gets its name when the block ends without an error.

    Raises OSError if a folder that is not empty has the name.
    """
    temporary = hidden_beside(folder)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True, mode=mode)
    try:
        yield temporary
        sync_folder(temporary)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync_folder(folder.parent)


def hidden_beside(path: Path) -> Path:
    """Return the name under which `path` is written first; each process has its own."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder, as the disk holds them; 0 without it."""
    return sum(size for _, size in files_below(folder))


def files_below(folder: Path) -> Iterator[tuple[Path, int]]:
    """Yield each file below a folder with the bytes that it takes on the disk.

    What vanishes meanwhile, or may not be read, is left out. No link is followed.
    """
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root, name)
            try:
                yield path, path.lstat().st_blocks * 512
            except OSError:
                continue
