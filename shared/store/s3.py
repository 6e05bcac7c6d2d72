"""The store: one module around the `minio` client.

Everything blocks; call it through `asyncio.to_thread`. The module adds what the client lacks:
SHA-256 computed while streaming, every object read back in full before it counts, every download
hashed, conditional writes of small records. Under `duramen/` the *oldest* version of a key is the
truth: object lock keeps bytes, not names.
"""

import base64
import hashlib
import io
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, BinaryIO, Self, cast
from urllib.parse import urlparse

from minio import Minio
from minio.error import MinioException, S3Error
from minio.retention import Retention
from pydantic import SecretStr
from urllib3.exceptions import HTTPError

from shared import reach
from shared.errors import (
    START,
    AlreadyExists,
    Location,
    ObjectDamaged,
    ObjectMissing,
    StoreUnavailable,
)
from shared.files import BLOCK_BYTES, sha256_bytes, sha256_file, whole_file
from shared.formats.version import check_bytes
from shared.progress import beat
from shared.protocol.message import ObjectRef
from shared.settings import StoreSettings
from shared.store.clocks import clocks_differ
from shared.store.hashing import HashingReader
from shared.store.place import PRECIOUS, WORK, Bucket, Stored, Version

PART_BYTES = 16 << 20
KNOCK_SECONDS = 3.0
AWAY_SECONDS = 30.0  # for so long a command does not ask a store again that did not answer
MISSING = {"NoSuchKey", "NoSuchVersion", "NoSuchObject", "NoSuchBucket"}


