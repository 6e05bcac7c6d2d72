"""The buckets of both stores."""

from typing import Literal

import urllib3
from minio import Minio
from minio.error import S3Error
from minio.objectlockconfig import DAYS, ObjectLockConfig

from infra.secrets.secrets import Keys
from shared import reach

REGION = "us-east-1"
PRECIOUS = "duramen"
WORK = "work"
BACKUP_RETENTION_DAYS = 30
TIMEOUT_SECONDS = 20
LockMode = Literal["GOVERNANCE", "COMPLIANCE"]


def connections(timeout: float = TIMEOUT_SECONDS) -> urllib3.PoolManager:
    """Return connections that several clients may share; their owner clears them.

    Nothing is retried.
    """
    return reach.pool(timeout=timeout, retries=False, maxsize=8)


def client(url: str, keys: Keys, pool: urllib3.PoolManager) -> Minio:
    """Return an S3 client of the server at `url` (http://HOST:PORT)."""
    return Minio(
        url.split("://", 1)[1],
        access_key=keys.access,
        secret_key=keys.secret,
        secure=url.startswith("https://"),
        region=REGION,
        http_client=pool,
    )


def make_store_buckets(store: Minio) -> None:
    """Make `duramen` (versioned, lockable) and `work` (plain) on the first store."""
    _make(store, PRECIOUS, locked=True)
    _make(store, WORK, locked=False)


def make_backup_buckets(
    backup: Minio, retention_days: int = BACKUP_RETENTION_DAYS, mode: LockMode = "GOVERNANCE"
) -> None:
    """Make `duramen` on the backup, where nothing can be deleted for `retention_days`."""
    _make(backup, PRECIOUS, locked=True)
    try:
        found = backup.get_object_lock_config(PRECIOUS)
    except S3Error:
        return  # a bucket that cannot be locked was there before: the probe refuses it
    if (found.mode, found.duration) != (mode, retention_days):
        backup.set_object_lock_config(PRECIOUS, ObjectLockConfig(mode, retention_days, DAYS))


def _make(store: Minio, bucket: str, *, locked: bool) -> None:
    """Create a bucket. An existing one is left as it is: the probe reports if it is not right."""
    try:
        store.make_bucket(bucket, object_lock=locked)
    except S3Error as error:
        if error.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
            raise
