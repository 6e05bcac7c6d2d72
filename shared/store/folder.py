"""A place that is a plain folder: a key is the path of a file below it.

A file is written once, hashed while it is written, synced, and read back from the disk before it
counts. A folder has no versions, so it keeps one of each name; it holds only what is precious.
"""

import fcntl
import hashlib
import io
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from shared.errors import AlreadyExists, Location, ObjectDamaged, ObjectMissing, StoreUnavailable
from shared.files import BLOCK_BYTES, sha256_bytes, sync_folder, whole_file, write_synced
from shared.formats.version import check_bytes, safe_path
from shared.progress import beat
from shared.store.hashing import HashingReader
from shared.store.place import PRECIOUS, Bucket, Stored, Version


class Folder:
    """A folder that is a place. `name` is the one that users know."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder

    def ping(self) -> None:
        """Raise StoreUnavailable unless the folder is there."""
        if not self.folder.is_dir():
            raise StoreUnavailable(f"The {self.name} folder {self.folder} does not exist.")

    @property
    def swap_lock(self) -> Path:
        """The path that is locked while a record is replaced."""
        return self.folder

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreUnavailable(f"{self.name}: {what}: {error.strerror or error}") from error

    def _path(self, bucket: Bucket, key: str) -> Path:
        assert bucket == PRECIOUS, "a folder holds what is precious, no more"
        return self.folder / safe_path(key)

    # ---- reading ---------------------------------------------------------------------------------

    def open(self, bucket: Bucket, key: str, version_id: str | None = None) -> BinaryIO:  # noqa: ARG002 - a folder has one version of a name
        """Return the file, to be read and closed. Raises ObjectMissing."""
        path = self._path(bucket, key)
        try:
            file = path.open("rb")
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ObjectMissing(self.name, bucket, key) from error
        except OSError as error:
            raise StoreUnavailable(f"{self.name}: {key}: {error.strerror or error}") from error
        # What is read shall come from the disk, not from what was just written to memory.
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return file

    def read(
        self, bucket: Bucket, key: str, version_id: str | None = None, sha256: str | None = None
    ) -> bytes:
        """Return a small file whole.

        Raises ObjectMissing, ObjectDamaged if it does not hash to `sha256`.
        """
        with self.open(bucket, key, version_id) as file, self._errors(key):
            data = file.read()
        return check_bytes(Location(self.name, "", key), data, sha256) if sha256 else data

    def read_hash(self, bucket: Bucket, key: str, version_id: str | None = None) -> tuple[str, int]:
        """Return (SHA-256, size) of a file, read in full now. Raises ObjectMissing."""
        digest, size = hashlib.sha256(), 0
        with self.open(bucket, key, version_id) as file, self._errors(key):
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
                beat()
                size += len(block)
        return digest.hexdigest(), size

    def size(self, bucket: Bucket, key: str) -> int:
        """Return the size of a file in bytes. Raises ObjectMissing."""
        with self.open(bucket, key) as file:
            return os.fstat(file.fileno()).st_size

    def keys(self, bucket: Bucket, prefix: str) -> Iterator[str]:
        """Yield all keys under a prefix, sorted; temporary files are left out."""
        assert bucket == PRECIOUS
        start = self.folder / prefix.rpartition("/")[0]
        with self._errors(prefix):
            found = [p.relative_to(self.folder).as_posix() for p in start.rglob("*") if is_key(p)]
        yield from sorted(key for key in found if key.startswith(prefix))

    def versions(self, bucket: Bucket, prefix: str) -> Iterator[Version]:
        """Yield every key under a prefix as its only version.

        The etag is empty: finding it would mean reading all of the file.
        """
        for key in self.keys(bucket, prefix):
            with self._errors(key):
                status = (self.folder / key).stat()
            modified = datetime.fromtimestamp(status.st_mtime, UTC)
            yield Version(
                key, "", status.st_size, is_delete_marker=False, etag="", modified=modified
            )

    # ---- writing ---------------------------------------------------------------------------------

    def put_bytes(self, bucket: Bucket, key: str, data: bytes) -> Stored:
        """Write a small file once and read it back. Raises AlreadyExists, ObjectDamaged."""
        return self.put_stream(bucket, key, io.BytesIO(data), len(data), sha256_bytes(data))

    def put_stream(
        self,
        bucket: Bucket,
        key: str,
        source: BinaryIO | Any,
        size: int,
        sha256: str,
    ) -> Stored:
        """Write `size` bytes that must hash to `sha256`, then read them back in full.

        A name that already holds these bytes is left alone. Raises AlreadyExists if it holds
        others, ObjectDamaged if what was read or what came back is not what was meant.
        """
        if self._holds(bucket, key, sha256):
            return Stored(bucket, key, sha256, size, None)
        path = self._path(bucket, key)
        with self._errors(key):
            self._write(path, source, key, size, sha256)
            self._sync_up(path.parent)
        if not self._holds(bucket, key, sha256):  # another took the name, and lost it again
            raise ObjectMissing(self.name, bucket, key)
        return Stored(bucket, key, sha256, size, None)

    def _holds(self, bucket: Bucket, key: str, sha256: str) -> bool:
        try:
            found, _ = self.read_hash(bucket, key)
        except ObjectMissing:
            return False
        if found != sha256:
            raise AlreadyExists(Location(self.name, "", key))
        return True

    def _write(self, path: Path, source: Any, key: str, size: int, sha256: str) -> None:
        """Write a file once; a file that already has its name keeps it."""
        reader = HashingReader(source)
        through = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        with (
            suppress(FileExistsError),
            whole_file(path, 0o444, once=True, through=through) as file,
        ):
            while block := reader.read(BLOCK_BYTES):
                file.write(block)
            if reader.hexdigest() != sha256 or reader.size != size:
                raise ObjectDamaged(
                    Location(self.name, "", key), sha256, reader.hexdigest(), as_sent=True
                )

    def _sync_up(self, folder: Path) -> None:
        """Sync a folder and those above it: their names must survive a power cut, too."""
        for each in (folder, *folder.parents):
            sync_folder(each)
            if each == self.folder:
                return

    def create(self, bucket: Bucket, key: str, data: bytes) -> Stored:
        """Create a small record. Raises AlreadyExists if the name holds other bytes."""
        return self.put_bytes(bucket, key, data)

    def swap(self, bucket: Bucket, key: str, data: bytes, etag: str | None) -> bool:
        """Replace a record if it still has this etag; return whether that was done."""
        path = self._path(bucket, key)
        with self._errors(key), self._locked():
            found = self.read_newest(bucket, key)
            if (found[1] if found else None) != etag:
                return False
            write_synced(path, data)
        return True

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one process at a time replace a record."""
        descriptor = os.open(self.swap_lock, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def read_newest(self, bucket: Bucket, key: str) -> tuple[bytes, str] | None:
        """Return (bytes, etag) of a record, or None: the reading half of `swap`."""
        try:
            data = self.read(bucket, key)
        except ObjectMissing:
            return None
        return data, sha256_bytes(data)


def is_key(path: Path) -> bool:
    return not path.name.startswith(".") and path.is_file()
