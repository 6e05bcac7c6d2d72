"""The rolling lock: what lies in the backup stays locked, however old it is.

The backup locks an object for the bucket's own time (30 days) and no longer. So the vault extends
each lock before it ends, and only ever to a later day. If the vault is gone for good, the locks end
by themselves, and the disk can be freed.
"""

from datetime import UTC, datetime, timedelta

from prometheus_client import Gauge

from shared.errors import StoreUnavailable
from shared.progress import beat
from shared.store.place import PRECIOUS
from shared.store.s3 import Store

UNTIL = Gauge(
    "duramen_vault_lock_until_seconds", "Unix time when the first lock of the backup ends."
)
TIME = Gauge("duramen_vault_lock_seconds", "How long the backup locks each object.")
LEFT = 0.5  # of its time: a lock is extended when less is left
CLOCKS_SECONDS = 60.0


class RollingLock:
    """The rolling lock of one store, which remembers how long each object is locked. Blocking."""

    def __init__(self, backup: Store) -> None:
        self._backup = backup
        self._until: dict[tuple[str, str], datetime] = {}

    def extend(self, now: datetime | None = None) -> int:
        """Extend the locks that end soon; return how many.

        `now` is the store's own time unless given. Raises StoreUnavailable, also if the store
        refuses, or if its clock differs from this host's: a lock that a wrong clock set for years
        could not be taken back.
        """
        default = self._backup.default_lock(PRECIOUS)
        if default is None:
            return 0
        mode, length = default
        now = now or self._checked_clock()
        extended = 0
        for key, version_id in self._counting():
            until = self._known(key, version_id)
            if until is None or until - now < length * LEFT:
                until = now + length
                self._backup.lock(PRECIOUS, key, version_id, mode, until)
                extended += 1
            self._until[key, version_id] = until
            beat()
        TIME.set(length.total_seconds())
        if self._until:
            UNTIL.set(min(self._until.values()).timestamp())
        return extended

    def _counting(self) -> list[tuple[str, str]]:
        """Return (key, VersionId) of the version of each key that counts: its oldest one."""
        oldest = {
            version.key: version.version_id  # of one key the newest comes first
            for version in self._backup.versions(PRECIOUS, "")
            if not version.is_delete_marker
        }
        return list(oldest.items())

    def _known(self, key: str, version_id: str) -> datetime | None:
        known = self._until.get((key, version_id))
        return known or self._backup.locked_until(PRECIOUS, key, version_id)

    def _checked_clock(self) -> datetime:
        theirs = self._backup.clock()
        apart = abs(datetime.now(UTC) - theirs)
        if apart > timedelta(seconds=CLOCKS_SECONDS):
            raise StoreUnavailable(
                f"{self._backup.name}: its clock and this host's are {apart} apart"
            )
        return theirs
