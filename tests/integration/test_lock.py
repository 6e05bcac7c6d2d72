"""The rolling lock of the backup, on a real store with the vault's own keys."""

import io
from datetime import UTC, datetime, timedelta

import pytest
from minio.commonconfig import GOVERNANCE
from minio.error import S3Error
from minio.retention import Retention

from services.vault import lock
from services.vault.lock import RollingLock
from shared.errors import StoreUnavailable
from shared.store.place import PRECIOUS
from shared.store.s3 import Store
from tests.stack import Stack

SHORT = timedelta(seconds=3)


def backup_of(stack: Stack) -> Store:
    keys = stack.keys("vault", "backup")
    return Store("backup", stack.backup_url, keys.access, keys.secret)


def until_of(store: Store, key: str) -> datetime:
    oldest = store.oldest(PRECIOUS, key)
    assert oldest is not None
    found = store.locked_until(PRECIOUS, key, oldest.version_id)
    assert found is not None
    return found


def test_a_lock_is_extended_before_it_ends_and_then_left_alone(stack: Stack, lineage: str) -> None:
    store, key = backup_of(stack), f"datasets/{lineage}/short"
    ends = datetime.now(UTC) + SHORT
    stack.minio("admin", "backup").put_object(
        PRECIOUS, key, io.BytesIO(b"x"), 1, retention=Retention(GOVERNANCE, ends)
    )
    assert until_of(store, key) < datetime.now(UTC) + 2 * SHORT
    rolling = RollingLock(store)
    assert rolling.extend() >= 1
    assert until_of(store, key) > datetime.now(UTC) + timedelta(days=29)
    assert rolling.extend() == 0
    assert lock.UNTIL._value.get() > (ends + timedelta(days=1)).timestamp()
    # Past the time of the short lock, not even the administrator deletes it, unless told to bypass.
    oldest = store.oldest(PRECIOUS, key)
    assert oldest is not None
    with pytest.raises(S3Error):
        stack.minio("admin", "backup").remove_object(PRECIOUS, key, oldest.version_id)


def test_old_locks_roll_on_and_never_back(stack: Stack, lineage: str) -> None:
    store, key = backup_of(stack), f"datasets/{lineage}/old"
    store.put_bytes(PRECIOUS, key, b"y")
    first, today = until_of(store, key), datetime.now(UTC)
    rolling = RollingLock(store)
    rolling.extend(today + timedelta(days=10))
    assert until_of(store, key) == first  # more than half of its time is left
    rolling.extend(today + timedelta(days=20))
    assert until_of(store, key) > first + timedelta(days=19)
    rolling.extend(today - timedelta(days=100))
    assert until_of(store, key) > first + timedelta(days=19)


def test_a_clock_that_differs_locks_nothing(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    store = backup_of(stack)
    assert abs(store.clock() - datetime.now(UTC)) < timedelta(seconds=30)
    monkeypatch.setattr(lock, "CLOCKS_SECONDS", -1.0)
    with pytest.raises(StoreUnavailable, match="its clock and this host's"):
        RollingLock(store).extend()
