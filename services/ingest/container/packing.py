"""Packed bytes as a file that is unpacked while it is read, and never to more than is sane."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

import zstandard

from services.ingest.reading.row_error import RowError, Unreadable

READ_BYTES = 1 << 20
# Repetitive text packs to a fiftieth at best; a bomb to a thousandth and less.
MOST_RATIO = 200
HARMLESS_BYTES = 64 << 20
ZSTD_PIECE_BYTES = 4096  # may unpack to 128 MiB at once
ZSTD_WINDOW_BYTES = 128 << 20
XZ_MEMORY_BYTES = 256 << 20  # what `xz -9` needs, four times


def unpacked(packed: BinaryIO, packing: str, size: int) -> BinaryIO:
    """Return the plain bytes as a file.

    Reading it raises Unreadable if the packing is damaged, or a bomb.
    """
    if packing:
        return streamed(bounded(UNPACKERS[packing](packed), size))
    return io.BufferedReader(packed, READ_BYTES)  # type: ignore[type-var]  # it is not a raw file


def streamed(pieces: Iterator[bytes]) -> BinaryIO:
    """Return pieces of bytes as a file."""
    return io.BufferedReader(Pieces(pieces), READ_BYTES)


class Pieces(io.RawIOBase):
    """A raw stream of what a generator yields."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

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
        return size


def bounded(pieces: Iterator[bytes], packed_bytes: int) -> Iterator[bytes]:
    """Yield the pieces. Raises Unreadable at a size that only a bomb unpacks to."""
    most, total = max(HARMLESS_BYTES, MOST_RATIO * packed_bytes), 0
    for piece in pieces:
        total += len(piece)
        if total > most:
            raise bomb()
        yield piece


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


def from_xz(packed: BinaryIO) -> Iterator[bytes]:
    def another() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY_BYTES)

    # Streams may be followed by zeros, by fours.
    return in_streams(packed, another, "xz", padding=b"\0")


def too_large_dictionary() -> Unreadable:
    message = (
        f"Unpacking it takes more than {XZ_MEMORY_BYTES >> 20} MiB of memory, because its "
        "dictionary is so large: pack it again with xz -9 or less, or as .zst."
    )
    return Unreadable(RowError("file", "compressed", message))


def from_bzip2(packed: BinaryIO) -> Iterator[bytes]:
    return in_streams(packed, bz2.BZ2Decompressor, "bzip2")


def in_streams(
    packed: BinaryIO,
    another: Callable[[], lzma.LZMADecompressor | bz2.BZ2Decompressor],
    what: str,
    padding: bytes = b"",
) -> Iterator[bytes]:
    """Yield what a file of one or several packed streams unpacks to. Raises Unreadable."""
    stream, begun, data = another(), False, packed.read(READ_BYTES)
    while data or (begun and not stream.needs_input):
        begun = True
        try:
            piece = stream.decompress(data, READ_BYTES)
        except (lzma.LZMAError, OSError, ValueError) as error:
            if "Memory usage limit" in str(error):
                raise too_large_dictionary() from error
            raise damaged_file(what, str(error)) from error
        if piece:
            yield piece
        data = b""
        if stream.eof:
            rest = stream.unused_data
            while not (rest := rest.lstrip(padding) if padding else rest):
                if not (rest := packed.read(READ_BYTES)):
                    return
            stream, begun, data = another(), False, rest
        elif stream.needs_input:
            data = packed.read(READ_BYTES)
    if begun:
        raise damaged_file(what, "its end is missing")


UNPACKERS: dict[str, Callable[[BinaryIO], Iterator[bytes]]] = {
    "gzip": from_gzip,
    "zstd": from_zstd,
    "xz": from_xz,
    "bzip2": from_bzip2,
}
