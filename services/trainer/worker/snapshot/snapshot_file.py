"""The Parquet file of a snapshot: one row a probe. FORMAT.md tells what the columns mean."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from shared.files import write_synced

DECISION = b"duramen.decision"  # key of the file's own metadata: JSON
KEPT_BASELINES = 20
SCHEMA = pa.schema(
    [
        ("probe", pa.string()),
        ("split", pa.string()),
        ("dataset", pa.string()),
        ("row", pa.int64()),
        ("global_step", pa.int64()),
        ("position", pa.int64()),
        ("fence", pa.int64()),
        ("segment", pa.string()),
        ("job", pa.string()),
        ("prompt", pa.string()),
        ("expected", pa.string()),
        ("answer", pa.string()),  # null, as all that is said of it: the model was not asked
        ("tokens", pa.int64()),  # of the expected answer, with its end of turn
        ("loss", pa.float64()),  # mean over these tokens, nats
        ("token_accuracy", pa.float64()),
        ("first_mismatch", pa.int64()),  # index in the answer; null: none
        ("exact_match", pa.bool_()),
        ("at", pa.string()),  # UTC, ISO 8601
        ("job_tokens", pa.int64()),  # that the job had trained on
        ("pieces", pa.list_(pa.string())),  # the expected answer, cut at its tokens
        ("surprisal", pa.list_(pa.uint8())),  # of each: -ln(probability), in sixteenths
        ("confidence", pa.float64()),  # geometric mean probability of the answer's tokens
        ("is_cut", pa.bool_()),  # the answer reached the limit of its length
        ("normalized_match", pa.bool_()),
        ("similarity", pa.float64()),  # of answer and expected, 0 to 1
    ]
)


def write(
    path: Path, rows: Sequence[Mapping[str, Any]], decision: Mapping[str, Any]
) -> tuple[str, int]:
    """(SHA-256, size). Temporary name, sync, rename, as all that must last."""
    table = pa.Table.from_pylist(list(rows), schema=SCHEMA)
    table = table.replace_schema_metadata({DECISION: json.dumps(decision, sort_keys=True)})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    data = sink.getvalue().to_pybytes()
    write_synced(path, data)
    return hashlib.sha256(data).hexdigest(), len(data)


def read(path: Path) -> list[dict[str, Any]] | None:
    """Its rows; None if it is no file of this program's."""
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError):
        return None
    if table.schema.remove_metadata() != SCHEMA:
        return None
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def copy(path: Path, to: Path) -> None:
    """Keep a snapshot for later jobs, and of those the newest few."""
    write_synced(to, path.read_bytes())
    kept = sorted(to.parent.glob("*.parquet"), key=lambda p: p.stat().st_mtime)
    for old in kept[:-KEPT_BASELINES]:
        old.unlink(missing_ok=True)