class Store:
    """One S3 server. `name` is `store` or `backup`, as users know it."""

    def __init__(
        self, name: str, url: str, access_key: str, secret_key: str, *, patient: bool = True
    ) -> None:
        parsed = urlparse(url)
        self.name, self.url = name, url
        self._has_answered = patient
        self._away: tuple[float, StoreUnavailable] | None = None
        self._http = reach.store_pool()
        self._client = Minio(
            endpoint=parsed.netloc,
            access_key=access_key,
            secret_key=secret_key,
            secure=parsed.scheme == "https",
            region="us-east-1",  # a fixed region saves a GetBucketLocation that policies may deny
            http_client=self._http,
        )

    @classmethod
    def opened(
        cls, name: str, url: str, access: SecretStr, secret: SecretStr, *, patient: bool = True
    ) -> Self:
        """Return a store with the keys from settings.

        If it is not `patient`, it soon reports that no server answers.
        """
        keys = access.get_secret_value(), secret.get_secret_value()
        return cls(name, url, *keys, patient=patient)

    @classmethod
    def of(cls, settings: StoreSettings) -> Self:
        """Return the first store, with the keys of a service."""
        keys = settings.store_access_key, settings.store_secret_key
        return cls.opened("store", settings.store_url, *keys)

    def _call(self, bucket: str, key: str, call: Callable[[], Any]) -> Any:
        if self._away is not None and time.monotonic() - self._away[0] < AWAY_SECONDS:
            raise self._away[1]  # it has just not answered: a command asks for many objects
        try:
            if not self._has_answered:
                self._http.request("HEAD", self.url, timeout=KNOCK_SECONDS, retries=False)
                self._has_answered = True
            return call()
        except S3Error as error:
            if error.code in MISSING:
                raise ObjectMissing(self.name, bucket, key) from error
            why = clocks_differ(error) or f"{bucket}/{key}: {error.code}"
            raise StoreUnavailable(f"{self.name}: {why}") from error
        except (MinioException, HTTPError, OSError) as error:
            message = f"{self.name} at {self.url} does not answer: {error}"
            away = StoreUnavailable(message, next_step="" if self._has_answered else START)
            if not self._has_answered:
                self._away = time.monotonic(), away
            raise away from error

    def ping(self) -> None:
        """Make a real round trip. Raises StoreUnavailable."""
        next(self.keys(PRECIOUS, ".ping/"), None)  # every identity may list there

    # ---- reading ---------------------------------------------------------------------------------

    def stat(self, bucket: Bucket, key: str) -> tuple[int, str]:
        """Return (size in bytes, etag) of the newest version. Raises ObjectMissing."""
        found = self._call(bucket, key, lambda: self._client.stat_object(bucket, key))
        return int(found.size or 0), str(found.etag)

    def size(self, bucket: Bucket, key: str) -> int:
        """Return the size in bytes of the version that counts. Raises ObjectMissing."""
        if bucket == WORK:
            return self.stat(bucket, key)[0]
        oldest = self.oldest(bucket, key)
        if oldest is None:
            raise ObjectMissing(self.name, bucket, key)
        return oldest.size

    def keys(self, bucket: Bucket, prefix: str) -> Iterator[str]:
        """Yield all keys under a prefix, sorted by the store."""
        for found in self._listed(bucket, prefix, versions=False):
            yield str(found.object_name)

    def dated(self, bucket: Bucket, prefix: str) -> Iterator[tuple[str, datetime, int]]:
        """Yield all keys under a prefix with the store's time of writing, and their bytes."""
        for found in self._listed(bucket, prefix, versions=False):
            yield str(found.object_name), found.last_modified, int(found.size or 0)

    def versions(self, bucket: Bucket, prefix: str) -> Iterator[Version]:
        """Yield all versions and delete markers under a prefix; of one key the newest first."""
        for found in self._listed(bucket, prefix, versions=True):
            yield Version(
                str(found.object_name),
                str(found.version_id),
                int(found.size or 0),
                bool(found.is_delete_marker),
                str(found.etag or ""),
                found.last_modified,
            )

    def _listed(self, bucket: Bucket, prefix: str, *, versions: bool) -> list[Any]:
        return self._call(  # type: ignore[no-any-return]
            bucket,
            prefix,
            lambda: list(
                self._client.list_objects(
                    bucket, prefix=prefix, recursive=True, include_version=versions
                )
            ),
        )

    def oldest(self, bucket: Bucket, key: str) -> Version | None:
        """Return the version of a key that counts, or None.

        It is the oldest one that is not a delete marker.
        """
        found = [v for v in self.versions(bucket, key) if v.key == key and not v.is_delete_marker]
        return found[-1] if found else None

    def _version_id(self, bucket: Bucket, key: str) -> str | None:
        """Return the id of the version that counts; None in a bucket without versions.

        Raises ObjectMissing.
        """
        if bucket == WORK:
            return None
        oldest = self.oldest(bucket, key)
        if oldest is None:
            raise ObjectMissing(self.name, bucket, key)
        return oldest.version_id

    def open(self, bucket: Bucket, key: str, version_id: str | None = None) -> Any:
        """Return the response of a GET, to be read, closed and released."""
        version = version_id or self._version_id(bucket, key)
        return self._call(
            bucket, key, lambda: self._client.get_object(bucket, key, version_id=version)
        )

    def blocks(self, bucket: Bucket, key: str, version_id: str | None = None) -> Iterator[bytes]:
        """Yield the bytes of an object (its oldest version unless another is named) in blocks."""
        response = self.open(bucket, key, version_id)
        try:
            while block := self._call(bucket, key, lambda: response.read(BLOCK_BYTES)):
                yield block
        finally:
            response.close()
            response.release_conn()

    def _where(self, bucket: Bucket, key: str) -> Location:
        return Location(self.name, bucket, key)

    def read(
        self, bucket: Bucket, key: str, version_id: str | None = None, sha256: str | None = None
    ) -> bytes:
        """Return a small object whole.

        Raises ObjectMissing, ObjectDamaged if it does not hash to `sha256`.
        """
        data = b"".join(self.blocks(bucket, key, version_id))
        return check_bytes(self._where(bucket, key), data, sha256) if sha256 else data

    def read_hash(self, bucket: Bucket, key: str, version_id: str | None = None) -> tuple[str, int]:
        """Return (SHA-256, size) of an object, read in full now."""
        digest, size = hashlib.sha256(), 0
        for block in self.blocks(bucket, key, version_id):
            digest.update(block)
            beat()
            size += len(block)
        return digest.hexdigest(), size

    def verify(self, ref: ObjectRef, version_id: str | None = None) -> None:
        """Read an object in full, and compare its hash. Raises ObjectMissing, ObjectDamaged."""
        found, _ = self.read_hash(ref.bucket, ref.key, version_id)
        if found != ref.sha256:
            raise ObjectDamaged(self._where(ref.bucket, ref.key), ref.sha256, found)

    def fetch(self, ref: ObjectRef, target: Path, version_id: str | None = None) -> Path:
        """Download to a file, hashed on the way; the file gets its name only if all is right."""
        digest = hashlib.sha256()
        with whole_file(target) as file:
            for block in self.blocks(ref.bucket, ref.key, version_id):
                digest.update(block)
                beat()
                file.write(block)
            if digest.hexdigest() != ref.sha256:
                where = self._where(ref.bucket, ref.key)
                raise ObjectDamaged(where, ref.sha256, digest.hexdigest())
        return target

    # ---- locks -----------------------------------------------------------------------------------

    def default_lock(self, bucket: Bucket) -> tuple[str, timedelta] | None:
        """Return (mode, time) of the lock that the bucket puts on new objects, or None."""
        found = self._call(bucket, "", lambda: self._client.get_object_lock_config(bucket))
        if not found.mode or not found.duration:
            return None
        days = found.duration * (365 if str(found.duration_unit).lower().startswith("y") else 1)
        return str(found.mode), timedelta(days=days)

    def locked_until(self, bucket: Bucket, key: str, version_id: str) -> datetime | None:
        """Return when the lock of one version ends, or None if there is no lock."""
        try:
            found = self._client.get_object_retention(bucket, key, version_id=version_id)
        except S3Error as error:
            if error.code == "NoSuchObjectLockConfiguration":
                return None
            raise StoreUnavailable(f"{self.name}: lock of {key}: {error.code}") from error
        except (MinioException, HTTPError, OSError) as error:
            raise StoreUnavailable(f"{self.name} at {self.url} does not answer: {error}") from error
        return found.retain_until_date if found else None

    def lock(self, bucket: Bucket, key: str, version_id: str, mode: str, until: datetime) -> None:
        """Lock one version until then. The store refuses an end that is earlier than before."""
        retention = Retention(mode, until)
        self._call(
            bucket,
            key,
            lambda: self._client.set_object_retention(
                bucket, key, retention, version_id=version_id
            ),
        )

    def clock(self) -> datetime:
        """Return the store's own time, from one of its answers. Raises StoreUnavailable."""
        answer = self._call(PRECIOUS, "", lambda: self._http.request("HEAD", self.url))
        return parsedate_to_datetime(answer.headers["date"])

    # ---- writing ---------------------------------------------------------------------------------

    def put_file(self, bucket: Bucket, key: str, path: Path, sha256: str | None = None) -> Stored:
        """Write a file once and read it back. Raises AlreadyExists, ObjectDamaged."""
        size = path.stat().st_size
        with path.open("rb") as file:
            return self.put_stream(bucket, key, file, size, sha256 or sha256_file(path))

    def put_bytes(self, bucket: Bucket, key: str, data: bytes) -> Stored:
        """Write a small object once and read it back. Raises AlreadyExists, ObjectDamaged."""
        return self.put_stream(bucket, key, io.BytesIO(data), len(data), sha256_bytes(data))

    def put_stream(
        self, bucket: Bucket, key: str, source: BinaryIO | Any, size: int, sha256: str
    ) -> Stored:
        """Write `size` bytes that must hash to `sha256`, then read them back in full.

        A key that already holds these bytes is left alone, so a repeated upload changes nothing.
        Raises AlreadyExists if it holds others (precious bucket), ObjectDamaged if what was sent or
        what came back is not what was meant.
        """
        existing = self._existing(bucket, key, sha256)
        if existing is not None:
            return existing
        where = self._where(bucket, key)
        reader = HashingReader(source, (size, sha256), where)
        self._call(
            bucket,
            key,
            lambda: self._client.put_object(
                bucket,
                key,
                cast("BinaryIO", reader),
                length=size,
                part_size=PART_BYTES,
                num_parallel_uploads=2,
                metadata=checksum_header(sha256) if size < PART_BYTES else None,
            ),
        )
        if reader.hexdigest() != sha256:
            raise ObjectDamaged(where, sha256, reader.hexdigest(), as_sent=True)
        version_id = self._version_id(bucket, key)
        found, found_size = self.read_hash(bucket, key, version_id)
        if found != sha256:
            raise ObjectDamaged(where, sha256, found)
        return Stored(bucket, key, sha256, found_size, version_id)

    def _existing(self, bucket: Bucket, key: str, sha256: str) -> Stored | None:
        try:
            version_id = self._version_id(bucket, key)
            found, size = self.read_hash(bucket, key, version_id)
        except ObjectMissing:
            return None
        if found == sha256:
            return Stored(bucket, key, sha256, size, version_id)
        if bucket == PRECIOUS:
            raise AlreadyExists(self._where(bucket, key))
        return None  # `work` may be written again: an upload that was cut off

    def create(self, bucket: Bucket, key: str, data: bytes) -> Stored:
        """Create a small record if the key is free. Raises AlreadyExists if it holds other bytes.

        The same bytes are a success: after a lost reply, one's own repeated attempt comes too late.
        """
        self._put_if(bucket, key, data, {"If-None-Match": "*"})
        version_id = self._version_id(bucket, key)
        found = self.read(bucket, key, version_id)
        if found != data:
            raise AlreadyExists(self._where(bucket, key))
        return Stored(bucket, key, sha256_bytes(data), len(data), version_id)

    def swap(self, bucket: Bucket, key: str, data: bytes, etag: str | None) -> bool:
        """Replace a record if its etag is still this one (None: if there is none).

        Returns whether that was done. Only for `latest.json`, the one key whose newest version
        counts.
        """
        headers = {"If-Match": f'"{etag}"'} if etag else {"If-None-Match": "*"}
        return self._put_if(bucket, key, data, headers)

    def read_newest(self, bucket: Bucket, key: str) -> tuple[bytes, str] | None:
        """Return (bytes, etag) of the newest version, or None: the reading half of `swap`."""
        try:
            response = self._call(bucket, key, lambda: self._client.get_object(bucket, key))
        except ObjectMissing:
            return None
        try:
            return self._call(bucket, key, response.read), response.headers["etag"].strip('"')
        finally:
            response.close()
            response.release_conn()

    def _put_if(self, bucket: Bucket, key: str, data: bytes, headers: dict[str, str]) -> bool:
        """Make a conditional PUT; return False if the condition does not hold.

        The client has none, so a presigned PUT is sent with the header.
        """
        url = self._client.presigned_put_object(bucket, key, expires=timedelta(minutes=5))
        response = self._call(
            bucket, key, lambda: self._http.request("PUT", url, body=data, headers=headers)
        )
        if response.status in (409, 412):
            return False
        if response.status == 404 and "If-Match" in headers:
            return False
        if response.status != 200:
            raise StoreUnavailable(f"{self.name}: PUT {bucket}/{key}: HTTP {response.status}")
        return True

    def delete(self, bucket: Bucket, key: str) -> None:
        """Delete from `work`, as its owner. Nothing precious is ever deleted here."""
        assert bucket == WORK, "only `work` is ever cleaned"
        self._call(bucket, key, lambda: self._client.remove_object(bucket, key))


def checksum_header(sha256: str) -> dict[str, str | list[str] | tuple[str]]:
    """Return the header that lets the server refuse other bytes than meant.

    Under a precious key they would stay. For one PUT only: in a multipart upload it would name the
    whole, where a part is checked.
    """
    return {"x-amz-checksum-sha256": base64.b64encode(bytes.fromhex(sha256)).decode()}
