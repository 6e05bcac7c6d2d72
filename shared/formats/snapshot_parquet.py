"""The Parquet file of a snapshot: written by the worker, read for examples' histories."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from shared.formats.snapshot import COLUMNS, DECISION, PER_FILE, decode_decision, encode_decision
from shared.protocol.names import SPLITS

COLUMN_TYPES = {
    "text": pa.string(),
    "whole": pa.int64(),
    "number": pa.float64(),
    "flag": pa.bool_(),
    "texts": pa.list_(pa.string()),
    "bytes": pa.list_(pa.uint8()),
}
PARQUET_SCHEMA = pa.schema([(name, COLUMN_TYPES[column.kind]) for name, column in COLUMNS.items()])
NUMBER_COLUMNS = [name for name, column in COLUMNS.items() if column.kind == "number"]
REQUIRED = [name for name, column in COLUMNS.items() if column.presence == "always"]
LATER = [name for name, column in COLUMNS.items() if column.presence == "later"]


@dataclass(frozen=True)
class Snapshot:
    """The rows of a snapshot by the names of COLUMNS, and the decision to take it.

    `decision` is JSON or None.
    """

    rows: list[dict[str, Any]]
    decision: str | None


def encode_snapshot(rows: Sequence[Mapping[str, Any]], decision: Mapping[str, Any]) -> bytes:
    """Return the Parquet file of these rows and this decision."""
    table = pa.Table.from_pylist(list(rows), schema=PARQUET_SCHEMA)
    table = table.replace_schema_metadata({DECISION: encode_decision(dict(decision))})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    data: bytes = sink.getvalue().to_pybytes()
    return data


def decode_exactly(data: bytes) -> list[dict[str, Any]] | None:
    """Return the rows as they were written, or None if this program did not write the file."""
    try:
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError):
        return None
    if table.schema.remove_metadata() != PARQUET_SCHEMA:
        return None
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def decode_snapshot(data: bytes) -> Snapshot:
    """Read and check a file of this or an earlier version.

    A later column that the file lacks is None, and so is a loss or another measure that is not a
    finite number. Raises ValueError for what is not a snapshot.
    """
    try:
        return checked_snapshot(pq.ParquetFile(pa.BufferReader(data)))
    except (pa.ArrowException, OSError, LookupError, OverflowError, RecursionError) as error:
        raise ValueError(str(error)) from error


def checked_snapshot(file: pq.ParquetFile) -> Snapshot:
    """Return the content of a file. Raises ValueError, and what the Parquet library raises."""
    there = set(file.schema_arrow.names)
    read = [field for field in PARQUET_SCHEMA if field.name in there or field.name not in LATER]
    names = [field.name for field in read]
    table = file.read(names).select(names).cast(pa.schema(read))
    empty = [name for name in REQUIRED if table.column(name).null_count]
    if empty:
        raise ValueError(f"values are missing in {', '.join(empty)}")
    rows = [finite_row(dict.fromkeys(LATER) | row) for row in table.to_pylist()]
    if len({tuple(row[name] for name in PER_FILE) for row in rows}) != 1:
        raise ValueError("rows of several steps or none")
    if any(row["split"] not in SPLITS for row in rows):
        raise ValueError("it has a split that this program does not know")
    if any(len(row["pieces"] or []) != len(row["surprisal"] or []) for row in rows):
        raise ValueError("pieces and their surprisal differ in number")
    decision = (file.schema_arrow.metadata or {}).get(DECISION)
    return Snapshot(rows, json.dumps(decode_decision(decision)) if decision else None)


def finite_row(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row with None for numbers that are not finite: SQLite and JSON have no NaN."""
    wild = [
        name for name in NUMBER_COLUMNS if row[name] is not None and not math.isfinite(row[name])
    ]
    return {**row, **dict.fromkeys(wild)}
