"""A set of the rows that were seen already, in bounded memory.

The digests of the first rows are a set. Digests of later rows that are not in it are written to
disk, in parts by their first byte, and compared part by part at the end: a look-up on disk for each
row would cost more than everything else that is done with it, and most files repeat nothing.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from shared.formats.row_ids import ID_BYTES

ROWS_IN_MEMORY = 500_000  # of 16 bytes each, about 60 MB as Python holds them
PARTS = 256
WAITING_RECORDS = 100_000
INDEX_BYTES = 6
RECORD_BYTES = ID_BYTES + INDEX_BYTES


class Seen:
    """A growing set of row digests. Use as a context; `folder` is its own and is removed."""

    def __init__(self, folder: Path, in_memory: int = ROWS_IN_MEMORY) -> None:
        self.folder, self.in_memory = folder, in_memory
        self._set: set[bytes] = set()
        self._parts: list[list[bytes]] = [[] for _ in range(PARTS)]
        self._waiting = self._written = 0

    def __enter__(self) -> Self:
        shutil.rmtree(self.folder, ignore_errors=True)  # of a reading that was ended
        self.folder.mkdir()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def add(self, digest: bytes, index: int) -> bool:
        """Add a digest; return False if it was there before, True if that is not known yet.

        `index` rises by one with each call that returns True.
        """
        if digest in self._set:
            return False
        if len(self._set) < self.in_memory:
            self._set.add(digest)
            return True
        self._parts[digest[0]].append(digest + index.to_bytes(INDEX_BYTES))
        self._waiting += 1
        if self._waiting >= WAITING_RECORDS:
            self._write()
        return True

    def _write(self) -> None:
        for number, records in enumerate(self._parts):
            if records:
                with self._part(number).open("ab") as file:
                    file.write(b"".join(records))
        self._written += self._waiting
        self._parts, self._waiting = [[] for _ in range(PARTS)], 0

    def _part(self, number: int) -> Path:
        return self.folder / f"{number:02x}"

    def repeated(self, indices: int) -> bytearray | None:
        """Return a bit for each of `indices`, set if its digest was there before, or None.

        Each byte has eight bits; None means that none is set. This ends what `add` began.
        """
        self._set = set()
        if not self._written and not self._waiting:
            return None
        self._write()
        found: bytearray | None = None
        for number in range(PARTS):
            for index in self._repeated_in(number):
                found = found or bytearray(indices // 8 + 1)
                found[index >> 3] |= 1 << (index & 7)
        return found

    def _repeated_in(self, number: int) -> Iterator[int]:
        path = self._part(number)
        data = path.read_bytes() if path.exists() else b""
        digests = [data[n : n + ID_BYTES] for n in range(0, len(data), RECORD_BYTES)]
        if len(set(digests)) == len(digests):
            return
        before: set[bytes] = set()
        for place, digest in enumerate(digests):
            if digest in before:
                at = place * RECORD_BYTES + ID_BYTES
                yield int.from_bytes(data[at : at + INDEX_BYTES])
            before.add(digest)
