"""The interface of every place that holds copies: an S3 server or a folder.

All of it blocks; call it through `asyncio.to_thread`. A place raises StoreUnavailable while it
cannot be reached, and ObjectMissing if it does not hold what is asked for.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO, Literal, Protocol

from shared.protocol.message import ObjectRef

Bucket = Literal["duramen", "work"]
PRECIOUS: Bucket = "duramen"
WORK: Bucket = "work"


@dataclass(frozen=True)
class Stored:
    """An object that was read back in full after it was written."""

    bucket: Bucket
    key: str
    sha256: str
    size: int
    version_id: str | None

    @property
    def ref(self) -> ObjectRef:
        return ObjectRef(bucket=self.bucket, key=self.key, sha256=self.sha256, size=self.size)


@dataclass(frozen=True)
class Version:
    """One version of a key, or a delete marker. A folder has one version, with an empty id."""

    key: str
    version_id: str
    size: int
    is_delete_marker: bool
    etag: str
    modified: datetime | None = None


class ReadPlace(Protocol):
    """A place, as seen by whoever checks copies."""

    @property
    def name(self) -> str:
        """The place's name as users know it: `store`, `backup` or `archive`."""

    def ping(self) -> None:
        """Make a real round trip. Raises StoreUnavailable."""

    def keys(self, bucket: Bucket, prefix: str) -> Iterator[str]:
        """Yield all keys under a prefix, sorted."""

    def versions(self, bucket: Bucket, prefix: str) -> Iterator[Version]:
        """Yield all versions and delete markers under a prefix; of one key the newest first."""

    def size(self, bucket: Bucket, key: str) -> int:
        """Return the size in bytes of the version that counts. Raises ObjectMissing."""

    def open(self, bucket: Bucket, key: str, version_id: str | None = None) -> Any:
        """Return an object that must be read and closed. Raises ObjectMissing."""

    def read(
        self, bucket: Bucket, key: str, version_id: str | None = None, sha256: str | None = None
    ) -> bytes:
        """Return a small object whole.

        Raises ObjectMissing, ObjectDamaged if it does not hash to `sha256`.
        """

    def read_hash(self, bucket: Bucket, key: str, version_id: str | None = None) -> tuple[str, int]:
        """Return (SHA-256, size) of an object, read in full now. Raises ObjectMissing."""

    def read_newest(self, bucket: Bucket, key: str) -> tuple[bytes, str] | None:
        """Return (bytes, etag) of the newest version, or None: the reading half of `swap`."""


class Place(ReadPlace, Protocol):
    """A place, as seen by its owner. What is written is read back before it counts."""

    def put_bytes(self, bucket: Bucket, key: str, data: bytes) -> Stored:
        """Write a small object once. Raises AlreadyExists, ObjectDamaged."""

    def put_stream(
        self, bucket: Bucket, key: str, source: BinaryIO | Any, size: int, sha256: str
    ) -> Stored:
        """Write `size` bytes that must hash to `sha256`.

        A key that already holds them is left alone. Raises AlreadyExists if it holds others,
        ObjectDamaged if others were sent.
        """

    def create(self, bucket: Bucket, key: str, data: bytes) -> Stored:
        """Create a small record if the key is free.

        Raises AlreadyExists if it holds other bytes.
        """

    def swap(self, bucket: Bucket, key: str, data: bytes, etag: str | None) -> bool:
        """Replace a record if its etag is still this one (None: there is none).

        Returns whether that was done.
        """
