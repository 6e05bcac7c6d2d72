"""The third copy: a folder with a marker, so that an unmounted disk is not taken for it."""

import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path

from shared.errors import StoreUnavailable
from shared.files import write_synced
from shared.store.folder import Folder

MARKER = ".duramen-archive"
STALE_SECONDS = 3600


class Archive(Folder):
    """A folder that is recognised as the archive by the id in its marker.

    The empty mount point of a disk that is not mounted lacks the marker, so it is not taken for the
    archive.
    """

    def __init__(self, folder: Path, known_id: Path) -> None:
        super().__init__("archive", folder)
        self.known_id = known_id
        self._lock = threading.Lock()

    def ping(self) -> None:
        """Raise StoreUnavailable unless the folder is there and is the one that was used before."""
        with self._lock, self._errors("the folder"):
            super().ping()
            try:
                self._recognise()
            except UnicodeDecodeError as error:
                raise StoreUnavailable(f"archive: its id cannot be read: {error}") from error

    def _recognise(self) -> None:
        found = self._read_marker()
        if not self.known_id.exists():
            write_synced(self.known_id, (found or self._make_marker()).encode())
        elif found != self.known_id.read_text():
            raise StoreUnavailable(
                f"{self.folder} is not the archive that was used before: is its disk "
                f"mounted? (To use a new, empty one, delete {self.known_id}.)"
            )

    def _read_marker(self) -> str | None:
        marker = self.folder / MARKER
        return marker.read_text() if marker.exists() else None

    def _make_marker(self) -> str:
        marker = self.folder / MARKER
        with suppress(FileExistsError):  # another vault was first: its id holds
            write_synced(marker, uuid.uuid4().hex.encode(), once=True)
        return marker.read_text()

    def tidy(self) -> None:
        """Remove temporary files that a killed process left.

        Only files unchanged for an hour are removed. A file under its final name is never touched.
        """
        for path in self.folder.rglob(".*.tmp"):
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                path.unlink(missing_ok=True)

    @property
    def swap_lock(self) -> Path:
        return self.folder / MARKER
