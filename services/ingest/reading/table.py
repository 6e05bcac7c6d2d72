"""Readers of tables: CSV with a header line, and Parquet. Each row becomes one JSON object."""

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from services.ingest.reading import digits
from services.ingest.reading.row_error import Item, RowError, Unreadable
from services.ingest.reading.rows.layouts import KNOWN
from services.ingest.reading.rows.meaning import is_read

DELIMITERS = ",;\t"
Reads = Callable[[str], bool]  # whether a column of this name is read
PARQUET_ROWS = 256  # at once
NESTED = ("messages", "conversations", "prompt", "completion", "tools")


def csv_rows(file: BinaryIO, limit: int, reads: Reads = is_read) -> Iterator[Item]:
    """Yield (line where it begins, row as JSON).

    Raises Unreadable if the header line is not valid, or names no known column.
    """
    csv.field_size_limit(limit)
    text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
    try:
        yield from csv_lines(text, reads)
    finally:
        text.detach()  # who opened the file closes it


def csv_lines(text: io.TextIOWrapper, reads: Reads) -> Iterator[Item]:
    first = text.readline(1 << 16)
    if not first.strip():
        return
    delimiter = max(DELIMITERS, key=first.count)
    names = head(first, delimiter, reads)
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 2  # behind the head line
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield line, RowError("row", "csv", f"The row is not valid CSV: {error}.")
            continue
        if cells is None:
            return
        if cells:
            yield line, csv_row(names, cells)


def head(line: str, delimiter: str, reads: Reads) -> list[str]:
    """Return the names of the columns. Raises Unreadable."""
    try:
        names = [
            name.strip() for name in next(csv.reader([line], delimiter=delimiter, strict=True))
        ]
    except csv.Error as error:
        raise Unreadable(
            RowError("file", "csv_head", f"The header line is not valid: {error}."), 1
        ) from error
    if not line.isprintable() and any("\ud800" <= c <= "\udfff" for c in line):
        message = "The header line is not valid UTF-8. Save the table as UTF-8."
        raise Unreadable(RowError("file", "utf8", message), 1)
    check_columns(names, reads)
    if len(set(names)) < len(names):
        message = "Two columns in the header line have the same name."
        raise Unreadable(RowError("file", "csv_head", message), 1, line[:100])
    return names


def check_columns(names: list[str], reads: Reads) -> None:
    """Check that some column is one of a known layout. Raises Unreadable if none is."""
    if not any(reads(name) for name in names):
        shown = ", ".join(f"`{name[:40]}`" for name in names[:8])
        message = f"The table has no known layout: its columns are {shown}. {KNOWN}"
        raise Unreadable(RowError("file", "layout", message), 1)


def csv_row(names: list[str], cells: list[str]) -> bytes | RowError:
    if len(cells) != len(names):
        message = (
            f"The row has {len(cells)} columns, the header line has {len(names)}: a text that "
            "holds "
            "a delimiter or a line break needs quotes around it."
        )
        return RowError("row", "csv_columns", message)
    row: dict[str, Any] = dict(zip(names, cells, strict=True))
    for name in NESTED:
        cell = row.get(name, "")
        if cell.startswith("["):
            try:
                row[name] = digits.parse(cell)
            except orjson.JSONDecodeError as error:
                if name in ("prompt", "completion"):
                    continue  # words that begin with a bracket
                message = f"The cell begins like JSON but is not valid JSON: {error.msg}."
                return RowError(name, "json", message)
    try:
        return digits.as_given(row)
    except TypeError:  # bytes that are not text were carried through as surrogates
        return RowError("row", "utf8", "The row is not valid UTF-8: save the table as UTF-8.")


def parquet(path: Path, reads: Reads = is_read) -> Iterator[Item]:
    """Yield (row from 1, row as JSON), with the columns that a layout knows.

    Raises Unreadable.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    wrong = (pa.ArrowException, OSError, ValueError, TypeError, OverflowError, RecursionError)
    number = 0
    try:
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
            names = file.schema_arrow.names
            check_columns(names, reads)
            wanted = [name for name in names if reads(name)]
            for batch in file.iter_batches(PARQUET_ROWS, columns=wanted, use_threads=False):
                for row in batch.to_pylist():
                    number += 1
                    yield number, parquet_row(row)
    except MemoryError:
        raise  # not damaged, but more than this process may have
    except wrong as error:
        why = str(error).partition("\n")[0][:200]
        message = f"The Parquet data are damaged ({why}): write the file again."
        raise Unreadable(
            RowError("file", "damaged", message), number + 1 if number else None
        ) from error


def parquet_row(row: dict[str, Any]) -> bytes | RowError:
    """Return a row of a table as JSON, without nulls, or the error for it.

    A table has a cell for each field of any row: a null means that the row lacks the field.
    """
    try:
        return orjson.dumps(without_nulls(row))
    except TypeError as error:
        return RowError("row", "not_a_string", f"A value cannot be read as text: {error}.")


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_nulls(v) for k, v in value.items() if v is not None}
    return [without_nulls(v) for v in value] if isinstance(value, list) else value
