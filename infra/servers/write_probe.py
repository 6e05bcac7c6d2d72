"""A write into a store, which shows what no reading shows: that its disk was full once.

A SeaweedFS filer keeps its names in eight databases, chosen by the folder's name. One that could
not write refuses every later write until the server is started again, while the others go on.
"""

import hashlib
import io
from itertools import count

from minio import Minio
from minio.error import S3Error
from urllib3.exceptions import HTTPError

BUCKET = "alive"  # nothing else lies there
DATABASES = 8


def folders() -> list[str]:
    """Return folders in BUCKET of which each database keeps one."""
    found: dict[int, str] = {}
    for number in count():
        path = f"/buckets/{BUCKET}/{number}"
        digest = hashlib.md5(path.encode(), usedforsecurity=False).digest()
        found.setdefault(digest[-1] % DATABASES, str(number))
        if len(found) == DATABASES:
            return [found[database] for database in sorted(found)]
    raise AssertionError


def refusal_of_write(store: Minio) -> str:
    """Return why the store takes no writes, or "". One object has bytes, the others a name only."""
    try:
        for index, folder in enumerate(folders()):
            _put(store, f"{folder}/written", b"" if index else b"1")
    except (S3Error, HTTPError) as error:
        return f"it takes no writes: {_reason(error)}"
    return ""


def _put(store: Minio, key: str, body: bytes) -> None:
    try:
        store.put_object(BUCKET, key, io.BytesIO(body), len(body))
    except S3Error as error:
        if error.code != "NoSuchBucket":
            raise
        store.make_bucket(BUCKET)
        store.put_object(BUCKET, key, io.BytesIO(body), len(body))


def _reason(error: S3Error | HTTPError) -> str:
    return f"{error.code}: {error.message}" if isinstance(error, S3Error) else str(error)
