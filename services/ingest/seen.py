"""Which rows were seen already, in bounded memory: a set that moves to disk when it grows."""

import sqlite3
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Self

ROWS_IN_MEMORY = 500_000  # of 16 bytes each, about 60 MB as Python holds them
CACHE_KIBIBYTES = 64 * 1024


class Seen:
    """A growing set of row digests. Use as a context; the file is of no use afterwards."""

    def __init__(self, path: Path, in_memory: int = ROWS_IN_MEMORY) -> None:
        self.path, self.in_memory = path, in_memory
        self._set: set[bytes] = set()
        self._disk: sqlite3.Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self._disk is not None:
            self._disk.close()
        self.path.unlink(missing_ok=True)

    def add(self, digest: bytes) -> bool:
        """True if it was not there before."""
        if self._disk is None:
            before = len(self._set)
            self._set.add(digest)
            if len(self._set) > self.in_memory:
                self._spill()
            return len(self._set) > before or self._disk is not None
        with closing(self._disk.execute("INSERT OR IGNORE INTO seen VALUES (?)", (digest,))) as row:
            return row.rowcount == 1

    def _spill(self) -> None:
        # No journal and no sync: after a crash the whole file is read again.
        self._disk = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        for setting in ("journal_mode=OFF", "synchronous=OFF", f"cache_size=-{CACHE_KIBIBYTES}"):
            self._disk.execute(f"PRAGMA {setting}").close()
        self._disk.execute("CREATE TABLE seen (digest BLOB PRIMARY KEY) WITHOUT ROWID").close()
        self._disk.execute("BEGIN").close()
        in_order = sorted(self._set)
        self._disk.executemany("INSERT INTO seen VALUES (?)", ((d,) for d in in_order)).close()
        self._set = set()
