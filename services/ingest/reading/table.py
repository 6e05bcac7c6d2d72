"""Readers of tables: CSV with a header line, Parquet, Arrow. Each row becomes one JSON object."""

import csv
import io
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from services.ingest.reading import digits
from services.ingest.reading.repair import REPR_TOLD, TO_UTF8, is_repr
from services.ingest.reading.row_error import Item, RowError, Unreadable
from services.ingest.reading.rows.layouts import KNOWN
from services.ingest.reading.rows.meaning import is_read

Reads = Callable[[str], bool]  # whether a column of this name is read
DELIMITERS = ",;\t|"
EXCEL_SEPARATOR = re.compile(r'"?sep=(.)"?\r?\n?')  # a first line that Excel reads and writes
TABLE_ROWS = 256  # at once
# Columns whose cells are JSON; words of a prompt or completion may begin with a bracket, too.
NESTED = ("messages", "conversations", "conversation", "prompt", "completion", "tools", "functions")
WORD_COLUMNS = ("prompt", "completion")
UNREAD = "(bytes)"  # stands for the bytes of a column that is not text, such as a picture


def csv_rows(
    file: BinaryIO, limit: int, reads: Reads = is_read, *, tabs: bool = False
) -> Iterator[Item]:
    """Yield (line where it begins, row as JSON). `tabs`: the name says that tabs delimit.

    Raises Unreadable if the header line is not valid, or names no known column.
    """
    csv.field_size_limit(limit)
    text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
    try:
        yield from csv_lines(text, reads, "\t" if tabs else "")
    finally:
        text.detach()  # who opened the file closes it


def delimiter_of(line: str, reads: Reads) -> str | None:
    """Return what delimits the names of columns in a line that is nothing else, or None."""
    for delimiter in DELIMITERS:
        names = [name.strip().strip('"') for name in line.split(delimiter)]
        if len(names) > 1 and all(name and reads(name) for name in names):
            return delimiter
    return None


def csv_lines(text: io.TextIOWrapper, reads: Reads, delimiter: str) -> Iterator[Item]:
    first, before = text.readline(1 << 16), 2  # the head line, and numbers begin at 1
    if told := EXCEL_SEPARATOR.fullmatch(first):
        delimiter, first, before = told[1], text.readline(1 << 16), 3
    if not first.strip():
        return
    delimiter = delimiter or max(DELIMITERS, key=first.count)
    names = head(first, delimiter)
    check_columns(names, reads)
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + before
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield line, RowError("row", "csv", f"The row is not valid CSV: {error}.")
            continue
        if cells is None:
            return
        if cells:
            yield line, csv_row(names, cells)


def head(line: str, delimiter: str) -> list[str]:
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
        message = f"The header line is not valid UTF-8. {TO_UTF8}"
        raise Unreadable(RowError("file", "utf8", message), 1)
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
            "holds a delimiter or a line break needs quotes around it."
        )
        return RowError("row", "csv_columns", message)
    row: dict[str, Any] = dict(zip(names, cells, strict=True))
    try:
        row.update(nested_cells(row))
        return digits.as_given(row)
    except RowError as error:
        return error
    except TypeError:  # bytes that are not text were carried through as surrogates
        return RowError("row", "utf8", f"The row is not valid UTF-8. {TO_UTF8}")


def nested_cells(row: dict[str, str]) -> Iterator[tuple[str, Any]]:
    """Yield the cells that are JSON, by name; null for empty ones. Raises RowError."""
    for name, cell in row.items():
        column = name.lower()
        if column not in NESTED:
            continue
        if not cell and column not in WORD_COLUMNS:
            yield name, None
        elif column not in WORD_COLUMNS and is_repr(cell):
            raise RowError(name, "python_repr", REPR_TOLD)
        elif cell.startswith("["):
            try:
                yield name, digits.parse(cell)
            except orjson.JSONDecodeError as error:
                if column in WORD_COLUMNS:
                    continue
                message = f"The cell begins like JSON but is not valid JSON: {error.msg}."
                raise RowError(name, "json", message) from error


