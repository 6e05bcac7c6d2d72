"""The three places, and how an object is copied to all of them.

Each place receives the bytes from the source itself, never from another place's fresh copy, and
checks them against a SHA-256 that was known before. A place that already holds the bytes reads them
again.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from prometheus_client import Counter
from urllib3.exceptions import HTTPError

from services.vault.archive import Archive
from shared.errors import (
    AlreadyExists,
    DuramenError,
    Location,
    ObjectDamaged,
    ObjectMissing,
    StoreUnavailable,
)
from shared.store.place import PRECIOUS, WORK, Bucket, Place, Stored
from shared.store.s3 import Store

VERIFIED = Counter(
    "duramen_vault_verified_bytes_total", "Bytes read back and verified, by place.", ["place"]
)
REFUSED = Counter(
    "duramen_vault_copy_failures_total", "Copies found missing or damaged.", ["place"]
)
for each in ("store", "backup", "archive"):
    REFUSED.labels(each)  # from the start: a series that begins at 1 never increased
FAULTS = (ObjectDamaged, ObjectMissing, AlreadyExists)
T = TypeVar("T")


@dataclass(frozen=True)
class CopySource:
    """A place, bucket and key where bytes may be found."""

    place: Place
    bucket: Bucket
    key: str


class Source:
    """Bytes that are known by their hash, with the origins that may have them.

    The chosen origin is read in full once before anything is written: what is written under a
    precious name stays, so a damaged source must not get there.
    """

    def __init__(self, sha256: str, size: int, *origins: CopySource) -> None:
        self.sha256, self.size, self.origins = sha256, size, origins
        self._lock = threading.Lock()
        self._chosen: CopySource | None = None

    def choose(self) -> CopySource:
        """Return the first origin that has the right bytes. Raises ObjectMissing, ObjectDamaged."""
        with self._lock:
            if self._chosen is None:
                self._chosen = self._find()
            return self._chosen

    def _find(self) -> CopySource:
        failure: DuramenError | None = None
        for origin in self.origins:
            try:
                found, size = origin.place.read_hash(origin.bucket, origin.key)
            except DuramenError as error:
                failure = failure or error
                continue
            if found == self.sha256 and size == self.size:
                return origin
            where = Location(origin.place.name, origin.bucket, origin.key)
            failure = failure or ObjectDamaged(where, self.sha256, found)
        raise failure or ObjectMissing("nowhere", PRECIOUS, self.sha256)


class SourceReader:
    """A source that its first read opens; a place that has the bytes never opens it."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._open: Any = None

    def read(self, size: int = -1) -> bytes:
        origin = self._source.choose()
        if self._open is None:
            self._open = origin.place.open(origin.bucket, origin.key)
        try:
            block: bytes = self._open.read(size if size >= 0 else None)
        except (HTTPError, OSError) as error:
            raise StoreUnavailable(f"{origin.place.name}: {origin.key}: {error}") from error
        return block

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
            release = getattr(self._open, "release_conn", None)
            if release is not None:
                release()


def is_own_fault(place: str, error: BaseException) -> bool:
    """Return whether a copy at `place` is missing or damaged.

    It is neither if the place is away, or was fed from a damaged source.
    """
    if isinstance(error, ObjectDamaged) and error.as_sent:
        return False
    return isinstance(error, FAULTS) and error.where.place == place


@contextmanager
def reading(source: Source) -> Iterator[SourceReader]:
    reader = SourceReader(source)
    try:
        yield reader
    finally:
        reader.close()


class Stopping(StoreUnavailable):
    """The vault is ending; what was begun is begun again at the next start."""


class Copies:
    """Backup, store and archive, in the order in which a commit is written. Blocking."""

    def __init__(self, store: Store, backup: Store, archive: Archive) -> None:
        self.store, self.backup, self.archive = store, backup, archive
        self.places: tuple[Place, ...] = (backup, store, archive)
        self.stopping = threading.Event()
        self.room: Callable[[str, int], str | None] = lambda place, size: None  # noqa: ARG005
        self._pool = ThreadPoolExecutor(2 * len(self.places), thread_name_prefix="copy")

    def everywhere(self, work: Callable[[Place], T]) -> dict[str, T]:
        """Do `work` in all places at once; wait for all, then raise the first failure if any."""
        if self.stopping.is_set():
            raise Stopping
        futures = {place.name: self._pool.submit(work, place) for place in self.places}
        failures = []
        for name, future in futures.items():
            error = future.exception()
            if error is not None:
                if is_own_fault(name, error):
                    REFUSED.labels(name).inc()
                failures.append(error)
        if failures:
            raise failures[0]
        return {name: future.result() for name, future in futures.items()}

    def copy(self, key: str, source: Source) -> dict[str, Stored]:
        """Copy an object to all places and read each copy back; return the copies by place.

        Raises what a place or the source raises.
        """

        def put(place: Place) -> Stored:
            self.refuse_full(place, key, source.size)
            with reading(source) as reader:
                stored = place.put_stream(PRECIOUS, key, reader, source.size, source.sha256)
            VERIFIED.labels(place.name).inc(stored.size)
            return stored

        return self.everywhere(put)

    def refuse_full(self, place: Place, key: str, size: int) -> None:
        """Raise StoreUnavailable if a place lacks an object and has no room for it."""
        why = self.room(place.name, size)
        if why is not None and next(place.keys(PRECIOUS, key), None) != key:
            raise StoreUnavailable(why)

    def copy_bytes(self, key: str, data: bytes) -> dict[str, Stored]:
        """Store in all places a small object that the vault itself makes."""
        return self.everywhere(lambda place: place.put_bytes(PRECIOUS, key, data))

    def commit(self, key: str, data: bytes) -> dict[str, Stored]:
        """Create a record that makes other objects count: in backup first, then in the others.

        Raises AlreadyExists where the key holds another one.
        """
        return {place.name: place.create(PRECIOUS, key, data) for place in self.places}

    def precious(self, key: str) -> list[CopySource]:
        """Return every place as a source for one of its own keys."""
        return [CopySource(p, PRECIOUS, key) for p in (self.store, self.backup, self.archive)]

    def work(self, key: str) -> CopySource:
        return CopySource(self.store, WORK, key)

    def keep(self, key: str) -> dict[str, Stored]:
        """Copy to all places what another service stored once under a precious key.

        What counts is its oldest version.
        """
        sha256, size = self.store.read_hash(PRECIOUS, key)
        return self.copy(key, Source(sha256, size, CopySource(self.store, PRECIOUS, key)))

    def ping(self) -> None:
        """Make a real round trip to each place. Raises StoreUnavailable."""
        for place in self.places:
            place.ping()

    def close(self) -> None:
        self.stopping.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
