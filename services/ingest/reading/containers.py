"""The containers of training files: recognised by name, unpacked while they are read.

Every reader yields (line from 1, the bytes of one row), so that all rows take one path. A reader
raises Unreadable if the rest cannot be read. Memory is constant except for one row.
"""

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, NamedTuple

import zstandard

from services.ingest.reading import json_array, table
from services.ingest.reading.row_error import BOM, Item, RowError, Unreadable
from services.ingest.reading.rows.meaning import is_read

READ_BYTES = 1 << 20
# Repetitive text packs to a fiftieth at best; a bomb to a thousandth and less.
MOST_RATIO = 200
HARMLESS_BYTES = 64 << 20
ZSTD_PIECE_BYTES = 4096  # may unpack to 128 MiB at once
ZSTD_WINDOW_BYTES = 128 << 20
CONTAINER_LAYOUTS = ("jsonl", "json", "csv", "parquet")
PACKINGS = {".gz": "gzip", ".zst": "zstd"}
SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv"}
TAKEN = ".jsonl, .json (an array), .csv, .parquet, and .jsonl.gz or .jsonl.zst"

Piece = Callable[[bytes], object]


class Container(NamedTuple):
    """The form of a training file, as its name gives it.

    `layout`: jsonl, json, csv or parquet. `packing`: gzip, zstd or none. `suffix`: as named.
    """

    layout: str
    packing: str
    suffix: str


JSONL = Container("jsonl", "", ".jsonl")


def container_of(name: str) -> Container | None:
    """Return the container of a file by its name, or None if it is not a supported one."""
    lower = name.lower()
    packing = next((p for p in PACKINGS if lower.endswith(p)), "")
    inner = lower.removesuffix(packing)
    if not packing and inner.endswith(".parquet"):
        return Container("parquet", "", ".parquet")
    suffix = next((s for s in SUFFIXES if inner.endswith(s)), None)
    return (
        Container(SUFFIXES[suffix], PACKINGS.get(packing, ""), suffix + packing) if suffix else None
    )


def stem_of(name: str) -> str:
    """Return a file's name without what says how it is packed: `data` of `data.jsonl.gz`."""
    container = container_of(name)
    return name[: -len(container.suffix)] if container else name


def read_rows_of(
    path: Path, container: Container, limit: int, over: Piece, reads: table.Reads = is_read
) -> Iterator[Item]:
    """Yield all rows of a file.

    `limit` is the most bytes of one row; `over` gets the rest of longer lines. Raises Unreadable,
    OSError.
    """
    if container.layout == "parquet":
        yield from guarded(table.parquet(path, reads), path.stat().st_size)
        return
    with path.open("rb") as packed:
        file = unpacked(packed, container, path.stat().st_size)
        with closing(file):
            if container.layout == "csv":
                yield from table.csv_rows(file, limit, reads)
            elif container.layout == "json" and json_array.is_array(file):
                yield from json_array.array_rows(file, limit)
            else:
                yield from read_lines(file, limit, over)


def read_lines(file: BinaryIO, limit: int, over: Piece) -> Iterator[Item]:
    """Yield lines without their ends and without a byte order mark.

    Of a long line only the beginning is yielded. The rest is read in pieces, so that memory does
    not grow with it. A line that was cut is still longer than `limit`, without the carriage return
    that may end it.
    """
    most = limit + len("\r") + len(BOM) + 1
    number, begun, size = 0, [file.read(READ_BYTES).removeprefix(BOM)], 0
    while block := begun.pop():
        first, newline, rest = block.partition(b"\n")
        begun.append(first)
        size += len(first)
        if newline:
            *whole, last = rest.split(b"\n")
            number += 1
            yield number, b"".join(begun)
            for line in whole:
                number += 1
                yield number, line
            begun, size = [last], len(last)
        if size > most:
            number += 1
            yield number, b"".join(begun)
            begun, size = [skipped(file, over)], 0
            if not begun[0]:
                return
            continue
        begun.append(file.read(READ_BYTES))
    if size:
        yield number + 1, b"".join(begun)


def skipped(file: BinaryIO, over: Piece) -> bytes:
    """Read past the end of a line, handing over its rest; return what follows."""
    while block := file.read(READ_BYTES):
        piece, newline, rest = block.partition(b"\n")
        over(piece)
        if newline:
            return rest or file.read(READ_BYTES)
    return b""


# ---- unpacking -----------------------------------------------------------------------------------


def unpacked(packed: BinaryIO, container: Container, size: int) -> BinaryIO:
    """Return the plain bytes as a file.

    Reading it raises Unreadable if the packing is damaged, or a bomb.
    """
    if container.packing == "gzip":
        return io.BufferedReader(Unpacking(from_gzip(packed), size), READ_BYTES)
    if container.packing == "zstd":
        return io.BufferedReader(Unpacking(from_zstd(packed), size), READ_BYTES)
    return io.BufferedReader(packed, READ_BYTES)  # type: ignore[type-var]  # it is not a raw file


class Unpacking(io.RawIOBase):
    """A raw stream of what a generator unpacks.

    Reading raises Unreadable at a size that only a bomb unpacks to.
    """

    def __init__(self, pieces: Iterator[bytes], packed_bytes: int) -> None:
        self._pieces = pieces
        self._most = max(HARMLESS_BYTES, MOST_RATIO * packed_bytes)
        self._total, self._rest = 0, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # as it is called
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        self._total += size
        if self._total > self._most:
            raise bomb()
        return size


def bomb() -> Unreadable:
    message = (
        f"It unpacks to more than {MOST_RATIO} times its size, which training data never "
        "do. If it really is training data, unpack it and put the plain .jsonl file into the inbox."
    )
    return Unreadable(RowError("file", "bomb", message))


def damaged_file(what: str, why: str) -> Unreadable:
    message = f"The {what} data are damaged or cut off ({why}): pack or copy the file again."
    return Unreadable(RowError("file", "damaged", message))


def from_gzip(packed: BinaryIO) -> Iterator[bytes]:
    try:
        with gzip.GzipFile(fileobj=packed) as file:
            while piece := file.read(READ_BYTES):
                yield piece
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise damaged_file("gzip", str(error)) from error


def from_zstd(packed: BinaryIO) -> Iterator[bytes]:
    """Yield what a zstd file unpacks to, frame after frame. Raises Unreadable.

    The library's own stream reader does not notice that a frame was cut off.
    """
    decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES)
    frame = decompressor.decompressobj()
    begun, more = False, b""
    try:
        while piece := more or packed.read(ZSTD_PIECE_BYTES):
            begun, more = True, b""
            if found := frame.decompress(piece):
                yield found
            if frame.eof:
                more = frame.unused_data
                frame, begun = decompressor.decompressobj(), False
    except zstandard.ZstdError as error:
        raise damaged_file("zstd", str(error)) from error
    if begun:
        raise damaged_file("zstd", "the last frame does not end")


def guarded(items: Iterator[Item], packed_bytes: int) -> Iterator[Item]:
    """Yield the rows of a packed table.

    Raises Unreadable at a size that only a bomb unpacks to, as Unpacking does.
    """
    most, total = max(4 * HARMLESS_BYTES, MOST_RATIO * packed_bytes), 0
    for number, row in items:
        total += len(row) if isinstance(row, bytes) else 0
        if total > most:
            raise bomb()
        yield number, row
