"""Snapshot files on the worker's disk, and those of the bare base that later jobs reuse."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shared.files import sha256_bytes, write_synced
from shared.formats.snapshot_parquet import decode_exactly, encode_snapshot

KEPT_BASELINES = 20


def write_snapshot(
    path: Path, rows: Sequence[Mapping[str, Any]], decision: Mapping[str, Any]
) -> tuple[str, int]:
    """Write a snapshot (temporary name, sync, rename); return its SHA-256 and size in bytes."""
    data = encode_snapshot(rows, decision)
    write_synced(path, data)
    return sha256_bytes(data), len(data)


def read_snapshot(path: Path) -> list[dict[str, Any]] | None:
    """Return the rows of a snapshot, or None if the file cannot be read or is not one of ours."""
    try:
        return decode_exactly(path.read_bytes())
    except OSError:
        return None


def copy(path: Path, to: Path) -> None:
    """Copy a snapshot for later jobs, and remove all but the newest copies."""
    write_synced(to, path.read_bytes())
    kept = sorted(to.parent.glob("*.parquet"), key=lambda p: p.stat().st_mtime)
    for old in kept[:-KEPT_BASELINES]:
        old.unlink(missing_ok=True)
