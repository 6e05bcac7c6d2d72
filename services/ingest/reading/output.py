"""The files written while a file is read.

They are data.jsonl, source.jsonl and row_ids.bin, and bad.jsonl if it is wanted.
"""

import functools
import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator
from operator import mod
from pathlib import Path
from typing import Any, BinaryIO

from shared.formats.dataset import DATA, SOURCE, RowOrigin
from shared.formats.row_ids import ROW_IDS, records_of

BAD = "bad.jsonl"
BUFFER_BYTES = 1 << 20


class Output:
    """The canonical rows, their ids and their origins, written in pieces. Use as a context."""

    def __init__(self, folder: Path) -> None:
        self._paths = folder / DATA, folder / SOURCE, folder / ROW_IDS
        self._begin()

    def _begin(self) -> None:
        # Another file under the same name, where the first one is still read.
        for path in self._paths:
            path.unlink(missing_ok=True)
        self._data, self._source, self._ids = (p.open("wb", buffering=0) for p in self._paths)
        self._digest, self._digest_of_ids = hashlib.sha256(), hashlib.sha256()
        self._rows: list[tuple[str, bytes, int, bytes]] = []
        self._waiting = self.rows = self.size = 0
        self.layouts: Counter[str] = Counter()

    def __enter__(self) -> "Output":
        return self

    def __exit__(self, *error: object) -> None:
        self._data.close()
        self._source.close()
        self._ids.close()

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def add(self, layout: str, line: bytes, number: int, ids: bytes) -> None:
        """Add a canonical row of a layout, from a line of the original. `ids`: its record."""
        self._rows.append((layout, line, number, ids))
        self.rows += 1
        self._waiting += len(line)
        if self._waiting > BUFFER_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            layouts, lines, numbers, records = zip(*self._rows, strict=True)
            data = b"\n".join([*lines, b""])
            write_all(self._data, data)
            origins = map(mod, map(origin, layouts), numbers)
            write_all(self._source, b"".join(origins))
            ids = b"".join(records)
            write_all(self._ids, ids)
            self._digest_of_ids.update(ids)
            self.layouts.update(layouts)
            self._digest.update(data)
            self.size += len(data)
        self._rows, self._waiting = [], 0

    def finish(self) -> None:
        """Write everything that is still waiting to the files, and what ends them."""
        self._flush()
        write_all(self._ids, self._digest_of_ids.digest())

    def without(self, repeated: bytearray) -> Iterator[int]:
        """Write all rows again, except those whose bits are set.

        Yields the lines of the rows left out, in the original.
        """
        data, source, _ = self._paths
        with data.open("rb", BUFFER_BYTES) as rows, source.open("rb", BUFFER_BYTES) as origins:
            self.__exit__()
            self._begin()
            for index in itertools.count():
                row, origin = rows.readline(), origins.readline()
                if not row:
                    break
                told = RowOrigin.model_validate_json(origin)
                if repeated[index >> 3] >> (index & 7) & 1:
                    yield told.line
                else:
                    self.add(told.layout, row[:-1], told.line, records_of([row[:-1]]))
        self.finish()


@functools.cache
def origin(layout: str) -> bytes:
    """Return a line of SOURCE for a row of this layout, without the number of its line."""
    return b'{"layout":"%b","line":%%d}\n' % layout.encode()


def write_all(file: Any, data: bytes) -> None:
    """Write all data to an unbuffered file, which may take only a part at once."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


class Bad:
    """The file bad.jsonl: bad rows as they were, if they may be left out; else nothing is kept."""

    def __init__(self, path: Path | None) -> None:
        self.file: BinaryIO | None = path.open("wb", BUFFER_BYTES) if path else None
        self._open = False  # the last line written has no end yet

    def __enter__(self) -> "Bad":
        return self

    def __exit__(self, *error: object) -> None:
        if self.file is not None:
            self.file.write(b"\n" if self._open else b"")
            self.file.close()

    def write(self, raw: bytes) -> None:
        """Write a row, or the beginning of one."""
        if self.file is not None:
            self.file.write(b"\n" + raw if self._open else raw)
            self._open = True

    def go_on(self, piece: bytes) -> None:
        """Write more of the row that was written last."""
        if self.file is not None:
            self.file.write(piece)