# ---- Parquet and Arrow ---------------------------------------------------------------------------


def table_rows(path: Path, reads: Reads = is_read) -> Iterator[Item]:
    """Yield (row from 1, row as JSON) of a Parquet or Arrow file. Raises Unreadable."""
    import pyarrow as pa

    wrong = (pa.ArrowException, OSError, ValueError, TypeError, OverflowError, RecursionError)
    number = 0
    with path.open("rb") as file:
        is_parquet = file.read(4) == b"PAR1"
    try:
        for rows, unread in parquet(path, reads) if is_parquet else arrow(path, reads):
            for row in rows:
                number += 1
                yield number, table_row(row, unread)
    except MemoryError:
        raise  # not damaged, but more than this process may have
    except wrong as error:
        why = str(error).partition("\n")[0][:200]
        kind = "Parquet" if is_parquet else "Arrow"
        message = f"The {kind} data are damaged ({why}): write the file again."
        raise Unreadable(
            RowError("file", "damaged", message), number + 1 if number else None
        ) from error


SomeRows = tuple[list[dict[str, Any]], dict[str, str]]


def parquet(path: Path, reads: Reads) -> Iterator[SomeRows]:
    """Yield some rows at once, and what stands for the columns that are not read."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
        read, unread = columns(file.schema_arrow, reads)
        for batch in file.iter_batches(TABLE_ROWS, columns=read, use_threads=False):
            yield batch.to_pylist(), unread


def arrow(path: Path, reads: Reads) -> Iterator[SomeRows]:
    """Yield some rows at once of an Arrow file, which Feather is, or of a stream of Arrow."""
    import pyarrow as pa

    with pa.OSFile(str(path)) as source:
        is_file = source.read(6) == b"ARROW1"
        source.seek(0)
        if is_file:
            opened = pa.ipc.open_file(source)
            batches = map(opened.get_batch, range(opened.num_record_batches))
        else:
            batches = opened = pa.ipc.open_stream(source)
        read, unread = columns(opened.schema, reads)
        for batch in batches:
            chosen = batch.select(read)
            for start in range(0, chosen.num_rows, TABLE_ROWS):
                yield chosen.slice(start, TABLE_ROWS).to_pylist(), unread


def columns(schema: Any, reads: Reads) -> tuple[list[str], dict[str, str]]:
    """Return the names of the columns that are read, and what stands for each of the others.

    Pictures and recordings are bytes inside an object. They are not read, but said to be there.
    Raises Unreadable if no column is known.
    """
    import pyarrow as pa

    def has_bytes(kind: Any) -> bool:
        if pa.types.is_struct(kind):
            return any(
                pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type)
                for field in kind
            )
        is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
        return is_list and has_bytes(kind.value_type)

    check_columns(schema.names, reads)
    unread = {field.name: UNREAD for field in schema if has_bytes(field.type)}
    return [name for name in schema.names if name not in unread], unread


def table_row(row: dict[str, Any], unread: dict[str, str]) -> bytes | RowError:
    """Return a row of a table as JSON, without nulls, or the error for it.

    A table has a cell for each field of any row: a null means that the row lacks the field.
    """
    try:
        return orjson.dumps({**without_nulls(row), **unread}, default=cell)
    except TypeError as error:
        why = error.__cause__ or error
        return RowError("row", "not_a_string", f"A value cannot be read as text: {why}.")


def cell(value: Any) -> Any:
    """Return what is written for a value that JSON does not know. Raises TypeError."""
    if isinstance(value, Decimal):
        return orjson.Fragment(str(value))
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise TypeError("it is bytes that are not UTF-8") from error
    return str(value)


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_nulls(v) for k, v in value.items() if v is not None}
    return [without_nulls(v) for v in value] if isinstance(value, list) else value
