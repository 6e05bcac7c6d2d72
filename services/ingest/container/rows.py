"""The rows of a training file: every container is read the same way.

Every reader yields (line from 1, the bytes of one row), so that all rows take one path. A reader
raises Unreadable if the rest cannot be read. Memory is constant except for one row.
"""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, NamedTuple

from services.ingest.container import archive, foreign, json_rows, packing, prose
from services.ingest.container.encoding import as_utf8
from services.ingest.container.joined import with_joined
from services.ingest.container.lines import Piece
from services.ingest.container.names import TABLES, Container
from services.ingest.reading import table
from services.ingest.reading.row_error import Item, Unreadable
from services.ingest.reading.rows.meaning import is_read


class Reading(NamedTuple):
    """How the rows of a file are read, as `read_rows_of` says."""

    limit: int
    over: Piece
    reads: table.Reads


def read_rows_of(
    path: Path, container: Container, limit: int, over: Piece, reads: table.Reads = is_read
) -> Iterator[Item]:
    """Return all rows of a file; lines that make one conversation are one row.

    `limit` is the most bytes of one row; `over` gets the rest of longer lines; `reads` tells
    whether a column of a table is read. Raises Unreadable, OSError.
    """
    return with_joined(rows_of_file(path, container, Reading(limit, over, reads)), limit)


def rows_of_file(path: Path, container: Container, reading: Reading) -> Iterator[Item]:
    """Yield the rows of a file as they stand in it. Raises Unreadable, OSError."""
    if container.layout in TABLES:
        yield from guarded(table.table_rows(path, reading.reads), path.stat().st_size)
    elif container.packing == "zip":
        yield from rows_of_archive(path, reading)
    else:
        with path.open("rb") as packed:
            file = packing.unpacked(packed, container.packing, path.stat().st_size)
            yield from rows_of_text(file, container, reading)


def rows_of_text(file: BinaryIO, container: Container, reading: Reading) -> Iterator[Item]:
    """Yield the rows of a file that was unpacked. Raises Unreadable."""
    with closing(file):
        wrong = foreign.by_beginning(file.peek(foreign.HEAD_BYTES), container)  # type: ignore[attr-defined]
        if wrong is not None:
            raise Unreadable(wrong)
        with closing(as_utf8(file)) as text:
            layout, tabs = layout_of_text(text, container, reading.reads)
            if layout == "csv":
                yield from table.csv_rows(text, reading.limit, reading.reads, tabs=tabs)
            elif layout == "text":
                yield from prose.text_rows(text, markdown=".md" in container.suffix)
            else:
                yield from json_rows.json_rows(text, reading.limit, reading.over)


def layout_of_text(file: BinaryIO, container: Container, reads: table.Reads) -> tuple[str, bool]:
    """Return the layout of a text, and whether tabs delimit its cells.

    A .txt may hold rows of JSON or a table, and a .csv rows of JSON, which are no text to train.
    """
    layout, tabs = container.layout, ".tsv" in container.suffix
    if layout == "json" or ".md" in container.suffix:
        return layout, tabs
    head = file.peek(packing.READ_BYTES)[: packing.READ_BYTES].decode("utf-8-sig", "replace")  # type: ignore[attr-defined]
    if json_rows.begins_as_rows(head):
        return "json", False
    if layout == "text" and (delimiter := table.delimiter_of(head.partition("\n")[0], reads)):
        return "csv", delimiter == "\t"
    return layout, tabs


def rows_of_archive(path: Path, reading: Reading) -> Iterator[Item]:
    """Yield the rows of the one dataset in a zip archive. Raises Unreadable."""
    with archive.opened_archive(path) as found:
        for member in found.members:
            if member.container.layout in TABLES:
                copy = found.copied(member, path.with_name("member"))
                yield from guarded(table.table_rows(copy, reading.reads), path.stat().st_size)
            else:
                yield from rows_of_text(found.file(member), member.container, reading)


def guarded(items: Iterator[Item], packed_bytes: int) -> Iterator[Item]:
    """Yield the rows of a packed table.

    Raises Unreadable at a size that only a bomb unpacks to, as `packing.bounded` does.
    """
    most = max(4 * packing.HARMLESS_BYTES, packing.MOST_RATIO * packed_bytes)
    total = 0
    for number, row in items:
        total += len(row) if isinstance(row, bytes) else 0
        if total > most:
            raise packing.bomb()
        yield number, row
